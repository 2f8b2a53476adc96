"""The type1 driver of one container, from VFIO_SET_IOMMU until the container's last group goes.

It stands on an IOAS that no client sees. All devices of its groups are attached to that, opened or
not, so whatever is mapped is pinned at once. Page tables are the engine's: one for all groups that
can share it. What type1 does otherwise than IOMMUFD is here: its list of mappings, with a limit;
its list of usable IOVAs; and the rules by which a mapping is made, unmapped, and told its address
anew.

All is done at once, but for requests that wait for a client's memory (ioctls.py). Those hold the
lock of the driver. A group that is closed meanwhile does not ask for the lock: `is_released` then
tells the request that there is nothing left to do.

Ref: v7.3 vfio_iommu_type1.c
"""

from collections.abc import Collection, Iterable, Iterator
from errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC
from typing import Final

from ...engine.device.context import Context
from ...engine.device.device import Device, at_once
from ...engine.device.model import Region
from ...engine.mapping.ioas import Ioas
from ...engine.mapping.objects import Object
from ...engine.memory.dma_buf import DmaBufPages
from ...engine.memory.origin import AccountMode, Origin
from ...engine.memory.pages import Pages, Slice, move_all
from ...errors import IoctlError
from ...ops.vfio import page_sizes
from ..device import VfioDevice
from .dma import Dma, Dmas
from .usable import Range, Usable


