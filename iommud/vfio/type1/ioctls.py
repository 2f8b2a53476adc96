"""The ioctls of a container.

Three come without a driver, and take a number in place of a struct. All others are the driver's.
Their rules: the struct is read (EFAULT), argsz must cover it, and flags must be known (EINVAL);
then come the numbers, then what is mapped.

Ref: v7.3 container.c vfio_fops_unl_ioctl, vfio_iommu_type1.c vfio_iommu_type1_ioctl
"""

from collections.abc import Awaitable, Callable, Mapping
from errno import EACCES, EINVAL, ENOTTY
from struct import Struct
from typing import Final

from ...engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from ...engine.memory.span import U64_MAX, last_of
from ...errors import IoctlError
from ...ops.ioas import CAP_IPC_LOCK
from ...ops.locking import give_way, locked
from ...ops.request import Client, Request
from ...ops.vfio import API_VERSION
from ...uapi import codec
from ...uapi.header import const, offset_end, struct_size
from ...uapi.layout import Layout, layout
from ..outside import Outside
from . import bitmap
from .container import Container
from .dma import Dma
from .driver import Type1
from .info import tell
from .memory import map_memory

_READ: Final = const("VFIO_DMA_MAP_FLAG_READ")
_WRITE: Final = const("VFIO_DMA_MAP_FLAG_WRITE")
_MAP_VADDR: Final = const("VFIO_DMA_MAP_FLAG_VADDR")
_GET_BITMAP: Final = const("VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP")
_ALL: Final = const("VFIO_DMA_UNMAP_FLAG_ALL")
_UNMAP_VADDR: Final = const("VFIO_DMA_UNMAP_FLAG_VADDR")
_START: Final = const("VFIO_IOMMU_DIRTY_PAGES_FLAG_START")
_STOP: Final = const("VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP")
_GET: Final = const("VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP")
_RANGE: Final = Struct("<QQ")  # the head of struct vfio_iommu_type1_dirty_bitmap_get
_BITMAP_SIZE: Final = struct_size("vfio_bitmap")
_GET_SIZE: Final = struct_size("vfio_iommu_type1_dirty_bitmap_get")
assert _RANGE.size + _BITMAP_SIZE == _GET_SIZE
AT_ONCE: Final = 1024  # mappings between which other requests get their turn


async def dispatch(container: Container, caller: Client, outside: Outside, cmd: int, argument: int) -> int:
    """Carry out one ioctl; its result. IoctlError: what the client gets, and why. EINVAL: it takes
    a driver. ENOTTY: the driver has no such ioctl.
    """
    if cmd == const("VFIO_GET_API_VERSION"):
        return API_VERSION
    if cmd == const("VFIO_CHECK_EXTENSION"):
        return container.check_extension(argument)
    if cmd == const("VFIO_SET_IOMMU"):
        container.set_iommu(argument, caller)
        return 0
    driver = container.driven(cmd)
    row = _ROWS.get(cmd)
    if row is None:
        raise IoctlError(ENOTTY, f"type1 has no ioctl {cmd:#x}")
    handler, struct, size = row
    if handler is _dirty_pages and not driver.v2:
        raise IoctlError(EACCES, "VFIO_IOMMU_DIRTY_PAGES takes VFIO_TYPE1v2_IOMMU")
    request = Request(container.context, caller, outside.origins, outside.descriptors, struct, argument, size, None)
    await request.settle(argument, size)
    request.cmd = codec.decode(struct, request.read(argument, size, "the struct"))
    if request.cmd.argsz < size:
        raise IoctlError(EINVAL, f"argsz {request.cmd.argsz} is less than {size}, which struct {struct.name} has")
    async with locked(driver):
        await handler(driver, request, outside)
    return 0


async def _get_info(driver: Type1, request: Request, _outside: Outside) -> None:
    await tell(driver, request)


