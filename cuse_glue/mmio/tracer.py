"""Page faults of clients on mapped registers, each turned into one load or store of a device.

A page of registers is never given to the kernel: its READ is answered with EIO. Before that the
thread that faulted is seized and interrupted. A fault whose page could not be read is tried again
by the kernel, but not if a signal or a tracer waits for the thread: then the thread goes back to
its instruction, and stops before it. So it stands there, with nothing done and no signal raised.
Its instruction is carried out on the device, its registers and its instruction pointer say so, and
it is let go.

    client    fault ···························· stops ······························· goes on
    we        READ: seize, interrupt, answer EIO ┴ registers, code, load or store, registers, detach

Why each access is made exactly once: from its READ on the thread cannot come past the instruction,
because no page comes, nor to a signal's handler without a stop; it is stopped once, and detached
with registers that say what was done, in that same stop. A signal that it was stopped by is handed
over at the detach: its handler runs after the access. SIGSTOP, a kill, an exec in another thread:
either the thread comes to the stop or it ends.

It is all done in the thread that serves the session, and answers nobody else for so long. A thread
that does not come to its stop at once (the processors are busy, or it is frozen) is left to a task
that looks now and then.

What cannot be carried out is left to the kernel: the thread is kept, all its further READs are
answered with EIO, and the SIGBUS that comes of it is let through. Whom a debugger traces already is
not ours to trace (`showing.py`).

Ref: v7.3 arch/x86/mm/fault.c do_user_addr_fault (fault_signal_pending), mm/filemap.c filemap_fault
(out_retry), kernel/signal.c get_signal (a tracer's stop comes before signals)
"""

import logging
import os
import platform
import signal
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import trio

from .bus import Everywhere, OnePage, Straddles
from .code import Code, NotHere
from .device import AccessRefused, Device, Fault
from .impatience import Impatience
from .instruction import Instruction, Kind
from .showing import Showing
from .status import thread_status
from .trace import EVENT_STOP, Hand, ThreadEnded, ThreadKilled
from .trial import Trials
from .vectors import Lazy

log: Final = logging.getLogger("cuse_glue.mmio")

LOOKS: Final = 200  # in a row for a stop, before others are let to the processor
AT_ONCE: Final = 0.002  # seconds in which a stop is waited for
MOMENT: Final = 0.002  # seconds between looks by the task
_KNOWN: Final = platform.machine() == "x86_64"
_UNSEEN: Final = "the program is in a pid namespace that we cannot see into"
_UNKNOWN: Final = f"loads and stores of {platform.machine()} are not known"
PATIENCE: Final = 8  # times that an instruction whose code is not in memory is begun anew


class _Purpose(Enum):
    """What a thread is held for."""

    ACCESS = auto()
    SIGBUS = auto()  # to be let through
    NO_SIGBUS = auto()  # to be kept from it: the access is made


@dataclass(slots=True)
class _Held:
    """One thread that is ours, and not stopped."""

    offset: int
    device: Device
    purpose: _Purpose = _Purpose.ACCESS
    may_have_sigbus: bool = False


