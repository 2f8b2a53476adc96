"""The page table of a device, as its IOMMU describes it. The IO page table knows which IOVAs it
shows, and as what.

Ref: v7.3 include/linux/iommu.h struct iommu_domain
"""

from collections.abc import Generator
from errno import EOPNOTSUPP
from typing import ClassVar, Final

from ...errors import IoctlError
from ..memory.span import U64_MAX
from .dirty import Dirty
from .user_data import UserArray

# What a client asks of a new page table, by the uAPI's bits (enum iommufd_hwpt_alloc_flags).
NEST_PARENT: Final = 1 << 0  # others may nest in it
DIRTY_TRACKING: Final = 1 << 1  # it can tell what DMA wrote
FAULT_ID_VALID: Final = 1 << 2  # its faults go to a queue
PASID: Final = 1 << 3  # it may be attached to a PASID


class Domain:
    """`page_sizes`: the sizes (bytes, powers of two) that it can map, as a bitmap;
    `aperture_start`..`aperture_last`: what it can reach. `dirty`: the record of what DMA wrote;
    None: it keeps none, and never will. `writeable_only`: it cannot show what DMA may not write
    (EINVAL). `faults`: a client's queue handles its faults. `pasids`: its kind can be attached to a
    PASID. `physical`: what it shows has physical addresses, of which clients are told (noiommu.py).
    """

    __slots__ = ("aperture_last", "aperture_start", "dirty", "faults", "page_sizes", "writeable_only")
    pasids: ClassVar[bool] = True
    physical: ClassVar[bool] = False

    def __init__(
        self,
        page_sizes: int,
        aperture_start: int = 0,
        aperture_last: int = U64_MAX,
        *,
        dirty: Dirty | None = None,
        writeable_only: bool = False,
    ) -> None:
        self.page_sizes = page_sizes
        self.aperture_start = aperture_start
        self.aperture_last = aperture_last
        self.dirty: Final = dirty
        self.writeable_only: Final = writeable_only
        self.faults = False

    @property
    def smallest_page(self) -> int:
        """Bytes."""
        return self.page_sizes & -self.page_sizes


class NestedDomain:
    """The first stage of a guest's translation, made of data that only its IOMMU understands. It
    maps nothing itself: its results go through its parent. Kinds of IOMMU derive from it. `faults`,
    `pasids`: as of Domain.
    """

    dirty: Final = None
    pasids: ClassVar[bool] = True
    physical: ClassVar[bool] = False

    def __init__(self) -> None:
        self.faults = False

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """Drop what was cached of a client's tables, entry by entry. `array.done` counts them on
        every path. May pause between chunks.

        EOPNOTSUPP: it caches nothing that a client could invalidate. EINVAL: the entries are of
        another type; an empty array is checked for that too.
        """
        raise IoctlError(EOPNOTSUPP, "the page table has no cache to invalidate")


AnyDomain = Domain | NestedDomain