async def _map_dma(driver: Type1, request: Request, outside: Outside) -> None:
    """Map memory of the caller, which is pinned now; or tell a mapping its address anew, with
    VFIO_DMA_MAP_FLAG_VADDR.

    EINVAL: unknown flags, size 0, neither readable nor writeable (with FLAG_VADDR: either), or off
    the page. EOVERFLOW: IOVA or address beyond 2^64 - 1. Others: Type1.map, Type1.revive.

    Ref: v7.3 vfio_iommu_type1.c vfio_iommu_type1_map_dma, vfio_dma_do_map
    """
    cmd = request.cmd
    flags, iova, size = cmd.flags, cmd.iova, cmd.size
    _check_flags(flags, _READ | _WRITE | _MAP_VADDR)
    if not size:
        raise IoctlError(EINVAL, "size is 0")
    last = last_of(iova, size)
    last_of(cmd.vaddr, size, "address")
    if bool(flags & _MAP_VADDR) == bool(flags & (_READ | _WRITE)):
        raise IoctlError(EINVAL, f"flags {flags:#x}: wanted is READ or WRITE, or else VADDR alone")
    if (iova | size | cmd.vaddr) & (driver.smallest_page - 1):
        raise IoctlError(
            EINVAL,
            f"IOVA {iova:#x}, size {size:#x} or address {cmd.vaddr:#x} is off the page {driver.smallest_page:#x}",
        )
    if flags & _MAP_VADDR:
        mode = request.context.account_mode_for(request.caller.capable(CAP_IPC_LOCK))
        driver.revive(iova, last, request.address_space(), mode)
        return
    driver.check_new(iova, last)
    prot = (PROT_READ if flags & _READ else 0) | (PROT_WRITE if flags & _WRITE else 0)
    await map_memory(driver, request, outside, prot)


async def _unmap_dma(driver: Type1, request: Request, _outside: Outside) -> None:
    """Unmap the mappings in a range; or, with VFIO_DMA_UNMAP_FLAG_VADDR, let them wait for new
    addresses. `size` becomes the bytes of those, but on failure it stays as it was.

    EINVAL: flags; a range that is off the page, or empty, or not empty with FLAG_ALL; a bitmap.
    EOVERFLOW: beyond 2^64 - 1. Others: Type1.unmapped_by, Type1.invalidate, bitmap.write; what was
    unmapped before stays unmapped.

    Ref: v7.3 vfio_iommu_type1.c vfio_iommu_type1_unmap_dma, vfio_dma_do_unmap
    """
    cmd = request.cmd
    flags, iova, size = cmd.flags, cmd.iova, cmd.size
    _check_flags(flags, _GET_BITMAP | _ALL | _UNMAP_VADDR)
    if flags & _GET_BITMAP and flags & (_ALL | _UNMAP_VADDR):
        raise IoctlError(EINVAL, "VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP goes with no other flag")
    target = None
    if flags & _GET_BITMAP:
        if cmd.argsz < request.user_size + _BITMAP_SIZE:
            raise IoctlError(EINVAL, f"argsz {cmd.argsz} has no room for struct vfio_bitmap")
        target = await bitmap.read(request, request.user_size, size)
    last = _last_to_unmap(driver, flags, iova, size)
    if target is not None:
        bitmap.check_page(driver, target)
    found = driver.unmapped_by(iova, last, everything=bool(flags & _ALL))
    if flags & _UNMAP_VADDR:
        driver.invalidate(found)
        cmd.size = sum(dma.size for dma in found)
    else:
        cmd.size = await _remove(driver, request, found, target)
    request.respond()


def _last_to_unmap(driver: Type1, flags: int, iova: int, size: int) -> int:
    """The last IOVA of the range. EINVAL, EOVERFLOW: as `_unmap_dma`."""
    page = driver.smallest_page
    if flags & _ALL:
        if iova or size:
            raise IoctlError(EINVAL, f"VFIO_DMA_UNMAP_FLAG_ALL with iova {iova:#x}, size {size:#x}, must be 0")
        return U64_MAX
    if not size or (iova | size) & (page - 1):
        raise IoctlError(EINVAL, f"size {size:#x} is 0, or that or IOVA {iova:#x} is off the page {page:#x}")
    return last_of(iova, size)


