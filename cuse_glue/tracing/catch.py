"""Get one thread of an address space under control: whichever can be had first.

A thread that is told to stop does so when it leaves the kernel. Mostly that is at once. But a
thread that waits in vfork or for a disk does not leave, and one that waits for an answer of ours
leaves only with the answer. So several threads are told, one after the other, until one has
stopped; meanwhile each request offers the thread that made it. The other threads are let go again.

ptrace lets go of a thread that has not stopped only when the thread that traces it ends. So the
thread of ours that traces ends afterwards. It waits in short turns, so that the end of the device
can end its waiting as well.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ..errors import ControlError, ThreadGone
from ..request.address_space import Mm
from . import ptrace
from .hand import Hand, MemoryOf
from .members import STUCK, effort, lives_in, members
from .seize import seize

_AT_SYSINFO_EHDR: Final = 33  # of the auxiliary vector: where the vdso is
_WORD: Final = 8
_PURPOSE: Final = "be made to pin memory"

TURNS: Final = 30  # looks without a pause; most threads stop within them
SHORTEST: Final = 50e-6  # seconds between looks after that
# seconds, at last, between looks; a thread that stops late is held up by so much at most
LONGEST: Final = 0.02
NEXT: Final = 0.005  # seconds after which another thread is told to stop as well
AGAIN: Final = 0.1  # seconds between looks who lives there
RARELY: Final = 20  # or so many times as long as a look took, if that is more
MOST: Final = 8  # threads that are told to stop at the same time


class Offer:
    """A thread that waits for an answer, and that may be caught just before it sees the answer."""

    def __init__(self, tid: int, answer: Callable[[], bool]) -> None:
        """`answer`: sends the answer, in any thread; False: it was sent before."""
        self.tid = tid
        self.answer = answer


class Catch:
    """Used by one thread of ours, except for `offer`, `waits_for` and `give_up`. Use it as a
    context: then all threads are let go at the end.
    """

    def __init__(
        self, mm: Mm, machine: ptrace.Machine, filters: int | None, offer: Offer | None, stuck: Callable[[], None]
    ) -> None:
        """`offer`: only offered threads are tried, this one first; None: any thread. `filters`: as
        in `seize`. `stuck` is called once if no thread can be stopped now.
        """
        self._mm = mm
        self._machine = machine
        self._filters = filters
        self._anybody = offer is None
        self._stuck: Callable[[], None] | None = stuck
        self._offers = deque([offer] if offer is not None else ())
        self._open = True  # for offers; under `_lock`
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._given_up = False
        self._seized: dict[int, ptrace.Tracee] = {}
        # threads that were told to stop before they had their answer: none has run its own code
        # since
        self._caught: set[int] = set()
        self._refused: set[int] = set()
        self._strangers: list[ptrace.Tracee] = []  # seized threads that do not live here
        self._why: Exception = ThreadGone()

    def offer(self, offer: Offer) -> bool:
        """Offer a thread. False: no thread is wanted any more. Else the thread gets its answer when
        it has been told to stop, or never, if another thread was faster.
        """
        with self._lock:
            if self._open:
                self._offers.append(offer)
                self._wake.set()
            return self._open

    def waits_for(self, tid: int) -> bool:
        """Whether we wait for this thread to stop: then it is caught before it sees its answer."""
        return self._open and tid in self._seized

    def give_up(self) -> None:
        self._given_up = True
        self._wake.set()

    def __enter__(self) -> "Catch":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        for tracee in self._seized.values():
            try:
                if tracee.has_stopped():
                    self._make_ready(tracee)
                    tracee.detach()
            except (ThreadGone, ControlError, OSError):
                pass  # it is let go when our thread ends
        self._seized.clear()

    def hand(self) -> Hand:
        """The first thread that has stopped, with its signals blocked. ControlError: none can be
        had. ThreadGone: there is none.
        """
        self._look_at = time.monotonic()
        turn = 0
        while True:
            self._take_offers()
            if self._anybody and time.monotonic() >= self._look_at:
                self._tell_another()
            hand = self._first()
            if hand is not None:
                return hand
            if self._given_up:
                raise ControlError("it did not stop in time")
            if not self._seized and not self._offers:
                self._close()
                raise self._why
            turn += 1
            if turn <= TURNS:
                os.sched_yield()
            else:
                self._wake.wait(min(SHORTEST * 1.2 ** min(turn - TURNS, 99), LONGEST))
                self._wake.clear()

    def _close(self) -> None:
        """Take no more offers. Those that came too late are forgotten."""
        with self._lock:
            self._open = False
            self._offers.clear()

    def _take_offers(self) -> None:
        while True:
            with self._lock:
                if not self._offers:
                    return
                offer = self._offers.popleft()
            try:
                if offer.tid not in self._seized:
                    self._seized[offer.tid] = self._seize(offer.tid)
                    self._seized[offer.tid].interrupt()
            except (ControlError, ThreadGone) as why:
                self._why = why
                continue
            if offer.answer():
                self._caught.add(offer.tid)

    def _tell_another(self) -> None:
        """Tell one more of the threads that live there to stop."""
        began = time.monotonic()
        for tid, how in members(self._mm) if len(self._seized) < MOST else ():
            if tid in self._seized or tid in self._refused:
                continue
            try:
                tracee = self._seize(tid)
            except ThreadGone:
                continue
            except ControlError as why:
                self._why = why
                self._refused.add(tid)
                continue
            if lives_in(self._mm, tid):
                self._seized[tid] = tracee
                tracee.interrupt()
                self._look_at = time.monotonic() + (NEXT if how != STUCK else 0)
                return
            self._strangers.append(tracee)
        if self._stuck is not None and all(effort(tid) == STUCK for tid in self._seized):
            self._stuck()
            self._stuck = None
        now = time.monotonic()
        self._look_at = now + max(AGAIN, RARELY * (now - began))

    def _seize(self, tid: int) -> ptrace.Tracee:
        """Raises ControlError, ThreadGone."""
        return seize(tid, self._machine, MemoryOf(self._mm), _PURPOSE, lambda: False, self._filters)

    def _first(self) -> Hand | None:
        for tid, tracee in list(self._seized.items()):
            try:
                if not tracee.has_stopped():
                    continue
                del self._seized[tid]
                if tid not in self._caught and not lives_in(self._mm, tid):
                    self._why = ControlError("it executes another program")
                    tracee.detach()
                    continue
                self._make_ready(tracee)
            except ThreadGone:
                self._seized.pop(tid, None)
                continue
            except ControlError as why:
                self._why = why
                self._refused.add(tid)
                tracee.detach()
                continue
            self._close()
            return Hand(tracee)
        for tracee in self._strangers:
            try:
                tracee.has_stopped()  # passes its signals on
            except ThreadGone:
                pass
        return None

    def _make_ready(self, tracee: ptrace.Tracee) -> None:
        if tracee.machine.interruptible is None:
            tracee.make_ready()
        else:
            tracee.make_ready_anywhere(_vdso(self._mm.auxv))


def _vdso(auxv: bytes) -> int:
    words = memoryview(auxv[: len(auxv) // (2 * _WORD) * 2 * _WORD]).cast("Q")
    for index in range(0, len(words), 2):
        if words[index] == _AT_SYSINFO_EHDR:
            return words[index + 1]
    return 0
