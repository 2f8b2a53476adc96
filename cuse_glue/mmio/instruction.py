"""One decoded instruction that loads from memory or stores to it, and what it acts on.

An instruction is decoded once and carried out many times. What it acts on are the words of a
register set as ptrace(2) gives it (NT_PRSTATUS), by their index; a bus, which has the memory; and
vector registers, which are fetched only if they are asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Words(Protocol):
    """A register set: a list of integers, or an array of them of cffi's. None is negative, none is
    wider than its word.
    """

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Bus(Protocol):
    """Memory by address. Each call is one access; sizes in bytes, values little-endian and not
    negative.
    """

    def load(self, address: int, size: int) -> int: ...

    def store(self, address: int, size: int, value: int) -> None: ...


class Vectors(Protocol):
    """The vector registers, each of up to 64 bytes."""

    def read(self, number: int, size: int) -> int:
        """The lowest `size` bytes of register `number`."""

    def write(self, number: int, size: int, value: int, clear: bool) -> None:
        """Replace its lowest `size` bytes by `value`. `clear`: the bytes above are zero then, else
        they stay.
        """


class Kind(Enum):
    """What an instruction does to the memory that it names."""

    LOAD = "load"
    STORE = "store"
    MODIFY = "load, then store"
    STRING = "string"  # two operands, or several elements


@dataclass(frozen=True, slots=True)
class Access:
    """Where an instruction touches memory, with registers as they are before it."""

    address: int
    size: int  # bytes
    kind: Kind


Address = Callable[[Words], int]
Run = Callable[[Words, Bus, Vectors], None]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the bytes of one instruction say."""

    length: int  # bytes
    kind: Kind
    size: int  # bytes of one access
    address: Address  # of its first operand in memory
    run: Run
    """Carry it out: the accesses, then the registers and the instruction pointer. If an access
    raises, no register has changed, but for those of a string instruction, which then say how much
    is done. After a part of a string the instruction pointer stays, so that the instruction is
    carried out again.
    """

    def access(self, words: Words) -> Access:
        """Where it would touch memory."""
        return Access(self.address(words), self.size, self.kind)
