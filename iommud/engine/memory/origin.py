"""What the engine asks of the outside: whose memory is mapped, what holds it, and who pays.

Ref: v7.3 pages.c (theory at its top)
"""

from collections.abc import Hashable, Iterable, Sequence
from enum import IntEnum
from resource import getpagesize
from typing import Final, NamedTuple, Protocol

PAGE_SIZE: Final = getpagesize()  # bytes

Identity = tuple[Hashable, int]  # which real page: of which memory, and at which byte of it


class AccountMode(IntEnum):
    """Against what pinned pages are counted (RLIMIT_MEMLOCK). Ref: v7.3 io_pagetable.h
    IOPT_PAGES_ACCOUNT_*
    """

    NONE = 0
    USER = 1
    MM = 2


class Stretch(NamedTuple):
    """`length` bytes of one memory (a process's own, or a file), from byte `place` of it on; both
    are whole pages.

    `block`: how many bytes of that memory certainly lie together, as real memory does (a power of
    two, aligned to itself): its pages, or huge pages.
    """

    memory: Hashable
    place: int
    length: int
    block: int

    def cut(self, begin: int, end: int) -> "Stretch":
        """Bytes begin..end (exclusive) of it."""
        return self._replace(place=self.place + begin, length=end - begin)


class Mapped(Protocol):
    """Memory that our own process has mapped. What is pinned of it is reached by addresses of ours,
    without a question to anybody.

    `file`: two of these may show one byte at two addresses only if they are equal in this.
    """

    @property
    def file(self) -> Hashable: ...

    def read(self, address: int, buffer: memoryview) -> int:
        """Fill `buffer`. Returns how many bytes were read before one could not be."""

    def write(self, address: int, data: memoryview) -> int: ...

    def copy(self, to: Sequence[int], of: Sequence[int]) -> int:
        """Copy, in order, to and from places: address, length (bytes), address, length, ... of any
        memory of ours, 1024 places at most. Both come to the same number of bytes.

        Returns how many bytes were copied before one could not be.
        """

    def gather(self, of: Sequence[int], buffer: memoryview) -> int:
        """Fill `buffer` from such places, which come to its length. Returns as `copy`."""

    def read_file(self, fd: int, offset: int, places: Sequence[int], flags: int) -> int:
        """Fill such places from byte `offset` of a file. `flags`: RWF_* of preadv2(2). Returns how
        many bytes were read before one could not be, or would have to be waited for.
        """

    def write_file(self, fd: int, offset: int, places: Sequence[int], flags: int) -> int:
        """As `read_file`, the other way round."""

    def locate(self, data: bytes) -> int:
        """Where these bytes lie, as long as somebody refers to them."""


class Place(NamedTuple):
    """`length` bytes that lie at `address` of `memory`. `writable`: they can be written."""

    memory: Mapped
    address: int
    length: int
    writable: bool


class Pin(Protocol):
    """A stretch of an origin that is held. What was at its addresses at that time can be reached
    until `close`.
    """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """IoctlError(EFAULT): it was lost, and why."""

    def write_from(self, offset: int, data: memoryview) -> None: ...

    def place(self, offset: int) -> tuple[Mapped, int, int, bool] | None:
        """Where the bytes from `offset` on lie, as `Place`, up to wherever others follow. It stays
        so until `close`. None: they are to be reached by the pin alone.
        """

    def identity(self, offset: int) -> Identity:
        """Which real page lies at `offset` (bytes, a page boundary). The same page has the same
        identity, however it was reached.
        """

    def stretches(self) -> Iterable[tuple[Hashable, int, int, int]]:
        """Of which memory it is, from its first byte to its last, as `Stretch`; nothing, if it is
        lost.

        Two pages are the same if memory and place are the same.
        """

    def close(self) -> None: ...


class Origin(Protocol):
    """Where the bytes come from, and who pays for them. `is_file`: it takes file offsets, not
    addresses.
    """

    @property
    def is_file(self) -> bool: ...

    @property
    def uid(self) -> int: ...

    @property
    def mm(self) -> Hashable:
        """The address space that is charged."""

    def get(self) -> None: ...

    def put(self) -> None: ...

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> Pin:
        """Hold `length` bytes from `start` (page boundaries). `brief`: for one copy, made at once.

        IoctlError(EFAULT, ...): not all of it can be held; then none of it is.
        """

    def alive(self) -> bool:
        """Whether some process still lives in the address space."""

    def read_now(self, address: int, buffer: memoryview, *, itself: bool = True) -> None:
        """Read the address space, whatever is held: as its process `itself` would now, or else as
        another process may, which follows PROT_READ.

        IoctlError(EFAULT): it could not.
        """

    def write_now(self, address: int, data: memoryview) -> None: ...

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None: no limit."""

    def locked_pages(self) -> int:
        """Pages that the process has locked itself."""

    def pinned(self, npages: int, locked: bool) -> None:
        """Count so many pages more (fewer, if negative) as pinned for its process; `locked`: as its
        locked memory too.
        """
