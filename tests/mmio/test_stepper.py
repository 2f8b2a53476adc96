"""The process in which instructions are tried."""

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from cuse_glue.mmio.decoder import X86_64
from cuse_glue.mmio.stepper import PAGE, Fault, Machine, Stepper, StepperError

CODE = 0x2_0000_0000
DATA = 0x3_0000_0000
STORE = bytes.fromhex("8907")  # mov [rdi], eax
RAX, RDI = 10, 14
RESUME = 1 << 16  # the flag that a fault leaves


@pytest.fixture
def own(stepper: Stepper) -> Iterator[Stepper]:
    """One that a test may harm."""
    made = Stepper()
    yield made
    made.close()


def before(stepper: Stepper, address: int) -> Machine:
    idle = stepper.idle()
    words = list(idle.words)
    words[RAX], words[RDI], words[X86_64.pointer] = 0x1234, address, CODE
    words[X86_64.flags] |= RESUME
    return Machine(tuple(words), idle.xstate)


def test_an_instruction_is_carried_out(stepper: Stepper) -> None:
    stepper.lay(CODE, STORE, code=True)
    stepper.lay(DATA, bytes(PAGE))
    after, fault = stepper.step(before(stepper, DATA + 8))
    assert fault is None
    assert after.words[X86_64.pointer] == CODE + len(STORE)
    assert stepper.look(DATA, 16) == bytes(8) + (0x1234).to_bytes(8, "little")
    stepper.clear()


def test_a_page_that_is_missing_is_told(stepper: Stepper) -> None:
    stepper.lay(CODE, STORE, code=True)
    machine = before(stepper, DATA + 8)
    after, fault = stepper.step(machine)
    assert fault == Fault(signal.SIGSEGV, DATA + 8)
    assert after.words == machine.words
    stepper.clear()
    assert stepper.step(machine)[1] == Fault(signal.SIGSEGV, CODE), "what was cleared is not there"


def test_what_an_instruction_touches(stepper: Stepper) -> None:
    stepper.lay(CODE, STORE, code=True)
    stepper.lay(DATA, bytes(PAGE))
    machine = before(stepper, DATA + 9)
    for writes in (False, True):
        assert stepper.touches(machine, [DATA, DATA + 8, DATA + 16], 8, writes=writes) == [False, True, False]
        places = range(DATA + 8, DATA + 12)
        assert stepper.touches(machine, places, 1, writes=writes) == [False, True, True, True]
    stepper.clear()


@pytest.mark.parametrize("address", [0, 1 << 47, 0x1F_E000_0000])
def test_a_place_where_it_can_have_no_page(stepper: Stepper, address: int) -> None:
    with pytest.raises(StepperError):
        stepper.lay(address, b"x")


def test_it_has_nothing_of_a_program(own: Stepper) -> None:
    with open(f"/proc/{own.pid}/maps", encoding="ascii") as maps:
        names = [line.split()[5:] for line in maps]
    assert [name for name in names if name not in ([], ["[vsyscall]"])] == []
    assert os.listdir(f"/proc/{own.pid}/fd") == []


@pytest.mark.parametrize("code", ["0f05", "cd80", "0f34"])
def test_no_instruction_enters_the_kernel(own: Stepper, code: str) -> None:
    """A client could have it tried with registers of its choice: exit, by each way there is."""
    own.lay(CODE, bytes.fromhex(code), code=True)
    idle = own.idle()
    for number in (60, 1):  # of 64-bit and of 32-bit programs
        words = list(idle.words)
        words[RAX], words[RDI], words[X86_64.pointer] = number, 3, CODE
        after, fault = own.step(Machine(tuple(words), idle.xstate))
        if fault is None:
            assert after.words[RAX] - (1 << 64) == -errno.ENOSYS
    own.lay(CODE, STORE, code=True)
    own.lay(DATA, bytes(PAGE))
    assert own.step(before(own, DATA))[1] is None, "it lives"


def test_signals_from_others_do_not_disturb_it(own: Stepper) -> None:
    own.lay(CODE, STORE, code=True)
    own.lay(DATA, bytes(PAGE))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP, signal.SIGCONT):
        os.kill(own.pid, number)
        after, fault = own.step(before(own, DATA))
        assert (fault, after.words[X86_64.pointer]) == (None, CODE + len(STORE)), number


def test_one_that_was_killed_says_so(own: Stepper) -> None:
    machine = before(own, DATA)
    os.kill(own.pid, signal.SIGKILL)
    with pytest.raises(StepperError):
        own.step(machine)
    with pytest.raises(StepperError):
        own.lay(DATA, b"x")
