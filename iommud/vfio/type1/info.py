"""VFIO_IOMMU_GET_INFO: the struct, and behind it what type1 can do, as far as there is room.

Ref: v7.3 vfio_iommu_type1.c vfio_iommu_type1_get_info
"""

from struct import Struct
from typing import Final

from ...ops.request import Request
from ...uapi import codec
from ...uapi.header import const, struct_size
from .bitmap import MOST
from .driver import Type1

_HEAD: Final = Struct("<HHI")  # struct vfio_info_cap_header
_RANGE: Final = Struct("<QQ")  # struct vfio_iova_range
_SIZE: Final = struct_size("vfio_iommu_type1_info")


async def tell(driver: Type1, request: Request) -> None:
    """Without room for all capabilities there are none, and argsz tells what they take. EFAULT:
    something cannot be written; what comes before it stays.
    """
    info, room = request.cmd, request.cmd.argsz
    capabilities = _chain(driver)
    info.flags = const("VFIO_IOMMU_INFO_PGSIZES") | const("VFIO_IOMMU_INFO_CAPS")
    info.iova_pgsizes = driver.page_sizes
    info.cap_offset = info.pad = 0
    whole = _SIZE + len(capabilities)
    await request.settle(request.address, min(room, whole))
    if room < whole:
        info.argsz = whole
    else:
        request.write(request.address + _SIZE, capabilities, "the capabilities")
        info.cap_offset = _SIZE
    request.write(request.address, codec.encode(info, min(room, _SIZE)), "the struct")


def _chain(driver: Type1) -> bytes:
    """In Linux's order, each at a multiple of 8 bytes."""
    migration = Struct("<IxxxxQQ").pack(0, driver.smallest_page, MOST)
    ranges = b"".join(_RANGE.pack(first, last) for first, last in driver.usable.ranges)
    bodies = (
        (const("VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION"), migration),
        (const("VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL"), driver.available.to_bytes(4, "little") + bytes(4)),
        (const("VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE"), Struct("<Ixxxx").pack(len(driver.usable.ranges)) + ranges),
    )
    found = b""
    for at, (number, body) in enumerate(bodies, 1):
        following = _SIZE + len(found) + _HEAD.size + len(body)
        found += _HEAD.pack(number, 1, following if at < len(bodies) else 0) + body
    return found
