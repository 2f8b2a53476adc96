"""The parameters of Linux's modules vfio and vfio_iommu_type1, as /sys shows them, as far as
anybody goes by them.

Ref: v7.3 vfio_iommu_type1.c, module parameters
"""

from dataclasses import dataclass
from errno import ERANGE
from typing import Final

from ..errors import IoctlError
from .sysfs import number

DMA_ENTRY_LIMIT: Final = 65535
_U32_MAX: Final = (1 << 32) - 1


@dataclass(slots=True)
class Parameters:
    """`dma_entry_limit`: how many mappings a container may have whose driver is set from now on.
    `allow_unsafe_interrupts` and `disable_hugepages` can be said, and change nothing here.
    `allows_no_iommu`: vfio.enable_unsafe_noiommu_mode.
    """

    dma_entry_limit: int = DMA_ENTRY_LIMIT
    allow_unsafe_interrupts: bool = False
    disable_hugepages: bool = False
    allows_no_iommu: bool = False

    def set_limit(self, said: str) -> None:
        """EINVAL: no number. ERANGE: beyond 2^32 - 1. Ref: v7.3 kernel/params.c
        param_set_uint
        """
        limit = number(said)
        if limit > _U32_MAX:
            raise IoctlError(ERANGE, f"dma_entry_limit {limit} is beyond 2^32 - 1")
        self.dma_entry_limit = limit
