"""TEST_CMD: the operations of the kernel's selftest driver, as `--mock` answers them. Ref: v7.3 selftest.c iommufd_test

The kernel's test program drives the mock devices by these. What they do is in devices/mock.py; here is how they look on the wire, and in
which order the selftest driver checks.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from errno import EBADFD, EINVAL, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from functools import partial
from typing import Final

import trio

from cuse_glue.inline import leave

from ..devices import kinds, mock
from ..devices.mock_domains import MockNested
from ..engine import access as accesses
from ..engine import device as devices
from ..engine.access import Access
from ..engine.device import Device, Driver
from ..engine.hwpt import HwptPaging
from ..engine.nested import HwptNested
from ..engine.pages import PAGE_SIZE
from ..engine.span import U64_MAX
from ..engine.transfer import Transfer
from ..errors import IoctlError
from ..uapi.header import const, ffi
from . import test_dma, test_dmabuf, test_pasid
from .locking import in_steps, locked
from .noiommu import CAP_SYS_RAWIO
from .request import Request
from .test_pasid import tables

Operation = Callable[[Request], Awaitable[None]]

LARGEST_ACCESS: Final = 16 << 20  # bytes in one ACCESS_PAGES or ACCESS_RW
INLINE_COPY: Final = 128 << 10  # bytes; larger copies go to a thread
CHECKS_AT_ONCE: Final = 64  # pages

_WITH_FLAGS: Final = const("IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS")
NEW_DEVICE: Final = (const("IOMMU_TEST_OP_MOCK_DOMAIN"), _WITH_FLAGS)
_NEEDS_PIN: Final = const("MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES")
_ACCESS_WRITE: Final = const("MOCK_FLAGS_ACCESS_WRITE")
_SYZ: Final = const("MOCK_FLAGS_ACCESS_SYZ")
_RW_WRITE: Final = const("MOCK_ACCESS_RW_WRITE")
_RW_SLOW: Final = const("MOCK_ACCESS_RW_SLOW_PATH")
_SMALLEST_LIMIT: Final = 12  # bytes: a word and a u32, the least a batch of the kernel's takes
_ACCESS_FD_OFFSET: Final = ffi.offsetof("struct iommu_test_cmd", "create_access", "out_access_fd")


class TestCommand:
    """The ioctl, with devices that stand behind an IOMMU of the kind `iommu` (devices.kinds.KINDS)."""

    __test__ = False  # for pytest, which goes by the name

    def __init__(self, iommu: str = kinds.DEFAULT) -> None:
        new_device = partial(mock_domain, new_device=kinds.KINDS[iommu])
        self._operations: Final[Mapping[int, Operation]] = {**OPERATIONS, **dict.fromkeys(NEW_DEVICE, new_device)}

    async def __call__(self, request: Request) -> None:
        """EOPNOTSUPP: no such operation, or one that iommud does not have yet."""
        operation = self._operations.get(request.cmd.op)
        if operation is None:
            raise IoctlError(EOPNOTSUPP, f"the mock device has no operation {request.cmd.op}")
        await operation(request)


async def add_reserved(request: Request) -> None:
    """EINVAL: length 0. EOVERFLOW: beyond 2^64 - 1. ENOENT: no such IOAS. EADDRINUSE: mapped or allowed."""
    start, length = request.cmd.add_reserved.start, request.cmd.add_reserved.length
    if not length:
        raise IoctlError(EINVAL, "length is 0")
    last = start + length - 1
    if last > U64_MAX:
        raise IoctlError(EOVERFLOW, f"start {start:#x} + length {length:#x} is beyond 2^64 - 1")
    ioas = request.context.ioas(request.cmd.id)
    async with locked(ioas):
        # As long as the IOAS lives: no owner ever gives it back.
        ioas.iopt.reserve(start, last, ioas)


async def mock_domain(request: Request, new_device: Callable[[int], Driver] = kinds.KINDS[kinds.DEFAULT]) -> None:
    """A new device, bound and attached to the IOAS or HWPT `id`. Errors: the driver's, device.bind, Device.attach.

    EPERM: one without an IOMMU takes CAP_SYS_RAWIO, as it does to open VFIO's.
    """
    cmd, context = request.cmd, request.context
    flags = cmd.mock_domain_flags.dev_flags if cmd.op == _WITH_FLAGS else 0
    selftest = mock.Selftest()
    context.objects.reserve(selftest)
    try:
        selftest.driver = new_device(flags)
        if selftest.driver.iommu is None and not request.caller.capable(CAP_SYS_RAWIO):
            raise IoctlError(EPERM, f"{selftest.driver.name} does DMA to all memory; the caller does not have CAP_SYS_RAWIO")
        selftest.device = devices.bind(context, selftest.driver)
        async with locked(*tables(request, cmd.id)):
            hwpt_id = await in_steps(selftest.device.attach(cmd.id))
        cmd.mock_domain.out_stdev_id = selftest.id
        cmd.mock_domain.out_hwpt_id = hwpt_id
        cmd.mock_domain.out_idev_id = selftest.device.id
        request.respond()
    except BaseException:
        selftest.destroy()
        context.objects.abort(selftest)
        raise
    context.objects.publish(selftest)


async def mock_domain_replace(request: Request) -> None:
    """Attach the mock device `id` to another IOAS or HWPT. Errors: Device.replace."""
    cmd = request.cmd
    selftest = request.context.objects.get(cmd.id, mock.Selftest)
    assert selftest.device is not None
    pt_id = cmd.mock_domain_replace.pt_id
    async with locked(selftest, *tables(request, pt_id)):
        cmd.mock_domain_replace.pt_id = await in_steps(selftest.device.replace(pt_id))
    request.respond()


async def md_check_map(request: Request) -> None:
    """EINVAL: unaligned, or the page table `id` shows another page than the client sees. EFAULT: the client sees none."""
    cmd = request.cmd
    hwpt = request.context.objects.get(cmd.id, HwptPaging)
    if not isinstance(hwpt.domain.driver, mock.MockDriver):
        raise IoctlError(EINVAL, f"{hwpt} is no mock device's")
    iova, length, address = cmd.check_map.iova, cmd.check_map.length, cmd.check_map.uptr
    size = hwpt.domain.smallest_page
    if (iova | length | address) % size or address + length > U64_MAX:
        raise IoctlError(EINVAL, f"iova, length or uptr is not a multiple of {size}")
    with request.context.objects.using(hwpt, request):
        for done in range(0, length, size):
            page = (address + done) // PAGE_SIZE * PAGE_SIZE
            identity = request.origins.page_identity(request.caller, page)
            mock.check_map(hwpt, iova + done, identity, (address + done) % PAGE_SIZE)
            await _now_and_then(done // size)


async def md_check_refs(request: Request) -> None:
    """EINVAL: not page aligned. EFAULT: no page there. EIO: a page of the client is not pinned `refs` times (in all contexts)."""
    refs = request.cmd.check_refs
    if refs.length % PAGE_SIZE or refs.uptr % PAGE_SIZE or refs.uptr + refs.length > U64_MAX:
        raise IoctlError(EINVAL, "length or uptr is not page aligned")
    for done in range(0, refs.length, PAGE_SIZE):
        identity = request.origins.page_identity(request.caller, refs.uptr + done)
        mock.check_refs(request.context.host, identity, refs.refs)  # looks at all there is that is pinned
        await leave()
        await trio.lowlevel.checkpoint()


async def _now_and_then(step: int) -> None:
    if step % CHECKS_AT_ONCE == CHECKS_AT_ONCE - 1:
        await leave()
        await trio.lowlevel.checkpoint()


async def md_check_iotlb(request: Request) -> None:
    """ENOENT: no such nested page table. EINVAL: it is no mock device's, no such cache entry, or it holds something else."""
    check = request.cmd.check_iotlb
    hwpt = request.context.objects.get(request.cmd.id, HwptNested)
    if not isinstance(hwpt.domain, MockNested):
        raise IoctlError(EINVAL, f"{hwpt} is no mock device's")
    hwpt.domain.check_iotlb(check.id, check.iotlb)


