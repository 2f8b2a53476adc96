"""The context: everything behind one open of the device. It goes, whole, when the file is released.

Ref: v7.3 main.c struct iommufd_ctx
"""

from collections.abc import Hashable
from errno import EBUSY, EINVAL

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
        self.account_mode = AccountMode.NONE  # MM once RLIMIT_MODE was set to 1; else the default, per user

    def ioas(self, number: int) -> Ioas:
        """The IOAS with this ID. ENOENT: none, or another kind."""
        return self.objects.get(number, Ioas)

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
