"""VFIO_DEVICE_BIND_IOMMUFD: a device is put into the context behind a descriptor of /dev/iommu.

Ref: v7.3 device_cdev.c vfio_df_ioctl_bind_iommufd
"""

from errno import EFAULT, EINVAL
from typing import Any, Final

from ..errors import IoctlError
from ..ops.dispatch import check_tail
from ..ops.locking import locked
from ..ops.request import Client
from ..uapi import codec
from ..uapi.header import const, fields, offset_end
from ..uapi.layout import layout
from .device import Bound, DeviceFile
from .outside import Outside

STRUCT: Final = layout("vfio_device_bind_iommufd")
MIN_SIZE: Final = offset_end(STRUCT.name, "out_devid")
_TOKEN: Final = const("VFIO_DEVICE_BIND_FLAG_TOKEN")
_TOKEN_SIZE: Final = 16
_OUT: Final = fields(STRUCT.name)["out_devid"].offset


async def bind_iommufd(file: DeviceFile, caller: Client, outside: Outside, address: int) -> None:
    """Bind the file's device, open it, and write out_devid.

    EFAULT, E2BIG: the struct; EINVAL: argsz, an unknown flag, a negative descriptor; it is bound
    already, or another file has bound it; a token, which no device here takes. EBUSY: its group is
    open. EBADF, EBADFD: Outside.context. Others: Bound.
    """
    cmd = await _read(caller, address)
    if cmd.iommufd < 0 or cmd.flags & ~_TOKEN:
        raise IoctlError(
            EINVAL, f"iommufd {cmd.iommufd} is no descriptor, or flags {cmd.flags:#x} has other bits than {_TOKEN:#x}"
        )
    if file.by_group:
        raise IoctlError(EINVAL, f"{file.device} was opened by its group, and is bound by that")
    await outside.quiet(file.device.plugged.group)
    group = file.device.group
    if group is None:
        await _bind(file, caller, outside, address, cmd)
        return
    group.block()
    try:
        await _bind(file, caller, outside, address, cmd)
    except BaseException:
        group.unblock()
        raise


async def _bind(file: DeviceFile, caller: Client, outside: Outside, address: int, cmd: Any) -> None:
    async with locked(file.device.set):
        if file.bound is not None:
            raise IoctlError(EINVAL, f"{file.device} is bound already")
        if cmd.flags & _TOKEN:
            if not caller.resident(cmd.token_uuid_ptr, _TOKEN_SIZE):
                await caller.settle(cmd.token_uuid_ptr, _TOKEN_SIZE)
            if len(caller.memory.read(cmd.token_uuid_ptr, _TOKEN_SIZE)) < _TOKEN_SIZE:
                raise IoctlError(EFAULT, f"the token cannot be read at {cmd.token_uuid_ptr:#x}")
            raise IoctlError(EINVAL, f"{file.device} has nothing to do with SR-IOV, so it takes no token")
        context = await outside.context(caller, cmd.iommufd)
        bound = Bound(file.device, context, mappable=outside.maps(file.device, caller))
        if caller.memory.write(address + _OUT, bound.in_context.id.to_bytes(4, "little")) < 4:
            bound.close()
            raise IoctlError(EFAULT, f"out_devid cannot be written at {address + _OUT:#x}")
        file.bound = bound


async def _read(caller: Client, address: int) -> Any:
    if not caller.resident(address, STRUCT.size):
        await caller.settle(address, STRUCT.size)
    data = caller.memory.read(address, STRUCT.size)
    if len(data) < 4:
        raise IoctlError(EFAULT, f"argsz cannot be read at {address + len(data):#x}")
    argsz = int.from_bytes(data[:4], "little")
    if argsz < MIN_SIZE:
        raise IoctlError(EINVAL, f"argsz {argsz} is less than {MIN_SIZE}, which struct {STRUCT.name} has")
    if argsz > STRUCT.size:
        await check_tail(caller, STRUCT, address, argsz)
    data = data[:argsz]
    if len(data) < min(argsz, STRUCT.size):
        raise IoctlError(EFAULT, f"the struct cannot be read at {address + len(data):#x}")
    return codec.decode(STRUCT, data)
