"""The context: everything behind one open of the device. It goes, whole, when the file is released.

Ref: v7.3 main.c struct iommufd_ctx
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL, ENODEV

from ..errors import IoctlError
from .group import Group
from .host import Host
from .ioas import Ioas
from .objects import ObjectTable
from .pages import AccountMode


class Context:
    """The objects of one open file and the options that all of them share."""

    def __init__(self, host: Host | None = None) -> None:
        self.host = host or Host()
        self.groups: dict[Hashable, Group] = {}
        self.objects = ObjectTable()
        self._files = 1  # open files that keep it: the device's, and one for each access given to a client
        self.no_iommu = False  # VFIO: a device without an IOMMU came first, so there will be no compat IOAS
        self._compat_ioas: Ioas | None = None
        self.account_mode = AccountMode.NONE  # MM once RLIMIT_MODE was set to 1; else the default, per user

    def ioas(self, number: int) -> Ioas:
        """The IOAS with this ID. ENOENT: none, or another kind."""
        return self.objects.get(number, Ioas)

    def compat_ioas(self) -> Ioas:
        """The IOAS that VFIO's ioctls act on. ENODEV: none. Ref: v7.3 vfio_compat.c get_compat_ioas"""
        ioas = self._compat_ioas
        if ioas is None or not self.objects.has(ioas):
            raise IoctlError(ENODEV, "there is no compat IOAS: a VFIO group would bring one, here IOMMU_VFIO_IOAS_SET names one")
        return ioas

    def set_compat_ioas(self, ioas: Ioas | None) -> None:
        """None: there is none any more. That of a destroyed IOAS is forgotten by itself."""
        self._compat_ioas = ioas

    def ensure_compat_ioas(self) -> Ioas:
        """What a VFIO group's device wants when it is attached: the compat IOAS, made if there is none, and then a client's like any other.

        EINVAL: a device without an IOMMU was there first. Ref: v7.3 vfio_compat.c iommufd_vfio_compat_ioas_create
        """
        if self.no_iommu:
            raise IoctlError(EINVAL, "the container has a device without an IOMMU")
        if self._compat_ioas is None or not self.objects.has(self._compat_ioas):
            ioas = Ioas(self.host)
            self.objects.reserve(ioas)
            self.objects.publish(ioas)
            self._compat_ioas = ioas
        return self._compat_ioas

    def set_no_iommu(self) -> None:
        """A VFIO group's device that has no IOMMU is attached. EINVAL: there is a compat IOAS.

        Ref: v7.3 vfio_compat.c iommufd_vfio_compat_set_no_iommu
        """
        if self._compat_ioas is not None and self.objects.has(self._compat_ioas):
            raise IoctlError(EINVAL, f"the container has {self._compat_ioas}, for devices that have an IOMMU")
        self.no_iommu = True

    def rlimit_mode(self) -> int:
        """0: pins count against the user, 1: against the process."""
        return int(self.account_mode == AccountMode.MM)

    def set_rlimit_mode(self, value: int) -> None:
        """EBUSY: the context has objects. EINVAL: neither 0 nor 1. Ref: v7.3 ioas.c iommufd_option_rlimit_mode"""
        if len(self.objects):
            raise IoctlError(EBUSY, f"RLIMIT_MODE is set while the context is empty; it has {len(self.objects)} objects")
        if value not in (0, 1):
            raise IoctlError(EINVAL, f"RLIMIT_MODE {value} is neither 0 nor 1")
        self.account_mode = AccountMode.MM if value else AccountMode.USER

    def account_mode_for(self, exempt: bool) -> AccountMode:
        """How pages that are mapped now will be counted; `exempt`: the caller has CAP_IPC_LOCK.

        Ref: v7.3 pages.c iopt_alloc_pages, io_pagetable.c iopt_map_common
        """
        if exempt:
            return AccountMode.NONE
        return AccountMode.MM if self.account_mode == AccountMode.MM else AccountMode.USER

    def hold(self) -> None:
        """Another open file needs the context: an access outlives the device's. Ref: v7.3 device.c iommufd_access_create"""
        self._files += 1

    def release(self) -> None:
        """A file was released. With the last one everything goes, whatever state it is in."""
        self._files -= 1
        if not self._files:
            self.objects.remove_all()
