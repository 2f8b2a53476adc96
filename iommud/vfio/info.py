"""VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_GET_IRQ_INFO: what there is.

Capabilities follow the struct, if argsz leaves room for them. If not, argsz becomes the size that
all of it needs.

Ref: v7.3 vfio_pci_core.c, vfio_main.c vfio_get_region_info
"""

from struct import Struct
from typing import Final

from ..ops.request import Request
from ..pci import vfio_names as v
from ..uapi.header import const, struct_size
from .device import Bound
from .outside import Outside

_CAP: Final = Struct("<HHI")  # struct vfio_info_cap_header
_INFO_SIZE: Final = struct_size("vfio_device_info")
_REGION_SIZE: Final = struct_size("vfio_region_info")
assert _CAP.size == struct_size("vfio_info_cap_header")


async def get_info(bound: Bound, request: Request, _outside: Outside) -> None:
    """How many regions and interrupts, and whether it can be reset. No device here has a
    capability. EFAULT: the struct cannot be written.
    """
    cmd = request.cmd
    cmd.flags = const("VFIO_DEVICE_FLAGS_PCI")
    if bound.device.vfio.reset_works:
        cmd.flags |= const("VFIO_DEVICE_FLAGS_RESET")
    cmd.num_regions, cmd.num_irqs = v.VFIO_PCI_NUM_REGIONS, v.VFIO_PCI_NUM_IRQS
    request.user_size = min(cmd.argsz, _INFO_SIZE)
    await request.settle(request.address, request.user_size)
    request.respond()


async def get_region_info(bound: Bound, request: Request, _outside: Outside) -> None:
    """Size, place and flags of a region. EINVAL: there is none of that index. EFAULT: something
    cannot be written.
    """
    cmd = request.cmd
    info = bound.opened.regions.info(cmd.index)
    cmd.flags, cmd.size, cmd.offset = info.flags, info.size, info.offset
    if info.msix_mappable:
        cmd.flags |= v.VFIO_REGION_INFO_FLAG_CAPS
        if cmd.argsz < _REGION_SIZE + _CAP.size:
            cmd.argsz, cmd.cap_offset = _REGION_SIZE + _CAP.size, 0
        else:
            place = request.address + _REGION_SIZE
            await request.settle(place, _CAP.size)
            request.write(place, _CAP.pack(v.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 1, 0), "a capability")
            cmd.cap_offset = _REGION_SIZE
    request.respond()


async def get_irq_info(bound: Bound, request: Request, _outside: Outside) -> None:
    """Vectors and flags of an interrupt index. EINVAL: there is none of that index."""
    cmd = request.cmd
    cmd.flags, cmd.count = bound.opened.irqs.info(cmd.index)
    request.respond()