class Tracer:
    """All threads of clients that touch devices. Belongs to one thread, which runs trio."""

    def __init__(self, why: Callable[[str], None] | None = None) -> None:
        """`why` takes a sentence about each access that was not carried out, for people."""
        self._why = why or log.info
        self._hand = Hand()
        self._code = Code(self._hand)
        self._page = OnePage()
        self._trials = Trials(self._hand)
        self._vectors = Lazy(self._hand, self._trials.where)
        self._held: dict[int, _Held] = {}
        self._impatience = Impatience(self._hand, self._held)
        self._begun: dict[int, int] = {}  # how often a thread was let go to bring its code in
        self._showing = Showing()
        self._told: tuple[int, ...] = ()  # whom nothing could be done for
        self._task_is_there = False
        self.accesses = 0  # instructions that were carried out

    def close(self) -> None:
        """Nobody touches anything any more."""
        self._impatience.close()
        self._showing.close()
        self._code.close()
        self._trials.close()

    def why_not(self, tid: int) -> str | None:
        """Why the accesses of thread `tid` cannot be trapped, as far as that is known beforehand,
        for people. None: they can be. OSError: it is gone.
        """
        if not _KNOWN:
            return _UNKNOWN
        if not tid:
            return _UNSEEN
        try:
            with open(f"/proc/{tid}/syscall", "rb") as file:
                file.read()  # is permitted to whom ptrace(2) is
        except PermissionError:
            return "the program may not be traced (ptrace)"
        return None

    def trap(self, fault: Fault, offset: int, size: int, device: Device, file: Hashable = None) -> bytes:
        """A thread waits for `size` bytes at `offset` of a file, whole pages. Makes its access,
        whatever that is, on the device. Raises nothing. `file` tells files apart that have a page
        cache each.

        It has been refused then. If it has not, because it cannot be traced, the READ is to be
        answered with what is returned.
        """
        tid, refuse = fault.tid, fault.refuse
        if not _KNOWN:
            return self._not_ours(fault, offset, size, device, file, _UNKNOWN)
        held = self._held.get(tid)
        if held is not None:
            self._look_once(tid, held)  # or it is another's number by now
            held = self._held.get(tid)
        if held is None:
            try:
                held = self._take(tid, offset, device, refuse)
            except OSError as error:
                return self._not_ours(fault, offset, size, device, file, f"it may not be traced ({error.strerror})")
        else:
            held.may_have_sigbus = True
        refuse()
        self._look_at(tid, held)
        return b""

    def page_out(self, file: Hashable, offset: int, data: bytes) -> None:
        """A page that `trap` has given comes back, as a WRITE."""
        self._showing.page_out(file, offset, data)

    def _take(self, tid: int, offset: int, device: Device, refuse: Callable[[], None]) -> _Held:
        refused = self._impatience.seize(tid, refuse)
        held = self._held[tid] = _Held(offset, device, may_have_sigbus=refused)
        try:
            self._hand.interrupt(tid)
        except ThreadKilled:
            pass  # its end is heard of
        return held

    def _not_ours(self, fault: Fault, offset: int, size: int, device: Device, file: Hashable, reason: str) -> bytes:
        tid = fault.tid
        process = 0
        if tid:
            try:
                process, tracer = thread_status(tid)
            except OSError:
                process = os.getpid()
            if process == os.getpid():
                fault.refuse()  # nobody hears; or we read its memory ourselves, for another request
                return b""
            if tracer:
                reason = f"process {tracer} traces it (a debugger, strace), and only one can"
        else:
            reason = _UNSEEN
        data = self._showing.show(fault, file, offset, size, device)
        told = (tid, offset) if data is None else (process,)
        if data is None:
            fault.refuse()
            what = "it gets SIGBUS"
        else:
            what = "what it loads has no effect, and what it stores is known by what it changes"
        if told != self._told:  # it tries again, or it is the next access
            self._told = told
            self._why(f"thread {tid} touched the device's mapping at {offset:#x}, and {reason}: {what}")
        return data or b""

    # --- stops ---

    def _look_at(self, tid: int, held: _Held) -> None:
        """Wait for its stop, but not long."""
        status_of, looks, until = self._hand.status, 0, 0.0
        try:
            while (status := status_of(tid)) is None:
                looks += 1
                if looks > LOOKS:
                    os.sched_yield()
                    now = time.monotonic()
                    until = until or now + AT_ONCE
                    if now > until:
                        self._look_after()
                        return
        except ThreadEnded:
            self._forget(tid)
            return
        self._stopped(tid, held, status)

    def _look_once(self, tid: int, held: _Held) -> None:
        try:
            status = self._hand.status(tid)
        except ThreadEnded:
            self._forget(tid)
            return
        if status is not None:
            self._stopped(tid, held, status)

    def _look_after(self) -> None:
        """Look at all later."""
        if not self._task_is_there:
            self._task_is_there = True
            trio.lowlevel.spawn_system_task(self._look_now_and_then)

    async def _look_now_and_then(self) -> None:
        while self._held:
            await trio.sleep(MOMENT)
            for tid, held in list(self._held.items()):
                self._look_once(tid, held)
        self._task_is_there = False

    def _stopped(self, tid: int, held: _Held, status: int) -> None:
        by_event, by = status >> 16 == EVENT_STOP, os.WSTOPSIG(status)
        try:
            if held.purpose is _Purpose.ACCESS:
                self._carry_out(tid, held, 0 if by_event else by)
            elif by_event:  # it stops with its process, once it is let go
                self._hand.resume(tid)
                self._look_after()
            else:
                self._let_go(tid, by if held.purpose is _Purpose.SIGBUS or by != signal.SIGBUS else 0)
        except ThreadKilled:
            self._look_after()

    def _forget(self, tid: int) -> None:
        del self._held[tid]
        self._begun.pop(tid, None)

    def _let_go(self, tid: int, signal_: int) -> None:
        self._hand.detach(tid, signal_)
        del self._held[tid]

    # --- one access ---

    def _carry_out(self, tid: int, held: _Held, signal_: int) -> None:
        """The thread stands before its instruction. `signal_`: what stopped it, and is due."""
        hand = self._hand
        hand.read_words(tid)
        if hand.words[hand.layout.called] != (1 << hand.layout.bits) - 1:
            self._let_go(tid, signal_)  # the kernel touched the page for it: its call says EFAULT
            return
        if signal_ == signal.SIGBUS and hand.signal(tid)[1] > 0:
            signal_ = 0  # it comes of our answer
        pointer = hand.words[hand.layout.pointer]
        code = b""
        try:
            code, instruction = self._code.at(tid, pointer)
            self._vectors.begin(tid)
            self._run(tid, held, code, instruction)
            self._vectors.save()
            hand.write_words(tid)
        except NotHere:
            self._bring_in(tid, held, signal_, pointer)
            return
        except AccessRefused as why:
            self._fail(tid, held, signal_, f"{_shown(pointer, code)} cannot be carried out: {why}")
            return
        except OSError as error:
            self._fail(tid, held, signal_, f"nothing answers there: {error.strerror}")
            return
        except ThreadKilled:
            raise
        except Exception as failure:
            log.exception("bug: an access of thread %d", tid)
            self._fail(tid, held, signal_, f"{_shown(pointer, code)} meets a bug ({failure!r})")
            return
        self.accesses += 1
        if self._begun:
            self._begun.pop(tid, None)
        if held.may_have_sigbus and hand.has_signal(tid, signal.SIGBUS) and not signal_:
            held.purpose = _Purpose.NO_SIGBUS
            hand.resume(tid)
            self._look_after()
            return
        self._let_go(tid, signal_)

    def _run(self, tid: int, held: _Held, code: bytes, instruction: Instruction | None) -> None:
        """AccessRefused; OSError: the device's. Then no register has changed that is not true."""
        hand, page = self._hand, self._page
        if instruction is not None and instruction.kind is not Kind.STRING:
            page.offset, page.device = held.offset, held.device
            try:
                instruction.run(hand.words, page, self._vectors)
                return
            except Straddles:
                pass
        try:
            bus = Everywhere(tid, held.offset, held.device)
        except OSError as error:
            raise AccessRefused(f"the client's memory may not be looked into: {error.strerror}") from None
        try:
            hand.read_words(tid)  # if it is still ours, what was opened is its own
            if instruction is None:
                self._trials.carry_out(tid, code, bus)
            else:
                self._run_string(instruction, bus)
        finally:
            bus.close()

    def _run_string(self, instruction: Instruction, bus: Everywhere) -> None:
        """What was done before something failed, is done: the rest faults again."""
        words, counter = self._hand.words, self._hand.layout.general[1]
        before = words[counter]
        try:
            instruction.run(words, bus, self._vectors)
        except (AccessRefused, OSError):
            if words[counter] == before:
                raise

    def _bring_in(self, tid: int, held: _Held, signal_: int, pointer: int) -> None:
        """The thread is let go as it is: it reads its instruction again, and faults again."""
        self._begun[tid] = times = self._begun.get(tid, 0) + 1
        if times > PATIENCE:
            del self._begun[tid]
            self._fail(tid, held, signal_, f"its code at {pointer:#x} is not in memory, or is the device itself")
            return
        self._let_go(tid, signal_)

    def _fail(self, tid: int, held: _Held, signal_: int, why: str) -> None:
        """The kernel is to do what it does where there is nothing."""
        self._why(f"thread {tid} gets SIGBUS: it touched the device's mapping at {held.offset:#x}: {why}")
        if signal_:
            self._let_go(tid, signal_)  # its handler first; then it comes again
            return
        held.purpose = _Purpose.SIGBUS
        self._hand.resume(tid)
        self._look_after()


def _shown(pointer: int, code: bytes) -> str:
    return f"the instruction {code.hex(' ')} at {pointer:#x}"
