"""The lines of `--why`: one for each refused ioctl, but never so many that the lines of others
drown in them, or that others wait.

If a process is refused in a loop, its lines are counted instead, under what is already known of it:
nothing is read from /proc for a line that is not written. Each process has a share of lines. As
there can be any number of processes, each user has one too. Once a second a line tells how many
lines were left out, and whose.
"""

import logging
from collections.abc import Callable
from typing import Final

import trio

from cuse_glue.request.caller import Caller

from ..tokens import LeftOut, Tokens

log: Final = logging.getLogger("iommud")

RATE: Final = 20.0  # lines a second of one process
BURST: Final = 100  # of its lines at once
PROCESSES: Final = 5  # whose shares one user has
TOLD_EVERY: Final = 1.0  # seconds: how many were left out
MOST_KNOWN: Final = 4096  # threads, processes, users


class Why:
    """Writes the lines by `write`. `generous`: so many times the usual shares, for a daemon that
    has one user.
    """

    def __init__(self, write: Callable[[str], None], generous: float = 1.0) -> None:
        self._write = write
        self._generous = generous
        self._users: dict[int, Tokens] = {}
        self._processes: dict[int, Tokens] = {}
        # A thread's, and what it is called, since the last telling: numbers are used again.
        self._process_of: dict[int, tuple[int, str]] = {}
        self._left_out: LeftOut[str] = LeftOut()
        self._telling = False

    def refused(self, caller: Caller, what: str, why: object) -> None:
        """Write, or count, that `what` was refused to the caller."""
        if self._may(caller):
            self._write(f"{caller.name()}: {what}: {why}")

    def tell(self) -> None:
        """Write how many lines were left out."""
        for whose, count in self._left_out.take_all().items():
            self._write(f"iommud: {count} lines of {whose} were left out")
        self._process_of.clear()
        for known in self._processes, self._users:
            for number in [number for number, tokens in known.items() if tokens.full()]:
                del known[number]

    @property
    def known(self) -> int:
        """How many users, processes and threads are remembered; for tests."""
        return len(self._users) + len(self._processes) + len(self._process_of)

    def _may(self, caller: Caller) -> bool:
        uid = caller.uid if caller.uid in self._users or len(self._users) < MOST_KNOWN else -1
        user = self._users.get(uid)
        if user is None:
            user = self._users[uid] = self._tokens(PROCESSES)
        known = self._process_of.get(caller.tid)
        is_paid = known is None
        if known is None:
            if len(self._process_of) >= MOST_KNOWN or not user.take():
                return self._count(f"other processes of user {caller.uid}")
            known = self._process_of[caller.tid] = _process(caller), caller.name()
            self._begin_telling()
        process, name = known
        its = self._processes.get(process)
        if its is None:
            its = self._processes[process] = self._tokens(1)
        if not its.take():
            return self._count(name)
        return is_paid or user.take() or self._count(f"other processes of user {caller.uid}")

    def _tokens(self, shares: int) -> Tokens:
        return Tokens(self._generous * shares * RATE, self._generous * shares * BURST)

    def _count(self, whose: str) -> bool:
        self._left_out.add(whose)
        return False

    def _begin_telling(self) -> None:
        if not self._telling:
            try:
                trio.lowlevel.spawn_system_task(self._tell_later)
            except RuntimeError:
                return  # nobody runs: it is told at the end
            self._telling = True

    async def _tell_later(self) -> None:
        try:
            await trio.sleep(TOLD_EVERY)
        finally:
            self._telling = False
            self.tell()


def _process(caller: Caller) -> int:
    try:
        return caller.process()
    except OSError:
        return caller.tid
