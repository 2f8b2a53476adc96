"""Seizing a thread without waiting for ever.

ptrace(2) waits while another thread of the program is in an exec. The exec waits until all other
threads of the program have ended. One of them may be in a page fault that only we can answer;
another may be one that we traced, and have to collect (waitid). Then we would wait for each other.
So if a seize takes long, a second thread of ours answers that fault and collects those threads. It
runs only while accesses are made.

Ref: v7.3 kernel/ptrace.c ptrace_attach (cred_guard_mutex), fs/exec.c de_thread, kernel/exit.c
do_wait (any thread of a process collects what another traced)
"""

import os
import threading
import time
from collections.abc import Callable, Collection
from typing import Final

from .trace import WALL, Hand

LONG: Final = 0.05  # seconds; what lasts so long is refused, before it has lasted twice as long
_QUIET: Final = 10  # looks that find no seize, before the second thread sleeps until it is called
_LOOK: Final = os.WEXITED | os.WNOHANG | WALL
_ENDED: Final = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)


class Impatience:
    """Belongs to the thread of its hand."""

    def __init__(self, hand: Hand, held: Collection[int]) -> None:
        """`held`: our tracees; the collection changes with them."""
        self._hand = hand
        self._held = held
        self._now: list[Callable[[], None]] | None = None  # a new list for each seize
        self._awake = False
        self._closing = False
        self._wanted = threading.Event()
        self._watcher: threading.Thread | None = None

    def close(self) -> None:
        """Let the second thread end."""
        self._closing = True
        self._wanted.set()

    def seize(self, tid: int, refuse: Callable[[], None]) -> bool:
        """As Hand.seize. True: `refuse` has been called meanwhile, by the second thread."""
        self._now = now = [refuse]
        if not self._awake:
            self._wake()
        try:
            self._hand.seize(tid)
        finally:
            self._now = None
        return not now

    def _wake(self) -> None:
        self._awake = True
        self._wanted.set()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        while not self._closing:
            self._wanted.wait()
            self._wanted.clear()
            quiet = 0
            while quiet < _QUIET and not self._closing:
                before = self._now
                time.sleep(LONG)
                quiet = quiet + 1 if before is None else 0
                if before is not None and before is self._now:
                    self._get_on(before)
            self._awake = False
            if self._now is not None:  # `seize` may have seen `_awake` still set
                self._awake = True
                self._wanted.set()

    def _get_on(self, waiting: list[Callable[[], None]]) -> None:
        if waiting:
            waiting.pop()()
        for tid in list(self._held):
            try:
                seen = os.waitid(os.P_PID, tid, _LOOK | os.WNOWAIT)
                if seen is not None and seen.si_code in _ENDED:  # a stop is not ours to collect
                    os.waitid(os.P_PID, tid, _LOOK)
            except ChildProcessError:
                pass  # it is collected already
