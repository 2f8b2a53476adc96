"""Groups: devices that the hardware cannot tell apart share one page table, for their own DMA and
for each PASID.

The first device that is attached brings the page table. The others must ask for the same one. Each
adds its own reserved regions (for its own DMA only; a PASID has none). Ref: v7.3 device.c struct
iommufd_group, struct iommufd_attach
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL, ENODEV, EOPNOTSUPP
from typing import Protocol

from ...errors import IoctlError
from ..mapping.ioas import Ioas
from .hwpt import NO_PASID, Hwpt
from .iommu import Iommu, Port


class Member(Protocol):
    """A device, as its group knows it: a Device."""

    id: int
    kind: str
    group: "Group"
    users: list[object]

    @property
    def iommu(self) -> Iommu: ...

    @property
    def port(self) -> Port: ...


class Attachment:
    """What a group's devices are attached to at one PASID. There is one for each page table, so a
    replacement is another one. `device`: the one that brought it.
    """

    __slots__ = ("device", "devices", "hwpt", "pasid")

    def __init__(self, pasid: int, hwpt: Hwpt, device: Member, devices: list[Member]) -> None:
        self.pasid = pasid
        self.hwpt = hwpt
        self.device = device
        self.devices = devices


class Group:
    """The devices of one group that are bound in one context. `key`: names the group on the whole
    host.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.bound: list[Member] = []
        self.attachments: dict[int, Attachment] = {}  # by PASID

    def __str__(self) -> str:
        return f"group {self.key}"

    @property
    def hwpt(self) -> Hwpt | None:
        """The page table of the devices' own DMA."""
        found = self.attachments.get(NO_PASID)
        return found.hwpt if found is not None else None

    @property
    def attached(self) -> list[Member]:
        """The devices whose own DMA goes through `hwpt`. Not to be changed."""
        found = self.attachments.get(NO_PASID)
        return found.devices if found is not None else []

    def attached_at(self, device: Member, pasid: int) -> Attachment | None:
        found = self.attachments.get(pasid)
        return found if found is not None and device in found.devices else None

    def attach(self, device: Member, hwpt: Hwpt, pasid: int) -> None:
        """EBUSY: the device is attached there already. EINVAL: the group has another page table
        there, or this one does not suit. EADDRINUSE: a region that the device reserves is in use.
        Others: what the driver says.

        Ref: v7.3 device.c iommufd_hw_pagetable_attach
        """
        found = self.attachments.get(pasid)
        if found is not None and device in found.devices:
            raise IoctlError(EBUSY, f"{device} is attached already{_at(pasid)}")
        if found is not None and found.hwpt is not hwpt:
            raise IoctlError(EINVAL, f"{self} has {found.hwpt}{_at(pasid)}, its devices cannot have {hwpt}")
        ioas = hwpt.paging.ioas
        if pasid == NO_PASID:
            self._reserve(device, ioas)
        try:
            if found is None:
                self._check_pasid(hwpt, pasid)
            _switch(device, hwpt, pasid, None)
        except BaseException:
            if pasid == NO_PASID:
                ioas.iopt.unreserve(device)
            raise
        if found is None:
            self.attachments[pasid] = Attachment(pasid, hwpt, device, [device])
        else:
            found.devices.append(device)
        hwpt.users.append(device)

    def detach(self, device: Member, pasid: int) -> Hwpt | None:
        """Undo `attach`. Returns the page table that lost a user; None: the device was not
        attached.

        Ref: v7.3 device.c iommufd_hw_pagetable_detach
        """
        found = self.attached_at(device, pasid)
        if found is None:
            return None
        hwpt = found.hwpt
        found.devices.remove(device)
        _block(device, pasid)
        if not found.devices:
            del self.attachments[pasid]
            _answer_faults(found)
        if pasid == NO_PASID:
            hwpt.paging.ioas.iopt.unreserve(device)
        hwpt.users.remove(device)
        return hwpt

    def replace(self, device: Member, hwpt: Hwpt, pasid: int) -> Hwpt | None:
        """Give all of the group another page table at once. Returns the one that lost its users;
        None: nothing changes.

        EINVAL: the device is not attached, or the page table does not suit. ENODEV: it is for
        devices without an IOMMU. EADDRINUSE: a reserved region is in use. Then nothing has changed.
        Ref: v7.3 device.c iommufd_device_do_replace
        """
        found = self.attached_at(device, pasid)
        if found is None:
            raise IoctlError(EINVAL, f"{device} is not attached{_at(pasid)}, so it has nothing to replace")
        old = found.hwpt
        if old is hwpt:
            return None
        old_ioas, ioas = old.paging.ioas, hwpt.paging.ioas
        moved = pasid == NO_PASID and ioas is not old_ioas
        if moved:
            try:
                for member in found.devices:
                    self._reserve(member, ioas)
            except BaseException:
                self._unreserve_all(ioas)
                raise
        try:
            self._check_pasid(hwpt, pasid)
            _switch_all(found.devices, hwpt, pasid, old)
        except BaseException:
            if moved:
                self._unreserve_all(ioas)
            raise
        self.attachments[pasid] = Attachment(pasid, hwpt, device, found.devices)
        _answer_faults(found)
        if moved:
            self._unreserve_all(old_ioas)
        for member in found.devices:
            hwpt.users.append(member)
            old.users.remove(member)
        return old

    def _check_pasid(self, hwpt: Hwpt, pasid: int) -> None:
        # Ref: v7.3 device.c iommufd_hwpt_pasid_compat
        if not hwpt.pasid_compat and (pasid != NO_PASID or any(other != NO_PASID for other in self.attachments)):
            raise IoctlError(EINVAL, f"{hwpt} was not allocated with IOMMU_HWPT_ALLOC_PASID")
        if pasid != NO_PASID and self.hwpt is not None and not self.hwpt.pasid_compat:
            raise IoctlError(EINVAL, f"{self} has {self.hwpt}, which was not allocated with IOMMU_HWPT_ALLOC_PASID")

    def _reserve(self, device: Member, ioas: Ioas) -> None:
        # Ref: v7.3 io_pagetable.c iopt_table_enforce_dev_resv_regions
        try:
            for region in device.port.reserved_regions():
                ioas.iopt.reserve(region.start, region.last, device)
        except BaseException:
            ioas.iopt.unreserve(device)
            raise

    def _unreserve_all(self, ioas: Ioas) -> None:
        for member in self.attached:
            ioas.iopt.unreserve(member)


