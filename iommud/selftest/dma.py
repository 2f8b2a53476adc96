"""TEST_CMD: what stands for the DMA of a mock device: marks of writes, and page faults. Ref: v7.3
selftest.c

And real DMA of devices of every kind, which the kernel's test driver does not have.
"""

from errno import EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW
from typing import Final

from ..engine.device.device import Device
from ..engine.device.fault import PageFault
from ..engine.device.hwpt import HwptPaging
from ..errors import IoctlError
from ..iommus import smmuv3
from ..ops.locking import locked
from ..ops.request import Request
from ..uapi.header import const
from . import mock_dma
from .mock import MockPort

MOST_BITS: Final = 8 * (16 << 20)
DMA: Final = 0x10000  # include/iommud/dma.h IOMMUD_TEST_OP_DMA
LARGEST_DMA: Final = 1 << 20  # bytes in one go
_WRITE: Final = const("MOCK_ACCESS_RW_WRITE")


async def dirty(request: Request) -> None:
    """Mark pages of the page table `id` as written to. EINVAL: a number is 0 or unaligned, or
    tracking is off. EOVERFLOW: too many bits. ENOENT: no such page table. EFAULT: the bitmap cannot
    be read."""
    wanted = request.cmd.dirty
    page_size, length, iova = wanted.page_size, wanted.length, wanted.iova
    if not (page_size and length and wanted.uptr) or iova % page_size or length % page_size:
        raise IoctlError(
            EINVAL, f"iova {iova:#x} or length {length:#x} is no multiple of page_size {page_size:#x}, or one is 0"
        )
    count = length // page_size
    if count > MOST_BITS:
        raise IoctlError(EOVERFLOW, f"{count} bits are more than {MOST_BITS}")
    hwpt = request.context.objects.get(request.cmd.id, HwptPaging)
    mock_dma.check_tracking(hwpt)
    size = (count + 7) // 8
    with request.context.objects.using(hwpt, request):
        async with locked(hwpt.ioas):
            await request.settle(wanted.uptr, size)
            bits = bytearray(request.read(wanted.uptr, size, "the bitmap"))
            bits[-1] &= 0xFF >> -count % 8
            wanted.out_nr_dirty = mock_dma.set_dirty(hwpt, iova, page_size, bytes(bits))
    request.respond()


async def trigger_iopf(request: Request) -> None:
    """A page fault of the device `dev_id`. ENOENT: no such device. EINVAL: it is no mock device."""
    wanted = request.cmd.trigger_iopf
    device = request.context.objects.get(wanted.dev_id, Device)
    if not isinstance(device.port, MockPort):
        raise IoctlError(EINVAL, f"{device} is no mock device")
    mock_dma.fault(device, PageFault(wanted.addr, wanted.perm, wanted.pasid, wanted.grpid))


async def trigger_vevent(request: Request) -> None:
    """An event of the device `dev_id`. Behind an SMMUv3, the event is that the device used a bad
    stream table entry.

    ENOENT: no such device. EINVAL: its kind has no events. Others: MockPort.trigger_event,
    Smmuv3Port.report_event.
    """
    device = request.context.objects.get(request.cmd.trigger_vevent.dev_id, Device)
    if isinstance(device.port, MockPort):
        device.port.trigger_event()
    elif isinstance(device.port, smmuv3.Smmuv3Port):
        device.port.report_event(smmuv3.BAD_STE)
    else:
        raise IoctlError(EINVAL, f"{device} is of a kind without events")


async def dma(request: Request) -> None:
    """The device `id` reads memory into the client's buffer, or writes it from there.

    EOPNOTSUPP: unknown flags. ENOMEM: more than 1 MiB. ENOENT: no such device. EFAULT: the buffer
    cannot be reached. Errors: Device.dma_read.
    """
    wanted = request.cmd.access_rw
    if wanted.flags & ~_WRITE:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {wanted.flags & ~_WRITE:#x}")
    if wanted.length > LARGEST_DMA:
        raise IoctlError(ENOMEM, f"{wanted.length} bytes are more than {LARGEST_DMA} in one go")
    await request.settle(wanted.uptr, wanted.length)
    device = request.context.objects.get(request.cmd.id, Device)
    if wanted.flags & _WRITE:
        device.dma_write(wanted.iova, memoryview(request.read(wanted.uptr, wanted.length, "the buffer")))
        return
    buffer = bytearray(wanted.length)
    device.dma_read(wanted.iova, memoryview(buffer))
    request.write(wanted.uptr, bytes(buffer), "the buffer")
