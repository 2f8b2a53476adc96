"""What an area is backed by: a stretch of somebody's memory, or of a file.

One `Pages` may stand behind many areas (IOAS_COPY shares it), each of which sees a slice of its bytes. It has tiers, like the
kernel's: held by accesses, held by page tables, or only **remembered**. As long as no device and no access is there, everything is
remembered: nothing was pinned, charged or even looked at, and the memory need not exist yet.

Whose memory it is, is the `Origin`'s affair: an address space that can be gone, or an open file. The engine only holds and drops it.

Ref: v7.3 pages.c (theory at its top), iopt_alloc_pages
"""

import mmap
from enum import IntEnum
from errno import EINVAL, EOVERFLOW
from typing import Final, Protocol

from ..errors import IoctlError
from .span import U64_MAX

PAGE_SIZE: Final = mmap.PAGESIZE  # bytes


class AccountMode(IntEnum):
    """Against what pinned pages are counted (RLIMIT_MEMLOCK). Ref: v7.3 io_pagetable.h IOPT_PAGES_ACCOUNT_*"""

    NONE = 0
    USER = 1
    MM = 2


class Origin(Protocol):
    """Where the bytes come from. `is_file` tells file offsets from addresses."""

    @property
    def is_file(self) -> bool: ...

    def hold(self) -> None: ...

    def drop(self) -> None: ...


class Pages:
    """`npages` pages of an origin from `start` (bytes, a page boundary: an address, or a file offset). Counted: `get`, `put`."""

    __slots__ = ("_refs", "account_mode", "npages", "origin", "start", "writable")

    def __init__(
        self, origin: Origin, start: int, start_byte: int, length: int, *, writable: bool, account_mode: AccountMode
    ) -> None:
        """Remember `length` bytes that begin `start_byte` bytes (less than a page) after `start`.

        EINVAL: length is 0 or within a page of 2^64. Ref: v7.3 pages.c iopt_alloc_pages
        """
        if length == 0:
            raise IoctlError(EINVAL, "length is 0")
        if length > U64_MAX - PAGE_SIZE:
            raise IoctlError(EINVAL, f"length {length:#x} is within a page of 2^64")
        self.origin = origin
        self.start = start
        self.npages = -(-(length + start_byte) // PAGE_SIZE)
        self.writable = writable
        self.account_mode = account_mode
        self._refs = 1
        origin.hold()

    def get(self) -> "Pages":
        self._refs += 1
        return self

    def put(self) -> None:
        """The last put lets the origin go."""
        self._refs -= 1
        if self._refs == 0:
            self.origin.drop()

    @property
    def refs(self) -> int:
        return self._refs


class Slice:
    """`length` bytes of a Pages from `start_byte` (bytes from its start): what one area will show."""

    __slots__ = ("length", "pages", "start_byte")

    def __init__(self, pages: Pages, start_byte: int, length: int) -> None:
        self.pages = pages
        self.start_byte = start_byte
        self.length = length

    @property
    def address(self) -> int:
        """Where the slice begins in its origin: an address, or a file offset (bytes)."""
        return self.pages.start + self.start_byte


def user_slice(origin: Origin, user_va: int, length: int, *, writable: bool, account_mode: AccountMode) -> Slice:
    """A slice of a caller's memory. EOVERFLOW: it ends beyond 2^64 - 1. EINVAL: as `Pages`.

    Ref: v7.3 pages.c iopt_alloc_user_pages
    """
    if user_va + length > U64_MAX:
        raise IoctlError(EOVERFLOW, f"user_va {user_va:#x} + length {length:#x} is beyond 2^64 - 1")
    start_byte = user_va % PAGE_SIZE
    pages = Pages(origin, user_va - start_byte, start_byte, length, writable=writable, account_mode=account_mode)
    return Slice(pages, start_byte, length)


def file_slice(origin: Origin, start: int, length: int, *, writable: bool, account_mode: AccountMode) -> Slice:
    """A slice of a file from byte `start`. EINVAL: as `Pages`. Ref: v7.3 pages.c iopt_alloc_file_pages"""
    start_byte = start % PAGE_SIZE
    pages = Pages(origin, start - start_byte, start_byte, length, writable=writable, account_mode=account_mode)
    return Slice(pages, start_byte, length)


def check_file_range(start: int, length: int) -> None:
    """What MAP_FILE asks of its numbers before it looks at the descriptor.

    EINVAL: length 0. EOVERFLOW: start + length - 1 is beyond 2^64 - 1. Ref: v7.3 io_pagetable.c iopt_map_file_pages
    """
    if length == 0:
        raise IoctlError(EINVAL, "length is 0")
    if start + length - 1 > U64_MAX:
        raise IoctlError(EOVERFLOW, f"start {start:#x} + length {length:#x} is beyond 2^64 - 1")
