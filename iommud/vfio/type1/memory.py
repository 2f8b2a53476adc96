"""What MAP_DMA maps: memory of the caller, which is pinned, and registers of devices that the
caller has mapped, which are not. So the BAR of one device can be what another does DMA to.

Registers are looked for only if the memory cannot be pinned, which is rare, and takes longer.
Unlike with a dma-buf, DMA to them works whenever the device answers: Linux maps their physical
addresses, and asks nobody later.

Ref: v7.3 vfio_iommu_type1.c vfio_pin_map_dma, vfio_pin_pages_remote, vaddr_get_pfns
"""

from collections.abc import Sequence
from errno import EFAULT, ENOMEM
from typing import Final

from ...engine.mapping.io_pagetable import PROT_WRITE
from ...engine.memory.dma_buf import dma_buf_slice
from ...engine.memory.origin import PAGE_SIZE, AccountMode, Origin
from ...engine.memory.pages import Slice, user_slice
from ...engine.memory.span import U64_MAX
from ...errors import IoctlError
from ...ops.ioas import CAP_IPC_LOCK
from ...ops.request import Request
from ..bar_buffer import BarBuffer
from ..outside import Outside, Registers
from .driver import Type1


async def map_memory(driver: Type1, request: Request, outside: Outside, prot: int) -> None:
    """Carry out a MAP_DMA whose numbers are right. EFAULT: not all of it can be pinned, or is
    registers that answer. Others: Type1.map.
    """
    cmd = request.cmd
    if cmd.vaddr + cmd.size > U64_MAX:
        raise IoctlError(EFAULT, f"address {cmd.vaddr:#x} + size {cmd.size:#x} is beyond all memory")
    memory = _Memory(request, prot)
    last = cmd.iova + cmd.size - 1
    try:
        async with request.looked(memory.origin, cmd.vaddr, cmd.size):
            driver.map([memory.part(cmd.vaddr, cmd.vaddr + cmd.size)], cmd.iova, last, prot, memory.origin)
        return
    except IoctlError as refusal:
        if refusal.errno != EFAULT:
            raise
        why = refusal
    found = await outside.registers(request.caller, cmd.vaddr, cmd.size)
    if not found:
        raise memory.refusal(why, driver)
    parts = _parts(memory, found, cmd.vaddr, cmd.vaddr + cmd.size)
    driver.map(parts, cmd.iova, last, prot, memory.origin)


class _Memory:
    """The caller's, mapped with `prot`."""

    def __init__(self, request: Request, prot: int) -> None:
        self.origin: Final = request.address_space()
        self.writable: Final = bool(prot & PROT_WRITE)
        self._mode: Final = request.context.account_mode_for(request.caller.capable(CAP_IPC_LOCK))
        self._start: Final = request.cmd.vaddr
        self._size: Final = request.cmd.size

    def part(self, start: int, end: int) -> Slice:
        return user_slice(self.origin, start, end - start, writable=self.writable, account_mode=self._mode)

    def refusal(self, why: IoctlError, driver: Type1) -> IoctlError:
        """Linux pins upwards, and counts as it goes: so RLIMIT_MEMLOCK may be reached (ENOMEM)
        before the memory that cannot be pinned.
        """
        limit = self.origin.memlock_limit()
        if self._mode != AccountMode.MM or limit is None:
            return why
        room = limit // PAGE_SIZE - self.origin.locked_pages() - driver.pinned_by(self.origin)
        if room >= self._size // PAGE_SIZE or not _can_pin(self.origin, self._start, room + 1, self.writable):
            return why
        return IoctlError(ENOMEM, f"the process has {max(room, 0)} pages left of RLIMIT_MEMLOCK, and these need more")


def _can_pin(origin: Origin, start: int, npages: int, writable: bool) -> bool:
    """Whether that many pages could be pinned from `start` on (bytes)."""
    try:
        origin.pin(start, max(npages, 1) * PAGE_SIZE, writable, brief=True).close()
    except IoctlError:
        return False
    return True


def _parts(memory: _Memory, found: Sequence[Registers], start: int, end: int) -> list[Slice]:
    """What start..end (exclusive) is. EFAULT: registers that do not answer, or that the caller may
    not write although the mapping is writeable.
    """
    parts: list[Slice] = []
    try:
        for each in found:
            low, high = max(each.start, start), min(each.end, end)
            if low > start:
                parts.append(memory.part(start, low))
            if not each.answers() or not (each.writable if memory.writable else each.readable):
                raise IoctlError(EFAULT, f"the registers at {low:#x} do not answer, or are not mapped to be written")
            offset = each.offset + low - each.start
            buffer = BarBuffer(each.regions, each.bar, [(offset, high - low)])
            parts.append(dma_buf_slice(buffer, 0, high - low, writable=memory.writable))
            start = high
        if start < end:
            parts.append(memory.part(start, end))
    except IoctlError:
        for part in parts:
            part.pages.put()
        raise
    return parts
