"""Base address registers: the windows in which a function's registers lie, and where a machine puts
them.

Software finds a window's size by writing ones and reading back which of them stick. A window of
memory may be anywhere below 4 GiB, or anywhere at all (`wide`: it takes two registers); one of I/O
ports (x86 has 64 Ki of them) may be of 256 bytes at most.

Ref: PCI Local Bus 3.0 6.2.5
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from . import registers as r

ROM: Final = 6  # where the expansion ROM stands in a table of windows, after the six BARs: Linux's PCI_ROM_RESOURCE
PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Bar:
    """One window, BAR `number` (0 to 5, or ROM): `size` bytes, a power of two (16 at least; of I/O
    ports 4 to 256).

    ValueError, with a sentence, for others.
    """

    number: int
    size: int
    io: bool = False
    wide: bool = False  # 64 bits of address: takes this BAR and the next
    prefetchable: bool = False

    def __post_init__(self) -> None:
        if self.size & (self.size - 1) or not (4 if self.io else 16) <= self.size <= (256 if self.io else 1 << 48):
            raise ValueError(f"a BAR is a power of two, of 16 bytes to 2^48, or of 4 to 256 I/O ports, not {self.size}")
        if not 0 <= self.number <= (4 if self.wide else ROM):
            raise ValueError(f"there is no BAR {self.number}{' of 64 bits' if self.wide else ''}: they are 0 to 5")
        if self.io and (self.wide or self.prefetchable):
            raise ValueError("I/O ports are neither prefetchable nor 64 bits wide")
        if not self.wide and self.size > 1 << 31:
            raise ValueError(f"a BAR of {self.size} bytes needs 64 bits of address: wide=True")

    @property
    def flags(self) -> int:
        """The low bits of the register."""
        if self.io:
            return r.PCI_BASE_ADDRESS_SPACE_IO
        return (r.PCI_BASE_ADDRESS_MEM_TYPE_64 if self.wide else 0) | (
            r.PCI_BASE_ADDRESS_MEM_PREFETCH if self.prefetchable else 0
        )


@dataclass(slots=True)
class Windows:
    """What a root bridge has to give to the BARs behind it: the next free address of each kind."""

    memory: int = 0xE000_0000
    wide: int = 0x38_0000_0000
    io: int = 0xC000

    def take(self, size: int, *, io: bool = False, wide: bool = False) -> int:
        """An address for a window of `size`, aligned to it. Windows of memory never share a page,
        so that each can be mapped by itself.

        ValueError: there is no room. 492 MiB are below 4 GiB, so large ones should be `wide`.
        """
        step = size if io else max(size, PAGE)
        if wide:
            found = -(-self.wide // step) * step
            self.wide, last = found + step, (1 << 56) - 1
        elif io:
            found = -(-self.io // step) * step
            self.io, last = found + step, 0xFFFF
        else:
            found = -(-self.memory // step) * step
            self.memory, last = found + step, 0xFEBF_FFFF
        if found + size - 1 > last:
            raise ValueError(f"there is no room left for a BAR of {size} bytes: make it wide, or have fewer devices")
        return found


@dataclass(frozen=True, slots=True)
class Resource:
    """A window that has its place."""

    bar: Bar
    start: int

    @property
    def last(self) -> int:
        return self.start + self.bar.size - 1


@dataclass(slots=True)
class Layout:
    """A function's windows by number: 0 to 5, and ROM."""

    resources: dict[int, Resource] = field(default_factory=dict)

    @classmethod
    def of(cls, bars: Iterable[Bar], windows: Windows) -> "Layout":
        """Place the BARs. ValueError: two have one number, or one is the upper half of another."""
        made, taken = cls(), set[int]()
        for bar in bars:
            mine = {bar.number, bar.number + bar.wide}
            if mine & taken:
                raise ValueError(f"BAR {bar.number} is another one already, or a half of one")
            taken |= mine
            made.resources[bar.number] = Resource(bar, windows.take(bar.size, io=bar.io, wide=bar.wide))
        return made

    def size(self, number: int) -> int:
        """Bytes of a window; 0: there is none."""
        found = self.resources.get(number)
        return found.bar.size if found else 0
