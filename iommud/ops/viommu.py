"""VIOMMU_ALLOC. Ref: v7.3 viommu.c iommufd_viommu_alloc_ioctl"""

from errno import EINVAL, EOPNOTSUPP

from ..engine.device import Device
from ..engine.hwpt import HwptPaging
from ..engine.user_data import UserData
from ..engine.viommu import Viommu
from ..errors import IoctlError
from ..uapi.header import const
from .hwpt import LONGEST_STRUCT
from .request import Request


async def viommu_alloc(request: Request) -> None:
    """EOPNOTSUPP: flags, or a type that the device's driver has not. ENOENT: no such device or HWPT. EINVAL: the HWPT is no nest parent.
    Others: what the driver says. EFAULT: the ID cannot be told; then there is none."""
    cmd, objects = request.cmd, request.context.objects
    if cmd.flags or cmd.type == const("IOMMU_VIOMMU_TYPE_DEFAULT"):
        raise IoctlError(EOPNOTSUPP, f"flags {cmd.flags:#x}, type {cmd.type:#x}")
    await request.settle(cmd.data_uptr, min(cmd.data_len, LONGEST_STRUCT))
    driver = objects.get(cmd.dev_id, Device).driver
    if cmd.type not in driver.viommu_types:
        raise IoctlError(EOPNOTSUPP, f"{driver.name} has no vIOMMU of type {cmd.type:#x}")
    hwpt = objects.get(cmd.hwpt_id, HwptPaging)
    if not hwpt.nest_parent:
        raise IoctlError(EINVAL, f"{hwpt} was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT")
    data = UserData(cmd.type, cmd.data_len, request.reader(cmd.data_uptr)) if cmd.data_len else None
    viommu = Viommu(hwpt, driver.iommu)
    try:
        objects.reserve(viommu)
    except IoctlError:
        hwpt.users.remove(viommu)
        raise
    try:
        viommu.driver = driver.viommu(cmd.type, hwpt.domain, data)
        cmd.out_viommu_id = viommu.id
        request.respond()
    except BaseException:
        objects.abort_and_destroy(viommu)
        raise
    objects.publish(viommu)
