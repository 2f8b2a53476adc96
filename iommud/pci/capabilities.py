"""The capabilities that a function declares: lists of registers in its configuration space, each
with its ID.

A model writes `capabilities = (Msi(vectors=4), Express())`; `place` works out where each stands and
which is next. The fields of a class are what a model can choose; the rest is as in hardware of its
kind. Any other capability is a `Raw`.

Ref: PCI Local Bus 3.0 6.7, 6.8; PCI Power Management 1.2 3.2; PCI Express Base 6.0 7.5.3, 7.6;
Advanced Capabilities ECN 2006 (AF)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from . import registers as r
from .space import ConfigSpace


class Fields:
    """The registers of one capability, put together one by one."""

    def __init__(self, length: int) -> None:
        self.data, self.write, self.clear = bytearray(length), bytearray(length), bytearray(length)

    def put(self, offset: int, size: int, value: int, write: int = 0, clear: int = 0) -> None:
        """A register of `size` bytes, its writable bits, and those that are cleared by writing
        ones.
        """
        for of, bits in ((self.data, value), (self.write, write), (self.clear, clear)):
            of[offset : offset + size] = bits.to_bytes(size, "little")


class Capability(Protocol):
    """`at`: where it stands, a multiple of 4 from 0x40 on; 0: the next free place."""

    @property
    def id(self) -> int: ...
    @property
    def at(self) -> int: ...
    def fields(self) -> Fields:
        """Its registers, two bytes of ID and next included, which are filled in when it is
        placed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pm:
    """Power management: D0 and D3hot, and other states if they are said. `keeps_state`: coming back
    from D3hot resets nothing.
    """

    d1: bool = False
    d2: bool = False
    pme: int = 0  # five bits: in which of D0, D1, D2, D3hot and D3cold it can wake
    keeps_state: bool = True
    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_PM

    def fields(self) -> Fields:
        made = Fields(8)
        made.put(r.PCI_PM_PMC, 2, 3 | self.d1 * r.PCI_PM_CAP_D1 | self.d2 * r.PCI_PM_CAP_D2 | self.pme << 11)
        wakes = r.PCI_PM_CTRL_PME_ENABLE if self.pme else 0
        made.put(
            r.PCI_PM_CTRL,
            2,
            r.PCI_PM_CTRL_NO_SOFT_RESET if self.keeps_state else 0,
            write=r.PCI_PM_CTRL_STATE_MASK | wakes,
            clear=r.PCI_PM_CTRL_PME_STATUS,
        )
        return made


@dataclass(frozen=True, slots=True)
class Msi:
    """Message signalled interrupts: 1, 2, 4, 8, 16 or 32 vectors. `wide`: 64 bits of address;
    `maskable`: a mask bit for each.
    """

    vectors: int = 1
    wide: bool = True
    maskable: bool = False
    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_MSI

    def __post_init__(self) -> None:
        if self.vectors not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"MSI has 1, 2, 4, 8, 16 or 32 vectors, not {self.vectors}")

    def fields(self) -> Fields:
        made = Fields(10 + 4 * self.wide + 10 * self.maskable)
        made.put(
            r.PCI_MSI_FLAGS,
            2,
            (self.vectors.bit_length() - 1) << 1
            | self.wide * r.PCI_MSI_FLAGS_64BIT
            | self.maskable * r.PCI_MSI_FLAGS_MASKBIT,
            write=r.PCI_MSI_FLAGS_ENABLE | r.PCI_MSI_FLAGS_QSIZE,
        )
        made.put(r.PCI_MSI_ADDRESS_LO, 4, 0, write=0xFFFFFFFC)
        if self.wide:
            made.put(r.PCI_MSI_ADDRESS_HI, 4, 0, write=0xFFFFFFFF)
        made.put(r.PCI_MSI_DATA_64 if self.wide else r.PCI_MSI_DATA_32, 2, 0, write=0xFFFF)
        if self.maskable:
            made.put(r.PCI_MSI_MASK_64 if self.wide else r.PCI_MSI_MASK_32, 4, 0, write=(1 << self.vectors) - 1)
        return made


