"""VFIO's container on /dev/iommu, for programs that know type1 and not IOMMUFD. It acts on one
IOAS, the compat IOAS.

The order of checks is that of vfio_compat.c: the struct is read (EFAULT), argsz and flags are
checked (EINVAL), then the compat IOAS must be there (ENODEV). VFIO_IOAS says which IOAS that is.

Ref: v7.3 vfio_compat.c
"""

from collections.abc import Callable, Mapping
from errno import EINVAL, ENOTTY, EOPNOTSUPP, EOVERFLOW, EPERM
from struct import Struct
from typing import Final

from ..engine.device.context import Context
from ..engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from ..engine.mapping.ioas import Ioas
from ..engine.mapping.split import cut
from ..engine.memory.origin import PAGE_SIZE
from ..engine.memory.pages import user_slice
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..uapi import codec
from ..uapi.header import const, fields, struct_size
from .ioas import CAP_IPC_LOCK, unmap_range
from .locking import locked
from .noiommu import CAP_SYS_RAWIO
from .request import Client, Descriptors, Origins, Request
from .row import Row, op

API_VERSION: Final = const("VFIO_API_VERSION")
TYPE1: Final = const("VFIO_TYPE1_IOMMU")
TYPE1V2: Final = const("VFIO_TYPE1v2_IOMMU")
NOIOMMU: Final = const("VFIO_NOIOMMU_IOMMU")
UNMAP_ALL: Final = const("VFIO_UNMAP_ALL")
DMA_CC: Final = const("VFIO_DMA_CC_IOMMU")
_READ: Final = const("VFIO_DMA_MAP_FLAG_READ")
_WRITE: Final = const("VFIO_DMA_MAP_FLAG_WRITE")
_ALL: Final = const("VFIO_DMA_UNMAP_FLAG_ALL")
_CAP: Final = Struct("<HHI")  # struct vfio_info_cap_header
_RANGE: Final = Struct("<QQ")  # struct vfio_iova_range
_AVAIL_SIZE: Final = struct_size("vfio_iommu_type1_info_dma_avail")
_IOVA_CAP_SIZE: Final = struct_size("vfio_iommu_type1_info_cap_iova_range")
_NEXT: Final = fields("vfio_info_cap_header")["next"].offset
_INFO_SIZE: Final = struct_size("vfio_iommu_type1_info")
assert _CAP.size == struct_size("vfio_info_cap_header")
assert _RANGE.size == struct_size("vfio_iova_range")
U32_MAX: Final = (1 << 32) - 1


async def vfio_ioctl(
    context: Context, caller: Client, origins: Origins, descriptors: Descriptors, cmd: int, argument: int
) -> int:
    """Carry out one ioctl whose number is outside IOMMUFD's table. Returns its result. ENOTTY: it
    is not VFIO's either.
    """
    plain = PLAIN.get(cmd)
    if plain is not None:
        return plain(context, caller, argument)
    row = ROWS.get(cmd)
    if row is None:
        raise IoctlError(ENOTTY, f"no ioctl has the number {cmd:#x}")
    struct = row.struct
    request = Request(context, caller, origins, descriptors, struct, argument, row.min_size, None)
    await request.settle(argument, struct.size)
    request.cmd = codec.decode(struct, request.read(argument, row.min_size, "the struct"))
    if request.cmd.argsz < row.min_size:
        raise IoctlError(
            EINVAL, f"argsz {request.cmd.argsz} is less than {row.min_size}, which struct {struct.name} has"
        )
    await row.handler(request)
    return 0


async def vfio_ioas(request: Request) -> None:
    """VFIO_IOAS: tell, set or forget the compat IOAS. EOPNOTSUPP: an unknown op. ENODEV: GET, and
    there is none. ENOENT: SET, and there is no such IOAS."""
    cmd, context = request.cmd, request.context
    if cmd.op == const("IOMMU_VFIO_IOAS_GET"):
        cmd.ioas_id = context.compat_ioas().id
        request.respond()
    elif cmd.op == const("IOMMU_VFIO_IOAS_SET"):
        context.set_compat_ioas(context.ioas(cmd.ioas_id))
    elif cmd.op == const("IOMMU_VFIO_IOAS_CLEAR"):
        context.set_compat_ioas(None)
    else:
        raise IoctlError(EOPNOTSUPP, f"op {cmd.op} is neither GET, SET nor CLEAR")


# --- those without a struct ---


def _get_api_version(_context: Context, _caller: Client, _argument: int) -> int:
    return API_VERSION


