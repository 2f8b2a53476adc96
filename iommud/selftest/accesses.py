"""TEST_CMD's operations on accesses: an access behind a descriptor, its pins and its copies. Ref:
v7.3 selftest.c iommufd_test_create_access
"""

from collections.abc import Hashable
from errno import EBADFD, ENOMEM, EOPNOTSUPP
from typing import Final

import trio

from cuse_glue.request.inline import leave

from ..engine.device.access import Access, create
from ..engine.memory.origin import PAGE_SIZE
from ..engine.memory.span import U64_MAX
from ..engine.memory.transfer import Transfer
from ..errors import IoctlError
from ..ops.locking import locked
from ..ops.request import Request
from ..uapi.header import const, ffi
from .checks import check_pages
from .mock_access import MockAccess

LARGEST_ACCESS: Final = 16 << 20  # bytes in one ACCESS_PAGES or ACCESS_RW
INLINE_COPY: Final = 128 << 10  # bytes; larger copies go to a thread

_NEEDS_PIN: Final = const("MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES")
_ACCESS_WRITE: Final = const("MOCK_FLAGS_ACCESS_WRITE")
_SYZ: Final = const("MOCK_FLAGS_ACCESS_SYZ")
_RW_WRITE: Final = const("MOCK_ACCESS_RW_WRITE")
_RW_SLOW: Final = const("MOCK_ACCESS_RW_SLOW_PATH")
_ACCESS_FD_OFFSET: Final = ffi.offsetof("struct iommu_test_cmd", "create_access", "out_access_fd")


async def create_access(request: Request) -> None:
    """A descriptor whose open file is an access on the IOAS `id`. EOPNOTSUPP: unknown flags.
    Others: Access.attach, and those of giving a descriptor.
    """
    cmd = request.cmd
    flags = cmd.create_access.flags
    if flags & ~_NEEDS_PIN:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {flags & ~_NEEDS_PIN:#x}")
    user = MockAccess(bool(flags & _NEEDS_PIN))
    user.access = create(request.context, user)
    try:
        await user.access.attach(cmd.id)
        await request.give(user, _ACCESS_FD_OFFSET)
    except BaseException:
        user.release()
        raise


async def access_replace_ioas(request: Request) -> None:
    """EBADFD: no access descriptor. ENOENT: no such IOAS. EADDRINUSE: its areas do not fit the
    alignment.
    """
    _, access = _access(request)
    with request.context.objects.using(access, request):
        await access.replace(request.cmd.access_replace_ioas.ioas_id)


async def access_pages(request: Request) -> None:
    """Pin pages, and check that the client sees the same pages at uptr (unless uptr is 0).

    ENOMEM: more than 16 MiB. EOPNOTSUPP: unknown flags, or an access that does not pin. EBADFD: no
    access descriptor. EBADE: other pages. Errors: Access.pin_pages.
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
            check_pages(
                pinned,
                (request.page_identity(first + at * PAGE_SIZE & U64_MAX) for at in range(len(pinned))),
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
    """EBADFD: no access descriptor. ENOENT: it has not pinned these pages."""
    user, _ = _access(request)
    user.unpin(request.cmd.destroy_access_pages.access_pages_id)


async def access_rw(request: Request) -> None:
    """Copy between the client's buffer and the IOAS. ENOMEM: more than 16 MiB. EOPNOTSUPP: unknown
    flags. EBADFD: no access descriptor. EFAULT: the buffer cannot be reached. Errors:
    Access.write_from."""
    wanted = request.cmd.access_rw
    _check_access(wanted.length, wanted.flags, _RW_WRITE | _RW_SLOW | _SYZ)
    _, access = _access(request)
    iova = _nth_area(access, wanted.iova) if wanted.flags & _SYZ else wanted.iova
    near = None if wanted.flags & _RW_SLOW else request.address_space().mm
    await request.settle(wanted.uptr, wanted.length)
    write = bool(wanted.flags & _RW_WRITE)
    is_beyond = iova + wanted.length - 1 > U64_MAX  # refused only after the buffer is read
    if wanted.length <= INLINE_COPY or access.ioas is None or is_beyond:
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
    """As `_copy`, in a worker thread. The transfer holds what it copies to."""
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


def _access(request: Request) -> tuple[MockAccess, Access]:
    """The access behind the caller's descriptor with the number `id`. EBADFD: there is none, or it
    is another file.
    """
    user = request.open_file(request.cmd.id)
    if not isinstance(user, MockAccess) or user.access is None:
        raise IoctlError(EBADFD, f"descriptor {request.cmd.id} is no access")
    return user, user.access


def _nth_area(access: Access, packed: int) -> int:
    """How fuzzers name an IOVA: an area by its place in the IOAS (low half), and an offset into it
    (high half).
    """
    if access.ioas is not None:
        for nth, area in enumerate(access.ioas.iopt.areas):
            if nth == packed & 0xFFFFFFFF:
                return area.iova + (packed >> 32)
    return 0
