"""What all contexts of one daemon share, as all open files of one kernel do: pins counted against limits, and who owns which group.

Limits: a page is charged when the first Pages pins it, by the mode its mapping was made under: against the user (all that user's pages
together), against the process, or not at all (CAP_IPC_LOCK). The limit is RLIMIT_MEMLOCK of the process that mapped, as it is now.

Ref: v7.3 pages.c iopt_pages_update_pinned
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from errno import ENOMEM, EPERM
from typing import TYPE_CHECKING

from ..errors import IoctlError
from .physical import Physical
from .shown import Shown

if TYPE_CHECKING:
    from .pages import Identity, Origin, Pages


class Host:
    """Counts and owners. Page counts are of the system's pages."""

    def __init__(self) -> None:
        self.user_pages: Counter[int] = Counter()  # uid -> pages
        self.process_pages: Counter[Hashable] = Counter()  # address space -> pages
        self._holding: dict[int, Pages] = {}
        self._owners: dict[Hashable, object] = {}
        self.shown = Shown()
        self.physical = Physical()

    # --- pins ---

    def charge_user(self, origin: "Origin", npages: int, page_size: int) -> None:
        """ENOMEM: more than RLIMIT_MEMLOCK of the process that mapped."""
        total = self.user_pages[origin.uid] + npages
        limit = origin.memlock_limit()
        if limit is not None and total > limit // page_size:
            raise IoctlError(ENOMEM, f"user {origin.uid} would have {total} pages pinned; RLIMIT_MEMLOCK allows {limit // page_size}")
        self.user_pages[origin.uid] = total

    def uncharge_user(self, origin: "Origin", npages: int) -> None:
        self.user_pages[origin.uid] -= npages
        if not self.user_pages[origin.uid]:
            del self.user_pages[origin.uid]

    def charge_process(self, origin: "Origin", npages: int, page_size: int) -> None:
        """ENOMEM: more than RLIMIT_MEMLOCK of the process, what it has locked itself included."""
        total = self.process_pages[origin.mm] + npages
        limit = origin.memlock_limit()
        if limit is not None and total + origin.locked_pages() > limit // page_size:
            raise IoctlError(ENOMEM, f"the process would have {total} pages pinned; RLIMIT_MEMLOCK allows {limit // page_size}")
        self.process_pages[origin.mm] = total

    def uncharge_process(self, origin: "Origin", npages: int) -> None:
        self.process_pages[origin.mm] -= npages
        if not self.process_pages[origin.mm]:
            del self.process_pages[origin.mm]

    def holds(self, pages: "Pages") -> None:
        """`pages` has pages pinned from now on."""
        self._holding[id(pages)] = pages

    def let_go(self, pages: "Pages") -> None:
        del self._holding[id(pages)]

    def holding(self) -> "Iterator[Pages]":
        """Every Pages that has pages pinned now."""
        return iter(list(self._holding.values()))

    def pins(self, identity: "Identity") -> int:
        """How often the real page of this identity is pinned: once by each Pages that covers it, as in the kernel."""
        return sum(pages.pins_of(identity) for pages in self.holding())

    # --- groups ---

    def claim(self, group: Hashable, owner: object) -> None:
        """`owner` (a context) takes the DMA of a group's devices. EPERM: another has it. Ref: v7.3 iommu_device_claim_dma_owner"""
        if self._owners.setdefault(group, owner) is not owner:
            raise IoctlError(EPERM, f"the devices of group {group} belong to another context")

    def release(self, group: Hashable) -> None:
        del self._owners[group]

    def empty(self) -> bool:
        """Whether nothing is charged, held, owned or shown; for tests."""
        return not (self.user_pages or self.process_pages or self._holding or self._owners or self.shown or self.physical)
