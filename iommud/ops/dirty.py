"""HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP. Ref: v7.3 hw_pagetable.c"""

import re
from collections.abc import Iterator
from errno import EOPNOTSUPP
from typing import Final

import trio

from cuse_glue.request.inline import leave

from ..engine.device.hwpt import HwptPaging
from ..engine.mapping import dirty_bitmap
from ..engine.mapping.dirty import Dirty
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError
from ..uapi.header import const
from .locking import locked
from .request import Request

AT_ONCE: Final = 512  # stretches of a bitmap that are written in one go
BYTES_AT_ONCE: Final = 256 << 10  # and their bytes, more or less; then others get their turn

Stretch = tuple[int, bytes]  # bytes of a bitmap, and their address

_ENABLE: Final = const("IOMMU_HWPT_DIRTY_TRACKING_ENABLE")
_NO_CLEAR: Final = const("IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR")
# What is written in one go: zero bytes are left alone, unless there are only few of them.
_STRETCH: Final = re.compile(rb"[^\0]+(?:\0{1,64}[^\0]+)*")


async def hwpt_set_dirty_tracking(request: Request) -> None:
    """EOPNOTSUPP: a page table without IOMMU_HWPT_ALLOC_DIRTY_TRACKING. ENOENT: no such
    page table.
    """
    cmd = request.cmd
    hwpt = request.context.objects.get(cmd.hwpt_id, HwptPaging)
    _record(hwpt).enable(bool(cmd.flags & _ENABLE))


async def hwpt_get_dirty_bitmap(request: Request) -> None:
    """EOPNOTSUPP: a page table without IOMMU_HWPT_ALLOC_DIRTY_TRACKING. ENOENT: no such page table.
    EINVAL, EOVERFLOW: check_window. A bitmap that cannot be written is no error: its bits are lost,
    as the kernel loses them."""
    cmd = request.cmd
    hwpt = request.context.objects.get(cmd.hwpt_id, HwptPaging)
    iopt = hwpt.ioas.iopt
    dirty_bitmap.check_window(iopt, cmd.iova, cmd.length, cmd.page_size)
    record = _record(hwpt)
    # The IOAS is locked, so that nothing is mapped or unmapped on the way.
    with request.context.objects.using(hwpt, request):
        async with locked(hwpt.ioas):
            pieces = dirty_bitmap.read(
                iopt, record, cmd.iova, cmd.length, cmd.page_size, clear=not cmd.flags & _NO_CLEAR
            )
            for stretches in _in_batches(pieces, cmd.data):
                await _set_bits(request, stretches)


def _in_batches(pieces: Iterator[tuple[int, bytes]], bitmap: int) -> Iterator[list[Stretch]]:
    """What has to be set in the bitmap at this address, some at a time."""
    batch: list[Stretch] = []
    size = 0
    for offset, data in pieces:
        for found in _STRETCH.finditer(data):
            batch.append((bitmap + offset + found.start(), found[0]))
            size += len(found[0])
        if len(batch) >= AT_ONCE or size >= BYTES_AT_ONCE:
            for at in range(0, len(batch), AT_ONCE):
                yield batch[at : at + AT_ONCE]
            batch, size = [], 0
    if batch:
        yield batch


def _record(hwpt: HwptPaging) -> Dirty:
    if hwpt.domain.dirty is None:
        raise IoctlError(EOPNOTSUPP, f"{hwpt} was not allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING")
    return hwpt.domain.dirty


async def _set_bits(request: Request, stretches: list[Stretch]) -> None:
    """OR bits into the client's memory. What cannot be reached is left out. Ref: v7.3 iova_bitmap.c
    iova_bitmap_set
    """
    settled = -1
    for address, bits in stretches:
        first, last = address // PAGE_SIZE, (address + len(bits) - 1) // PAGE_SIZE
        if last > settled:
            await request.settle(max(first, settled + 1) * PAGE_SIZE, (last - max(first, settled + 1) + 1) * PAGE_SIZE)
            settled = last
    memory = request.caller.memory
    places = [(address, len(bits)) for address, bits in stretches]
    joined = b"".join(bits for _, bits in stretches)
    if joined.count(0xFF) < len(joined):
        joined = _merged(joined, memory.read_many(places))
    if memory.write_many(places, joined) < sum(length for _, length in places):
        # Once more, and harmless: bits are set, never cleared.
        for address, bits in stretches:
            _set_reachable(request, address, bits)
    await leave()
    await trio.lowlevel.checkpoint()


def _set_reachable(request: Request, address: int, bits: bytes) -> None:
    """Page by page."""
    memory = request.caller.memory
    while bits:
        length = PAGE_SIZE - address % PAGE_SIZE
        memory.write(address, _merged(bits[:length], memory.read(address, len(bits[:length]))))
        address, bits = address + length, bits[length:]


def _merged(bits: bytes, old: bytes) -> bytes:
    """The bits of both, for the length of `old`."""
    size = len(old)
    return (int.from_bytes(bits[:size], "little") | int.from_bytes(old, "little")).to_bytes(size, "little")
