"""VFIO_DEVICE_FEATURE_DMA_BUF: a descriptor of a BAR, or of parts of it.

Ref: v7.3 vfio_pci_dmabuf.c vfio_pci_core_feature_dma_buf
"""

import os
from errno import EINVAL, ENODEV, ENOMEM, EOVERFLOW
from struct import Struct
from typing import Final

from ..engine.memory.origin import PAGE_SIZE
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..ops.dma_buf import GivenDmaBuf
from ..ops.request import Request
from ..pci.vfio_names import VFIO_PCI_BAR5_REGION_INDEX
from ..uapi.header import struct_size
from .bar_buffer import BarBuffer
from .device import Bound
from .outside import Outside

SIZE: Final = struct_size("vfio_device_feature_dma_buf")  # bytes, without its ranges
_HEAD: Final = Struct("<IIII")
_RANGE: Final = Struct("<QQ")
_MOST: Final = (4 << 20) // _RANGE.size  # ranges: the kernel has no room for more
assert _HEAD.size == SIZE
assert _RANGE.size == struct_size("vfio_region_dma_range")


async def get_dma_buf(bound: Bound, request: Request, _outside: Outside) -> None:
    """The ioctl returns the descriptor.

    EINVAL: flags, no ranges, a range that is empty, no whole pages, or beyond the BAR.
    ENODEV: there is no such BAR. ENOMEM: far too many ranges. EFAULT: they cannot be read. EMFILE:
    no descriptor is free.
    """
    place = request.address + request.user_size
    index, open_flags, flags, count = _HEAD.unpack(request.read(place, SIZE, "the feature"))
    if not count or flags:
        raise IoctlError(EINVAL, f"flags {flags:#x} must be 0, and nr_ranges {count} must not")
    resource = bound.device.vfio.function.layout.resources.get(index)
    if index > VFIO_PCI_BAR5_REGION_INDEX or resource is None:
        raise IoctlError(ENODEV, f"{bound.device} has no BAR {index}")
    if count > _MOST:
        raise IoctlError(ENOMEM, f"{count} ranges: {_MOST} are the most")
    length = count * _RANGE.size
    await request.settle(place + SIZE, length)
    ranges = list(_RANGE.iter_unpack(request.read(place + SIZE, length, "the ranges")))
    total = 0
    for offset, size in ranges:
        total += size
        if not size or offset % PAGE_SIZE or size % PAGE_SIZE or total >> 63:
            raise IoctlError(EINVAL, f"range {offset:#x}+{size:#x} is empty, no whole pages, or too long")
    for offset, size in ranges:
        if resource.start + offset + size > U64_MAX:
            raise IoctlError(EOVERFLOW, f"range {offset:#x}+{size:#x} ends beyond 2^64 - 1")
        if offset + size > resource.bar.size:
            raise IoctlError(
                EINVAL, f"range {offset:#x}+{size:#x} is beyond BAR {index} of {resource.bar.size:#x} bytes"
            )
    buffer = BarBuffer(bound.opened.regions, index, ranges)
    bound.lend(buffer)
    mode = open_flags & (os.O_ACCMODE | os.O_CLOEXEC | os.O_NONBLOCK)
    if mode & os.O_ACCMODE == os.O_ACCMODE:
        mode = mode & ~os.O_ACCMODE | os.O_RDWR
    await request.return_descriptor(GivenDmaBuf(buffer), mode)