async def dev_check_cache(request: Request) -> None:
    """ENOENT: no such device. EINVAL: no such cache entry, or it holds something else."""
    check = request.cmd.check_dev_cache
    driver = request.context.objects.get(request.cmd.id, Device).driver
    if not isinstance(driver, mock.MockDriver):
        raise IoctlError(EINVAL, f"{driver.name} is no mock device")
    if check.id >= mock.CACHE_ENTRIES or driver.cache[check.id] != check.cache:
        raise IoctlError(EINVAL, f"cache entry {check.id} is not {check.cache:#x}")


async def set_temp_memory_limit(request: Request) -> None:
    """How much memory the kernel takes for a batch of pages; iommud has no such batches. EINVAL: less than the least."""
    limit = request.cmd.memory_limit.limit
    if limit < _SMALLEST_LIMIT:
        raise IoctlError(EINVAL, f"limit {limit} is less than {_SMALLEST_LIMIT}")


# --- accesses ---


async def create_access(request: Request) -> None:
    """A descriptor whose open file is an access on the IOAS `id`. EOPNOTSUPP: unknown flags. Errors: Access.attach, giving a descriptor."""
    cmd = request.cmd
    flags = cmd.create_access.flags
    if flags & ~_NEEDS_PIN:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {flags & ~_NEEDS_PIN:#x}")
    user = mock.MockAccess(bool(flags & _NEEDS_PIN))
    user.access = accesses.create(request.context, user)
    try:
        await user.access.attach(cmd.id)
        await request.give(user, _ACCESS_FD_OFFSET)
    except BaseException:
        user.release()
        raise


async def access_replace_ioas(request: Request) -> None:
    """EBADFD: no access descriptor. ENOENT: no such IOAS. EADDRINUSE: its areas are off the alignment."""
    _, access = _access(request)
    with request.context.objects.using(access, request):
        await access.replace(request.cmd.access_replace_ioas.ioas_id)


async def access_pages(request: Request) -> None:
    """Pin pages, and check that they are the client's at uptr (unless that is 0).

    ENOMEM: more than 16 MiB. EOPNOTSUPP: unknown flags, or an access that does not pin. EBADFD: no access descriptor. EBADE: other
    pages. Errors: Access.pin_pages.
    """
    cmd = request.cmd
    wanted = cmd.access_pages
    iova, length, flags = wanted.iova, wanted.length, wanted.flags
    _check_access(length, flags, _ACCESS_WRITE | _SYZ)
    user, access = _access(request)
    if not user.pins:
        raise IoctlError(EOPNOTSUPP, f"{access} was created without MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES")
    if flags & _SYZ:
        iova = _nth_area(access, iova)
    pinned = user.pin(iova, length, write=bool(flags & _ACCESS_WRITE))
    try:
        if wanted.uptr:
            first = wanted.uptr - iova % PAGE_SIZE
            mock.check_pages(
                pinned,
                (
                    request.origins.page_identity(request.caller, first + at * PAGE_SIZE & U64_MAX)
                    for at in range(len(pinned))
                ),
            )
    except BaseException:
        user.undo(iova, length)
        raise
    item = user.keep(iova, length)
    wanted.out_access_pages_id = item.number
    try:
        request.respond()
    except IoctlError:
        user.forget(item)
        raise


async def destroy_access_pages(request: Request) -> None:
    """EBADFD: no access descriptor. ENOENT: it has no such pages pinned."""
    user, _ = _access(request)
    user.unpin(request.cmd.destroy_access_pages.access_pages_id)


async def access_rw(request: Request) -> None:
    """Copy between the client's buffer and the IOAS. ENOMEM: more than 16 MiB. EOPNOTSUPP: unknown flags. EBADFD: no access descriptor.
    EFAULT: the buffer cannot be reached. Errors: Access.write_from."""
    wanted = request.cmd.access_rw
    _check_access(wanted.length, wanted.flags, _RW_WRITE | _RW_SLOW | _SYZ)
    _, access = _access(request)
    iova = _nth_area(access, wanted.iova) if wanted.flags & _SYZ else wanted.iova
    near = None if wanted.flags & _RW_SLOW else request.address_space().mm
    await request.settle(wanted.uptr, wanted.length)
    write = bool(wanted.flags & _RW_WRITE)
    if wanted.length <= INLINE_COPY or access.ioas is None:
        _copy(request, access, iova, near, write=write)
        return
    async with locked(access, access.ioas):
        with access.transfer(iova, wanted.length, near, write=write) as transfer:
            await leave()
            await trio.to_thread.run_sync(_copy_large, request, transfer)


def _copy(request: Request, access: Access, iova: int, near: Hashable, *, write: bool) -> None:
    wanted = request.cmd.access_rw
    if write:
        data = request.read(wanted.uptr, wanted.length, "the buffer") if wanted.length else b""
        access.write_from(iova, memoryview(data), near)
        return
    buffer = bytearray(wanted.length)
    access.read_into(iova, memoryview(buffer), near)
    request.write(wanted.uptr, bytes(buffer), "the buffer")


def _copy_large(request: Request, transfer: Transfer) -> None:
    """As `_copy`, in a worker thread: what it goes to is held by the transfer."""
    wanted = request.cmd.access_rw
    if transfer.write:
        transfer.copy(memoryview(request.read(wanted.uptr, wanted.length, "the buffer")))
        return
    buffer = bytearray(wanted.length)
    transfer.copy(memoryview(buffer))
    request.write(wanted.uptr, bytes(buffer), "the buffer")


def _check_access(length: int, flags: int, known: int) -> None:
    if length > LARGEST_ACCESS:
        raise IoctlError(ENOMEM, f"{length} bytes are more than {LARGEST_ACCESS} in one go")
    if flags & ~known:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {flags & ~known:#x}")


def _access(request: Request) -> tuple[mock.MockAccess, Access]:
    """The access behind the descriptor that `id` is in the caller. EBADFD: none, or another file."""
    user = request.open_file(request.cmd.id)
    if not isinstance(user, mock.MockAccess) or user.access is None:
        raise IoctlError(EBADFD, f"descriptor {request.cmd.id} is no access")
    return user, user.access


def _nth_area(access: Access, packed: int) -> int:
    """The fuzzers' way to name an IOVA: an area by its place in the IOAS (low half), and an offset into it (high half)."""
    if access.ioas is not None:
        for nth, area in enumerate(access.ioas.iopt.areas):
            if nth == packed & 0xFFFFFFFF:
                return area.iova + (packed >> 32)
    return 0


OPERATIONS: Final[Mapping[int, Operation]] = {
    const(f"IOMMU_TEST_OP_{name}"): operation
    for name, operation in {
        "MOCK_DOMAIN": mock_domain,
        "MOCK_DOMAIN_FLAGS": mock_domain,
        "ADD_RESERVED": add_reserved,
        "MOCK_DOMAIN_REPLACE": mock_domain_replace,
        "MD_CHECK_MAP": md_check_map,
        "MD_CHECK_IOTLB": md_check_iotlb,
        "MD_CHECK_REFS": md_check_refs,
        "DEV_CHECK_CACHE": dev_check_cache,
        "DIRTY": test_dma.dirty,
        "TRIGGER_IOPF": test_dma.trigger_iopf,
        "TRIGGER_VEVENT": test_dma.trigger_vevent,
        "SET_TEMP_MEMORY_LIMIT": set_temp_memory_limit,
        "CREATE_ACCESS": create_access,
        "ACCESS_REPLACE_IOAS": access_replace_ioas,
        "ACCESS_PAGES": access_pages,
        "DESTROY_ACCESS_PAGES": destroy_access_pages,
        "ACCESS_RW": access_rw,
        "DMABUF_GET": test_dmabuf.dmabuf_get,
        "DMABUF_REVOKE": test_dmabuf.dmabuf_revoke,
        "PASID_ATTACH": test_pasid.pasid_attach,
        "PASID_REPLACE": test_pasid.pasid_replace,
        "PASID_DETACH": test_pasid.pasid_detach,
        "PASID_CHECK_HWPT": test_pasid.pasid_check_hwpt,
    }.items()
} | {test_dma.DMA: test_dma.dma}
