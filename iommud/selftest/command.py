"""TEST_CMD: the operations of the kernel's selftest driver, as `--mock` answers them. Ref: v7.3
selftest.c iommufd_test

The kernel's test program drives the mock devices by these operations. mock.py and mock_*.py do the
work. This file, and those named after the operations, have the form of each operation on the wire,
and the order of the selftest driver's checks.
"""

from errno import EINVAL, EOPNOTSUPP
from functools import partial
from typing import Final

from ..engine.memory.span import last_of
from ..errors import IoctlError
from ..ops.locking import locked
from ..ops.request import Request
from ..ops.row import Handler, Row, op
from ..uapi.header import const
from . import accesses, checks, devices, dma, dma_buf, kinds, pasid
from .plug import Socket

_SMALLEST_LIMIT: Final = 12  # bytes: a word and a u32, the least a batch of the kernel's takes


class SelftestCommand:
    """The ioctl. Its devices stand behind an IOMMU of the kind `iommu` (kinds.NAMES)."""

    def __init__(self, iommu: str = kinds.DEFAULT) -> None:
        self._operations: Final = operations(Socket(iommu))

    async def __call__(self, request: Request) -> None:
        """EOPNOTSUPP: no such operation, or one that iommud does not have yet."""
        operation = self._operations.get(request.cmd.op)
        if operation is None:
            raise IoctlError(EOPNOTSUPP, f"the mock device has no operation {request.cmd.op}")
        await operation(request)


def selftest_row(iommu: str = kinds.DEFAULT) -> Row:
    """The command's row, to be added to IOMMUFD's table. The table then reaches to it, with a hole
    before it.
    """
    return op("TEST_CMD", SelftestCommand(iommu), "iommu_test_cmd", last="last")


async def add_reserved(request: Request) -> None:
    """EINVAL: length 0. EOVERFLOW: beyond 2^64 - 1. ENOENT: no such IOAS. EADDRINUSE: mapped or
    allowed.
    """
    start, length = request.cmd.add_reserved.start, request.cmd.add_reserved.length
    if not length:
        raise IoctlError(EINVAL, "length is 0")
    last = last_of(start, length, "start")
    ioas = request.context.ioas(request.cmd.id)
    async with locked(ioas):
        # As long as the IOAS lives: no owner ever gives it back.
        ioas.iopt.reserve(start, last, ioas)


async def set_temp_memory_limit(request: Request) -> None:
    """How much memory the kernel uses for a batch of pages. iommud has no such batches. EINVAL:
    less than the least.
    """
    limit = request.cmd.memory_limit.limit
    if limit < _SMALLEST_LIMIT:
        raise IoctlError(EINVAL, f"limit {limit} is less than {_SMALLEST_LIMIT}")


def operations(socket: Socket) -> dict[int, Handler]:
    """All operations, by number. `socket`: where MOCK_DOMAIN plugs in the devices that it makes."""
    new_device = partial(devices.mock_domain, socket=socket)
    named: dict[str, Handler] = {
        "ACCESS_PAGES": accesses.access_pages,
        "ACCESS_REPLACE_IOAS": accesses.access_replace_ioas,
        "ACCESS_RW": accesses.access_rw,
        "ADD_RESERVED": add_reserved,
        "CREATE_ACCESS": accesses.create_access,
        "DESTROY_ACCESS_PAGES": accesses.destroy_access_pages,
        "DEV_CHECK_CACHE": checks.dev_check_cache,
        "DIRTY": dma.dirty,
        "DMABUF_GET": dma_buf.dmabuf_get,
        "DMABUF_REVOKE": dma_buf.dmabuf_revoke,
        "MD_CHECK_IOTLB": checks.md_check_iotlb,
        "MD_CHECK_MAP": checks.md_check_map,
        "MD_CHECK_REFS": checks.md_check_refs,
        "MOCK_DOMAIN": new_device,
        "MOCK_DOMAIN_FLAGS": new_device,
        "MOCK_DOMAIN_REPLACE": devices.mock_domain_replace,
        "PASID_ATTACH": pasid.pasid_attach,
        "PASID_CHECK_HWPT": pasid.pasid_check_hwpt,
        "PASID_DETACH": pasid.pasid_detach,
        "PASID_REPLACE": pasid.pasid_replace,
        "SET_TEMP_MEMORY_LIMIT": set_temp_memory_limit,
        "TRIGGER_IOPF": dma.trigger_iopf,
        "TRIGGER_VEVENT": dma.trigger_vevent,
    }
    return {dma.DMA: dma.dma} | {const(f"IOMMU_TEST_OP_{name}"): operation for name, operation in named.items()}
