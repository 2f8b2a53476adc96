"""What is excused, and what never is: the judges are judged."""

import os
import signal
import subprocess
import sys

import pytest

from tests.family import family, look, wait_gone
from tests.hostile.attacks import Attack
from tests.hostile.judge import LIMIT, Report, Slow, held_up, parse, usual_delay
from tests.hostile.log import faults_of_log, is_line

CALL, SLEEP = "alloc", "sleep"


def report(*slow: tuple[str, float, float]) -> Report:
    calls = [Slow(*one) for one in slow]
    longest = {
        kind: max((one.end - one.begin for one in calls if one.kind == kind), default=0.001) for kind in (CALL, SLEEP)
    }
    return Report({CALL: 1000}, longest, calls)


@pytest.mark.parametrize(
    ("attacked", "control", "seconds"),
    [
        ([], [], 0.001),
        ([(CALL, 1, 3)], [], 2),
        ([(CALL, 1, 3)], [(CALL, 1, 2.5)], 0.5),
        ([(CALL, 1, 3)], [(SLEEP, 2, 9)], 1),
        ([(CALL, 1, 3), (SLEEP, 1, 2)], [], 1),
        ([(CALL, 1, 3)], [(CALL, 1, 2), (SLEEP, 1.5, 2)], 1),
        ([(CALL, 1, 3)], [(CALL, 4, 9)], 2),
        ([(SLEEP, 1, 3)], [], 0),
        ([(CALL, 1, 3), (CALL, 5, 6)], [(CALL, 0, 4)], 1),
    ],
)
def test_only_the_time_in_which_the_machine_was_slow_for_all_is_excused(
    attacked: list[tuple[str, float, float]], control: list[tuple[str, float, float]], seconds: float
) -> None:
    assert held_up(report(*attacked), report(*control)) == pytest.approx(seconds, abs=0.0011)


def test_one_hiccup_of_the_machine_allows_nothing_and_a_slow_machine_little() -> None:
    assert usual_delay(report((CALL, 1, 3), (SLEEP, 1, 3), (SLEEP, 4, 5))) == 0
    assert usual_delay(report((CALL, 1, 9), (CALL, 10, 10.5), (CALL, 11, 11.06))) == pytest.approx(0.06)
    assert LIMIT + usual_delay(report(*[(CALL, at, at + 9) for at in range(9)])) < 0.5


def test_a_report_is_read_as_the_innocent_client_writes_it() -> None:
    read = parse("ready\nwrong file ENOMEM\nslow alloc 1000000000 2500000000\nsleep 9 1100\nalloc 3 1500000\n")
    assert read.wrong == ["file: ENOMEM"]
    assert read.slow == [Slow("alloc", 1.0, 2.5)]
    assert (read.counts, read.longest_call) == ({"sleep": 9, "alloc": 3}, 1.5)
    with pytest.raises(ValueError, match="Bail out"):
        parse("Bail out! innocent.c:9: fd >= 0: No such file\n")


@pytest.mark.parametrize(
    ("line", "right"),
    [
        (b"log[22133]: IOMMU_DESTROY: ENOENT: there is no object 77; wanted: object\n", True),
        (b"x\\n<0>iommud: ok[7]: IOMMU_DESTROY: ENOENT: there is no object 77\n", True),
        (b"iommud: 817 more lines on log[22133] were left out\n", True),
        (b"x\n", False),
        (b"<0>iommud: ok[7]: IOMMU_DESTROY: ENOENT\n", True),
        (b"\x1b]0;own\x07[7]: IOMMU_DESTROY: ENOENT: no\n", False),
        (b"a\xff\xfe[7]: IOMMU_DESTROY: ENOENT: no\n", False),
        ("a\u202eb[7]: IOMMU_DESTROY: ENOENT: no\n".encode(), False),
        ("é[7]: IOMMU_DESTROY: ENOENT: no\n".encode(), True),
        (b"a\rb[7]: IOMMU_DESTROY: ENOENT: no\n", False),
        (b"Traceback (most recent call last):\n", False),
    ],
)
def test_a_line_of_the_log(line: bytes, right: bool) -> None:
    assert is_line(line) == right


def test_a_flood_in_the_log_is_found() -> None:
    line = b"log[1]: IOMMU_DESTROY: ENOENT: no\n"
    assert faults_of_log([line] * 9, Attack("memory", "pages"), 1) == []
    assert len(faults_of_log([line] * 9999, Attack("log", "flood"), 1)) == 2
    assert len(faults_of_log([b"x\n"] * 9, Attack("memory", "pages"), 1)) == 4


def test_a_family_has_descendants_and_orphans() -> None:
    script = (
        "import os, time; r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os.write(w, b'x')\n"
        "        time.sleep(99)\n"
        "    os._exit(0)\n"
        "os.wait(); os.read(r, 1); print('ready', flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        members = family(process.pid)
        assert len(members) == 2
        assert {member.session for member in members} == {process.pid}
        assert process.pid in {member.pid for member in family(os.getpid())}
        process.kill()
        assert [left.pid for left in wait_gone(members, 0.5)] == [
            member.pid for member in members if member.pid != process.pid
        ]
        process.wait()
        (orphan,) = family(process.pid)
        os.kill(orphan.pid, signal.SIGKILL)
        assert wait_gone([orphan], 5) == []
        gone = look(orphan.pid)
        assert gone is None or gone.state in "ZX"
