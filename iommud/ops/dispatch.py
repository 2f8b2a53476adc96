"""From an ioctl's number and pointer to its handler, in the kernel's order of checks.

A number beyond the table belongs to somebody else (VFIO: vfio.py). For a number within it: the size
is read (EFAULT); the whole number must match (ENOTTY); the size must be at least min_size (EINVAL);
bytes beyond the known struct must be zero (E2BIG); the struct is read (EFAULT). Then come the row's
own early checks (EOPNOTSUPP), then the handler.

Ref: v7.3 main.c iommufd_fops_ioctl
"""

from collections.abc import Awaitable, Callable, Iterable
from errno import E2BIG, EFAULT, EINVAL, ENOTTY, EOPNOTSUPP
from typing import Final

from ..engine.device.context import Context
from ..errors import IoctlError
from ..uapi import codec
from ..uapi.layout import Layout
from .request import Client, Descriptors, Origins, Request
from .row import Row

Otherwise = Callable[[Context, Client, Origins, Descriptors, int, int], Awaitable[int]]

# bytes behind the struct that are looked at here; more of them in a worker thread
SMALL_TAIL: Final = 64 * 1024


class Dispatcher:
    """A table, as one device answers it. Numbers between the rows belong to the table (ENOTTY);
    numbers beyond it are for `otherwise`.
    """

    def __init__(self, rows: Iterable[Row], otherwise: Otherwise, origins: Origins, descriptors: Descriptors) -> None:
        self._otherwise: Final = otherwise
        self._origins: Final = origins
        self._descriptors: Final = descriptors
        by_number = {row.number & 0xFF: row for row in rows}
        self._rows: Final = dict.fromkeys(range(min(by_number), max(by_number) + 1), _HOLE) | by_number

    async def dispatch(self, context: Context, caller: Client, cmd: int, address: int) -> int:
        """Carry out one ioctl. Returns its result if it succeeded. IoctlError: what the client
        gets, and why.
        """
        row = self._rows.get(cmd & 0xFF)
        if row is None:
            return await self._otherwise(context, caller, self._origins, self._descriptors, cmd, address)
        struct = row.struct
        if not caller.resident(address, struct.size):
            await caller.settle(address, struct.size)
        data = caller.memory.read(address, struct.size)
        if len(data) < 4:
            raise IoctlError(EFAULT, f"the struct's size cannot be read at {address + len(data):#x}")
        if row.number != cmd:
            raise IoctlError(ENOTTY, f"no ioctl has the number {cmd:#x}")
        user_size = int.from_bytes(data[:4], "little")
        if user_size < row.min_size:
            raise IoctlError(EINVAL, f"size {user_size} is less than {row.min_size}, the oldest struct {struct.name}")
        if user_size > struct.size:
            await check_tail(caller, struct, address, user_size)
        else:
            data = data[:user_size]
        if len(data) < min(user_size, struct.size):
            raise IoctlError(EFAULT, f"the struct cannot be read at {address + len(data):#x}")
        cmd_struct = codec.decode(struct, data)
        if row.flags is not None and cmd_struct.flags & ~row.flags:
            raise IoctlError(
                EOPNOTSUPP, f"flags {cmd_struct.flags:#x} has the unknown bits {cmd_struct.flags & ~row.flags:#x}"
            )
        for name, place in row.zero:
            if any(data[place]):
                raise IoctlError(EOPNOTSUPP, f"{name} is not 0")
        await row.handler(
            Request(context, caller, self._origins, self._descriptors, struct, address, user_size, cmd_struct)
        )
        return 0


async def _no_handler(request: Request) -> None:
    raise AssertionError("no number is a hole's")


_HOLE: Final = Row("", -1, _no_handler, Layout("", 4, codec.NOTHING), 4, None, ())


async def check_tail(caller: Client, struct: Layout, address: int, user_size: int) -> None:
    """Bytes beyond the struct that we know must be zero. E2BIG: they are not. EFAULT: they cannot
    all be read.
    """
    start, length = address + struct.size, user_size - struct.size
    if length <= SMALL_TAIL:
        if not caller.resident(start, length):
            await caller.settle(start, length)
        data = caller.memory.read(start, length)
        zeros, other = len(data), data.count(0) != len(data)
    else:
        zeros, other = await caller.zeros(start, length)
    if other:
        raise IoctlError(
            E2BIG, f"the {user_size} bytes given are not zero beyond the {struct.size} of struct {struct.name}"
        )
    if zeros < length:
        raise IoctlError(EFAULT, f"the struct cannot be read at {start + zeros:#x}")
