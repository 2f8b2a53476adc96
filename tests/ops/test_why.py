"""How many of the lines of `--why` are written, and what of the others is told. That they are
written at all, and what a name can do to them, is in tests/serve/test_why.py.
"""

import pytest
import trio
import trio.testing

from cuse_glue.request.caller import Caller
from iommud.ops import why
from iommud.ops.why import Why


class Named(Caller):
    """A thread of a process, without a /proc to be asked for either. None: it is gone."""

    def __init__(self, tid: int, process: int | None = None, uid: int = 0) -> None:
        super().__init__(tid, uid, 0)
        self._process = process
        self.asked = 0

    def process(self) -> int:
        self.asked += 1
        if self._process is None:
            raise FileNotFoundError("it is gone")
        return self._process

    def name(self) -> str:
        self.asked += 1
        return f"p{self._process}[{self.tid}]"


class Said:
    """What was written, by a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("iommud.tokens.time.monotonic", lambda: self.now)
        self.lines: list[str] = []
        self.why = Why(self.lines.append)

    def refuse(self, caller: Caller, times: int = 1) -> int:
        """How many of so many lines were written."""
        before = len(self.lines)
        for _ in range(times):
            self.why.refused(caller, "X", "no")
        return len(self.lines) - before

    def told(self, seconds: float = 0.0) -> list[str]:
        """What is told of lines that were left out, after so long."""
        self.now += seconds
        before = len(self.lines)
        self.why.tell()
        told = self.lines[before:]
        del self.lines[before:]
        return told


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    return Said(monkeypatch)


def test_a_line_says_who_what_and_why(said: Said) -> None:
    said.refuse(Named(7, 3))
    assert said.lines == ["p3[7]: X: no"]
    assert said.told() == []


def test_the_share_of_a_process_is_for_all_of_its_threads(said: Said) -> None:
    written = [said.refuse(Named(tid, 7), 1000) for tid in (7, 8)]
    assert written == [why.BURST, 0]
    assert said.refuse(Named(9, 9)) == 1, "another one has its own"
    assert said.told(1.0) == [
        f"iommud: {1000 - why.BURST} lines of p7[7] were left out",
        "iommud: 1000 lines of p7[8] were left out",
    ]
    assert said.refuse(Named(7, 7), 1000) == why.RATE, "so many a second"
    said.now += 1000
    assert said.refuse(Named(7, 7), 1000) == why.BURST, "but not all that were not needed"


def test_the_share_of_a_user_is_for_all_of_his_processes(said: Said) -> None:
    """For the first line of a process, too: numbers of processes cost nothing."""
    share = why.PROCESSES * why.BURST
    processes = 2 * why.PROCESSES
    written = [said.refuse(Named(number, number, uid=5), why.BURST) for number in range(processes)]
    assert sum(written) == share
    assert written == [why.BURST] * why.PROCESSES + [0] * why.PROCESSES
    assert said.refuse(Named(99, 99, uid=6)) == 1, "another user has his own"
    assert said.told() == [f"iommud: {why.PROCESSES * why.BURST} lines of other processes of user 5 were left out"]


def test_a_known_process_of_a_user_who_has_had_his_share(said: Said) -> None:
    first = Named(1, 1, uid=5)
    said.refuse(first)
    for number in range(2, 2 + why.PROCESSES):
        said.refuse(Named(number, number, uid=5), why.BURST)
    assert said.refuse(first) == 0
    assert said.told() == ["iommud: 2 lines of other processes of user 5 were left out"]


def test_a_generous_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said(monkeypatch)
    said.why = Why(said.lines.append, 10.0)
    assert said.refuse(Named(7, 7), 2000) == 10 * why.BURST
    said.now += 1
    assert said.refuse(Named(7, 7), 2000) == 10 * why.RATE


def test_a_thread_that_is_gone_is_a_process_of_its_own(said: Said) -> None:
    assert [said.refuse(Named(tid), 150) for tid in (7, 8)] == [why.BURST, why.BURST]


def test_a_line_that_is_left_out_asks_nothing(said: Said) -> None:
    """Neither of who is known nor of who is not."""
    known = Named(7, 7)
    said.refuse(known, why.BURST)
    assert known.asked == why.BURST + 2, "its name for each line, and once its name and its process"
    said.refuse(known, 500)
    assert known.asked == why.BURST + 2
    for number in range(100, 100 + why.PROCESSES):
        said.refuse(Named(number, number), why.BURST)
    unknown = Named(8, 8)
    said.refuse(unknown, 500)
    assert unknown.asked == 0


def test_what_is_remembered_has_an_end(said: Said) -> None:
    for number in range(3 * why.MOST_KNOWN):
        said.refuse(Named(number, number, uid=number))
    assert 2 * why.MOST_KNOWN < said.why.known <= 3 * why.MOST_KNOWN + 2
    said.told(1000)
    assert said.why.known == 0
    assert said.refuse(Named(1, 1)) == 1


def test_a_share_that_is_in_use_is_not_forgotten(said: Said) -> None:
    said.refuse(Named(7, 7), why.BURST)
    said.told(why.BURST / why.RATE - 1)
    assert said.why.known == 1, "of the process; the user has had a small part of his"
    assert said.refuse(Named(7, 7), 1000) == why.BURST - why.RATE


async def test_it_is_told_once_a_second(said: Said, autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    said.refuse(Named(7, 7), why.BURST + 5)
    said.refuse(Named(8, 8))
    await trio.sleep(why.TOLD_EVERY - 0.01)
    assert len(said.lines) == why.BURST + 1
    await trio.sleep(0.02)
    assert said.lines[why.BURST + 1 :] == ["iommud: 5 lines of p7[7] were left out"]
    said.refuse(Named(7, 7), 3)
    await trio.sleep(10)
    assert said.lines[-1] == "iommud: 3 lines of p7[7] were left out"
    assert len(said.lines) == why.BURST + 3
    assert trio.current_time() - start < 12


def test_it_is_told_when_the_daemon_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said(monkeypatch)

    async def serve() -> None:
        said.refuse(Named(7, 7), why.BURST + 5)
        await trio.lowlevel.checkpoint()

    trio.run(serve)
    assert said.lines[-1] == "iommud: 5 lines of p7[7] were left out"
