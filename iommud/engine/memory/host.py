"""What all contexts of one daemon share, as all open files of one kernel do."""

from collections.abc import Hashable
from errno import EPERM

from ...errors import IoctlError
from .ledger import Ledger
from .physical import Physical
from .share import UNLIMITED, Share
from .shown import Shown


class Host(Ledger):
    """Counts, owners of groups, what clients may map of devices, and physical addresses."""

    def __init__(self, share: Share | None = None) -> None:
        """`share`: what other hosts have of the same users. None: there are no others."""
        super().__init__(share)
        self.standing = 0  # objects and areas
        self._granted = 0  # as many may stand
        self._few = 0  # below this many, some of it is given back
        self._owners: dict[Hashable, object] = {}
        self.shown = Shown()
        self.physical = Physical()

    def take(self, count: int = 1) -> None:
        """Count so many more objects or areas. ENOMEM: the user has no more left of his share, and
        nothing was counted.
        """
        self.standing += count
        while self.standing > self._granted:
            try:
                self._set_granted(self.share.grant(self._granted))
            except IoctlError:
                self.standing -= count
                raise

    def give(self, count: int = 1) -> None:
        """Undo `take`."""
        self.standing -= count
        if self.standing < self._few:
            self._set_granted(self.share.give_back(self._granted, self.standing))

    def _set_granted(self, granted: int) -> None:
        self._granted = granted
        self._few = granted >> 1 if granted < UNLIMITED else 0

    def claim(self, group: Hashable, owner: object) -> None:
        """`owner` (a context, or the kernel for its own drivers) takes over the DMA of a group's
        devices. EPERM: another has it. Ref: v7.3 iommu_device_claim_dma_owner
        """
        found = self._owners.get(group)
        if found is owner:
            return
        if found is not None or not self.share.claim(group):
            raise IoctlError(
                EPERM, f"the DMA of {group} belongs to another context, or a kernel driver has a device of it"
            )
        self._owners[group] = owner

    def release(self, group: Hashable) -> None:
        del self._owners[group]
        self.share.release(group)

    def owner(self, group: Hashable) -> object:
        """Who of this host has it; None: nobody."""
        return self._owners.get(group)

    def is_claimed(self, group: Hashable) -> bool:
        """Whether anybody has it. Ref: v7.3 iommu_group_dma_owner_claimed"""
        return group in self._owners or bool(self.share.count(group, 0))

    def empty(self) -> bool:
        """Whether nothing is charged, held, owned or shown; for tests."""
        return not (
            self.user_pages or self.process_pages or self._holding or self._owners or self.shown or self.physical
        )
