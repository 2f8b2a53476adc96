"""Pins counted against limits, and everything that is pinned, on one host.

A page is charged when the first Pages pins it, in the mode in which its mapping was made: against
the user (all pages of that user together), against the process, or not at all (CAP_IPC_LOCK). The
limit is RLIMIT_MEMLOCK of the process that mapped, as it is now.

Ref: v7.3 pages.c iopt_pages_update_pinned
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from errno import ENOMEM
from typing import Final, Protocol

from ...errors import IoctlError
from ..events import Observer
from .origin import Identity, Origin
from .share import Alone, Share


class Holding(Protocol):
    """What has pages pinned: a Pages."""

    def pins_of(self, identity: Identity) -> int:
        """How many of the pages held are this real page."""


class Ledger:
    """Counts are in pages of the system. `share`: what other hosts have of the same users."""

    def __init__(self, share: Share | None = None) -> None:
        self.share: Final = share or Alone()
        self.user_pages: Counter[int] = Counter()  # uid -> pages
        self.process_pages: Counter[Hashable] = Counter()  # address space -> pages
        self._holding: dict[int, Holding] = {}
        self.observer: Observer | None = None  # is told what happens

    def charge_user(self, origin: Origin, npages: int, page_size: int) -> None:
        """ENOMEM: it is more than RLIMIT_MEMLOCK of the process that mapped."""
        mine = self.user_pages[origin.uid] + npages
        limit = origin.memlock_limit()
        total = mine + self.share.pinned_by_user(origin.uid, npages)
        if limit is not None and total > limit // page_size:
            self.share.pinned_by_user(origin.uid, -npages)
            raise IoctlError(
                ENOMEM, f"user {origin.uid} would have {total} pages pinned; RLIMIT_MEMLOCK allows {limit // page_size}"
            )
        self.user_pages[origin.uid] = mine

    def uncharge_user(self, origin: Origin, npages: int) -> None:
        self.share.pinned_by_user(origin.uid, -npages)
        self.user_pages[origin.uid] -= npages
        if not self.user_pages[origin.uid]:
            del self.user_pages[origin.uid]

    def charge_process(self, origin: Origin, npages: int, page_size: int) -> None:
        """ENOMEM: it is more than RLIMIT_MEMLOCK of the process, together with what the process has
        locked itself.
        """
        mine = self.process_pages[origin.mm] + npages
        limit = origin.memlock_limit()
        total = mine + self.share.pinned_of_process(origin.mm, npages)
        if limit is not None and total + origin.locked_pages() > limit // page_size:
            self.share.pinned_of_process(origin.mm, -npages)
            raise IoctlError(
                ENOMEM, f"the process would have {total} pages pinned; RLIMIT_MEMLOCK allows {limit // page_size}"
            )
        self.process_pages[origin.mm] = mine

    def uncharge_process(self, origin: Origin, npages: int) -> None:
        self.share.pinned_of_process(origin.mm, -npages)
        self.process_pages[origin.mm] -= npages
        if not self.process_pages[origin.mm]:
            del self.process_pages[origin.mm]

    def pinned_of_process(self, origin: Origin) -> int:
        """How many pages count as pinned for its process, in all hosts."""
        return self.process_pages[origin.mm] + self.share.pinned_of_process(origin.mm, 0)

    def add(self, pages: Holding) -> None:
        """From now on `pages` has pages pinned."""
        self._holding[id(pages)] = pages

    def remove(self, pages: Holding) -> None:
        del self._holding[id(pages)]

    def all_pinned(self) -> Iterator[Holding]:
        """Every Pages that has pages pinned now."""
        return iter(list(self._holding.values()))

    def pins(self, identity: Identity) -> int:
        """How often the real page with this identity is pinned. As in the kernel, each Pages
        pins it once.
        """
        return sum(pages.pins_of(identity) for pages in self.all_pinned())
