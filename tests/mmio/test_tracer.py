"""A program that maps the registers of a device: each of its loads and stores reaches the device
once, whatever happens to the program meanwhile.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

from tests.clients.build import why_not_32_bit
from tests.support import AS_NOBODY, PATIENCE, ROOT

HERE = Path(__file__).parent
COUNTERS = 0x8000
Manner = Literal["plain", "late", "hasty"]
Bits = Literal[64, 32]


class Ran(NamedTuple):
    """What became of a program and of the device."""

    output: str
    device: dict[str, Any]

    def times(self, kind: str, counter: int) -> int:
        found: int = self.device["counts"].get(f"{kind} {COUNTERS + counter:#x}", 0)
        return found

    @property
    def log(self) -> list[tuple[str, int, int, int]]:
        return [tuple(line) for line in self.device["log"]]


@cache
def built(name: str, bits: Bits = 64) -> str:
    place = ROOT / "build" / "mmio" / str(bits)
    place.mkdir(parents=True, exist_ok=True)
    flags = [
        "-std=gnu11",
        "-O1",
        "-g",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-m{bits}",
        "-D_FILE_OFFSET_BITS=64",
    ]
    program = str(place / name)
    subprocess.run([shutil.which("cc") or "gcc", *flags, str(HERE / f"{name}.c"), "-o", program], check=True)
    return program


def run(
    name: str,
    *arguments: str,
    manner: Manner = "plain",
    user: str = "self",
    bits: Bits = 64,
    patience: float = 2 * PATIENCE,
) -> Ran:
    command = [sys.executable, str(HERE / "rig.py"), manner, built(name, bits), *arguments]
    if user == "nobody":
        command = [*AS_NOBODY, *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=patience, check=True)
    told = json.loads(done.stdout)
    assert (told["code"], told["device"]["left"]) == (0, []), told["output"]
    assert told["device"]["unanswered"] == 0, "requests and replies are not the same number"
    return Ran(told["output"], told["device"])


@pytest.fixture(params=["self", "nobody"])
def user(request: pytest.FixtureRequest) -> str:
    if request.param == "nobody" and os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    user: str = request.param
    return user


def test_plain_accesses(user: str) -> None:
    assert run("accesses", "plain", user=user).log == [
        ("store", 0x11, 1, 0xA5),
        ("store", 0x22, 2, 0xBEEF),
        ("store", 0x34, 4, 0x12345678),
        ("store", 0x48, 8, 0x1122334455667788),
        ("load", 0x11, 1, 0xA5),
        ("load", 0x22, 2, 0xBEEF),
        ("load", 0x34, 4, 0x12345678),
        ("load", 0x48, 8, 0x1122334455667788),
        ("load", 0x11, 1, 0xA5),
    ]


def test_a_modifying_instruction_is_one_load_and_one_store() -> None:
    assert [(kind, value) for kind, _, _, value in run("accesses", "modified").log] == [
        ("store", 40),
        *(("load", 40), ("store", 45)),  # lock xadd
        ("load", 45),
        *(("load", 45), ("store", 7)),  # lock cmpxchg
        *(("load", 7), ("store", 7)),  # and one that finds another value
        *(("load", 7), ("store", 9)),  # xchg
        *(("load", 9), ("store", 0x89)),  # lock or
        ("load", 0x89),
        *(("load", 0x89), ("store", 0x88)),  # and
        ("load", 0x88),  # test
        ("load", 0x88),  # cmp
        *(("load", 0x88), ("store", 0xFFFFFFFF)),  # sub
        *(("load", 0), ("store", 0xFF)),  # sbb
        *(("load", 0xFFFFFFFF), ("load", 0xFF)),
    ]


def test_each_element_of_a_string_is_an_access() -> None:
    text = b"rep movsb"
    assert run("accesses", "strings").log == [
        *(("store", 0x100 + at, 1, byte) for at, byte in enumerate(text)),
        *(("load", 0x100 + at, 1, byte) for at, byte in enumerate(text)),
        *(("store", at, 4, 0x01020304) for at in (0x120, 0x124, 0x128)),
        *(("load", 0x120, 4, 0x01020304), ("store", 0x1FFC, 4, 0x01020304)),  # from page to page
        *(("load", 0x124, 4, 0x01020304), ("store", 0x2000, 4, 0x01020304)),
    ]


def test_a_long_string_is_done_in_parts() -> None:
    assert run("accesses", "many").log == [("store", 0x400 + at, 1, 7) for at in range(600)]


def test_vectors_are_accesses_of_their_size(user: str) -> None:
    data = bytes(at * 7 & 0xFF for at in range(32))
    wide, half = int.from_bytes(data, "little"), int.from_bytes(data[8:24], "little")
    assert run("accesses", "vectors", user=user).log == [
        ("store", 0x200, 32, wide),
        ("load", 0x200, 32, wide),
        ("store", 0x240, 16, half),
        ("load", 0x240, 16, half),
    ]


def test_what_the_c_library_copies() -> None:
    ran = run("accesses", "copies")
    assert ran.output == "done\n"
    assert ran.device["why"] == []


def test_an_access_may_reach_from_one_page_into_the_next() -> None:
    """Even where that page is of another place in the file, or is the program's own memory."""
    assert run("accesses", "straddling").log == [
        ("store", 0x2FFE, 4, 0xCAFEBABE),
        ("load", 0x2FFE, 4, 0xCAFEBABE),
        ("store", 0x3FFD, 3, 0x332211),
        ("store", 0x1000, 5, 0x8877665544),
        ("load", 0x3FFD, 3, 0x332211),
        ("load", 0x1000, 5, 0x8877665544),
        ("store", 0x1FFC, 4, 0x04030201),
        ("load", 0x1FFC, 4, 0x04030201),
    ]


