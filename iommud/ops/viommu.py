"""VIOMMU_ALLOC, and what stands on one: VDEVICE_ALLOC, HW_QUEUE_ALLOC. Ref: v7.3 viommu.c"""

from errno import EINVAL, EOPNOTSUPP
from functools import partial

from ..engine.device.device import Device
from ..engine.device.hw_queue import HwQueue, alloc_hw_queue
from ..engine.device.hwpt import HwptPaging
from ..engine.device.iommu import Iommu
from ..engine.device.vdevice import alloc_vdevice
from ..engine.device.viommu import Viommu
from ..engine.mapping.user_data import UserData
from ..engine.memory.span import last_of
from ..errors import IoctlError
from ..uapi.header import const
from .hwpt import LONGEST_STRUCT
from .locking import locked
from .request import Request


async def viommu_alloc(request: Request) -> None:
    """EOPNOTSUPP: a type that the device's IOMMU does not have. ENOENT: no such device or HWPT.
    EINVAL: the HWPT is no nest parent. Others: what the driver says. EFAULT: the ID cannot be told;
    then there is no vIOMMU.
    """
    cmd, objects = request.cmd, request.context.objects
    if cmd.type == const("IOMMU_VIOMMU_TYPE_DEFAULT"):
        raise IoctlError(EOPNOTSUPP, f"type {cmd.type:#x} is no type of vIOMMU")
    _, hwpt = _iommu_and_parent(request)
    with objects.using(hwpt, request):
        await request.settle(cmd.data_uptr, min(cmd.data_len, LONGEST_STRUCT))
    iommu, hwpt = _iommu_and_parent(request)  # anew: the device may have gone while we waited
    uptr = cmd.data_uptr
    write = partial(request.write, uptr, what="the data")
    data = UserData(cmd.type, cmd.data_len, request.reader(uptr), write) if cmd.data_len else None
    viommu = Viommu(request.context, hwpt, iommu)
    try:
        objects.reserve(viommu)
    except IoctlError:
        hwpt.users.remove(viommu)
        raise
    with request.creating(viommu):
        viommu.driver = iommu.new_viommu(viommu, cmd.type, data)
        cmd.out_viommu_id = viommu.id


def _iommu_and_parent(request: Request) -> tuple[Iommu, HwptPaging]:
    cmd, objects = request.cmd, request.context.objects
    device = objects.get(cmd.dev_id, Device)
    if cmd.type not in device.iommu.viommu_types:
        raise IoctlError(EOPNOTSUPP, f"the IOMMU of {device} has no vIOMMU of type {cmd.type:#x}")
    hwpt = objects.get(cmd.hwpt_id, HwptPaging)
    if not hwpt.nest_parent:
        raise IoctlError(EINVAL, f"{hwpt} was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT")
    return device.iommu, hwpt


async def vdevice_alloc(request: Request) -> None:
    """ENOENT: no such vIOMMU or device. Errors: alloc_vdevice. EFAULT: the ID cannot be told; then
    there is none.
    """
    cmd, objects = request.cmd, request.context.objects
    viommu = objects.get(cmd.viommu_id, Viommu)
    device = objects.get(cmd.dev_id, Device)
    vdevice = alloc_vdevice(objects, viommu, device, cmd.virt_id)
    with request.creating(vdevice):
        cmd.out_vdevice_id = vdevice.id


async def hw_queue_alloc(request: Request) -> None:
    """EOPNOTSUPP: a type that the vIOMMU does not have. EINVAL: length 0. EOVERFLOW: beyond 2^64 -
    1. ENOENT: no such vIOMMU. Others: alloc_hw_queue. EFAULT: the ID cannot be told; then there is
    no queue.
    """
    cmd, objects = request.cmd, request.context.objects
    if cmd.type == const("IOMMU_HW_QUEUE_TYPE_DEFAULT"):
        raise IoctlError(EOPNOTSUPP, f"type {cmd.type:#x} is no type of queue")
    iova, length = cmd.nesting_parent_iova, cmd.length
    if not length:
        raise IoctlError(EINVAL, "length is 0")
    last_of(iova, length)
    viommu = objects.get(cmd.viommu_id, Viommu)
    if cmd.type not in viommu.driver.hw_queue_types:
        raise IoctlError(EOPNOTSUPP, f"{viommu} has no hardware queues of type {cmd.type:#x}")
    async with locked(viommu, viommu.hwpt.ioas):
        queue = HwQueue(viommu, cmd.type, cmd.index, iova, length)
        alloc_hw_queue(request.context, queue)
        with request.creating(queue):
            cmd.out_hw_queue_id = queue.id
