"""Groups: devices that the hardware cannot tell apart share one page table.

The first device attached brings the page table; the others must ask for the same one, and each adds its own reserved regions.
Ref: v7.3 device.c struct iommufd_group
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING

from ..errors import IoctlError

if TYPE_CHECKING:
    from .device import Device, Region
    from .hwpt import HwptPaging
    from .ioas import Ioas


class Group:
    """The devices of one group that are bound in one context. `key` names the group on the whole host."""

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.bound: list[Device] = []
        self.hwpt: HwptPaging | None = None
        self.attached: list[Device] = []
        self.sw_msi_start: int | None = None

    def __str__(self) -> str:
        return f"group {self.key}"

    def attach(self, device: "Device", hwpt: "HwptPaging") -> None:
        """EBUSY: the device is attached already. EINVAL: the group has another page table, or the driver will not have this one.
        EADDRINUSE: a region that the device reserves is in use. Ref: v7.3 device.c iommufd_hw_pagetable_attach
        """
        if device in self.attached:
            raise IoctlError(EBUSY, f"{device} is attached already")
        if self.hwpt is not None and self.hwpt is not hwpt:
            raise IoctlError(EINVAL, f"{self} has {self.hwpt}, its devices cannot have {hwpt}")
        regions = self._reserve(device, hwpt.ioas)
        try:
            device.driver.attach(hwpt.domain)
        except BaseException:
            hwpt.ioas.iopt.unreserve(device)
            raise
        self.hwpt = hwpt
        for region in regions:
            if region.sw_msi:
                self.sw_msi_start = region.start
        hwpt.users.append(device)
        self.attached.append(device)

    def detach(self, device: "Device") -> "HwptPaging | None":
        """Undo `attach`; the page table that lost a user, or None when the device was not attached.

        Ref: v7.3 device.c iommufd_hw_pagetable_detach
        """
        hwpt = self.hwpt
        if hwpt is None or device not in self.attached:
            return None
        self.attached.remove(device)
        device.driver.detach()
        if not self.attached:
            self.hwpt = self.sw_msi_start = None
        hwpt.ioas.iopt.unreserve(device)
        hwpt.users.remove(device)
        return hwpt

    def replace(self, device: "Device", hwpt: "HwptPaging") -> "HwptPaging | None":
        """Give all of the group another page table at once; the one that lost its users, or None when nothing changes.

        EINVAL: the device is not attached, or the driver will not have it. EADDRINUSE: a reserved region is in use. Then nothing has
        changed. Ref: v7.3 device.c iommufd_device_do_replace
        """
        old = self.hwpt
        if old is None or device not in self.attached:
            raise IoctlError(EINVAL, f"{device} is not attached, so it has nothing to replace")
        if old is hwpt:
            return None
        moved = hwpt.ioas is not old.ioas
        if moved:
            try:
                for member in self.attached:
                    self._reserve(member, hwpt.ioas)
            except BaseException:
                self._unreserve_all(hwpt.ioas)
                raise
        done: list[Device] = []
        try:
            for member in self.attached:
                member.driver.attach(hwpt.domain)
                done.append(member)
        except BaseException:
            for member in done:
                member.driver.attach(old.domain)
            if moved:
                self._unreserve_all(hwpt.ioas)
            raise
        if moved:
            self._unreserve_all(old.ioas)
        self.hwpt = hwpt
        for member in self.attached:
            hwpt.users.append(member)
            old.users.remove(member)
        return old

    def _reserve(self, device: "Device", ioas: "Ioas") -> "list[Region]":
        # Ref: v7.3 io_pagetable.c iopt_table_enforce_dev_resv_regions
        try:
            regions = device.driver.reserved_regions()
            for region in regions:
                ioas.iopt.reserve(region.start, region.last, device)
        except BaseException:
            ioas.iopt.unreserve(device)
            raise
        return regions

    def _unreserve_all(self, ioas: "Ioas") -> None:
        for member in self.attached:
            ioas.iopt.unreserve(member)