async def _remove(driver: Type1, request: Request, found: list[Dma], target: bitmap.Target | None) -> int:
    """Unmap them, and tell in a bitmap what was dirty; the bytes. EFAULT: bitmap.write."""
    size, base = 0, request.cmd.iova
    for count, dma in enumerate(found, 1):
        if target is not None:
            await bitmap.write(request, target, dma, base)
        if count % AT_ONCE == 0:
            await give_way()
        if driver.is_released:
            break
        size += dma.size
        driver.remove(dma)
    return size


async def _dirty_pages(driver: Type1, request: Request, _outside: Outside) -> None:
    """Begin, end, or tell which pages devices may have written: all, as no device of VFIO's tells
    type1. EINVAL: unknown flags, or more than one; GET_BITMAP without START.

    Ref: v7.3 vfio_iommu_type1.c vfio_iommu_type1_dirty_pages
    """
    flags = request.cmd.flags
    _check_flags(flags, _START | _STOP | _GET)
    if flags in (_START, _STOP):
        driver.track_dirty(flags == _START)
    elif flags == _GET:
        await _get_bitmap(driver, request)
    else:
        raise IoctlError(EINVAL, f"flags {flags:#x} is not one flag")


async def _get_bitmap(driver: Type1, request: Request) -> None:
    """EINVAL: argsz, an empty range or one off the page, the bitmap's struct; tracking was not
    started; or the range cuts a mapping. EOVERFLOW: beyond 2^64 - 1. EFAULT: the struct, or the
    bitmap.
    """
    place = request.user_size
    if request.cmd.argsz < place + _GET_SIZE:
        raise IoctlError(EINVAL, f"argsz {request.cmd.argsz} is less than {place + _GET_SIZE}")
    await request.settle(request.address + place, _GET_SIZE)
    iova, size = _RANGE.unpack(request.read(request.address + place, _GET_SIZE, "the range")[: _RANGE.size])
    if not size:
        raise IoctlError(EINVAL, "size is 0")
    last = last_of(iova, size)
    target = await bitmap.read(request, place + _RANGE.size, size)
    if (iova | size) & (driver.smallest_page - 1):
        raise IoctlError(EINVAL, f"IOVA {iova:#x} or size {size:#x} is off the page {driver.smallest_page:#x}")
    bitmap.check_page(driver, target)
    for count, dma in enumerate(driver.uncut(iova, last), 1):
        await bitmap.write(request, target, dma, iova)
        if count % AT_ONCE == 0:
            await give_way()


def _check_flags(flags: int, known: int) -> None:
    if flags & ~known:
        raise IoctlError(EINVAL, f"flags {flags:#x} has the unknown bits {flags & ~known:#x}")


_Handler = Callable[[Type1, Request, Outside], Awaitable[None]]


def _row(handler: _Handler, struct: str, last: str) -> tuple[_Handler, Layout, int]:
    return handler, layout(struct), offset_end(struct, last)


# Those of the driver: what carries it out, its struct, and how much of that is read (bytes).
_ROWS: Final[Mapping[int, tuple[_Handler, Layout, int]]] = {
    const("VFIO_IOMMU_GET_INFO"): _row(_get_info, "vfio_iommu_type1_info", "iova_pgsizes"),
    const("VFIO_IOMMU_MAP_DMA"): _row(_map_dma, "vfio_iommu_type1_dma_map", "size"),
    const("VFIO_IOMMU_UNMAP_DMA"): _row(_unmap_dma, "vfio_iommu_type1_dma_unmap", "size"),
    const("VFIO_IOMMU_DIRTY_PAGES"): _row(_dirty_pages, "vfio_iommu_type1_dirty_bitmap", "flags"),
}
