"""The IOAS_* ioctls: from wire values to the engine's, in the kernel's order of checks. Ref: v7.3
ioas.c
"""

from collections.abc import Callable
from errno import EBADF, EDEADLK, EINVAL, EMSGSIZE, ENOENT, EOVERFLOW
from typing import Final

import trio

from cuse_glue.request.inline import leave

from ..engine.device.change_process import change_process
from ..engine.mapping.allowed import Allowed, Given
from ..engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from ..engine.mapping.ioas import Ioas
from ..engine.memory.area import Area
from ..engine.memory.dma_buf import dma_buf_slice
from ..engine.memory.pages import Slice, check_file_range, file_slice, user_slice
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..uapi.header import const, ffi
from .dma_buf import dma_buf_behind
from .locking import locked
from .request import Request

CAP_IPC_LOCK: Final = 14
UNMAP_AT_ONCE: Final = 2048  # areas between which other requests get their turn
UNMAP_TRIES: Final = 100  # how often accesses may be asked again to unpin an area
RANGES_AT_ONCE: Final = 4096  # struct iommu_iova_range

_FIXED: Final = const("IOMMU_IOAS_MAP_FIXED_IOVA")
_WRITEABLE: Final = const("IOMMU_IOAS_MAP_WRITEABLE")
_READABLE: Final = const("IOMMU_IOAS_MAP_READABLE")
_RANGE_SIZE: Final = ffi.sizeof("struct iommu_iova_range")


async def ioas_alloc(request: Request) -> None:
    """ENOMEM: no ID is left. EFAULT: the ID cannot be told, so there is no IOAS."""
    ioas = Ioas(request.context.host)
    request.context.objects.reserve(ioas)
    with request.creating(ioas):
        request.cmd.out_ioas_id = ioas.id


async def ioas_iova_ranges(request: Request) -> None:
    """ENOENT: no such IOAS. EFAULT: the array or the struct cannot be written. EMSGSIZE: the array
    is too short; num_iovas tells.
    """
    cmd = request.cmd
    ioas = request.context.ioas(cmd.ioas_id)
    iopt = ioas.iopt
    room, count = cmd.num_iovas, 0
    with request.context.objects.using(ioas, request):
        await request.settle(cmd.allowed_iovas, min(room, len(iopt.reserved) + 1) * _RANGE_SIZE)
    cmd.out_iova_alignment = iopt.iova_alignment
    for start, last in iopt.usable():
        if count < room:
            data = start.to_bytes(8, "little") + last.to_bytes(8, "little")
            request.write(cmd.allowed_iovas + count * _RANGE_SIZE & U64_MAX, data, f"range {count}")
        count += 1
    cmd.num_iovas = count
    request.respond()
    if count > room:
        raise IoctlError(EMSGSIZE, f"there are {count} ranges, the array has room for {room}")


async def ioas_allow_iovas(request: Request) -> None:
    """ENOENT: no such IOAS. EFAULT: the array ends early. EINVAL: a range is empty, a single IOVA,
    or overlaps another. EADDRINUSE: a range is reserved; the list then stays as it was."""
    cmd = request.cmd
    ioas = request.context.ioas(cmd.ioas_id)
    with request.context.objects.using(ioas, request):
        ranges = await _load_ranges(request, cmd.allowed_iovas, cmd.num_iovas)
        async with locked(ioas):
            ioas.iopt.allow(ranges)


