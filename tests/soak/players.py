"""Clients of different users: each plays one round of random ioctls after the other, and is started
again when it was killed.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryFile
from typing import IO

from tests.clients.test_clients import LINUX_ANSWERS

FIRST_USER = 5001  # users that need not be there
THREADS = 2
LONGEST_ROUND = 600  # seconds; a call of more than 20 s ends a round as well
# What `fuzz_devices --alone --calls 30000 --seed SEED` comes to here: Linux's answers, except that
# an open file knows no access that another gave (EBADFD; docs/not-done.md). Under `iommud run` they
# are Linux's.
DEVICE_ANSWERS = {11: "2feddc15daab1bed", 12: "09ed55faeddcbe06", 13: "d982d1ea1f8fe24e"}
# The only answers that a call may get when its worker or daemon was killed.
OF_A_KILL = {"EIO", "ENOTCONN", "ECONNABORTED", "EBADF"}
STRERROR_OF_A_KILL = {os.strerror(getattr(errno, name)) for name in OF_A_KILL}
_ANSWERED = re.compile(r"^fuzz\w*: .* answered (\w+)$", re.MULTILINE)
_BAILED = re.compile(r"^Bail out! .*: (.*)$", re.MULTILINE)
_PLAYED = re.compile(r"^(\d+) calls in .* (\d+) wrong answers$", re.MULTILINE)


@dataclass(frozen=True)
class Round:
    """What one round is: the program's arguments, and the last line of what it says, where that is
    known.
    """

    arguments: tuple[str, ...]
    calls: int
    says: str | None = None


@dataclass
class Outcome:
    """`calls`: those of a round that came to its end. `wrong`: what Linux would not have answered,
    in words.
    """

    calls: int = 0
    wrong: str | None = None
    of_a_kill: bool = False  # what is wrong is what a killed worker or daemon answers


class Player:
    """One user's client. The first player plays rounds for which all answers are known. The
    others play random rounds, with THREADS threads.
    """

    def __init__(self, number: int, programs: Path, device: Path, mock: bool, calls: int, random: Random) -> None:
        self._knows = number == 0
        # Linux was asked as root, to whom it answers differently: no limit on what may be locked.
        self.user = 0 if self._knows else FIRST_USER + number
        self._programs, self._device, self._mock = programs, device, mock
        self._calls, self._random = calls, random
        self.process: subprocess.Popen[bytes] | None = None
        # A client whose daemon was killed says more than a pipe takes, and would wait for us.
        self._said: IO[str] | None = None
        self._wrong: IO[str] | None = None
        self._round = Round((), 0)

    def _next_round(self) -> Round:
        if self._knows:
            answers, calls = (DEVICE_ANSWERS, 30_000) if self._mock else (LINUX_ANSWERS, 50_000)
            seed, checksum = self._random.choice(sorted(answers.items()))
            some = ("--calls", str(calls), "--threads", "1", "--seed", str(seed))
            if self._mock:
                return Round(("--alone", *some), calls, f"checksum {checksum}")
            return Round(("--areas", *some), calls, f"thread 0: checksum {checksum}")
        seed = self._random.randrange(1, 1 << 40)
        some = ("--calls", str(self._calls), "--threads", str(THREADS), "--seed", str(seed))
        return Round(some, self._calls)

    def begin(self) -> None:
        self._round = self._next_round()
        self._said, self._wrong = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115
        program = self._programs / ("fuzz_devices" if self._mock else "fuzz")
        self.process = subprocess.Popen(
            [program, *self._round.arguments, "--seconds", str(LONGEST_ROUND), self._device],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._wrong,
            user=self.user,
            group=self.user,
            extra_groups=[],
            start_new_session=True,
        )

    @staticmethod
    def _words(file: IO[str] | None) -> str:
        """What the round has written."""
        assert file is not None
        with file:
            file.seek(0)
            return file.read()

    def outcome(self, killed: bool) -> Outcome:
        """Of the round that has ended. `killed`: that was our doing."""
        assert self.process is not None
        status = self.process.wait()
        out, err = self._words(self._said), self._words(self._wrong)
        self.process = None
        if killed:
            return Outcome()
        played = _PLAYED.search(out)
        answered = set(_ANSWERED.findall(err))
        if status == 0 and not err and played:
            if self._round.says and out.splitlines()[-1] != self._round.says:
                return Outcome(
                    int(played[1]), f"{self._round.arguments}: {out.splitlines()[-1]}, not {self._round.says}"
                )
            return Outcome(int(played[1]))
        # A client that cannot go on says which of its own checks failed.
        bailed = _BAILED.search(out)
        lost = answered <= OF_A_KILL and (
            bailed[1] in STRERROR_OF_A_KILL if bailed else status == 1 and answered != set()
        )
        said = [*err.splitlines()[:3], *([bailed[0]] if bailed else [])]
        return Outcome(0, f"{' '.join(self._round.arguments)}: status {status}: {said}", lost)
