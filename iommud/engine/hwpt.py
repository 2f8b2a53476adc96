"""Hardware page tables: a driver's domain with an ID, filled from an IOAS.

An automatic one comes into being when a device is attached to an IOAS and no other will do, is shared by the devices it suits, and goes
with its last user. Ref: v7.3 hw_pagetable.c
"""

from collections.abc import Generator
from errno import EPERM
from typing import TYPE_CHECKING

from ..errors import IoctlError
from .domain import Domain
from .io_pagetable import PROT_READ, PROT_WRITE
from .ioas import Ioas
from .objects import Object

if TYPE_CHECKING:
    from .context import Context
    from .device import Device


class HwptPaging(Object):
    """A page table that shows an IOAS. Its users are the devices attached to it."""

    kind = "HWPT"
    __slots__ = ("auto", "domain", "ioas", "linked")

    def __init__(self, ioas: Ioas, domain: Domain, *, auto: bool) -> None:
        super().__init__()
        self.ioas = ioas
        self.domain = domain
        self.auto = auto
        self.linked = False

    def dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        """Copy what a device reads or writes. Errors: Device.dma_read."""
        iopt = self.ioas.iopt
        if not len(data):
            return
        for area, start, end in iopt.contiguous(iova, iova + len(data) - 1):
            if not area.prot & (PROT_WRITE if write else PROT_READ):
                raise IoctlError(EPERM, f"{area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}")
            assert area.pages is not None
            area.pages.dma(area.start_byte + start - area.iova, data[start - iova : end - iova + 1], write=write)

    def destroy(self) -> None:
        if self.linked:
            self.ioas.hwpts.remove(self)
            self.ioas.iopt.remove_domain(self.domain)
        self.ioas.users.remove(self)


def alloc_detached(context: "Context", ioas: Ioas, device: "Device") -> Generator[None, None, HwptPaging]:
    """A new automatic page table that suits `device`, filled, but neither attached nor published (publish or destroy and abort it)."""
    domain = device.driver.domain()
    hwpt = HwptPaging(ioas, domain, auto=True)
    context.objects.reserve(hwpt)
    ioas.users.append(hwpt)
    try:
        yield from ioas.iopt.add_domain(domain)
    except BaseException:
        ioas.users.remove(hwpt)
        context.objects.abort(hwpt)
        raise
    ioas.hwpts.append(hwpt)
    hwpt.linked = True
    return hwpt


def alloc_auto(context: "Context", ioas: Ioas, device: "Device") -> Generator[None, None, HwptPaging]:
    """A new automatic page table for `device`, attached to it at once, filled and published.

    Errors: what the driver says, what `Group.attach` says, what IoPagetable.add_domain says; then nothing has changed.
    Ref: v7.3 hw_pagetable.c iommufd_hwpt_paging_alloc (immediate_attach)
    """
    domain = device.driver.domain()
    hwpt = HwptPaging(ioas, domain, auto=True)
    context.objects.reserve(hwpt)
    ioas.users.append(hwpt)
    try:
        device.group.attach(device, hwpt)
        try:
            yield from ioas.iopt.add_domain(domain)
        except BaseException:
            device.group.detach(device)
            raise
    except BaseException:
        ioas.users.remove(hwpt)
        context.objects.abort(hwpt)
        raise
    ioas.hwpts.append(hwpt)
    hwpt.linked = True
    context.objects.publish(hwpt)
    return hwpt
