"""Dirty bitmaps, as type1 writes them: every page of a mapping is dirty, because the devices of
VFIO's groups write memory by themselves and do not tell type1 what they wrote.

The bitmap is written in words of 64 bits, of each mapping those that have a bit of it. If its first
bit is not the first of a word, the bits that the word had stay. Words that no mapping has a bit in
are not written.

Linux shifts the bits of a mapping to their place in the bitmap that it keeps of the mapping, and
afterwards clears as many as there are pages, from the first on. So some bits stay behind, and show
up in the next bitmap, where they belong to nothing, or to another mapping. That does no harm, as
all is dirty, and here it is the same.

Ref: v7.3 vfio_iommu_type1.c update_user_bitmap, verify_bitmap_size
"""

from errno import EINVAL
from struct import Struct
from typing import Final, NamedTuple

from ...engine.memory.span import U64_MAX
from ...errors import IoctlError
from ...ops.request import Request
from .dma import Dma
from .driver import Type1

_STRUCT: Final = Struct("<QQQ")  # struct vfio_bitmap
MOST: Final = 1 << 28  # bytes of a bitmap
_ADDRESS_LAST: Final = (1 << 47) - 4096  # of what a process can have


class Target(NamedTuple):
    """Where it goes: `page` bytes for each bit, at the caller's `address`."""

    page: int
    address: int


async def read(request: Request, place: int, length: int) -> Target:
    """The struct vfio_bitmap at `place` of the request's struct, for a range of `length` bytes.
    EFAULT: it cannot be read. EINVAL: the bitmap is not in the caller's part of the address space,
    has no room for the range, or is larger than 256 MiB.
    """
    at = request.address + place
    await request.settle(at, _STRUCT.size)
    page, size, address = _STRUCT.unpack(request.read(at, _STRUCT.size, "struct vfio_bitmap"))
    if address + size > _ADDRESS_LAST:
        raise IoctlError(EINVAL, f"the bitmap at {address:#x}+{size:#x} is no memory of a process")
    pages = length // (page & -page) if page else length
    if not pages or not size or size > MOST or size < _bytes(pages):
        raise IoctlError(
            EINVAL, f"the bitmap has {size:#x} bytes; {pages:#x} pages need {_bytes(pages):#x}, at most {MOST:#x}"
        )
    return Target(page, address)


def check_page(driver: Type1, target: Target) -> None:
    """EINVAL: tracking was not started, or a bit is not for one smallest page."""
    if not driver.tracks_dirty:
        raise IoctlError(EINVAL, "dirty pages are not tracked (VFIO_IOMMU_DIRTY_PAGES_FLAG_START)")
    if target.page != driver.smallest_page:
        raise IoctlError(EINVAL, f"a bit is for {target.page:#x} bytes, must be for {driver.smallest_page:#x}")


async def write(request: Request, target: Target, dma: Dma, base: int) -> None:
    """Set the bits of `dma`, in a bitmap that begins at IOVA `base`. EFAULT: it cannot be read, or
    written.
    """
    count, first = dma.size // target.page, (dma.iova - base & U64_MAX) // target.page
    address, shift = target.address + first // 64 * 8, first % 64
    size = _bytes(count + shift)
    await request.settle(address, size)
    every, written = (1 << count) - 1, (1 << 8 * size) - 1
    dma.bitmap |= every
    if shift:
        dma.bitmap = dma.bitmap & ~written | dma.bitmap << shift & written
        dma.bitmap |= int.from_bytes(request.read(address, 8, "the bitmap"), "little")
    request.write(address, (dma.bitmap & written).to_bytes(size, "little"), "the bitmap")
    dma.bitmap &= ~every


def _bytes(bits: int) -> int:
    """Of the words that have so many bits."""
    return (bits + 63) // 64 * 8