def _check_extension(context: Context, _caller: Client, extension: int) -> int:
    """1: it is there. 0: it is not, or is unknown. ENODEV: VFIO_DMA_CC_IOMMU, and there is no
    compat IOAS.
    """
    if extension in (TYPE1, TYPE1V2, UNMAP_ALL):
        return int(not context.no_iommu)
    if extension == NOIOMMU:
        return 1  # as distributions' kernels have it
    if extension == DMA_CC:
        return int(all(hwpt.enforce_coherency for hwpt in context.compat_ioas().hwpts))
    return 0


def _set_iommu(context: Context, caller: Client, kind: int) -> int:
    """EINVAL: neither TYPE1 nor TYPE1v2, or TYPE1 when page tables show areas already. ENODEV: no
    compat IOAS, as without a group. EADDRINUSE: TYPE1, and an area is off the alignment of a page.
    With devices that have no IOMMU it is the other way round: all but NOIOMMU is EINVAL, and that
    takes CAP_SYS_RAWIO (EPERM)."""
    if kind == NOIOMMU and context.no_iommu:
        if not caller.capable(CAP_SYS_RAWIO):
            raise IoctlError(EPERM, "VFIO_NOIOMMU_IOMMU takes CAP_SYS_RAWIO")
        return 0
    if kind not in (TYPE1, TYPE1V2) or context.no_iommu:
        wanted = "VFIO_NOIOMMU_IOMMU" if context.no_iommu else "VFIO_TYPE1_IOMMU or VFIO_TYPE1v2_IOMMU"
        raise IoctlError(EINVAL, f"kind {kind}; wanted: {wanted}")
    ioas = context.compat_ioas()
    if kind == TYPE1:
        ioas.iopt.disable_large_pages()
    return 0


# Those that take a number in place of a struct.
PLAIN: Final[Mapping[int, Callable[[Context, Client, int], int]]] = {
    const("VFIO_GET_API_VERSION"): _get_api_version,
    const("VFIO_CHECK_EXTENSION"): _check_extension,
    const("VFIO_SET_IOMMU"): _set_iommu,
}


# --- mappings ---


async def _map_dma(request: Request) -> None:
    """As IOAS_MAP at a fixed IOVA. But a mapping that is neither readable nor writeable is accepted
    until a page table has to show it. EINVAL: unknown flags. ENODEV: no compat IOAS.
    """
    cmd = request.cmd
    if cmd.flags & ~(_READ | _WRITE):
        raise IoctlError(EINVAL, f"flags {cmd.flags:#x} has the unknown bits {cmd.flags & ~(_READ | _WRITE):#x}")
    ioas = request.context.compat_ioas()
    prot = (PROT_READ if cmd.flags & _READ else 0) | (PROT_WRITE if cmd.flags & _WRITE else 0)
    mode = request.context.account_mode_for(request.caller.capable(CAP_IPC_LOCK))
    part = user_slice(
        request.address_space(), cmd.vaddr, cmd.size, writable=bool(cmd.flags & _WRITE), account_mode=mode
    )
    async with locked(ioas):
        try:
            ioas.iopt.map([part], cmd.size, cmd.iova, prot)
        except IoctlError:
            part.pages.put()
            raise


async def _unmap_dma(request: Request) -> None:
    """`size` becomes the bytes unmapped, even if it failed half way. For TYPE1 the range may begin
    and end within an area.

    EINVAL: flags other than ALL, ALL with a range, size 0. EOVERFLOW: beyond 2^64 - 1. ENODEV: no
    compat IOAS. ENOENT: the range cuts an area of TYPE1v2. Others: split.cut, unmap_range. EFAULT:
    the struct cannot be written. It is no error if nothing is mapped there.
    """
    cmd = request.cmd
    if cmd.flags & ~_ALL:
        raise IoctlError(EINVAL, f"flags {cmd.flags:#x} has the unknown bits {cmd.flags & ~_ALL:#x}")
    ioas = request.context.compat_ioas()
    start, last = cmd.iova, cmd.iova + cmd.size - 1
    if cmd.flags & _ALL:
        if cmd.iova or cmd.size:
            raise IoctlError(EINVAL, f"VFIO_DMA_UNMAP_FLAG_ALL with iova {cmd.iova:#x}, size {cmd.size:#x}, must be 0")
        start, last = 0, U64_MAX
    elif not ioas.iopt.large_pages:
        async with locked(ioas):
            cut(ioas.iopt, [last & U64_MAX] + ([start - 1] if start else []))
    counted: list[int] = []
    refusal: IoctlError | None = None
    try:
        if not cmd.size and not cmd.flags & _ALL:
            raise IoctlError(EINVAL, "size is 0")
        if last > U64_MAX:
            raise IoctlError(EOVERFLOW, f"IOVA {start:#x} + size {cmd.size:#x} is beyond 2^64 - 1")
        with request.context.objects.using(ioas, request):
            await unmap_range(ioas, start, last, counted.append)
    except IoctlError as error:
        refusal = error
    cmd.size = sum(counted)
    request.respond()
    if refusal is not None:
        raise refusal


