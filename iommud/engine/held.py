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


class Part(NamedTuple):
    """Pages first..last, and a pin that holds them; the pin's first page is `pin_first`."""

    first: int
    last: int
    pin_first: int
    pin: "Pin"


class _Counted:
    """A pin from page `first` on, `left` of whose pages are still covered; with the last it is closed."""

    __slots__ = ("first", "left", "pin")

    def __init__(self, first: int, npages: int, pin: "Pin") -> None:
        self.first = first
        self.left = npages
        self.pin = pin


class Held:
    """What of a Pages is pinned: stretches (by page index) that somebody covers, and for each covered page the one pin that holds it.

    A page is pinned and charged once, however many cover it. A pin may hold more than is still covered, and is closed when none of it is;
    a page that comes back meanwhile is pinned anew, as its process has it then.
    """

    __slots__ = ("_pages", "_parts", "covers", "npinned")

    def __init__(self, pages: "Pages") -> None:
        self._pages = pages
        self.covers = Spans()
        self._parts: list[tuple[int, int, _Counted]] = []  # (first, last, by what): all that is covered, upwards, without overlaps
        self.npinned = 0

    @property
    def empty(self) -> bool:
        return not len(self.covers)

    def cover(self, host: "Host", first: int, last: int) -> None:
        made: list[tuple[int, int, _Counted]] = []
        try:
            for low, high in self.covers.holes(first, last):
                made.append((low, high, _Counted(low, high - low + 1, self._pages.pin(low, high))))
            self._pages.charge(host, sum(counted.left for _, _, counted in made))
        except BaseException:
            for _, _, counted in made:
                counted.pin.close()
            raise
        for part in made:
            insort(self._parts, part, key=_first)
        self.npinned += sum(counted.left for _, _, counted in made)
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
        while at < len(self._parts) and self._parts[at][0] <= high:
            first, last, counted = self._parts[at]
            rest = [(first, low - 1, counted)] if first < low else []
            if last > high:
                rest.append((high + 1, last, counted))
            self._parts[at : at + 1] = rest
            at += len(rest)
            counted.left -= min(last, high) - max(first, low) + 1
            if not counted.left:
                counted.pin.close()

    def _at(self, index: int) -> int:
        """Where the part stands that begins at page `index` or lower; 0 when none does."""
        return max(bisect_right(self._parts, index, key=_first) - 1, 0)

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """What holds the covered pages of first..last, upwards. Nothing may be covered or uncovered meanwhile."""
        for at in range(self._at(first), len(self._parts)):
            low, high, counted = self._parts[at]
            if low > last:
                return
            if high >= first:
                yield Part(max(low, first), min(high, last), counted.first, counted.pin)


def _first(part: tuple[int, int, _Counted]) -> int:
    return part[0]
