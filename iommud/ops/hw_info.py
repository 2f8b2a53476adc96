"""GET_HW_INFO. Ref: v7.3 device.c iommufd_get_hw_info"""

from typing import Final

import trio

from cuse_glue.request.inline import leave

from ..engine.device.device import Device
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
    """What the IOMMU before a device can do. As much of the data as the client has room for is
    written, and the rest of the room is zeroed. `data_len` becomes the length of the data itself.

    EOPNOTSUPP: the IOMMU does not have this type of data. ENOENT: no such device. EFAULT: the room
    cannot be written.
    """
    cmd = request.cmd
    device = request.context.objects.get(cmd.dev_id, Device)
    data_type, data = device.iommu.hw_info(cmd.in_data_type if cmd.flags & _INPUT_TYPE else _DEFAULT)
    room = cmd.data_len
    await request.settle(cmd.data_uptr, min(room, len(data)))
    if room:
        request.write(cmd.data_uptr, data[:room], "the data")
    await _zero(request, cmd.data_uptr + len(data), room - len(data))
    cmd.out_data_type = data_type
    cmd.data_len = len(data)
    cmd.out_capabilities = (
        (_DIRTY_TRACKING if device.port.dirty_tracking else 0)
        | (_PASID_EXEC if device.port.pasid_exec else 0)
        | (_PASID_PRIV if device.port.pasid_priv else 0)
        | (0 if device.model.ats else _NO_ATS)
    )
    cmd.out_max_pasid_log2 = max(device.port.max_pasids.bit_length() - 1, 0)
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