def _switch(device: Member, hwpt: Hwpt, pasid: int, old: Hwpt | None) -> None:
    # Ref: v7.3 iommu.c __iommu_attach_group, iommu_attach_device_pasid, iommu_replace_device_pasid
    port = device.port
    # none is walked, so any will do. Ref: v7.3 device.c iommufd_hwpt_attach_device
    if not device.iommu.walks:
        return
    if pasid != NO_PASID and not hwpt.domain.pasids:
        raise IoctlError(EOPNOTSUPP, f"{hwpt} is of a kind that cannot be attached to a PASID")
    if hwpt.domain.physical and old is not None:
        raise IoctlError(ENODEV, f"{hwpt} is for devices without an IOMMU, so {device} cannot change to it")
    if hwpt.iommu.kind != device.iommu.kind:
        raise IoctlError(EINVAL, f"{hwpt} is of another kind of IOMMU than {device}")
    if pasid == NO_PASID:
        port.attach(hwpt.domain)
    elif port.max_pasids:  # one without PASIDs cannot use it, and is not asked
        if pasid >= port.max_pasids:
            raise IoctlError(EINVAL, f"{device} has PASIDs up to {port.max_pasids - 1}")
        port.attach_pasid(pasid, hwpt.domain, old.domain if old is not None else None)


def _switch_all(devices: list[Member], hwpt: Hwpt, pasid: int, old: Hwpt) -> None:
    done: list[Member] = []
    try:
        for member in devices:
            _switch(member, hwpt, pasid, old)
            done.append(member)
    except BaseException:
        for member in done:
            _switch(member, old, pasid, hwpt)
        raise


def _block(device: Member, pasid: int) -> None:
    if not device.iommu.walks:
        return
    if pasid == NO_PASID:
        device.port.detach()
    elif device.port.max_pasids:
        device.port.detach_pasid(pasid)


def _answer_faults(ended: Attachment) -> None:
    if ended.hwpt.fault is not None:
        ended.hwpt.fault.answer_all(ended)


def _at(pasid: int) -> str:
    return "" if pasid == NO_PASID else f" at PASID {pasid}"
