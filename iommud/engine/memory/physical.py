"""Physical addresses: where the memory of the whole host lies that devices without an IOMMU work
on.

They are not the machine's own. An emulated device could do nothing with those, an unprivileged
daemon is not told them, and pages move unless user space can pin them. So this is a made-up RAM. In
it a page has one address, wherever it is mapped. It gets the address when a page table without an
IOMMU first shows anything of its memory (a process's own, or a file), and keeps it until none shows
any. A page that nobody has asked for has no address yet.

In this RAM only that lies together which may be relied on: a page, and a huge page. Of ordinary
memory four pages do, aligned to four, as they often do in reality. The next four lie elsewhere, so
that a client that relies on more finds out. The RAM begins at 4 GiB. A memory gets it in pieces of
1 GiB. Within a piece, a multiplication scatters the memory's blocks, so that no table is needed.
"""

from collections.abc import Hashable, Iterator
from errno import ENOMEM
from typing import Final, NamedTuple

from ...errors import IoctlError
from .area import Area
from .origin import PAGE_SIZE
from .pages import Pages
from .span import Span, Spans

SEGMENT: Final = 1 << 30  # bytes
FIRST_SEGMENT: Final = 4
SEGMENTS: Final = 1 << 22  # below 2^52, what a page table without an IOMMU can hold
ORDINARY_BLOCK: Final = 4 * PAGE_SIZE
_SCATTER: Final = 0x9E37  # odd


class _Memory:
    """The physical addresses of one memory. `shown`: its owners say what shows it. `segments`: the
    pieces of RAM that it has got.
    """

    __slots__ = ("block", "key", "scatter", "segments", "shown", "unscatter")

    def __init__(self, key: Hashable, block: int) -> None:
        self.key = key
        self.block = block
        blocks = SEGMENT // block
        self.scatter = _SCATTER % blocks
        self.unscatter = pow(_SCATTER, -1, blocks) if blocks > 1 else 0
        self.segments: dict[int, int] = {}  # which GiB of the memory -> which of the RAM
        self.shown = Spans()

    def move(self, offset: int, factor: int) -> int:
        """Where byte `offset` of a segment lies in it. With the inverse factor, the way back."""
        block, rest = divmod(offset, self.block)
        return block * factor % (SEGMENT // self.block) * self.block + rest


class Shower(NamedTuple):
    """The area that shows a stretch of memory, which is that from byte `start_byte` of its pages
    on.
    """

    area: Area
    start_byte: int


class Physical:
    """The RAM of a host: which areas show what of it, and which addresses it has."""

    __slots__ = ("_areas", "_free", "_given", "_memories", "_next")

    def __init__(self) -> None:
        self._memories: dict[Hashable, _Memory] = {}
        self._areas: dict[Area, list[tuple[_Memory, Span]]] = {}
        # which GiB of the RAM -> of which memory, which GiB of that
        self._given: dict[int, tuple[_Memory, int]] = {}
        self._free: list[int] = []
        self._next = FIRST_SEGMENT

    def __len__(self) -> int:
        """How many areas show some of it."""
        return len(self._areas)

    def used(self) -> int:
        """Bytes of it that are given out, by whole GiB."""
        return len(self._given) * SEGMENT

    def show(self, area: Area, pages: Pages) -> None:
        """From now on a page table without an IOMMU shows the area; all of it is held."""
        found = self._areas[area] = []
        start_byte = area.start_byte - area.page_offset
        for stretch in pages.stretches(area.first_index, area.last_index):
            memory = self._memory(stretch.memory, stretch.block)
            span = Span(stretch.place, stretch.place + stretch.length - 1, Shower(area, start_byte))
            memory.shown.add(span)
            found.append((memory, span))
            start_byte += stretch.length

    def hide(self, area: Area) -> None:
        """Undo `show`, if the area was shown. Memory that nothing shows any more has no address any
        more.
        """
        for memory, span in self._areas.pop(area, ()):
            memory.shown.remove(span)
            if not len(memory.shown):
                del self._memories[memory.key]
                for number in memory.segments.values():
                    del self._given[number]
                    self._free.append(number)

    def runs(self, pages: Pages, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(address, length) in bytes of the pages with index first..last, which are shown: upwards,
        in runs that lie together.

        ENOMEM: the RAM is full.
        """
        for stretch in pages.stretches(first, last):
            memory = self._memory(stretch.memory, stretch.block)
            place, end = stretch.place, stretch.place + stretch.length
            while place < end:
                length = min(memory.block - place % memory.block, end - place)
                yield self._address(memory, place), length
                place += length

    def at(self, address: int) -> Iterator[tuple[Shower, int]]:
        """What shows the byte at a physical address, and how many bytes lie together from there on.
        Nothing, if the address belongs to nobody.
        """
        number, offset = divmod(address, SEGMENT)
        if number not in self._given:
            return
        memory, segment = self._given[number]
        place = segment * SEGMENT + memory.move(offset, memory.unscatter)
        block_last = place | memory.block - 1
        for span in memory.shown.touching(place, place):
            assert isinstance(span.owner, Shower)
            area, start_byte = span.owner
            yield Shower(area, start_byte + place - span.start), min(span.last, block_last) - place + 1

    def _memory(self, name: Hashable, page_size: int) -> _Memory:
        block = min(max(page_size, ORDINARY_BLOCK), SEGMENT)
        key = name, block
        found = self._memories.get(key)
        if found is None:
            found = self._memories[key] = _Memory(key, block)
        return found

    def _address(self, memory: _Memory, place: int) -> int:
        segment, offset = divmod(place, SEGMENT)
        number = memory.segments.get(segment)
        if number is None:
            number = self._take()
            memory.segments[segment] = number
            self._given[number] = memory, segment
        return number * SEGMENT + memory.move(offset, memory.scatter)

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        if self._next == SEGMENTS:
            raise IoctlError(ENOMEM, "all physical addresses are taken")
        self._next += 1
        return self._next - 1
