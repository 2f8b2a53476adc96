"""The context: everything behind one open of the device. It goes, whole, when the file is released.

Ref: v7.3 main.c struct iommufd_ctx
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL, ENODEV

from ...errors import IoctlError
from ..mapping.ioas import Ioas
from ..mapping.objects import ObjectTable
from ..memory.host import Host
from ..memory.origin import AccountMode
from .group import Group


class Context:
    """The objects of one open file and the options that all of them share."""

    def __init__(self, host: Host | None = None) -> None:
        self.host = host or Host()
        self.host.take()
        self.groups: dict[Hashable, Group] = {}
        self.objects = ObjectTable(self.host)
        # open files that keep it: the device's, and one for each access given to a client
        self._files = 1
        # VFIO: a device without an IOMMU came first, so there will be no compat IOAS
        self.no_iommu = False
        self._compat_ioas: Ioas | None = None
        # MM once RLIMIT_MODE was set to 1; else the default, per user
        self.account_mode = AccountMode.NONE

    def ioas(self, number: int) -> Ioas:
        """The IOAS with this ID. ENOENT: none, or another kind."""
        return self.objects.get(number, Ioas)

    def compat_ioas(self) -> Ioas:
        """The IOAS that VFIO's ioctls act on. ENODEV: there is none. Ref: v7.3 vfio_compat.c
        get_compat_ioas
        """
        ioas = self._standing_compat_ioas()
        if ioas is None:
            raise IoctlError(ENODEV, "there is no compat IOAS: a VFIO group brings one, IOMMU_VFIO_IOAS_SET names one")
        return ioas

    def has_compat_ioas(self) -> bool:
        return self._standing_compat_ioas() is not None

    def _standing_compat_ioas(self) -> Ioas | None:
        ioas = self._compat_ioas
        return ioas if ioas is not None and self.objects.has(ioas) else None

    def set_compat_ioas(self, ioas: Ioas | None) -> None:
        """None: from now on there is none. If the IOAS is destroyed, it is forgotten by itself."""
        self._compat_ioas = ioas

    def ensure_compat_ioas(self) -> Ioas:
        """What a VFIO group's device wants when it is attached: the compat IOAS, made if there is
        none, and then a client's like any other.

        EINVAL: a device without an IOMMU was there first. Ref: v7.3 vfio_compat.c
        iommufd_vfio_compat_ioas_create
        """
        if self.no_iommu:
            raise IoctlError(EINVAL, "the container has a device without an IOMMU")
        ioas = self._standing_compat_ioas()
        if ioas is None:
            ioas = Ioas(self.host)
            self.objects.reserve(ioas)
            self.objects.publish(ioas)
            self._compat_ioas = ioas
        return ioas

    def set_no_iommu(self) -> None:
        """A VFIO group's device that has no IOMMU is attached. EINVAL: there is a compat IOAS.

        Ref: v7.3 vfio_compat.c iommufd_vfio_compat_set_no_iommu
        """
        if self.has_compat_ioas():
            raise IoctlError(EINVAL, f"the container has {self._compat_ioas}, for devices that have an IOMMU")
        self.no_iommu = True

    def rlimit_mode(self) -> int:
        """0: pins count against the user, 1: against the process."""
        return int(self.account_mode == AccountMode.MM)

    def set_rlimit_mode(self, value: int) -> None:
        """EBUSY: the context has objects. EINVAL: neither 0 nor 1. Ref: v7.3 ioas.c
        iommufd_option_rlimit_mode
        """
        if len(self.objects):
            raise IoctlError(
                EBUSY, f"RLIMIT_MODE is set while the context is empty; it has {len(self.objects)} objects"
            )
        if value not in (0, 1):
            raise IoctlError(EINVAL, f"RLIMIT_MODE {value} is neither 0 nor 1")
        self.account_mode = AccountMode.MM if value else AccountMode.USER

    def account_mode_for(self, exempt: bool) -> AccountMode:
        """How pages that are mapped now will be counted. `exempt`: the caller has CAP_IPC_LOCK.

        Ref: v7.3 pages.c iopt_alloc_pages, io_pagetable.c iopt_map_common
        """
        if exempt:
            return AccountMode.NONE
        return AccountMode.MM if self.account_mode == AccountMode.MM else AccountMode.USER

    def get(self) -> None:
        """Another open file needs the context: an access outlives the device's file. Ref: v7.3
        device.c iommufd_access_create
        """
        self._files += 1

    def put(self) -> None:
        """A file was released. With the last one all objects go, in whatever state they are."""
        self._files -= 1
        if not self._files:
            self.objects.remove_all()
            self.host.give()
