"""What a host's contexts have together with those of other hosts: counts of pinned pages, a share
of objects, and devices, which one of them has at a time.

One host is one process of the server. A user may have several of them (cuse_glue/broker), but
limits are the user's. A host that is alone needs none of this.
"""

from collections.abc import Hashable
from typing import Final, Protocol

UNLIMITED: Final = 1 << 62


class Everywhere(str):
    """The name of something that every host has, and only one at a time."""

    __slots__ = ()


class Share(Protocol):
    """The other hosts, as one host sees them."""

    def pinned_by_user(self, uid: int, npages: int) -> int:
        """Count so many pages more (or fewer) as pinned here for user `uid`. Returns how many pages
        other hosts have pinned for this user.

        IoctlError(ENOMEM): they cannot be counted.
        """

    def pinned_of_process(self, mm: Hashable, npages: int) -> int:
        """As `pinned_by_user`, for what is counted by address space."""

    def grant(self, granted: int) -> int:
        """Returns how many objects and areas may stand here from now on; so far it was `granted`.
        IoctlError(ENOMEM): the user has no more left of his share.
        """

    def give_back(self, granted: int, standing: int) -> int:
        """The reverse of `grant`: only `standing` objects and areas are still needed."""

    def claim(self, name: Hashable) -> bool:
        """Have a device, or the DMA of a group, for this host. False: another host has it, which
        can be only with what is named as being `Everywhere`.
        """

    def release(self, name: Hashable) -> None:
        """Undo a `claim`."""

    def count(self, name: Hashable, more: int) -> int:
        """Count so many more (or fewer) of `name` for this host. Returns how many others have. A
        claim counts as one.
        """


class Alone:
    """The `Share` of a host that is the only one."""

    def pinned_by_user(self, uid: int, npages: int) -> int:
        return 0

    def pinned_of_process(self, mm: Hashable, npages: int) -> int:
        return 0

    def grant(self, granted: int) -> int:
        return UNLIMITED

    def give_back(self, granted: int, standing: int) -> int:
        return granted

    def claim(self, name: Hashable) -> bool:
        return True

    def release(self, name: Hashable) -> None:
        pass

    def count(self, name: Hashable, more: int) -> int:
        return 0
