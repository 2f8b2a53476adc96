"""What of a Pages is pinned. A page that many need is pinned once: this counts who needs it, and finds what holds it.

Ref: v7.3 pages.c (theory at its top)
"""

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from .span import Span, Spans

if TYPE_CHECKING:
    from .host import Host
    from .pages import Pages, Pin


class Counted:
    """A pin from page `first` on, and how many need it: each of its pages that is covered, and whoever copies through it just now."""

    __slots__ = ("_needs", "first", "pin")

    def __init__(self, first: int, needs: int, pin: "Pin") -> None:
        self.first = first
        self.pin = pin
        self._needs = needs

    def keep(self) -> None:
        self._needs += 1

    def let_go(self, times: int = 1) -> None:
        """With the last the pin is closed."""
        self._needs -= times
        if not self._needs:
            self.pin.close()


class Part(NamedTuple):
    """Pages first..last, and what holds them."""

    first: int
    last: int
    by: Counted


class Held:
    """What of a Pages is pinned: stretches (by page index) that somebody covers, and for each covered page the one pin that holds it.

    A page is pinned and charged once, however many cover it. A pin may hold more than is still covered, and is closed when none of it is;
    a page that comes back meanwhile is pinned anew, as its process has it then.
    """

    __slots__ = ("_pages", "_parts", "covers", "npinned")

    def __init__(self, pages: "Pages") -> None:
        self._pages = pages
        self.covers = Spans()
        self._parts: list[Part] = []  # all that is covered, upwards, without overlaps
        self.npinned = 0

    @property
    def empty(self) -> bool:
        return not len(self.covers)

    def cover(self, host: "Host", first: int, last: int) -> None:
        made: list[Part] = []
        try:
            for low, high in self.covers.holes(first, last):
                made.append(Part(low, high, Counted(low, high - low + 1, self._pages.pin(low, high))))
            npages = sum(part.last - part.first + 1 for part in made)
            self._pages.charge(host, npages)
        except BaseException:
            for part in made:
                part.by.pin.close()
            raise
        for part in made:
            insort(self._parts, part, key=_first)
        self.npinned += npages
        self.covers.add(Span(first, last))

    def uncover(self, host: "Host", first: int, last: int) -> None:
        self.covers.remove(Span(first, last))
        bare = list(self.covers.holes(first, last))
        self._pages.uncharge(host, sum(high - low + 1 for low, high in bare))
        for low, high in bare:
            self.npinned -= high - low + 1
            self._let_go(low, high)

    def _let_go(self, low: int, high: int) -> None:
        at = self._at(low)
        while at < len(self._parts) and self._parts[at].first <= high:
            first, last, by = self._parts[at]
            rest = [Part(first, low - 1, by)] if first < low else []
            if last > high:
                rest.append(Part(high + 1, last, by))
            self._parts[at : at + 1] = rest
            at += len(rest)
            by.let_go(min(last, high) - max(first, low) + 1)

    def _at(self, index: int) -> int:
        """Where the part stands that begins at page `index` or lower; 0 when none does."""
        return max(bisect_right(self._parts, index, key=_first) - 1, 0)

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """What holds the covered pages of first..last, upwards. Nothing may be covered or uncovered meanwhile."""
        for at in range(self._at(first), len(self._parts)):
            low, high, by = self._parts[at]
            if low > last:
                return
            if high >= first:
                yield Part(max(low, first), min(high, last), by)


def _first(part: Part) -> int:
    return part.first
