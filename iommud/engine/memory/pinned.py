"""What of a Pages is pinned. Many may pin a page; the real page behind it is pinned once. This
module counts the pins, and finds what holds a page.

Ref: v7.3 pages.c (theory at its top)
"""

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from .ledger import Ledger
from .origin import Pin
from .span import Span, Spans


class PinRef:
    """A pin of real pages, from page `first` on, and its references: one for each of its pages that
    is pinned, and one for whoever copies through it just now.
    """

    __slots__ = ("_refs", "first", "pin")

    def __init__(self, first: int, refs: int, pin: Pin) -> None:
        self.first = first
        self.pin = pin
        self._refs = refs

    def get(self) -> None:
        self._refs += 1

    def put(self, times: int = 1) -> None:
        """The last put closes the pin."""
        self._refs -= times
        if not self._refs:
            self.pin.close()


class Part(NamedTuple):
    """Pages first..last, and what holds them."""

    first: int
    last: int
    by: PinRef


class Chargeable(Protocol):
    """What the pages are taken from, by index: a Pages."""

    def new_pin(self, first: int, last: int) -> Pin: ...

    def charge(self, ledger: Ledger, npages: int) -> None: ...

    def uncharge(self, ledger: Ledger, npages: int) -> None: ...


class Pinned:
    """What of a Pages is pinned: the range (of page indexes) of each pin that was asked for
    (`pins`), and for each pinned page the one `Pin` that holds it.

    The real page is pinned and charged once, however often its index is pinned. A `Pin` may hold
    more than is still pinned; it is closed when none of it is. If an index is pinned again
    meanwhile, a new `Pin` holds the page that its process has there then.
    """

    __slots__ = ("_pages", "_parts", "npinned", "pins")

    def __init__(self, pages: Chargeable) -> None:
        self._pages = pages
        self.pins = Spans()
        self._parts: list[Part] = []  # all that is pinned, upwards, without overlaps
        self.npinned = 0

    @property
    def empty(self) -> bool:
        return not len(self.pins)

    def pin(self, ledger: Ledger, first: int, last: int) -> None:
        made: list[Part] = []
        try:
            for low, high in self.pins.holes(first, last):
                made.append(Part(low, high, PinRef(low, high - low + 1, self._pages.new_pin(low, high))))
            npages = sum(part.last - part.first + 1 for part in made)
            self._pages.charge(ledger, npages)
        except BaseException:
            for part in made:
                part.by.pin.close()
            raise
        for part in made:
            insort(self._parts, part, key=_first)
        self.npinned += npages
        self.pins.add(Span(first, last))

    def unpin(self, ledger: Ledger, first: int, last: int) -> None:
        self.pins.remove(Span(first, last))
        bare = list(self.pins.holes(first, last))
        self._pages.uncharge(ledger, sum(high - low + 1 for low, high in bare))
        for low, high in bare:
            self.npinned -= high - low + 1
            self._put(low, high)

    def _put(self, low: int, high: int) -> None:
        at = self._at(low)
        while at < len(self._parts) and self._parts[at].first <= high:
            first, last, by = self._parts[at]
            rest = [Part(first, low - 1, by)] if first < low else []
            if last > high:
                rest.append(Part(high + 1, last, by))
            self._parts[at : at + 1] = rest
            at += len(rest)
            by.put(min(last, high) - max(first, low) + 1)

    def _at(self, index: int) -> int:
        """Where the part stands that begins at page `index` or before it; 0: there is none."""
        return max(bisect_right(self._parts, index, key=_first) - 1, 0)

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """What holds the pinned pages of first..last, upwards. Nothing may be pinned or unpinned
        meanwhile.
        """
        for at in range(self._at(first), len(self._parts)):
            low, high, by = self._parts[at]
            if low > last:
                return
            if high >= first:
                yield Part(max(low, first), min(high, last), by)


def _first(part: Part) -> int:
    return part.first
