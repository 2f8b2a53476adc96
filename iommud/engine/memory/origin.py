"""What the engine asks of the outside: whose memory is mapped, what holds it, and who pays.

Ref: v7.3 pages.c (theory at its top)
"""

from collections.abc import Hashable, Iterable
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


class Pin(Protocol):
    """A stretch of an origin that is held. What was at its addresses at that time can be reached
    until `close`.
    """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """IoctlError(EFAULT): it was lost, and why."""

    def write_from(self, offset: int, data: memoryview) -> None: ...

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
