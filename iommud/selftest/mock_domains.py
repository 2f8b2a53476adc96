"""The mock's page tables: of 2 KiB pages in a small aperture, or of huge pages; and nested ones,
which are nothing but a cache that tests can look at.

Ref: v7.3 selftest.c mock_domain_alloc_pgtable, mock_domain_alloc_nested,
mock_domain_cache_invalidate_user
"""

import struct
from collections.abc import Generator
from errno import EINVAL, EOPNOTSUPP
from typing import Final

from ..engine.device.viommu import Viommu
from ..engine.mapping.dirty import Dirty
from ..engine.mapping.domain import DIRTY_TRACKING, NEST_PARENT, PASID, Domain, NestedDomain
from ..engine.mapping.user_data import UserArray, UserData
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError

MOCK_PAGE_SIZE: Final = 2048  # bytes
# What the mock's page table can map: 2 KiB, and its powers of two up to 64 GiB, which
# VFIO_IOMMU_GET_INFO shows.
MOCK_PAGE_SIZES: Final = ((1 << 37) - 1) & ~(MOCK_PAGE_SIZE - 1)
APERTURE_START: Final = 1 << 24
APERTURE_LAST: Final = (1 << 31) - 1
# The other kind of table: 1 MiB, and the system's page, without which nothing could be mapped.
HUGE_PAGE_SIZES: Final = 512 * MOCK_PAGE_SIZE | PAGE_SIZE
HUGE_APERTURE_LAST: Final = (1 << 38) - 1  # three levels of 2^9 entries over pages of 2^11 bytes

DATA_NONE: Final = 0
DATA_SELFTEST: Final = 0xDEAD
INVALIDATE_SELFTEST: Final = 0xDEADBEEF
INVALIDATE_ALL: Final = 1 << 0
IOTLB_ENTRIES: Final = 4

_CONFIG: Final = struct.Struct("<II")  # the IOTLB's first content; the kind of table
_CONFIG_LEAST: Final = 4
_TABLE_DEFAULT: Final = 0
_TABLE_HUGE: Final = 1
_ENTRY: Final = struct.Struct("<II")  # flags; which IOTLB entry


def paging_domain(flags: int, data: UserData | None) -> Domain:
    """EOPNOTSUPP: unknown flags, type of data or kind of table. Others: UserData.struct."""
    if flags & ~(DIRTY_TRACKING | NEST_PARENT | PASID):
        raise IoctlError(EOPNOTSUPP, f"the mock's page tables know no flags {flags:#x}")
    kind = _TABLE_DEFAULT
    if data is not None:
        if data.type not in (DATA_NONE, DATA_SELFTEST):
            raise IoctlError(EOPNOTSUPP, f"the mock knows no data of type {data.type:#x}")
        _, kind = _CONFIG.unpack(data.struct(DATA_SELFTEST, _CONFIG.size, _CONFIG_LEAST))
    if kind == _TABLE_HUGE:
        return Domain(
            HUGE_PAGE_SIZES, 0, HUGE_APERTURE_LAST, dirty=_dirty(flags, HUGE_PAGE_SIZES, 512 * MOCK_PAGE_SIZE)
        )
    if kind != _TABLE_DEFAULT:
        raise IoctlError(EOPNOTSUPP, f"the mock has no page table of kind {kind}")
    return Domain(MOCK_PAGE_SIZES, APERTURE_START, APERTURE_LAST, dirty=_dirty(flags, MOCK_PAGE_SIZES, PAGE_SIZE))


def _dirty(flags: int, page_sizes: int, largest_page: int) -> Dirty | None:
    # The huge kind is for huge pages, which are contiguous; other memory is known to be contiguous
    # only within a page.
    return Dirty(page_sizes, largest_page) if flags & DIRTY_TRACKING else None


class MockNested(NestedDomain):
    """Four cache entries, all with the value that the client gave; an invalidated one is 0.
    `viommu`: what it is nested in, if anything.

    EOPNOTSUPP: unknown flags or type of data. Others: UserData.struct.
    """

    def __init__(self, flags: int, data: UserData, viommu: Viommu | None = None) -> None:
        super().__init__()
        self.viommu: Final = viommu
        if flags & ~PASID:
            raise IoctlError(EOPNOTSUPP, f"the mock's nested page tables know no flags {flags:#x}")
        if data.type != DATA_SELFTEST:
            raise IoctlError(EOPNOTSUPP, f"the mock knows no data of type {data.type:#x}")
        value, _ = _CONFIG.unpack(data.struct(DATA_SELFTEST, _CONFIG.size, _CONFIG_LEAST))
        self.iotlb: Final = [value] * IOTLB_ENTRIES

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """EOPNOTSUPP: an entry has unknown flags. EINVAL: no such cache entry. The entries before
        it are done.
        """
        array.expect(INVALIDATE_SELFTEST)
        for chunk in array.chunks(INVALIDATE_SELFTEST, _ENTRY.size, _ENTRY.size):
            for flags, number in _ENTRY.iter_unpack(chunk):
                if flags & ~INVALIDATE_ALL:
                    raise IoctlError(EOPNOTSUPP, f"entry {array.done} has the unknown flags {flags:#x}")
                if number >= IOTLB_ENTRIES:
                    raise IoctlError(
                        EINVAL, f"entry {array.done} names cache entry {number}, there are {IOTLB_ENTRIES}"
                    )
                if flags & INVALIDATE_ALL:
                    self.iotlb[:] = [0] * IOTLB_ENTRIES
                else:
                    self.iotlb[number] = 0
                array.done += 1
            yield

    def check_iotlb(self, number: int, value: int) -> None:
        """EINVAL: no such cache entry, or it holds something else."""
        if number >= IOTLB_ENTRIES or self.iotlb[number] != value:
            raise IoctlError(
                EINVAL, f"cache entry {number} of {[hex(entry) for entry in self.iotlb]} is not {value:#x}"
            )
