"""Which system calls the filter picks, on every machine that it is written for: run as the kernel runs it, but here."""

import struct

import pytest

from cuse_glue import seccomp
from cuse_glue.seccomp import (
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    PROT_WRITE,
    Machine,
)

READ = 1
GIB = 1 << 30
I386 = 0x40000003
X32 = 0x40000000
NOTIFY = 0x7FC00000
ALLOW = 0x7FFF0000


@pytest.fixture(params=["X86_64", "ARM64"])
def machine(request: pytest.FixtureRequest) -> Machine:
    found = getattr(seccomp, request.param)
    assert isinstance(found, Machine)
    return found


def run(program: bytes, data: bytes) -> int:
    """What a classic BPF program returns for a struct seccomp_data."""
    at = accumulator = 0
    instructions = list(struct.iter_unpack("=HBBI", program))
    while True:
        code, true, false, operand = instructions[at]
        at += 1
        match code:
            case 0x20:
                accumulator = int.from_bytes(data[operand : operand + 4], "little")
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += true if accumulator == operand else false
            case 0x45:
                at += true if accumulator & operand else false
            case 0x06:
                return int(operand)
            case _:
                raise AssertionError(f"instruction {code:#x}")


def is_picked(machine: Machine, number: int, *arguments: int, architecture: int | None = None) -> bool:
    data = struct.pack("=iIQ6Q", number, architecture or machine.architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    verdict = run(seccomp.picking(machine), data)
    assert verdict in (NOTIFY, ALLOW)
    return verdict == NOTIFY


@pytest.mark.parametrize("name", ["read", "write", "pread64", "pwrite64", "readv", "writev"])
def test_reads_and_writes_of_nothing(machine: Machine, name: str) -> None:
    number = machine.calls[name]
    assert is_picked(machine, number, 3, 0x1000, 0, 77)
    for count in 1, 4096, 1 << 32, 1 << 63:
        assert not is_picked(machine, number, 3, 0x1000, count)
    assert not is_picked(machine, number, 3, 0x1000, 0, architecture=I386)
    assert not is_picked(machine, number | X32, 3, 0x1000, 0)


def test_shared_mappings_of_files(machine: Machine) -> None:
    number = machine.calls["mmap"]
    for flags in MAP_SHARED, MAP_SHARED_VALIDATE, MAP_SHARED | MAP_FIXED, MAP_SHARED | MAP_DENYWRITE, 0:
        assert is_picked(machine, number, 0, 4096, READ, flags, 3, 0)
        assert not is_picked(machine, number, 0, 4096, READ, flags | MAP_ANONYMOUS, 3, 0)
        assert not is_picked(machine, number, 0, 4096, READ, flags, 3, 0, architecture=I386)


def test_private_mappings_but_those_of_loaders(machine: Machine) -> None:
    number = machine.calls["mmap"]

    def picked(prot: int, flags: int, offset: int = 0) -> bool:
        return is_picked(machine, number, 0, 4096, prot, flags | MAP_PRIVATE, 3, offset)

    assert picked(PROT_WRITE, 0)
    assert picked(READ, 0, 4 * GIB)
    assert picked(READ, MAP_FIXED | MAP_DENYWRITE, 1 << 63)
    assert not picked(READ, 0)
    assert not picked(READ, 0, 4 * GIB - 4096)
    assert not picked(PROT_WRITE, MAP_DENYWRITE)
    assert not picked(PROT_WRITE, MAP_FIXED)
    assert not picked(PROT_WRITE, MAP_ANONYMOUS, 4 * GIB)


def test_nothing_else(machine: Machine) -> None:
    picked = {number for number in range(1024) if is_picked(machine, number, 0, 0, 0, MAP_SHARED)}
    assert picked == set(machine.calls.values())
