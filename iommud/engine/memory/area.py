"""Areas, and the ordered map of them: those IOVAs of one IO page table that mean something.

Areas never overlap. With size, the map must not become slow at two things: finding, adding and
removing at an IOVA; and finding a *hole* of a wanted size. So areas stand in blocks of at most 128,
which a bisection finds. Each block, and each group of blocks, knows an upper bound of its largest
hole. A search skips what is too small, and corrects a bound that turns out too high. A hole belongs
to the area that ends it (the hole *before* that area); the hole after the last area belongs to no
block.

An area is small on purpose: a client may have a million.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

from .origin import PAGE_SIZE
from .pages import Pages
from .span import U64_MAX

PROT_READ: Final = 1 << 0
PROT_WRITE: Final = 1 << 1
BLOCK_LIMIT: Final = 128  # areas
GROUP: Final = 64  # blocks


class Area:
    """`iova`..`last` shows the bytes of `pages` from `start_byte` on.

    While the area is being set up or taken down, `pages` is None, and others get
    EBUSY. `accesses` is there only while accesses have pinned something of it.
    """

    __slots__ = ("accesses", "iova", "last", "pages", "prot", "start_byte")

    def __init__(self, iova: int, last: int, start_byte: int, prot: int) -> None:
        self.iova = iova
        self.last = last
        self.start_byte = start_byte
        self.prot = prot
        self.pages: Pages | None = None
        self.accesses: AreaAccesses | None = None

    @property
    def first_index(self) -> int:
        """The index of the area's first page in its Pages."""
        return self.start_byte // PAGE_SIZE

    @property
    def last_index(self) -> int:
        return (self.start_byte + self.last - self.iova) // PAGE_SIZE

    @property
    def length(self) -> int:
        return self.last - self.iova + 1

    @property
    def page_offset(self) -> int:
        """How far into its first page the area begins (bytes)."""
        return self.start_byte % PAGE_SIZE

    def __str__(self) -> str:
        return f"the area {self.iova:#x}..{self.last:#x}"


class AreaAccesses:
    """What accesses have pinned of an area: how many pins there are, how many of them refuse an
    unmap, and whether an unmap waits for them to go. Ref: v7.3 io_pagetable.h iopt_area
    """

    __slots__ = ("num_accesses", "num_locks", "prevent_access")

    def __init__(self) -> None:
        self.num_accesses = 0
        self.num_locks = 0
        self.prevent_access = False


class _Block:
    __slots__ = ("areas", "hole")

    def __init__(self, areas: list[Area], hole: int) -> None:
        self.areas = areas
        self.hole = hole  # no hole before an area of this block is larger (bytes)


def _iova(area: Area) -> int:
    return area.iova


def _last(area: Area) -> int:
    return area.last