@dataclass(frozen=True, slots=True)
class Msix:
    """Message signalled interrupts in a table of the function's memory: 1 to 2048 vectors.

    `table` and `pba` (pending bits) are (BAR, offset in it), offsets multiples of 8 bytes; the
    table takes 16 bytes for each vector.
    """

    vectors: int
    table: tuple[int, int]
    pba: tuple[int, int]
    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_MSIX

    def __post_init__(self) -> None:
        if not 1 <= self.vectors <= 2048 or self.table[1] % 8 or self.pba[1] % 8:
            raise ValueError(f"MSI-X has 1 to 2048 vectors, and offsets that are multiples of 8, not {self}")

    def fields(self) -> Fields:
        made = Fields(12)
        made.put(r.PCI_MSIX_FLAGS, 2, self.vectors - 1, write=r.PCI_MSIX_FLAGS_ENABLE | r.PCI_MSIX_FLAGS_MASKALL)
        made.put(r.PCI_MSIX_TABLE, 4, self.table[1] | self.table[0])
        made.put(r.PCI_MSIX_PBA, 4, self.pba[1] | self.pba[0])
        return made


@dataclass(frozen=True, slots=True)
class Express:
    """PCI Express, version 2. `integrated`: on the root complex itself, without a link; `flr`: one
    function can be reset by itself.
    """

    integrated: bool = False
    flr: bool = True
    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_EXP

    def fields(self) -> Fields:
        made = Fields(0x2C if self.integrated else 0x34)
        kind = r.PCI_EXP_TYPE_RC_END if self.integrated else r.PCI_EXP_TYPE_ENDPOINT
        made.put(r.PCI_EXP_FLAGS, 2, 2 | kind << 4)
        made.put(
            r.PCI_EXP_DEVCAP, 4, 0x8000 | self.flr * r.PCI_EXP_DEVCAP_FLR
        )  # role-based errors, payloads of 128 bytes
        # Relaxed ordering and no-snoop are on, and reads of 512 bytes, as after a reset; the reset
        # bit itself never reads as one.
        made.put(r.PCI_EXP_DEVCTL, 2, 0x2810, write=0x7FFF & ~r.PCI_EXP_DEVCTL_PHANTOM)
        made.put(r.PCI_EXP_DEVCTL + 2, 2, 0, clear=0x000F)
        if not self.integrated:
            made.put(r.PCI_EXP_LNKCAP, 4, 0x11)  # one lane of 2.5 GT/s
            made.put(r.PCI_EXP_LNKCTL, 2, 0, write=0x00FB)
            made.put(r.PCI_EXP_LNKSTA, 2, 0x11)
        made.put(r.PCI_EXP_DEVCAP2, 4, 0x10)
        made.put(r.PCI_EXP_DEVCTL2, 2, 0, write=0x001F)
        return made


@dataclass(frozen=True, slots=True)
class AdvancedFeatures:
    """Function level reset for functions that are not Express."""

    flr: bool = True
    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_AF

    def fields(self) -> Fields:
        made = Fields(6)
        made.put(r.PCI_AF_LENGTH, 1, 6)
        made.put(r.PCI_AF_CAP, 1, r.PCI_AF_CAP_TP | self.flr * r.PCI_AF_CAP_FLR)
        return made


