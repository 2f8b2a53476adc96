"""The ranges that a client allows (IOAS_ALLOW_IOVAS). None of them overlap, and there may be
millions.

A list is taken in as it comes, some ranges at a time, and sorted in steps, so that others have
their turn. Nearly always it is sorted already.

Ref: v7.3 ioas.c iommufd_ioas_load_iovas, io_pagetable.c iopt_set_allow_iova, iopt_alloc_iova
"""

import random
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Iterator
from errno import EFAULT, EINVAL
from operator import lt, sub
from typing import Final

from ...errors import IoctlError
from ..memory.span import Span

AT_ONCE: Final = 4096  # ranges that are put in order at a time
BLOCK: Final = 1024  # ranges of which the longest is known


class Allowed:
    """The ranges, upwards."""

    __slots__ = ("_lasts", "_longest", "_starts")

    def __init__(self, starts: "array[int] | None" = None, lasts: "array[int] | None" = None) -> None:
        """Upwards, and without overlaps."""
        self._starts = starts if starts is not None else array("Q")
        self._lasts = lasts if lasts is not None else array("Q")
        self._longest: list[int] = []  # of each block: last - start

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._lasts)

    def first(self, start: int, last: int) -> Span | None:
        """The lowest range that has a number in common with start..last."""
        at = bisect_left(self._lasts, start)
        if at < len(self._starts) and self._starts[at] <= last:
            return Span(self._starts[at], self._lasts[at])
        return None

    def windows(self, length: int) -> Iterator[tuple[int, int]]:
        """The stretches (start, last) of at least `length` numbers that are allowed, upwards.
        Ranges that touch form one.
        """
        starts, lasts = self._starts, self._lasts
        at, end = 0, len(starts)
        while at < end:
            if at % BLOCK == 0 and not self._may_fit(at // BLOCK, length):
                at += BLOCK
                continue
            start, last = starts[at], lasts[at]
            at += 1
            while at < end and starts[at] == last + 1:
                last = lasts[at]
                at += 1
            if last - start >= length - 1:
                yield start, last

    def _may_fit(self, block: int, length: int) -> bool:
        """Whether a window of `length` can begin in this block of ranges."""
        while len(self._longest) <= block:
            self.look_at_next()
        return self._longest[block] >= length - 1

    def look_at_next(self) -> bool:
        """Find the longest range of one more block. Returns whether there was one."""
        at = len(self._longest) * BLOCK
        starts, lasts = self._starts[at : at + BLOCK + 1], self._lasts[at : at + BLOCK]
        if not lasts:
            return False
        touching = 1 in map(sub, starts[1:], lasts)
        self._longest.append(1 << 64 if touching else max(map(sub, lasts, starts)))
        return True


class Given:
    """A list of ranges as a client gives it."""

    def __init__(self) -> None:
        self.count = 0  # ranges that were added
        self.unreadable = ""  # why there are not more, if there should be
        self._starts = array("Q")
        self._lasts = array("Q")
        self._in_order = True

    def add(self, data: bytes) -> None:
        """Add the next ranges: struct iommu_iova_range, whole. IoctlError(EINVAL): one is empty, or
        a single number.
        """
        values = array("Q", data)
        starts, lasts = values[0::2], values[1::2]
        if not all(map(lt, starts, lasts)):
            index = next(at for at, (start, last) in enumerate(zip(starts, lasts, strict=True)) if start >= last)
            start, last = starts[index], lasts[index]
            raise IoctlError(EINVAL, f"range {self.count + index}: start {start:#x} is not less than last {last:#x}")
        if self._in_order:
            before = self._lasts[-1:] + lasts
            self._in_order = all(map(lt, before, starts[len(starts) + 1 - len(before) :]))
        self._starts += starts
        self._lasts += lasts
        self.count += len(starts)

    def ordered(self) -> Generator[None, None, Allowed]:
        """To be called when all are there. Yields now and then. IoctlError: EINVAL: two overlap.
        EFAULT: `unreadable`.
        """
        if not self._in_order:
            yield from self._sort()
        if self.unreadable:
            raise IoctlError(EFAULT, self.unreadable)
        found = Allowed(self._starts, self._lasts)
        while found.look_at_next():
            yield
        return found

    def _sort(self) -> Generator[None, None, None]:
        """Divide by pivots into heaps that are small enough to be sorted at once. Chance picks the
        pivots, so that no client can.
        """
        pivots = sorted(random.choices(self._starts, k=2 * self.count // AT_ONCE))
        heaps = [(array("Q"), array("Q")) for _ in range(len(pivots) + 1)]
        for at in range(0, self.count, AT_ONCE):
            part = slice(at, at + AT_ONCE)
            for start, last in zip(self._starts[part], self._lasts[part], strict=True):
                starts, lasts = heaps[bisect_right(pivots, start)]
                starts.append(start)
                lasts.append(last)
            yield
        self._starts, self._lasts = array("Q"), array("Q")
        for starts, lasts in heaps:
            pairs = sorted(zip(starts, lasts, strict=True))
            before = self._lasts[-1] if self._lasts else -1
            for start, last in pairs:
                if start <= before:
                    raise IoctlError(
                        EINVAL, f"the range {start:#x}..{last:#x} overlaps another, which ends at {before:#x}"
                    )
                before = last
            self._starts.extend(start for start, _ in pairs)
            self._lasts.extend(last for _, last in pairs)
            yield


NOTHING: Final = Allowed()


def allowed_of(ranges: Iterable[tuple[int, int]]) -> Allowed:
    """These (start, last) ranges, upwards and without overlaps."""
    pairs = sorted(ranges)
    return Allowed(array("Q", (start for start, _ in pairs)), array("Q", (last for _, last in pairs)))