class Type1(Object):
    """`v2`: an unmap takes whole mappings, or fails. `available`: how many mappings can still be
    made.
    """

    kind = "type1 container"

    def __init__(self, context: Context, *, v2: bool, limit: int) -> None:
        """`context`: the container's own, in which its devices are. `limit`: of mappings."""
        super().__init__()
        self.v2: Final = v2
        self.dmas: Final = Dmas()
        self.usable = Usable()
        self.available = limit
        self.tracks_dirty = False
        self.is_released = False
        self._invalid = 0  # how many mappings are to be told their address anew
        self._context: Final = context
        self._groups: Final[dict[object, list[VfioDevice]]] = {}
        self._ioas: Final = Ioas(context.host)
        context.objects.reserve(self._ioas)
        context.objects.publish(self._ioas)

    # --- groups ---

    def attach_group(self, group: object, devices: Iterable[VfioDevice]) -> None:
        """Attach all devices of a group. EBUSY: a mapping is to be told its address anew. EINVAL:
        the group reserves, or does not reach, IOVAs that are mapped; or no IOVA is left. Others:
        Device.attach. Then all is as before.

        Ref: v7.3 vfio_iommu_type1.c vfio_iommu_type1_attach_group
        """
        if self._invalid:
            raise IoctlError(EBUSY, f"{self._invalid} mappings are to be told their address anew")
        placed: list[VfioDevice] = []
        usable = self.usable
        try:
            for device in devices:
                usable = self._place(device, usable)
                placed.append(device)
        except BaseException:
            for device in placed:
                device.plugged.function.unbind()
            raise
        self.usable = usable
        self._groups[group] = placed

    def detach_group(self, group: object) -> None:
        """Undo `attach_group`. With the last group all mappings go. Ref: v7.3 vfio_iommu_type1.c
        vfio_iommu_type1_detach_group
        """
        before = len(self._ioas.iopt.domains)
        for device in self._groups.pop(group):
            device.plugged.function.unbind()
        if not self._groups:
            self.release()
            return
        domains = self._ioas.iopt.domains
        gone = [(domain.aperture_start, domain.aperture_last) for domain in domains] if len(domains) < before else None
        self.usable = self.usable.refreshed(gone, self._reserved())

    def abandon(self) -> None:
        """No container has it after all: some of its groups could not be attached."""
        for group in list(self._groups):
            self.detach_group(group)
        if not self.is_released:
            self.release()

    def device_came(self, group: object, device: VfioDevice) -> None:
        """vfio-pci has one more device of a group that is attached. If the device cannot be
        attached, it cannot be opened either.
        """
        try:
            self.usable = self._place(device, self.usable)
        except IoctlError:
            return
        self._groups[group].append(device)

    def device_left(self, group: object, device: VfioDevice) -> None:
        if device in self._groups[group]:
            self._groups[group].remove(device)
            device.plugged.function.unbind()

    def release(self) -> None:
        """All mappings go. Ref: v7.3 vfio_iommu_type1.c vfio_iommu_type1_release"""
        self.is_released = True
        for dma in list(self.dmas):
            self.remove(dma)
        self._context.objects.remove_by_owner(self._ioas)

    def _place(self, device: VfioDevice, usable: Usable) -> Usable:
        """Take a device in; the IOVAs that are usable then."""
        reached = device.iommu.domain(0, None)
        first, last = reached.aperture_start, reached.aperture_last
        function = device.plugged.function
        bound = function.bind(self._context, device.iommu)
        try:
            regions = bound.port.reserved_regions()
            self._check_unmapped(usable.lost(first, last), f"{device} does not reach")
            self._check_unmapped([(region.start, region.last) for region in regions], f"{device} reserves")
            usable = usable.within(first, last).without(regions)
            at_once(bound.attach(self._ioas.id))
        except BaseException:
            function.unbind()
            raise
        return usable

    def _check_unmapped(self, ranges: Iterable[Range], why: str) -> None:
        for start, last in ranges:
            dma = self.dmas.first(start, last)
            if dma is not None:
                raise IoctlError(EINVAL, f"{why} {start:#x}..{last:#x}, where {dma} is")

    def _bound(self) -> Iterator[Device]:
        for devices in self._groups.values():
            for device in devices:
                assert device.plugged.function.device is not None
                yield device.plugged.function.device

    def _reserved(self) -> list[Region]:
        return [region for bound in self._bound() for region in bound.port.reserved_regions()]

    # --- what there is ---

    @property
    def page_sizes(self) -> int:
        """A bitmap of sizes (bytes). Ref: v7.3 vfio_iommu_type1.c vfio_update_pgsize_bitmap"""
        return page_sizes(self._ioas)

    @property
    def smallest_page(self) -> int:
        """Bytes."""
        return self.page_sizes & -self.page_sizes

    @property
    def enforces_coherency(self) -> bool:
        """All DMA of its devices sees the CPU's caches, whatever they ask for."""
        return all(hwpt.enforce_coherency for hwpt in self._ioas.hwpts)

    # --- mappings ---

    def check_new(self, iova: int, last: int) -> None:
        """Whether a mapping could be made at iova..last. EEXIST: one is there. ENOSPC: there are as
        many as there may be. EINVAL: some of it is not usable; or the container has lost its last
        group.
        """
        if self.is_released:
            raise IoctlError(EINVAL, "the container's last group has gone")
        dma = self.dmas.first(iova, last)
        if dma is not None:
            raise IoctlError(EEXIST, f"{iova:#x}..{last:#x} overlaps {dma}")
        if not self.available:
            raise IoctlError(ENOSPC, f"there are {len(self.dmas)} mappings, and no more can be made (dma_entry_limit)")
        if not self.usable.has(iova, last):
            raise IoctlError(EINVAL, f"{iova:#x}..{last:#x} is not all in one usable range of IOVAs")

    def map(self, parts: list[Slice], iova: int, last: int, prot: int, payer: Origin) -> None:
        """Make a mapping of `parts`, one after the other. It takes over their references, even if
        it fails. Errors: `check_new`; EFAULT, ENOMEM as Pages.pin.
        """
        try:
            self.check_new(iova, last)
            self._ioas.iopt.map(parts, last - iova + 1, iova, prot)
        except IoctlError:
            for part in parts:
                part.pages.put()
            raise
        self.dmas.add(Dma(iova, last, payer))
        self.available -= 1

    def pinned_by(self, payer: Origin) -> int:
        """How many pages count as pinned for its process, by anybody."""
        return self._context.host.pinned_of_process(payer)

    def unmapped_by(self, start: int, last: int, *, everything: bool) -> list[Dma]:
        """What an unmap of start..last takes. EINVAL: the range cuts a mapping (v2). For v1 a range
        takes each mapping whose first IOVA it has; but if it begins within a mapping, it takes none
        at all.

        Ref: v7.3 vfio_iommu_type1.c vfio_dma_do_unmap
        """
        if self.v2 and not everything:
            return self.uncut(start, last)
        found = self.dmas.touching(start, last)
        return found if everything or not found or found[0].iova >= start else []

    def uncut(self, start: int, last: int) -> list[Dma]:
        """The mappings in start..last. EINVAL: one reaches out of it."""
        found = self.dmas.touching(start, last)
        for dma in found[:1] + found[-1:]:
            if dma.iova < start or dma.last > last:
                raise IoctlError(EINVAL, f"{dma} reaches out of {start:#x}..{last:#x}")
        return found

    def remove(self, dma: Dma) -> None:
        """Unmap it."""
        self._ioas.iopt.unmap(dma.iova, dma.last, len(self._ioas.iopt.areas))
        self.dmas.remove(dma)
        self.available += 1
        self._invalid -= dma.invalid
        dma.payer.put()

    def track_dirty(self, on: bool) -> None:
        """Begin or end to keep a bitmap of each mapping. No effect if it is so already. Ref: v7.3
        vfio_iommu_type1.c vfio_iommu_type1_dirty_pages
        """
        if on and not self.tracks_dirty:
            for dma in self.dmas:
                dma.bitmap = 0
        self.tracks_dirty = on

    # --- new addresses ---

    def invalidate(self, dmas: Collection[Dma]) -> None:
        """Their addresses are to be told anew. EINVAL: that is so already of one of them, and then
        of none before it any more.

        Ref: v7.3 vfio_iommu_type1.c vfio_dma_do_unmap
        """
        done: list[Dma] = []
        for dma in dmas:
            if dma.invalid:
                for each in done:
                    self._set_invalid(each, False)
                raise IoctlError(EINVAL, f"{dma} is to be told its address anew already")
            self._set_invalid(dma, True)
            done.append(dma)

    def revive(self, iova: int, last: int, payer: Origin, mode: AccountMode) -> None:
        """A mapping is told its address anew, by a process that pays for it from now on. What
        devices reach stays. ENOENT: nothing is mapped there. EINVAL: the range is not that of one
        mapping which waits for this. ENOMEM: RLIMIT_MEMLOCK of the process.

        Ref: v7.3 vfio_iommu_type1.c vfio_dma_do_map, vfio_change_dma_owner
        """
        dma = self.dmas.first(iova, last)
        if dma is None:
            raise IoctlError(ENOENT, f"nothing is mapped at {iova:#x}..{last:#x}")
        if not dma.invalid or (dma.iova, dma.last) != (iova, last):
            raise IoctlError(EINVAL, f"{dma} does not wait for the address of {iova:#x}..{last:#x}")
        if payer.mm != dma.payer.mm:
            move_all(self._context.host, self._pages(dma), payer, mode)
            payer.get()
            dma.payer.put()
            dma.payer = payer
        self._set_invalid(dma, False)

    def _pages(self, dma: Dma) -> list[Pages]:
        """The memory that somebody pays for."""
        areas = self._ioas.iopt.contiguous(dma.iova, dma.last)
        found = [area.pages for area, _, _ in areas]
        return [pages for pages in found if pages is not None and not isinstance(pages, DmaBufPages)]

    def _set_invalid(self, dma: Dma, invalid: bool) -> None:
        dma.invalid = invalid
        self._invalid += 1 if invalid else -1
