"""The dirty bits of a range of IOVAs, as GET_DIRTY_BITMAP tells them. Ref: v7.3 io_pagetable.c
iopt_read_and_clear_dirty_data
"""

from collections.abc import Iterator
from errno import EINVAL

from ...errors import IoctlError
from ..memory.span import U64_MAX, last_of
from .dirty import Dirty
from .io_pagetable import IoPagetable


def check_window(iopt: IoPagetable, iova: int, length: int, page_size: int) -> None:
    """What GET_DIRTY_BITMAP asks of its numbers.

    EINVAL: length or page_size is 0, or the range is not aligned to the IOAS or to page_size.
    EOVERFLOW: beyond 2^64 - 1.
    Ref: v7.3 io_pagetable.c iommufd_check_iova_range
    """
    if not length:
        raise IoctlError(EINVAL, "length is 0")
    end = last_of(iova, length) + 1
    if (iova | end) & (iopt.iova_alignment - 1):
        raise IoctlError(EINVAL, f"IOVA {iova:#x} or length {length:#x} is off the alignment {iopt.iova_alignment:#x}")
    if not page_size:
        raise IoctlError(EINVAL, "page_size is 0")
    # A size that is no power of two is taken as the kernel takes it: its bits below the highest
    # must not be set in the range's ends.
    if (iova | end) & U64_MAX & (page_size - 1):
        raise IoctlError(EINVAL, f"IOVA {iova:#x} or length {length:#x} is not a multiple of page_size {page_size:#x}")


def read(
    iopt: IoPagetable, dirty: Dirty, iova: int, length: int, page_size: int, *, clear: bool
) -> Iterator[tuple[int, bytes]]:
    """The bitmap of a range that `check_window` let pass, as `Dirty.scan`. It ends at the first
    IOVA that is not mapped, without an error.

    A page_size that is no power of two means its lowest bit. Ref: v7.3 io_pagetable.c
    __iommu_read_and_clear_dirty
    """
    if dirty.clean:
        return iter(())
    last = iova + length - 1
    hole = next(iopt.areas.holes(iova, last, 1), None)
    if hole is not None:
        last = hole[0] - 1
    return dirty.scan(iova, last, page_size & -page_size, clear=clear) if last >= iova else iter(())
