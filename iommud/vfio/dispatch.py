"""From an ioctl on a device's file to its handler, in the kernel's order of checks.

The bind has rules of its own (bind.py). Before the bind every other ioctl is EINVAL. After it the
checks are: the number (ENOTTY), the struct (EFAULT), and argsz, which must cover what the oldest
struct had (EINVAL).

Ref: v7.3 vfio_main.c vfio_device_fops_unl_ioctl
"""

from errno import EINVAL, ENOTTY
from typing import Final

from ..errors import IoctlError
from ..ops.request import Client, Request
from ..uapi import codec
from ..uapi.header import const
from ..uapi.layout import Layout
from .bind import bind_iommufd
from .device import DeviceFile
from .outside import Outside
from .table import ROWS

_BIND: Final = const("VFIO_DEVICE_BIND_IOMMUFD")
_BY_NUMBER: Final = {row.number: row for row in ROWS}
_NO_STRUCT: Final = Layout("", 0, codec.NOTHING)


async def dispatch(file: DeviceFile, caller: Client, outside: Outside, cmd: int, address: int) -> int:
    """Carry out one ioctl; its result. IoctlError: what the client gets, and why."""
    if cmd == _BIND:
        await bind_iommufd(file, caller, outside, address)
        return 0
    bound = file.access()
    row = _BY_NUMBER.get(cmd)
    if row is None:
        raise IoctlError(ENOTTY, f"no ioctl of a VFIO device has the number {cmd:#x}")
    if file.by_group and not row.by_group:
        raise IoctlError(ENOTTY, f"{file.device} was opened by its group, which attaches it")
    request = Request(
        bound.context,
        caller,
        outside.origins,
        outside.descriptors,
        row.struct or _NO_STRUCT,
        address,
        row.min_size,
        None,
    )
    if row.struct is not None:
        await request.settle(address, row.min_size)
        request.cmd = codec.decode(row.struct, request.read(address, row.min_size, "the struct"))
        if request.cmd.argsz < row.min_size:
            raise IoctlError(
                EINVAL, f"argsz {request.cmd.argsz} is less than {row.min_size}, which struct {row.struct.name} has"
            )
    await row.handler(bound, request, outside)
    return 0