@dataclass(frozen=True, slots=True)
class Vpd:
    """Vital product data. What it says is the function's `vpd`."""

    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_VPD

    def fields(self) -> Fields:
        made = Fields(8)
        made.put(r.PCI_VPD_ADDR, 2, 0, write=0xFFFF)
        made.put(r.PCI_VPD_DATA, 4, 0, write=0xFFFFFFFF)
        return made


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor's own: `data` after the byte of its length; `write`: which bits of it can be
    written.
    """

    data: bytes
    write: bytes = b""
    at: int = 0
    id: ClassVar[int] = r.PCI_CAP_ID_VNDR

    def fields(self) -> Fields:
        made = Fields(3 + len(self.data))
        made.put(r.PCI_CAP_FLAGS, 1, 3 + len(self.data))
        made.data[3:], made.write[3:] = self.data, self.write.ljust(len(self.data), b"\0")
        return made


@dataclass(frozen=True, slots=True)
class Raw:
    """Any other: `data` and `write` after the two bytes of ID and next."""

    id: int
    data: bytes
    write: bytes = b""
    at: int = 0

    def fields(self) -> Fields:
        made = Fields(2 + len(self.data))
        made.data[2:], made.write[2:] = self.data, self.write.ljust(len(self.data), b"\0")
        return made


@dataclass(frozen=True, slots=True)
class Extended:
    """An extended capability of an Express function: `data` and `write` after the four bytes of its
    header. `at`: from 0x100 on.
    """

    id: int
    data: bytes
    write: bytes = b""
    clear: bytes = b""
    version: int = 1
    at: int = 0

    def fields(self) -> Fields:
        made = Fields(4 + len(self.data))
        for of, bits in ((made.data, self.data), (made.write, self.write), (made.clear, self.clear)):
            of[4:] = bits.ljust(len(self.data), b"\0")
        return made


def serial_number(number: int) -> Extended:
    """64 bits that no other device has."""
    return Extended(r.PCI_EXT_CAP_ID_DSN, number.to_bytes(8, "little"))


def errors() -> Extended:
    """Advanced error reporting, of an endpoint in which nothing has gone wrong. Ref: PCI Express
    Base 6.0 7.8.4
    """
    severe = 0x0046_2030  # the severities after a reset
    known, corrected = 0x01FF_F030, 0xF1C1
    made = Fields(r.PCI_ERR_SIZEOF - 4)
    made.put(r.PCI_ERR_UNCOR_STATUS - 4, 4, 0, clear=known)
    made.put(r.PCI_ERR_UNCOR_MASK - 4, 4, 0, write=known)
    made.put(r.PCI_ERR_UNCOR_SEVER - 4, 4, severe, write=known)
    made.put(r.PCI_ERR_COR_STATUS - 4, 4, 0, clear=corrected)
    made.put(r.PCI_ERR_COR_MASK - 4, 4, 0x2000, write=corrected)
    made.put(r.PCI_ERR_CAP - 4, 4, 0xA0, write=0x140)
    return Extended(r.PCI_EXT_CAP_ID_ERR, bytes(made.data), bytes(made.write), bytes(made.clear), version=2)


def place(space: ConfigSpace, ordinary: Iterable[Capability], extended: Iterable[Extended]) -> dict[int, int]:
    """Put the capabilities into `space`. Returns where each is, by its ID (of an extended one: ID +
    0x10000); of two with one ID, the first.

    ValueError: there is no room, two overlap, or an extended one is on a function with 256
    bytes.
    """
    found: dict[int, int] = {}
    link, pointer = r.PCI_CAPABILITY_LIST, r.PCI_CAP_LIST_NEXT
    for capability, at, made in _places(ordinary, r.PCI_STD_HEADER_SIZEOF, r.PCI_CFG_SPACE_SIZE):
        made.data[0] = capability.id
        space.put(at, bytes(made.data), bytes(made.write), bytes(made.clear))
        space.change(link, 1, 0xFF, at)
        space.change(r.PCI_STATUS, 2, r.PCI_STATUS_CAP_LIST, r.PCI_STATUS_CAP_LIST)
        link = at + pointer
        found.setdefault(capability.id, at)
    before = 0
    for one, at, made in _places(extended, r.PCI_CFG_SPACE_SIZE, space.size):
        assert isinstance(one, Extended)
        if before == 0 and at != r.PCI_CFG_SPACE_SIZE:
            raise ValueError("the first extended capability stands at 0x100")
        made.data[:4] = (one.id | one.version << 16).to_bytes(4, "little")
        space.put(at, bytes(made.data), bytes(made.write), bytes(made.clear))
        if before:
            space.change(before, 4, 0xFFC << 20, at << 20)
        before = at
        found.setdefault(one.id + 0x10000, at)
    return found


def _places(capabilities: Iterable[Capability], start: int, end: int) -> Iterator[tuple[Capability, int, Fields]]:
    taken: list[range] = []
    for capability in capabilities:
        made, at = capability.fields(), capability.at or start
        mine = range(at, at + -(-len(made.data) // 4) * 4)
        if at % 4 or mine.stop > end or at < r.PCI_STD_HEADER_SIZEOF:
            raise ValueError(f"capability {capability.id:#x} at {at:#x} does not fit into {start:#x}..{end - 1:#x}")
        if any(mine.start < other.stop and other.start < mine.stop for other in taken):
            raise ValueError(f"capability {capability.id:#x} at {at:#x} overlaps another")
        taken.append(mine)
        start = max(start, mine.stop)
        yield capability, at, made
