"""TEST_CMD's looks inside: what a page table shows, how often a page is pinned, what a cache holds.

Ref: v7.3 selftest.c iommufd_test_md_check_pa, iommufd_test_md_check_refs,
iommufd_test_md_check_iotlb, iommufd_test_dev_check_cache
"""

from collections.abc import Iterable
from errno import EBADE, EINVAL, EIO
from typing import Final

import trio

from cuse_glue.request.inline import leave

from ..engine.device.device import Device
from ..engine.device.hwpt import HwptPaging
from ..engine.device.nested import HwptNested
from ..engine.memory.host import Host
from ..engine.memory.origin import PAGE_SIZE, Identity
from ..engine.memory.pages import Pages
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..ops.request import Request
from .mock import MockIommu, MockPort
from .mock_domains import MockNested
from .mock_viommu import CACHE_ENTRIES

AT_ONCE: Final = 64  # pages


async def md_check_map(request: Request) -> None:
    """EINVAL: unaligned, or the page table `id` shows another page than the client sees. EFAULT:
    the client sees none.
    """
    cmd = request.cmd
    hwpt = request.context.objects.get(cmd.id, HwptPaging)
    if not isinstance(hwpt.iommu, MockIommu):
        raise IoctlError(EINVAL, f"{hwpt} is no mock device's")
    iova, length, address = cmd.check_map.iova, cmd.check_map.length, cmd.check_map.uptr
    size = hwpt.domain.smallest_page
    if (iova | length | address) % size or address + length > U64_MAX:
        raise IoctlError(EINVAL, f"iova, length or uptr is not a multiple of {size}")
    with request.context.objects.using(hwpt, request):
        for done in range(0, length, size):
            page = (address + done) // PAGE_SIZE * PAGE_SIZE
            identity = request.page_identity(page)
            check_map(hwpt, iova + done, identity, (address + done) % PAGE_SIZE)
            await _give_way(done // size)


async def md_check_refs(request: Request) -> None:
    """EINVAL: not page aligned. EFAULT: there is no page. EIO: a page of the client is not pinned
    `refs` times (in all contexts together).
    """
    refs = request.cmd.check_refs
    if refs.length % PAGE_SIZE or refs.uptr % PAGE_SIZE or refs.uptr + refs.length > U64_MAX:
        raise IoctlError(EINVAL, "length or uptr is not page aligned")
    for done in range(0, refs.length, PAGE_SIZE):
        identity = request.page_identity(refs.uptr + done)
        # this looks at everything that is pinned
        check_refs(request.context.host, identity, refs.refs)
        await leave()
        await trio.lowlevel.checkpoint()


async def _give_way(step: int) -> None:
    if step % AT_ONCE == AT_ONCE - 1:
        await leave()
        await trio.lowlevel.checkpoint()


async def md_check_iotlb(request: Request) -> None:
    """ENOENT: no such nested page table. EINVAL: it is no mock device's, no such cache entry, or it
    holds something else.
    """
    check = request.cmd.check_iotlb
    hwpt = request.context.objects.get(request.cmd.id, HwptNested)
    if not isinstance(hwpt.domain, MockNested):
        raise IoctlError(EINVAL, f"{hwpt} is no mock device's")
    hwpt.domain.check_iotlb(check.id, check.iotlb)


async def dev_check_cache(request: Request) -> None:
    """ENOENT: no such device. EINVAL: no such cache entry, or it holds something else."""
    check = request.cmd.check_dev_cache
    device = request.context.objects.get(request.cmd.id, Device)
    if not isinstance(device.port, MockPort):
        raise IoctlError(EINVAL, f"{device} is no mock device")
    if check.id >= CACHE_ENTRIES or device.port.cache[check.id] != check.cache:
        raise IoctlError(EINVAL, f"cache entry {check.id} is not {check.cache:#x}")


def check_pages(pinned: list[tuple[Pages, int]], wanted: Iterable[Identity]) -> None:
    """EBADE: a pinned page is not the one that the client sees at its own address."""
    for at, ((pages, index), identity) in enumerate(zip(pinned, wanted, strict=True)):
        if pages.identity(index) != identity:
            raise IoctlError(EBADE, f"pinned page {at} is {pages.identity(index)}, the client sees {identity}")


def check_map(hwpt: HwptPaging, iova: int, identity: Identity, offset: int) -> None:
    """EINVAL: at `iova` the page table shows something other than byte `offset` of the page with
    this identity.
    """
    found = hwpt.ioas.iopt.translate(iova)
    if found != (identity, offset):
        raise IoctlError(EINVAL, f"{hwpt} shows {found} at {iova:#x}, the client sees {identity} + {offset:#x}")


def check_refs(host: Host, identity: Identity, refs: int) -> None:
    """EIO: the page is not pinned that often."""
    found = host.pins(identity)
    if found != refs:
        raise IoctlError(EIO, f"page {identity} is pinned {found} times, expected {refs}")
