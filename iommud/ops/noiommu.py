"""IOAS_NOIOMMU_GET_PA: the physical address behind an IOVA, for devices that do DMA without an IOMMU.

The kernel knows one once such a device is attached: its page table is then a mere list of what is pinned. iommud has no such devices
and cannot have them, as physical addresses mean something to real hardware only. So this asks all that the kernel asks, and ends
where the kernel finds a page table that is no such list.

Ref: v7.3 ioas.c iommufd_ioas_noiommu_get_pa, io_pagetable.c iopt_get_phys
"""

from errno import EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Final

from ..engine.span import U64_MAX
from ..errors import IoctlError
from .request import Request

CAP_SYS_RAWIO: Final = 17


async def ioas_noiommu_get_pa(request: Request) -> None:
    """EPERM: without CAP_SYS_RAWIO. EOPNOTSUPP: flags or __reserved is not 0. EINVAL: length 0, or a revoked dma-buf. EOVERFLOW: iova is
    U64_MAX. ENOENT: no such IOAS, or nothing is mapped there. EOPNOTSUPP: no device without an IOMMU is attached, which is always so."""
    cmd = request.cmd
    if not request.caller.capable(CAP_SYS_RAWIO):
        raise IoctlError(EPERM, "physical addresses are told to who has CAP_SYS_RAWIO; the caller does not have it")
    if cmd.flags or cmd.__reserved:
        raise IoctlError(EOPNOTSUPP, "flags or __reserved is not 0")
    if not cmd.length:
        raise IoctlError(EINVAL, "length is 0")
    if cmd.iova == U64_MAX:
        raise IoctlError(EOVERFLOW, "iova is U64_MAX")
    area = request.context.ioas(cmd.ioas_id).iopt.areas.first(cmd.iova, cmd.iova)
    if area is None or area.pages is None:
        raise IoctlError(ENOENT, f"IOVA {cmd.iova:#x} is not mapped")
    if area.pages.revoked:
        raise IoctlError(EINVAL, f"{area} is of a dma-buf that was revoked")
    raise IoctlError(EOPNOTSUPP, "no device that does DMA without an IOMMU is attached")
