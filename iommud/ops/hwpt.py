"""HWPT_ALLOC and HWPT_INVALIDATE. Ref: v7.3 hw_pagetable.c iommufd_hwpt_alloc,
iommufd_hwpt_invalidate
"""

from errno import EINVAL, EOPNOTSUPP
from typing import Final

import trio

from cuse_glue.request.inline import leave

from ..engine.device.device import Device
from ..engine.device.fault import FaultQueue
from ..engine.device.hwpt import Hwpt, HwptPaging
from ..engine.device.nested import HwptNested, alloc_nested, alloc_viommu_nested
from ..engine.device.paging import alloc_paging
from ..engine.device.viommu import Viommu
from ..engine.mapping.ioas import Ioas
from ..engine.mapping.objects import Object
from ..engine.mapping.user_data import UserArray, UserData
from ..engine.memory.origin import PAGE_SIZE
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..uapi.header import const
from .locking import in_steps, locked
from .request import Request

MOST_ENTRIES: Final = 1 << 19  # of one HWPT_INVALIDATE
LONGEST_STRUCT: Final = PAGE_SIZE  # bytes; no driver's struct is longer

_FAULT_ID_VALID: Final = const("IOMMU_HWPT_FAULT_ID_VALID")
_DATA_NONE: Final = const("IOMMU_HWPT_DATA_NONE")


async def hwpt_alloc(request: Request) -> None:
    """A page table for the device `dev_id`. It shows an IOAS, or is nested in a HWPT or a vIOMMU.

    EOPNOTSUPP: flags. EINVAL: data without a type or the other way round, or `pt_id` is nothing
    that a page table can be made of. ENOENT: no such device, no such fault queue. Others:
    alloc_paging, alloc_nested. EFAULT: the ID cannot be told. Then there is no page table.
    """
    cmd, objects = request.cmd, request.context.objects
    if (cmd.data_type == _DATA_NONE) != (cmd.data_len == 0):
        raise IoctlError(EINVAL, f"{cmd.data_len} bytes of data of type {cmd.data_type:#x}")
    objects.get(cmd.dev_id, Device)
    try:
        target = objects.get(cmd.pt_id, Object)
    except IoctlError as unknown:
        raise IoctlError(EINVAL, unknown.why) from None
    if not isinstance(target, Ioas | HwptPaging | Viommu):
        raise IoctlError(EINVAL, f"{target} is nothing to make a page table of")
    with objects.using(target, request):
        await request.settle(cmd.data_uptr, min(cmd.data_len, LONGEST_STRUCT))
    async with locked(target):
        hwpt = await _alloc(request, target)
        with request.creating(hwpt):
            if cmd.flags & _FAULT_ID_VALID:
                hwpt.set_fault(objects.get(cmd.fault_id, FaultQueue))
            cmd.out_hwpt_id = hwpt.id


async def _alloc(request: Request, target: Ioas | HwptPaging | Viommu) -> Hwpt:
    cmd, objects = request.cmd, request.context.objects
    device = objects.get(cmd.dev_id, Device)  # anew: it may have gone while we waited
    data = UserData(cmd.data_type, cmd.data_len, request.reader(cmd.data_uptr))
    if isinstance(target, Ioas):
        return await in_steps(alloc_paging(objects, target, device, cmd.flags, data if data.length else None))
    if isinstance(target, Viommu):
        return alloc_viommu_nested(objects, target, device, cmd.flags, data)
    return alloc_nested(objects, target, device, cmd.flags, data)


async def hwpt_invalidate(request: Request) -> None:
    """Drop what a nested page table or a vIOMMU has cached, as an array of entries says.
    `entry_num` becomes the number of entries dealt with, on every path.

    EOPNOTSUPP: __reserved is not 0, or it caches nothing. EINVAL: the array has entries but no
    address or no length, or is too long; the object is neither of the two; or its driver says so.
    ENOENT: no such object. EFAULT: the number cannot be told; this comes before any other error.
    """
    cmd = request.cmd
    array = UserArray(cmd.data_type, cmd.entry_len, cmd.entry_num, request.reader(cmd.data_uptr))
    try:
        await _invalidate(request, array)
    finally:
        cmd.entry_num = array.done
        request.respond()


async def _invalidate(request: Request, array: UserArray) -> None:
    cmd, objects = request.cmd, request.context.objects
    if cmd.__reserved:
        raise IoctlError(EOPNOTSUPP, f"__reserved is {cmd.__reserved:#x}, must be 0")
    if array.count and (not cmd.data_uptr or not 0 < array.length <= LONGEST_STRUCT or array.count > MOST_ENTRIES):
        raise IoctlError(EINVAL, f"{array.count} entries of {array.length} bytes at {cmd.data_uptr:#x}")
    hwpt = objects.get(cmd.hwpt_id, Object)
    if not isinstance(hwpt, HwptNested | Viommu):
        raise IoctlError(EINVAL, f"{hwpt} is neither a nested page table nor a vIOMMU")
    cached = hwpt.driver if isinstance(hwpt, Viommu) else hwpt.domain
    with objects.using(hwpt, request):
        await _settle(request, array)
        for _ in cached.invalidate(array):
            if array.done < array.count:
                await leave()
                await trio.lowlevel.checkpoint()
                await _settle(request, array)


async def _settle(request: Request, array: UserArray) -> None:
    offset, length = array.ahead
    await request.settle(request.cmd.data_uptr + offset & U64_MAX, length)
