"""HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP. Ref: v7.3 hw_pagetable.c"""

import re
from errno import EOPNOTSUPP
from typing import Final

import trio

from cuse_glue.inline import leave

from ..engine import dirty as bitmaps
from ..engine.dirty import Dirty
from ..engine.hwpt import HwptPaging
from ..engine.pages import PAGE_SIZE
from ..errors import IoctlError
from ..uapi.header import const
from .locking import locked
from .request import Request

PIECES_AT_ONCE: Final = 64  # writes to the client, of at most 64 KiB each, between which others get their turn

_ENABLE: Final = const("IOMMU_HWPT_DIRTY_TRACKING_ENABLE")
_NO_CLEAR: Final = const("IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR")
# What is written in one go: zero bytes are left alone, unless there are only few of them.
_STRETCH: Final = re.compile(rb"[^\0]+(?:\0{1,64}[^\0]+)*")


async def hwpt_set_dirty_tracking(request: Request) -> None:
    """EOPNOTSUPP: unknown flags, or a page table without IOMMU_HWPT_ALLOC_DIRTY_TRACKING. ENOENT: no such page table."""
    cmd = request.cmd
    if cmd.flags & ~_ENABLE:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {cmd.flags & ~_ENABLE:#x}")
    hwpt = request.context.objects.get(cmd.hwpt_id, HwptPaging)
    _record(hwpt).enable(bool(cmd.flags & _ENABLE))


async def hwpt_get_dirty_bitmap(request: Request) -> None:
    """EOPNOTSUPP: unknown flags, or a page table without IOMMU_HWPT_ALLOC_DIRTY_TRACKING. ENOENT: no such page table. EINVAL, EOVERFLOW:
    check_window. A bitmap that cannot be written is no error: its bits are lost, as the kernel loses them."""
    cmd = request.cmd
    if cmd.flags & ~_NO_CLEAR or cmd.__reserved:
        raise IoctlError(EOPNOTSUPP, f"flags {cmd.flags:#x} or __reserved {cmd.__reserved:#x} have unknown bits")
    hwpt = request.context.objects.get(cmd.hwpt_id, HwptPaging)
    iopt = hwpt.ioas.iopt
    bitmaps.check_window(iopt, cmd.iova, cmd.length, cmd.page_size)
    record = _record(hwpt)
    # The IOAS is locked, so that nothing is mapped or unmapped on the way.
    with request.context.objects.using(hwpt, request):
        async with locked(hwpt.ioas):
            pieces = bitmaps.read(iopt, record, cmd.iova, cmd.length, cmd.page_size, clear=not cmd.flags & _NO_CLEAR)
            for number, (offset, data) in enumerate(pieces, 1):
                for found in _STRETCH.finditer(data):
                    await _set_bits(request, cmd.data + offset + found.start(), found[0])
                if number % PIECES_AT_ONCE == 0:
                    await leave()
                    await trio.lowlevel.checkpoint()


def _record(hwpt: HwptPaging) -> Dirty:
    if hwpt.domain.dirty is None:
        raise IoctlError(EOPNOTSUPP, f"{hwpt} was not allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING")
    return hwpt.domain.dirty


async def _set_bits(request: Request, address: int, bits: bytes) -> None:
    """OR `bits` into the client's memory; what of it cannot be reached is left out. Ref: v7.3 iova_bitmap.c iova_bitmap_set"""
    memory = request.caller.memory
    await request.settle(address, len(bits))
    while bits:
        if bits.count(0xFF) == len(bits):
            merged = bits
        else:
            old = memory.read(address, len(bits))
            merged = (int.from_bytes(bits[: len(old)], "little") | int.from_bytes(old, "little")).to_bytes(len(old), "little")
        done = memory.write(address, merged)
        if done == len(bits):
            return
        skip = done + PAGE_SIZE - (address + done) % PAGE_SIZE
        address, bits = address + skip, bits[skip:]
