"""GET_HW_INFO. Ref: v7.3 device.c iommufd_get_hw_info"""

from errno import EOPNOTSUPP
from typing import Final

import trio

from cuse_glue.inline import leave

from ..engine.device import Device
from ..errors import IoctlError
from ..uapi.header import const
from .request import Request

ZEROS_AT_ONCE: Final = 256 << 10  # bytes

_INPUT_TYPE: Final = const("IOMMU_HW_INFO_FLAG_INPUT_TYPE")
_DEFAULT: Final = const("IOMMU_HW_INFO_TYPE_DEFAULT")
_DIRTY_TRACKING: Final = const("IOMMU_HW_CAP_DIRTY_TRACKING")
_PASID_EXEC: Final = const("IOMMU_HW_CAP_PCI_PASID_EXEC")
_PASID_PRIV: Final = const("IOMMU_HW_CAP_PCI_PASID_PRIV")
_NO_ATS: Final = const("IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED")


async def get_hw_info(request: Request) -> None:
    """What the IOMMU before a device can do. The data goes as far as the client has room, the rest of the room is zeroed; `data_len`
    becomes the data's own length.

    EOPNOTSUPP: unknown flags, __reserved, or a type of data that the driver has not. ENOENT: no such device. EFAULT: no room after all.
    """
    cmd = request.cmd
    if cmd.flags & ~_INPUT_TYPE:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {cmd.flags & ~_INPUT_TYPE:#x}")
    if any(cmd.__reserved):
        raise IoctlError(EOPNOTSUPP, "__reserved is not 0")
    driver = request.context.objects.get(cmd.dev_id, Device).driver
    data_type, data = driver.hw_info(cmd.in_data_type if cmd.flags & _INPUT_TYPE else _DEFAULT)
    room = cmd.data_len
    await request.settle(cmd.data_uptr, min(room, len(data)))
    if room:
        request.write(cmd.data_uptr, data[:room], "the data")
    await _zero(request, cmd.data_uptr + len(data), room - len(data))
    cmd.out_data_type = data_type
    cmd.data_len = len(data)
    cmd.out_capabilities = (
        (_DIRTY_TRACKING if driver.dirty_tracking else 0)
        | (_PASID_EXEC if driver.pasid_exec else 0)
        | (_PASID_PRIV if driver.pasid_priv else 0)
        | (0 if driver.ats else _NO_ATS)
    )
    cmd.out_max_pasid_log2 = max(driver.max_pasids.bit_length() - 1, 0)
    request.respond()


async def _zero(request: Request, address: int, length: int) -> None:
    done = 0
    while done < length:
        part = min(ZEROS_AT_ONCE, length - done)
        await request.settle(address + done, part)
        request.write(address + done, bytes(part), "the rest of the room")
        done += part
        if done < length:
            await leave()
            await trio.lowlevel.checkpoint()