async def _load_ranges(request: Request, address: int, count: int) -> Allowed:
    given = Given()
    while given.count < count:
        wanted = min(RANGES_AT_ONCE, count - given.count) * _RANGE_SIZE
        position = address + given.count * _RANGE_SIZE & U64_MAX
        await request.settle(position, wanted)
        data = request.caller.memory.read(position, wanted)
        given.add(data[: len(data) // _RANGE_SIZE * _RANGE_SIZE])
        if len(data) < wanted:
            if given.count < count:
                given.unreadable = f"range {given.count} cannot be read at {position + len(data):#x}"
            break
        if given.count < count:
            await leave()
            await trio.lowlevel.checkpoint()
    steps = given.ordered()
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: Allowed = stop.value
            return found
        await leave()
        await trio.lowlevel.checkpoint()


async def ioas_map(request: Request) -> None:
    """Errors: see `_check_numbers` and IoPagetable.map. ENOENT: no such IOAS. EFAULT: the IOVA
    cannot be told; the area stays.
    """
    cmd = request.cmd
    flags = cmd.flags
    _check_numbers(flags, iova=cmd.iova, length=cmd.length)
    ioas = request.context.ioas(cmd.ioas_id)
    account_mode = request.context.account_mode_for(request.caller.capable(CAP_IPC_LOCK))
    origin = request.address_space()
    part = user_slice(origin, cmd.user_va, cmd.length, writable=bool(flags & _WRITEABLE), account_mode=account_mode)
    async with locked(ioas):
        if ioas.iopt.domains:
            async with request.looked(origin, cmd.user_va, cmd.length):
                cmd.iova = _map(ioas, [part], cmd.length, cmd.iova, flags)
        else:
            cmd.iova = _map(ioas, [part], cmd.length, cmd.iova, flags)
    request.respond()


async def ioas_map_file(request: Request) -> None:
    """As `ioas_map`, and EBADF: no such descriptor. ENODEV: a revoked dma-buf. EINVAL: the range is
    not all within a dma-buf.
    """
    cmd = request.cmd
    flags = cmd.flags
    _check_numbers(flags, iova=cmd.iova, length=cmd.length)
    ioas = request.context.ioas(cmd.ioas_id)
    check_file_range(cmd.start, cmd.length)
    buffer = dma_buf_behind(request, cmd.fd)
    if buffer is not None:
        shown = dma_buf_slice(buffer, cmd.start, cmd.length, writable=bool(flags & _WRITEABLE))
        async with locked(ioas):
            cmd.iova = _map(ioas, [shown], cmd.length, cmd.iova, flags)
        request.respond()
        return
    try:
        file = request.origins.file(request.caller, cmd.fd)
    except OSError as error:
        raise IoctlError(EBADF, f"descriptor {cmd.fd} of the caller: {error.strerror}") from None
    file.get()
    try:
        account_mode = request.context.account_mode_for(request.caller.capable(CAP_IPC_LOCK))
        part = file_slice(file, cmd.start, cmd.length, writable=bool(flags & _WRITEABLE), account_mode=account_mode)
        async with locked(ioas):
            cmd.iova = _map(ioas, [part], cmd.length, cmd.iova, flags)
    finally:
        file.put()
    request.respond()


async def ioas_change_process(request: Request) -> None:
    """Errors: engine.device.change_process."""
    change_process(request.context, request.moved)


async def ioas_copy(request: Request) -> None:
    """ENOENT: an IOAS is missing, or a part of the source is not mapped. EPERM: the copy is
    writeable and its pages are not. Others: as `ioas_map`.
    """
    cmd = request.cmd
    flags = cmd.flags
    _check_numbers(flags, length=cmd.length, src_iova=cmd.src_iova, dst_iova=cmd.dst_iova)
    parts = request.context.ioas(cmd.src_ioas_id).iopt.slices(cmd.src_iova, cmd.length)
    try:
        destination = request.context.ioas(cmd.dst_ioas_id)
    except IoctlError:
        _put(parts)
        raise
    async with locked(destination):
        cmd.dst_iova = _map(destination, parts, cmd.length, cmd.dst_iova, flags)
    request.respond()


async def ioas_unmap(request: Request) -> None:
    """ENOENT: no such IOAS, nothing is mapped there, or an area reaches out of the range. EINVAL:
    length 0. EOVERFLOW: beyond 2^64 - 1. EBUSY: an area is in use. `length` becomes the bytes
    unmapped; 0 with length U64_MAX means everything, even nothing."""
    cmd = request.cmd
    ioas = request.context.ioas(cmd.ioas_id)
    start, length = cmd.iova, cmd.length
    everything = start == 0 and length == U64_MAX
    if everything:
        last = U64_MAX
    else:
        if start == U64_MAX or length == U64_MAX:
            raise IoctlError(EOVERFLOW, f"IOVA {start:#x} or length {length:#x} is U64_MAX")
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = start + length - 1
        if last > U64_MAX:
            raise IoctlError(EOVERFLOW, f"IOVA {start:#x} + length {length:#x} is beyond 2^64 - 1")
    counted: list[int] = []
    with request.context.objects.using(ioas, request):
        await unmap_range(ioas, start, last, counted.append)
    cmd.length = sum(counted)
    if not cmd.length and not everything:
        raise IoctlError(ENOENT, f"nothing is mapped in {start:#x}..{last:#x}")
    request.respond()


async def unmap_range(ioas: Ioas, start: int, last: int, unmapped: Callable[[int], object]) -> None:
    """Unmap the areas in start..last. `unmapped` is told the bytes as it goes. If accesses have
    pinned an area, they are first asked to let go.

    EDEADLK: they do not let go. Others: as IoPagetable.unmap. Ref: v7.3 io_pagetable.c
    iopt_unmap_iova_range
    """
    tries = 0
    asked: Area | None = None
    position: int | None = start
    while position is not None:
        async with locked(ioas):
            count, position = ioas.iopt.unmap(position, last, UNMAP_AT_ONCE)
        unmapped(count)
        if position is None:
            break
        area = ioas.iopt.pinned_at(position)
        if area is None:
            if not ioas.iopt.refuses(position, last):  # there are more than are unmapped at once
                await leave()
                await trio.lowlevel.checkpoint()
            continue
        tries = tries + 1 if area is asked else 1
        asked = area
        for access in list(ioas.iopt.accesses):
            await access.ask_to_unpin(area.iova, area.length, ioas)
        if tries > UNMAP_TRIES:
            raise IoctlError(EDEADLK, f"{area} stays pinned by {', '.join(map(str, ioas.iopt.accesses))}")


def _check_numbers(flags: int, **numbers: int) -> None:
    """EOVERFLOW: one of the numbers is U64_MAX. EINVAL: neither readable nor writeable."""
    for name, value in numbers.items():
        if value == U64_MAX:
            raise IoctlError(EOVERFLOW, f"{name} is U64_MAX")
    if not flags & (_WRITEABLE | _READABLE):
        raise IoctlError(EINVAL, "neither IOMMU_IOAS_MAP_READABLE nor IOMMU_IOAS_MAP_WRITEABLE is given")


def _map(ioas: Ioas, parts: list[Slice], length: int, iova: int, flags: int) -> int:
    prot = (PROT_WRITE if flags & _WRITEABLE else 0) | (PROT_READ if flags & _READABLE else 0)
    try:
        return ioas.iopt.map(parts, length, iova if flags & _FIXED else None, prot)
    except IoctlError:
        _put(parts)
        raise


def _put(parts: list[Slice]) -> None:
    for part in parts:
        part.pages.put()