class AreaMap:
    """Areas that do not overlap, ordered by IOVA."""

    __slots__ = ("_blocks", "_count", "_firsts", "_groups")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._blocks: list[_Block] = []
        self._firsts: list[int] = []  # the IOVA of each block's first area
        self._groups: list[int] = []  # the largest `hole` of each GROUP blocks, or more
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Area]:
        for block in self._blocks:
            yield from block.areas

    def first(self, start: int, last: int) -> Area | None:
        """The lowest area that has an IOVA in common with start..last."""
        at = bisect_right(self._firsts, start) - 1
        if at < 0:
            at = 0
            if not self._blocks:
                return None
        areas = self._blocks[at].areas
        index = bisect_left(areas, start, key=_last)
        if index == len(areas):
            at += 1
            if at == len(self._blocks):
                return None
            areas, index = self._blocks[at].areas, 0
        area = areas[index]
        return area if area.iova <= last else None

    def touching(self, start: int, last: int) -> Iterator[Area]:
        """The areas that have an IOVA in common with start..last, upwards. The map must not change
        meanwhile.
        """
        for at in range(max(bisect_right(self._firsts, start) - 1, 0), len(self._blocks)):
            areas = self._blocks[at].areas
            for index in range(bisect_left(areas, start, key=_last), len(areas)):
                if areas[index].iova > last:
                    return
                yield areas[index]

    def before(self, iova: int) -> Area | None:
        """The highest area that ends before an IOVA."""
        at = bisect_left(self._firsts, iova) - 1
        if at < 0:
            return None
        index = bisect_left(self._blocks[at].areas, iova, key=_last) - 1
        if index >= 0:
            return self._blocks[at].areas[index]
        return self._blocks[at - 1].areas[-1] if at else None

    def after(self, area: Area) -> Area | None:
        """The next area upwards."""
        return self.first(area.last + 1, U64_MAX) if area.last != U64_MAX else None

    def add(self, area: Area) -> None:
        """Add an area that overlaps none."""
        self._count += 1
        if not self._blocks:
            self._blocks.append(_Block([area], area.iova))
            self._firsts.append(area.iova)
            self._groups.append(area.iova)
            return
        at = max(bisect_right(self._firsts, area.iova) - 1, 0)
        block = self._blocks[at]
        areas = block.areas
        index = bisect_left(areas, area.iova, key=_iova)
        areas.insert(index, area)
        if index == 0:
            self._firsts[at] = area.iova
        self._raise_hole(at, area.iova - self._end_before(at, index))
        if len(areas) > BLOCK_LIMIT:
            self._split(at)

    def remove(self, area: Area) -> None:
        """Remove an area that is in the map."""
        self._count -= 1
        at = bisect_right(self._firsts, area.iova) - 1
        areas = self._blocks[at].areas
        index = bisect_left(areas, area.iova, key=_iova)
        if areas[index] is not area:
            raise KeyError(str(area))
        del areas[index]
        if not areas:
            del self._blocks[at], self._firsts[at]
            self._regroup(at)
            if at == len(self._blocks):
                return
            areas = self._blocks[at].areas
        elif index == 0:
            self._firsts[at] = areas[0].iova
        if index == len(areas):
            at, index = at + 1, 0
            if at == len(self._blocks):
                return
            areas = self._blocks[at].areas
        self._raise_hole(at, areas[index].iova - self._end_before(at, index))

    def holes(self, start: int, last: int, size: int) -> Iterator[tuple[int, int]]:
        """Stretches (start, last) of start..last without an area, upwards, at least those of `size`
        bytes or more.
        """
        at = max(bisect_right(self._firsts, start) - 1, 0)
        while at < len(self._blocks):
            if at % GROUP == 0 and self._groups[at // GROUP] < size:
                at += GROUP
                continue
            block = self._blocks[at]
            if block.hole >= size:
                end, largest = self._end_before(at, 0), 0
                for area in block.areas:
                    hole = area.iova - end
                    if hole > largest:
                        largest = hole
                    if hole >= size and area.iova > start:
                        if end > last:
                            return
                        if min(area.iova - 1, last) - max(end, start) + 1 >= size:
                            yield max(end, start), min(area.iova - 1, last)
                    end = area.last + 1
                block.hole = largest
                if end > last:
                    return
            elif block.areas[-1].last >= last:
                return
            at += 1
            if at % GROUP == 0:
                self._settle_group(at // GROUP - 1)
        end = max(start, self._blocks[-1].areas[-1].last + 1 if self._blocks else 0)
        if end <= last and last - end + 1 >= size:
            yield end, last

    def _end_before(self, at: int, index: int) -> int:
        """Where the area before this one ends (exclusive); 0: there is none."""
        if index:
            return self._blocks[at].areas[index - 1].last + 1
        return self._blocks[at - 1].areas[-1].last + 1 if at else 0

    def _raise_hole(self, at: int, hole: int) -> None:
        block = self._blocks[at]
        if hole > block.hole:
            block.hole = hole
            if hole > self._groups[at // GROUP]:
                self._groups[at // GROUP] = hole

    def _settle_group(self, group: int) -> None:
        self._groups[group] = max(block.hole for block in self._blocks[group * GROUP : (group + 1) * GROUP])

    def _split(self, at: int) -> None:
        block = self._blocks[at]
        half = len(block.areas) // 2
        upper = _Block(block.areas[half:], block.hole)
        block.areas = block.areas[:half]
        self._blocks.insert(at + 1, upper)
        self._firsts.insert(at + 1, upper.areas[0].iova)
        self._regroup(at)

    def _regroup(self, at: int) -> None:
        """Blocks from `at` on have moved."""
        first = at // GROUP
        del self._groups[first:]
        self._groups.extend(
            max(block.hole for block in self._blocks[begin : begin + GROUP])
            for begin in range(first * GROUP, len(self._blocks), GROUP)
        )

    def check(self) -> None:
        """Raise AssertionError when an invariant of the map does not hold; for tests."""
        previous_end = 0
        assert len(self._firsts) == len(self._blocks)
        assert len(self._groups) == -(-len(self._blocks) // GROUP)
        assert sum(len(block.areas) for block in self._blocks) == self._count
        for at, block in enumerate(self._blocks):
            assert 0 < len(block.areas) <= BLOCK_LIMIT
            assert self._firsts[at] == block.areas[0].iova
            assert self._groups[at // GROUP] >= block.hole
            for area in block.areas:
                assert previous_end <= area.iova <= area.last <= U64_MAX
                assert block.hole >= area.iova - previous_end
                previous_end = area.last + 1
