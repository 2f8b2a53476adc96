"""The page table of a device, as its driver describes it. Which IOVAs it shows, and as what, is the IO page table's affair.

Ref: v7.3 include/linux/iommu.h struct iommu_domain
"""

from typing import Final

from .span import U64_MAX


class Domain:
    """`page_sizes`: the sizes (bytes, powers of two) that it can map, as a bitmap; `aperture_start`..`aperture_last`: what it can reach."""

    __slots__ = ("aperture_last", "aperture_start", "driver", "page_sizes")

    def __init__(self, driver: object, page_sizes: int, aperture_start: int = 0, aperture_last: int = U64_MAX) -> None:
        self.driver: Final = driver
        self.page_sizes = page_sizes
        self.aperture_start = aperture_start
        self.aperture_last = aperture_last

    @property
    def smallest_page(self) -> int:
        """Bytes."""
        return self.page_sizes & -self.page_sizes
