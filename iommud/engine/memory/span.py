"""Ranges of numbers from 0 to U64_MAX: a small set that may overlap, and the holes between ranges.

`last` is inclusive everywhere: a range may end at U64_MAX, where last + 1 would overflow in the
kernel.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from errno import EOVERFLOW
from typing import Final, NamedTuple

from ...errors import IoctlError

U64_MAX: Final = (1 << 64) - 1


def last_of(start: int, length: int, what: str = "IOVA") -> int:
    """The last of `length` numbers (1 or more) from `start` on. EOVERFLOW: it is beyond
    2^64 - 1.
    """
    last = start + length - 1
    if last > U64_MAX:
        raise IoctlError(EOVERFLOW, f"{what} {start:#x} + length {length:#x} is beyond 2^64 - 1")
    return last


class Span(NamedTuple):
    """The numbers from `start` to `last`; `owner` says on whose behalf."""

    start: int
    last: int
    owner: object = None

    def __str__(self) -> str:
        return f"{self.start:#x}..{self.last:#x}"


class Spans:
    """Ranges ordered by start. They may overlap and may be equal. Made for hundreds, not for
    millions.
    """

    __slots__ = ("_longest", "_spans")

    def __init__(self) -> None:
        self._spans: list[Span] = []
        # no range covers more than this many numbers: bounds the walk back in `first`
        self._longest = 0

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def add(self, span: Span) -> None:
        insort(self._spans, span, key=_start)
        self._longest = max(self._longest, span.last - span.start + 1)

    def remove(self, span: Span) -> None:
        """Take out one range equal to `span`. KeyError: there is none."""
        at = bisect_left(self._spans, span.start, key=_start)
        while at < len(self._spans) and self._spans[at].start == span.start:
            if self._spans[at] == span:
                del self._spans[at]
                return
            at += 1
        raise KeyError(str(span))

    def remove_owner(self, owner: object) -> None:
        """Take out every range that was added for `owner`."""
        self._spans = [span for span in self._spans if span.owner is not owner]

    def first(self, start: int, last: int) -> Span | None:
        """The lowest range that has a number in common with start..last."""
        return next(self.touching(start, last), None)

    def touching(self, start: int, last: int) -> Iterator[Span]:
        """The ranges that have a number in common with start..last, upwards."""
        low = bisect_left(self._spans, start - self._longest + 1, key=_start)
        for span in self._spans[low : bisect_right(self._spans, last, key=_start)]:
            if span.last >= start:
                yield span

    def holes(self, start: int, last: int) -> Iterator[tuple[int, int]]:
        """The maximal stretches (start, last) of start..last that no range touches, upwards."""
        position = start
        for span in self._spans[bisect_left(self._spans, start - self._longest + 1, key=_start) :]:
            if span.start > last:
                break
            if span.last < position:
                continue
            if span.start > position:
                yield position, span.start - 1
            position = span.last + 1
            if position > last:
                return
        yield position, last


def _start(span: Span) -> int:
    return span.start
