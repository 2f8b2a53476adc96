"""From an ioctl's number and pointer to its handler, in the kernel's order of checks.

A number outside the table is VFIO's (vfio.py), or ENOTTY. Inside: the size is read (EFAULT), the whole number must match (ENOTTY), the size
must reach min_size (EINVAL), what lies beyond the known struct must be zero (E2BIG), the struct is read (EFAULT). Then the row's own early
checks (EOPNOTSUPP), then the handler.

Ref: v7.3 main.c iommufd_fops_ioctl
"""

from collections.abc import Awaitable, Callable, Mapping
from errno import E2BIG, EFAULT, EINVAL, ENOTTY, EOPNOTSUPP
from typing import Final

import trio

from cuse_glue.inline import leave

from ..engine.context import Context
from ..errors import IoctlError
from ..uapi import codec
from ..uapi.table import BY_NUMBER, LAST_NUMBER, TEST_NUMBER, TEST_ROW, Row
from . import dirty, fault, hw_info, hwpt, ioas, noiommu, objects, option, veventq, vfio, viommu
from .request import Caller, Descriptors, Origins, Request

Handler = Callable[[Request], Awaitable[None]]

HANDLERS: Final[Mapping[str, Handler]] = {
    "DESTROY": objects.destroy,
    "GET_HW_INFO": hw_info.get_hw_info,
    "HWPT_ALLOC": hwpt.hwpt_alloc,
    "HWPT_INVALIDATE": hwpt.hwpt_invalidate,
    "FAULT_QUEUE_ALLOC": fault.fault_queue_alloc,
    "HWPT_GET_DIRTY_BITMAP": dirty.hwpt_get_dirty_bitmap,
    "HWPT_SET_DIRTY_TRACKING": dirty.hwpt_set_dirty_tracking,
    "IOAS_ALLOC": ioas.ioas_alloc,
    "IOAS_ALLOW_IOVAS": ioas.ioas_allow_iovas,
    "IOAS_CHANGE_PROCESS": ioas.ioas_change_process,
    "IOAS_COPY": ioas.ioas_copy,
    "IOAS_IOVA_RANGES": ioas.ioas_iova_ranges,
    "IOAS_MAP": ioas.ioas_map,
    "IOAS_MAP_FILE": ioas.ioas_map_file,
    "IOAS_NOIOMMU_GET_PA": noiommu.ioas_noiommu_get_pa,
    "IOAS_UNMAP": ioas.ioas_unmap,
    "OPTION": option.option,
    "VFIO_IOAS": vfio.vfio_ioas,
    "VIOMMU_ALLOC": viommu.viommu_alloc,
    "VDEVICE_ALLOC": viommu.vdevice_alloc,
    "VEVENTQ_ALLOC": veventq.veventq_alloc,
    "HW_QUEUE_ALLOC": viommu.hw_queue_alloc,
}

TAIL_CHUNK: Final = 64 * 1024  # bytes of an over-long struct looked at in one go


class Dispatcher:
    """The table as one device answers it. With `test_handler` it has the mock's command as well."""

    def __init__(self, origins: Origins, descriptors: Descriptors, test_handler: Handler | None = None) -> None:
        self._origins = origins
        self._descriptors = descriptors
        self._rows: dict[int, tuple[Row | None, Handler | None]] = {
            number: (row, HANDLERS[row.name]) for number, row in BY_NUMBER.items()
        }
        if test_handler is not None:
            # The kernel's table then reaches to the test command, with a hole before it.
            self._rows.update((number, (None, None)) for number in range(LAST_NUMBER + 1, TEST_NUMBER))
            self._rows[TEST_NUMBER] = TEST_ROW, test_handler

    async def dispatch(self, context: Context, caller: Caller, cmd: int, address: int) -> int:
        """Carry out one ioctl; returns its result when it succeeded. IoctlError: what the client gets, and why."""
        found = self._rows.get(cmd & 0xFF)
        if found is None:
            return await vfio.vfio_ioctl(context, caller, self._origins, self._descriptors, cmd, address)
        row, handler = found
        if not caller.resident(address, row.size if row is not None else 4):
            await caller.settle(address, row.size if row is not None else 4)
        memory = caller.memory
        data = memory.read(address, row.size if row is not None else 4)
        if len(data) < 4:
            raise IoctlError(EFAULT, f"the struct's size cannot be read at {address + len(data):#x}")
        if row is None or row.number != cmd:
            raise IoctlError(ENOTTY, f"no ioctl has the number {cmd:#x}")
        user_size = int.from_bytes(data[:4], "little")
        if user_size < row.min_size:
            raise IoctlError(EINVAL, f"size {user_size} is less than {row.min_size}, the oldest struct {row.struct}")
        if user_size > row.size:
            await _check_tail(caller, row, address, user_size)
        else:
            data = data[:user_size]
        if len(data) < min(user_size, row.size):
            raise IoctlError(EFAULT, f"the struct cannot be read at {address + len(data):#x}")
        request = Request(
            context, caller, self._origins, self._descriptors, row, address, user_size, codec.decode(row, data)
        )
        if row.flags is not None or row.zero:
            _check_known(row, request)
        assert handler is not None
        await handler(request)
        return 0


def _check_known(row: Row, request: Request) -> None:
    if row.flags is not None:
        name, known = row.flags
        value = getattr(request.cmd, name)
        if value & ~known:
            raise IoctlError(EOPNOTSUPP, f"{name} {value:#x} has the unknown bits {value & ~known:#x}")
    for name in row.zero:
        if getattr(request.cmd, name):
            raise IoctlError(EOPNOTSUPP, f"{name} is {getattr(request.cmd, name):#x}, must be 0")


async def _check_tail(caller: Caller, row: Row, address: int, user_size: int) -> None:
    """What lies behind the struct as we know it must be zero. E2BIG: it is not. EFAULT: it ends first."""
    position, end = address + row.size, address + user_size
    while position < end:
        length = min(TAIL_CHUNK, end - position)
        if not caller.resident(position, length):
            await caller.settle(position, length)
        data = caller.memory.read(position, length)
        if data.count(0) != len(data):
            raise IoctlError(E2BIG, f"the {user_size} bytes given are not zero beyond the {row.size} of struct {row.struct}")
        if len(data) < length:
            raise IoctlError(EFAULT, f"the struct cannot be read at {position + len(data):#x}")
        position += length
        if position < end:
            await leave()
            await trio.lowlevel.checkpoint()