# --- what there is ---


async def _iommu_get_info(request: Request) -> None:
    """Page sizes, and behind the struct, as far as argsz leaves room, the capabilities DMA_AVAIL
    and IOVA_RANGE. argsz becomes the size of all of it. ENODEV: no compat IOAS. EFAULT: something
    cannot be written; what comes before it stays.

    Ref: v7.3 vfio_compat.c iommufd_vfio_iommu_get_info
    """
    info, base, room = request.cmd, request.address, request.cmd.argsz
    ioas = request.context.compat_ioas()
    most = _INFO_SIZE + _aligned(_AVAIL_SIZE) + _IOVA_CAP_SIZE + (len(ioas.iopt.reserved) + 1) * _RANGE.size
    with request.context.objects.using(ioas, request):
        await request.settle(base, min(room, most))
    total, previous = _INFO_SIZE, 0
    for fill in _fill_dma_avail, _fill_iova_ranges:
        size = fill(request, ioas, base + total, max(room - total, 0))
        if previous and room >= total:
            request.write(base + previous + _NEXT, total.to_bytes(4, "little"), "a capability")
        previous = total
        total += _aligned(size)
    info.flags = const("VFIO_IOMMU_INFO_PGSIZES") | const("VFIO_IOMMU_INFO_CAPS")
    # Ref: v7.3 vfio_compat.c iommufd_get_pagesizes
    info.iova_pgsizes = max(page_sizes(ioas), ioas.iopt.iova_alignment)
    info.cap_offset = _INFO_SIZE if room >= total else 0
    info.argsz = total
    request.write(base, codec.encode(info, min(room, _INFO_SIZE)), "the struct")


def _aligned(size: int) -> int:
    """The place (bytes) where the next capability begins."""
    return size + 7 & ~7


def page_sizes(ioas: Ioas) -> int:
    """Those of all its page tables, as VFIO tells them: a bitmap of sizes (bytes). What is smaller
    than a page of the system is told as that.
    """
    sizes = U64_MAX
    for domain in ioas.iopt.domains:
        sizes &= domain.page_sizes
    if sizes & (PAGE_SIZE - 1):
        sizes = sizes & ~(PAGE_SIZE - 1) | PAGE_SIZE
    return sizes


def _fill_dma_avail(request: Request, _ioas: Ioas, place: int, room: int) -> int:
    cap = _CAP.pack(const("VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL"), 1, 0) + U32_MAX.to_bytes(4, "little")
    if room >= len(cap):
        request.write(place, cap, "a capability")
    return len(cap)


def _fill_iova_ranges(request: Request, ioas: Ioas, place: int, room: int) -> int:
    # Ref: v7.3 vfio_compat.c iommufd_fill_cap_iova
    size, count = _IOVA_CAP_SIZE, 0
    for start, last in ioas.iopt.usable():
        if room >= size + _RANGE.size:
            request.write(place + size, _RANGE.pack(start, last), "a range")
        size += _RANGE.size
        count += 1
    if room >= size:
        request.write(
            place,
            _CAP.pack(const("VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE"), 1, 0) + count.to_bytes(8, "little"),
            "a capability",
        )
    return size


# Their numbers lie beyond IOMMUFD's table, and so do their rules: the struct's size is in argsz,
# which must reach `min_size`; what lies beyond is not looked at. Ref: v7.3 vfio_compat.c
# iommufd_vfio_ioctl
ROWS: Final[Mapping[int, Row]] = {
    row.number: row
    for row in (
        op("VFIO_IOMMU_GET_INFO", _iommu_get_info, "vfio_iommu_type1_info", last="iova_pgsizes"),
        op("VFIO_IOMMU_MAP_DMA", _map_dma, "vfio_iommu_type1_dma_map", last="size"),
        op("VFIO_IOMMU_UNMAP_DMA", _unmap_dma, "vfio_iommu_type1_dma_unmap", last="size"),
    )
}
