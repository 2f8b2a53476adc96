"""Where a mapping may be put: the rules for an IOVA that the client chose, and the choice if the
client leaves that to us.

Ref: v7.3 io_pagetable.c iopt_check_iova, iopt_alloc_iova
"""

from errno import EEXIST, EINVAL, ENOSPC, EOVERFLOW
from typing import Final, Protocol

from ...errors import IoctlError
from ..memory.area import AreaMap
from ..memory.origin import PAGE_SIZE
from ..memory.span import U64_MAX, Spans
from .allowed import Allowed

# bytes; what the kernel's choice of an IOVA is aligned to at most (x86-64, THP)
HUGE_PAGE_SIZE: Final = 2 << 20


class Space(Protocol):
    """How the IOVAs of a table are taken: an IoPagetable."""

    areas: AreaMap
    allowed: Allowed
    reserved: Spans
    iova_alignment: int


def check(table: Space, iova: int, length: int) -> None:
    """Whether a mapping may be put at `iova`. EINVAL: off the alignment, or reserved. EOVERFLOW:
    beyond 2^64 - 1. EEXIST: an area is there.

    Ref: v7.3 io_pagetable.c iopt_check_iova
    """
    if iova & (table.iova_alignment - 1):
        raise IoctlError(EINVAL, f"IOVA {iova:#x} is not a multiple of the alignment {table.iova_alignment:#x}")
    last = iova + length - 1
    if last > U64_MAX:
        raise IoctlError(EOVERFLOW, f"IOVA {iova:#x} + length {length:#x} is beyond 2^64 - 1")
    reserved = table.reserved.first(iova, last)
    if reserved is not None:
        raise IoctlError(EINVAL, f"IOVA {iova:#x}..{last:#x} touches the reserved range {reserved}")
    area = table.areas.first(iova, last)
    if area is not None:
        raise IoctlError(EEXIST, f"IOVA {iova:#x}..{last:#x} overlaps {area}")


def choose(table: Space, address: int, length: int) -> int:
    """The lowest free IOVA, aligned as the memory is (to the length's next power of two, 2 MiB at
    most), never 0.

    `address`: where the memory begins in its process or file. EOVERFLOW: the length is 2^63 - 1 or
    more. EINVAL: the memory is less aligned than the table wants. ENOSPC: no hole is left. Ref:
    v7.3 io_pagetable.c iopt_alloc_iova
    """
    if length >= U64_MAX // 2:
        raise IoctlError(EOVERFLOW, f"length {length:#x} is too large for a chosen IOVA")
    alignment = 1 << (length - 1).bit_length()
    if address:
        alignment = min(alignment, address & -address)
    alignment = min(alignment, HUGE_PAGE_SIZE)
    if alignment < table.iova_alignment:
        raise IoctlError(
            EINVAL,
            f"memory at {address:#x}, aligned to {alignment:#x}, cannot meet the alignment {table.iova_alignment:#x}",
        )
    offset = address % PAGE_SIZE
    first, last = PAGE_SIZE, U64_MAX - PAGE_SIZE
    windows = table.allowed.windows(length) if len(table.allowed) else iter(((first, last),))
    for low, high in windows:
        start, end = max(low, first), min(high, last)
        begin = _fit(start, end, length, alignment, offset) if start <= end else None
        if begin is None:
            continue
        for hole_start, hole_last in table.areas.holes(begin, end, length):
            for free_start, free_last in table.reserved.holes(hole_start, hole_last):
                found = _fit(free_start, free_last, length, alignment, offset)
                if found is not None:
                    return found
    raise IoctlError(ENOSPC, f"no free range of {length:#x} bytes aligned to {alignment:#x} is left")


def _fit(start: int, last: int, length: int, alignment: int, offset: int) -> int | None:
    """Where in start..last a range of `length` bytes begins that is aligned, plus `offset`. None:
    it does not fit.

    A hole of a single byte never fits. Ref: v7.3 io_pagetable.c __alloc_iova_check_range
    """
    aligned = start + alignment - 1
    if aligned > U64_MAX:
        return None
    aligned = aligned & ~(alignment - 1) | offset
    if aligned >= last or last - aligned < length - 1:
        return None
    return aligned