def test_what_the_decoder_does_not_know(user: str) -> None:
    """The program checks what comes out; here is what the device was asked."""
    ran = run("rare", user=user)
    assert ran.output == "done\n"
    assert ran.device["why"] == []
    log = [(kind, offset, size) for kind, offset, size, _ in ran.log]
    assert log[:5] == [("store", 0x10, 4), ("load", 0x10, 4), ("load", 0x10, 4), ("store", 0x10, 4), ("load", 0x10, 4)]
    assert log.count(("load", COUNTERS, 4)) == 2  # one of them for nothing
    assert log.count(("load", 0x50, 32)) == 1  # a vector's operand, of which 28 bytes add nothing
    assert log.count(("store", 0x84, 8)) == 1  # two elements under a mask


def test_code_that_reaches_from_one_page_into_the_next() -> None:
    assert run("places").log == [("store", 0x10, 4, 0x11223344)] * 18


def test_a_32_bit_program() -> None:
    if why := why_not_32_bit():
        pytest.skip(why)
    ran = run("accesses", "modified", "strings", "vectors", bits=32)
    assert ran.output == "done\n"
    assert ran.log == run("accesses", "modified", "strings", "vectors").log


@pytest.mark.parametrize("manner", ["plain", "late", "hasty"])
def test_what_a_program_does_about_sigbus_stays(manner: Manner) -> None:
    ran = run("masks", manner=manner)
    assert ran.output == "done\n"
    assert ran.device["accesses"] == 2 * 3 * 20 * 5 + 4 * 50 + 2 * 5 + 2
    assert len(ran.device["why"]) == 5, "those that cannot be carried out"


@pytest.mark.parametrize("manner", ["plain", "late"])
def test_what_cannot_be_carried_out_is_sigbus(user: str, manner: Manner) -> None:
    ran = run("refusals", user=user, manner=manner)
    assert ran.output == "done\n"
    why = ran.device["why"]
    assert len(why) == 3 * 3 + 3
    assert all("gets SIGBUS" in line for line in why)
    assert ran.times("store", 0) == 0
    assert "there is nothing" in why[0]
    assert "the processor answers it with signal 8" in why[9]
    assert "is the device itself" in why[10]
    assert "traces it (a debugger, strace), and only one can" in why[11]


def test_a_program_that_a_debugger_traces(user: str) -> None:
    ran = run("traced", "100", user=user)
    assert ran.output == "done\n"
    # A store may be known twice on a busy machine: docs/not-done.md.
    stores = [store for store, _ in groupby(line[1:] for line in ran.log if line[0] == "store")]
    assert stores == [*((0x1024, 4, at * 0x01010101) for at in range(1, 101)), (0x1102, 2, 0x1234)]
    (why,) = ran.device["why"]
    assert "traces it (a debugger, strace), and only one can: what it loads has no effect" in why


# --- exactly once ---


def each_once(ran: Ran, counters: list[int], count: int) -> None:
    assert ran.output.startswith("0 bad, ")
    for counter in counters:
        assert (ran.times("store", counter), ran.times("load", counter)) == (count, count)
        assert ran.device["sums"][str(COUNTERS + counter)] == count * (count + 1) // 2


@pytest.mark.slow
def test_four_threads_under_a_storm_of_signals(user: str) -> None:
    ran = run("storm", "10000", "1000", user=user, patience=4 * PATIENCE)
    each_once(ran, [0, 8, 16, 24], 10_000)
    alarms = int(ran.output.split()[2])
    assert alarms > 100
    assert ran.times("store", 0x40) == ran.times("load", 0x40) == alarms


@pytest.mark.parametrize("manner", ["plain", "late", "hasty"])
def test_threads_whose_stops_come_late_or_early(manner: Manner) -> None:
    count = 50 if manner == "late" else 500
    each_once(run("storm", str(count), "20000", manner=manner), [0, 8, 16, 24], count)


@pytest.mark.parametrize("manner", ["plain", "hasty"])
def test_a_process_that_is_stopped_and_goes_on(user: str, manner: Manner) -> None:
    ran = run("stops", "600", user=user, manner=manner)
    assert ran.output == "done\n"
    for counter in (0, 8):
        assert (ran.times("store", counter), ran.times("load", counter)) == (600, 600)


@pytest.mark.parametrize("manner", ["plain", "late", "hasty"])
def test_a_process_that_is_killed(user: str, manner: Manner) -> None:
    """No store that it knows of is lost; of each thread one more may be done at each kill."""
    rounds = 5 if manner == "late" else 20
    ran = run("kills", str(rounds), user=user, manner=manner)
    known = [int(word) for word in ran.output.split()[:2]]
    for counter, number in zip((0, 8), known, strict=True):
        assert number <= ran.times("store", counter) <= number + rounds


def test_children_of_fork_and_vfork(user: str) -> None:
    ran = run("forks", "15", user=user)
    assert ran.times("store", 0) == int(ran.output)
    assert [ran.times("store", counter) for counter in (8, 12, 16)] == [15, 15, 15]


@pytest.mark.parametrize("manner", ["plain", "late", "hasty"])
def test_a_program_that_executes_another_in_the_midst_of_it(user: str, manner: Manner) -> None:
    """The kernel ends its other threads first, wherever they are."""
    ran = run("execs", "20", user=user, manner=manner)
    assert ran.output == "done\n"
    assert ran.times("store", 0) == 21
