"""VFIO_DEVICE_ATTACH_IOMMUFD_PT and VFIO_DEVICE_DETACH_IOMMUFD_PT: which page table the device's
DMA goes through.

Ref: v7.3 device_cdev.c vfio_df_ioctl_attach_pt, vfio_df_ioctl_detach_pt
"""

from errno import EINVAL
from typing import Final

from ..engine.device.hwpt import Hwpt
from ..engine.mapping.ioas import Ioas
from ..engine.mapping.objects import Object
from ..errors import IoctlError
from ..ops.locking import in_steps, locked
from ..ops.request import Request
from ..uapi.header import const, fields, offset_end
from .device import Bound
from .outside import Outside

_ATTACH: Final = "vfio_device_attach_iommufd_pt"
_DETACH: Final = "vfio_device_detach_iommufd_pt"
_ATTACH_PASID: Final = const("VFIO_DEVICE_ATTACH_PASID")
_DETACH_PASID: Final = const("VFIO_DEVICE_DETACH_PASID")


async def attach_iommufd_pt(bound: Bound, request: Request, _outside: Outside) -> None:
    """Attach the device to an IOAS or a HWPT, in place of what it is attached to; pt_id becomes the
    HWPT's.

    EINVAL: an unknown flag, or argsz without room for the PASID. EFAULT: pt_id cannot be written;
    the device is detached again. Others: Bound.attach, attach_pasid.
    """
    cmd = request.cmd
    with_pasid = await _pasid(request, _ATTACH_PASID, _ATTACH)
    async with locked(bound.device.set):
        async with locked(*_changed_by(request, cmd.pt_id)):
            hwpt_id = await in_steps(
                bound.attach_pasid(cmd.pasid, cmd.pt_id) if with_pasid else bound.attach(cmd.pt_id)
            )
        try:
            request.write(
                request.address + fields(_ATTACH)["pt_id"].offset, hwpt_id.to_bytes(4, "little"), "the HWPT's ID"
            )
        except IoctlError:
            bound.detach()
            raise


async def detach_iommufd_pt(bound: Bound, request: Request, _outside: Outside) -> None:
    """Block the device's DMA. No effect if it is not attached. EINVAL: as `attach_iommufd_pt`."""
    with_pasid = await _pasid(request, _DETACH_PASID, _DETACH)
    async with locked(bound.device.set):
        if with_pasid:
            bound.detach_pasid(request.cmd.pasid)
        else:
            bound.detach()


async def _pasid(request: Request, flag: int, struct: str) -> bool:
    """Whether the request is for a PASID, which is then read into `request.cmd`. EINVAL, EFAULT."""
    cmd, end = request.cmd, offset_end(struct, "pasid")
    if cmd.flags & ~flag:
        raise IoctlError(EINVAL, f"flags {cmd.flags:#x} has the unknown bits {cmd.flags & ~flag:#x}")
    if not cmd.flags:
        return False
    if cmd.argsz < end:
        raise IoctlError(EINVAL, f"argsz {cmd.argsz} has no room for the PASID: {end}")
    start = request.user_size
    await request.settle(request.address + start, end - start)
    cmd.pasid = int.from_bytes(request.read(request.address + end - 4, 4, "the PASID"), "little")
    return True


def _changed_by(request: Request, pt_id: int) -> list[Object]:
    """What an attachment to this ID changes, so that it can be locked. ENOENT: there is no such
    object.
    """
    found = request.context.objects.get(pt_id, Object)
    if isinstance(found, Hwpt):
        return [found, found.paging, found.paging.ioas]
    return [found] if isinstance(found, Ioas) else []
