"""IOAS_NOIOMMU_GET_PA: the physical address behind an IOVA, for programs that drive a device
without an IOMMU (engine/device/noiommu.py).

Ref: v7.3 ioas.c iommufd_ioas_noiommu_get_pa
"""

from errno import EINVAL, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Final

from ..engine.device.noiommu import get_phys
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from .locking import locked
from .request import Client, Request

CAP_SYS_RAWIO: Final = 17


def check_may_open(caller: Client, device: object) -> None:
    """EPERM: a device without an IOMMU takes CAP_SYS_RAWIO. Ref: v7.3 device_cdev.c
    vfio_device_fops_cdev_open, group.c vfio_group_fops_open, vfio_df_group_open
    """
    if not caller.capable(CAP_SYS_RAWIO):
        raise IoctlError(EPERM, f"{device} does DMA to all memory; the caller does not have CAP_SYS_RAWIO")


async def ioas_noiommu_get_pa(request: Request) -> None:
    """Sets `out_phys`, and `length` to how many of the bytes asked for lie together from there on.

    EPERM: no CAP_SYS_RAWIO. EOPNOTSUPP: flags or __reserved is not 0. EINVAL: length 0. EOVERFLOW:
    iova is U64_MAX. ENOENT: no such IOAS. Others: get_phys. EFAULT: the struct cannot be written.
    """
    cmd = request.cmd
    if not request.caller.capable(CAP_SYS_RAWIO):
        raise IoctlError(EPERM, "physical addresses are told to who has CAP_SYS_RAWIO; the caller does not have it")
    if cmd.flags or cmd.__reserved:
        raise IoctlError(EOPNOTSUPP, "flags or __reserved is not 0")
    if not cmd.length:
        raise IoctlError(EINVAL, "length is 0")
    if cmd.iova == U64_MAX:
        raise IoctlError(EOVERFLOW, "iova is U64_MAX")
    ioas = request.context.ioas(cmd.ioas_id)
    async with locked(ioas):
        cmd.out_phys, cmd.length = get_phys(ioas.iopt, cmd.iova, cmd.length)
        request.respond()
