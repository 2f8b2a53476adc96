"""Which system calls the filter picks, on every machine that it is written for: run as the kernel
runs it, but here.
"""

import struct
from collections.abc import Collection

import pytest

from cuse_glue.system import seccomp
from cuse_glue.system.seccomp import (
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_SHARED_VALIDATE,
    PROT_WRITE,
    CallNumbers,
)

READ = 1
GIB = 1 << 30
I386 = 0x40000003
X32 = 0x40000000
NOTIFY = 0x7FC00000
ALLOW = 0x7FFF0000


@pytest.fixture(params=["X86_64", "ARM64"])
def machine(request: pytest.FixtureRequest) -> CallNumbers:
    found = getattr(seccomp, request.param)
    assert isinstance(found, CallNumbers)
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


def is_picked(
    machine: CallNumbers,
    number: int,
    *arguments: int,
    architecture: int | None = None,
    commands: Collection[int] = (),
    stats: bool = False,
) -> bool:
    data = struct.pack(
        "=iIQ6Q", number, architecture or machine.architecture, 0, *arguments, *[0] * (6 - len(arguments))
    )
    verdict = run(seccomp.picking(machine, commands, stats=stats), data)
    assert verdict in (NOTIFY, ALLOW)
    return verdict == NOTIFY


@pytest.mark.parametrize("name", ["read", "write", "pread64", "pwrite64", "readv", "writev"])
def test_reads_and_writes_of_nothing(machine: CallNumbers, name: str) -> None:
    number = machine.calls[name]
    assert is_picked(machine, number, 3, 0x1000, 0, 77)
    for count in 1, 4096, 1 << 32, 1 << 63:
        assert not is_picked(machine, number, 3, 0x1000, count)
    assert not is_picked(machine, number, 3, 0x1000, 0, architecture=I386)
    assert not is_picked(machine, number | X32, 3, 0x1000, 0)


def test_shared_mappings_of_files(machine: CallNumbers) -> None:
    number = machine.calls["mmap"]
    for flags in MAP_SHARED, MAP_SHARED_VALIDATE, MAP_SHARED | MAP_FIXED, MAP_SHARED | MAP_DENYWRITE, 0:
        assert is_picked(machine, number, 0, 4096, READ, flags, 3, 0)
        assert not is_picked(machine, number, 0, 4096, READ, flags | MAP_ANONYMOUS, 3, 0)
        assert not is_picked(machine, number, 0, 4096, READ, flags, 3, 0, architecture=I386)


def test_private_mappings_but_those_of_loaders(machine: CallNumbers) -> None:
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


def test_nothing_else(machine: CallNumbers) -> None:
    picked = {number for number in range(1024) if is_picked(machine, number, 0, 0, 0, MAP_SHARED)}
    assert picked == set(machine.calls.values())


def test_ioctls_of_these_commands(machine: CallNumbers) -> None:
    commands = (0x3B8E, 0x3BA0)
    for number, architecture in (machine.ioctl, machine.architecture), (machine.compat_ioctl, machine.compat):
        for command in commands:
            for upper in 0, 1 << 32, 0xFFFF_FFFF << 32:  # which the kernel does not look at
                assert is_picked(machine, number, 3, command | upper, 0, architecture=architecture, commands=commands)
            assert not is_picked(machine, number, 3, command, 0, architecture=architecture)
            assert not is_picked(machine, number | X32, 3, command, 0, architecture=architecture, commands=commands)
        for command in 0, 0x3B8F, 0x3B8E << 32, 0x5401:
            assert not is_picked(machine, number, 3, command, 0, architecture=architecture, commands=commands)
    assert not is_picked(machine, machine.ioctl, 3, 0x3B8E, 0, architecture=machine.compat, commands=commands)
    assert not is_picked(machine, machine.compat_ioctl, 3, 0x3B8E, 0, commands=commands)
    assert not is_picked(machine, machine.ioctl, 3, 0x3B8E, 0, architecture=0x1234, commands=commands)


def test_with_ioctls_the_others_are_picked_as_without(machine: CallNumbers) -> None:
    commands = (0x3B8E,)
    picked = {number for number in range(1024) if is_picked(machine, number, 0, 0, 0, MAP_SHARED, commands=commands)}
    assert picked == set(machine.calls.values())


def test_what_tells_about_open_files(machine: CallNumbers) -> None:
    """Only if it is asked for, and never what only looks at a path."""
    for number, *arguments in (
        (machine.fstat, 3, 0x1000),
        (machine.fstatat, 3, 0x1000, 0x2000, 0x1000),
        (machine.fstatat, 3, 0x1000, 0x2000, 0x1100),
        (machine.statx, 3, 0x1000, 0x1000, 0xFFF, 0x2000),
    ):
        assert is_picked(machine, number, *arguments, stats=True)
        assert is_picked(machine, number, *arguments, stats=True, commands=(0x3B8E,))
        assert not is_picked(machine, number, *arguments)
        assert not is_picked(machine, number, *arguments, stats=True, architecture=I386)
    assert not is_picked(machine, machine.fstatat, -100 & (1 << 64) - 1, 0x1000, 0x2000, 0x100, stats=True)
    assert not is_picked(machine, machine.statx, 3, 0x1000, 0x100, 0xFFF, 0x2000, stats=True)
    picked = {number for number in range(1024) if is_picked(machine, number, 0, 0, 0, MAP_SHARED, stats=True)}
    assert picked == {*machine.calls.values(), machine.fstat}


def test_one_call(machine: CallNumbers) -> None:
    data = struct.pack("=iIQ6Q", 39, machine.architecture, 0, *[0] * 6)
    assert run(seccomp.picking_one(39), data) == NOTIFY
    assert run(seccomp.picking_one(40), data) == ALLOW
