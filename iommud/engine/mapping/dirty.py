"""Which IOVAs DMA has written, as one page table remembers it.

The hardware has a bit in each entry of its page table, and sets it when a device writes through
that entry. A client collects the bits (and clears them), to know which memory it must copy again
while a guest moves. So *entries* are dirty, and an entry may be larger than what was written. Of
the sizes that the page table can have, it is the largest that lies in the area whole, aligned both
as an IOVA and as memory. We cannot know how far memory is contiguous; `largest_page` says how far
it is taken to be.

The bits stand in chunks, in units of the page table's smallest page. There is a chunk only while it
has a bit set, so what is clean costs nothing, however long the range is.

Ref: v7.3 generic_pt/iommu_pt.h read_and_clear_dirty, io_pagetable.c iopt_read_and_clear_dirty_data,
iova_bitmap.c
"""

from collections.abc import Iterator
from typing import Final

from ..memory.area import Area
from ..memory.origin import PAGE_SIZE

CHUNK_SHIFT: Final = 13
CHUNK_UNITS: Final = 1 << CHUNK_SHIFT  # 32 MiB of 4 KiB pages; 1 KiB of bits
_LAST_UNIT: Final = CHUNK_UNITS - 1
_FULL: Final = b"\xff" * (CHUNK_UNITS // 8)
_JOIN: Final = 64 << 10  # bytes of a bitmap that are handed out in one piece, if they lie together

# A byte's four pairs of bits, each as one bit: set if either is.
_PAIRS: Final = bytes(sum((byte >> 2 * at & 3 != 0) << at for at in range(4)) for byte in range(256))


class Dirty:
    """The record of one page table. `page_sizes`: the sizes (bytes, powers of two) of its entries,
    as a bitmap. Entries larger than `largest_page` (bytes) never occur, as memory is not contiguous
    so far.
    """

    __slots__ = ("_chunks", "_shift", "_sizes", "enabled")

    def __init__(self, page_sizes: int, largest_page: int = PAGE_SIZE) -> None:
        self.enabled = False
        self._shift = (page_sizes & -page_sizes).bit_length() - 1
        self._sizes = [
            1 << at for at in range(page_sizes.bit_length(), -1, -1) if page_sizes >> at & 1 and 1 << at <= largest_page
        ]
        self._chunks: dict[int, bytearray] = {}

    # --- what the page table does ---

    def enable(self, enable: bool) -> None:
        """Begin to remember, with nothing dirty, even if it was on before; or stop, and keep what
        is there until it is read.

        Ref: v7.3 io_pagetable.c iopt_set_dirty_tracking
        """
        if enable:
            self._chunks.clear()
        self.enabled = enable

    def wrote(self, area: Area, start: int, last: int, *, large_pages: bool = True) -> None:
        """A device wrote to start..last (IOVAs of `area`): the entries there are dirty, if tracking
        is on.
        """
        if self.enabled:
            self._mark(self.entry(area, start, large_pages)[0], self.entry(area, last, large_pages)[1])

    def entry(self, area: Area, iova: int, large_pages: bool = True) -> tuple[int, int]:
        """The IOVAs (start, last) of the entry through which `area` shows `iova`."""
        assert area.pages is not None
        skew = area.iova - area.start_byte - area.pages.start
        for size in self._sizes:
            start = iova & -size
            if (
                skew % size == 0
                and area.iova <= start
                and start + size - 1 <= area.last
                and (large_pages or size <= PAGE_SIZE)
            ):
                return start, start + size - 1
        return iova, iova

    def forget(self, start: int, last: int) -> None:
        """start..last is not mapped any more. An entry that comes there later is clean."""
        if self._chunks:
            for at in self._numbers(start, last):
                self._clear(at, *self._part(at, start, last))

    # --- what a client reads ---

    @property
    def unit(self) -> int:
        """The smallest entry (bytes)."""
        return 1 << self._shift

    @property
    def clean(self) -> bool:
        """Whether nothing at all is dirty."""
        return not self._chunks

    def scan(self, start: int, last: int, page_size: int, *, clear: bool) -> Iterator[tuple[int, bytes]]:
        """The dirty bits of start..last, as a bitmap with one bit for each `page_size` bytes (a
        power of two; `start` is aligned to it). Yields (offset, bytes) of stretches that are not
        all zero, upwards, no byte twice. With `clear`, what was yielded is clean. DMA may go on
        between the steps.
        """
        offset, held = 0, bytearray()
        for position, data in self._pieces(start, last, page_size.bit_length() - 1 - self._shift, clear):
            shared = held.pop() if held and offset + len(held) - 1 == position else 0
            if offset + len(held) != position or len(held) >= _JOIN:
                if held:
                    yield offset, bytes(held)
                offset, held = position, bytearray()
            held += data
            held[position - offset] |= shared
        if held:
            yield offset, bytes(held)

    def _pieces(self, start: int, last: int, order: int, clear: bool) -> Iterator[tuple[int, bytes]]:
        """`order`: how many units make one bit of the bitmap, as a power of two. It may be
        negative.
        """
        first = start >> self._shift
        for at in self._numbers(start, last):
            chunk = self._chunks.get(at)
            if chunk is None:
                continue  # it went while whoever asks was waiting
            low, high = self._part(at, start, last)
            position = (at << CHUNK_SHIFT) + low - first
            if order == 0 and high - low == _LAST_UNIT and not position & 7:
                # Nothing to shift, as mostly.
                if clear:
                    del self._chunks[at]
                data = chunk.rstrip(b"\0")
                yield (position >> 3) + len(data) - len(data.lstrip(b"\0")), bytes(data.lstrip(b"\0"))
                continue
            bits = int.from_bytes(chunk, "little") >> low & (1 << high - low + 1) - 1
            if not bits:
                continue
            if clear:
                self._clear(at, low, high)
            if order < 0:
                for run_at, run in runs(bits):
                    yield _stretch(position + run_at << -order, (1 << (run << -order)) - 1)
            elif order >= CHUNK_SHIFT:
                yield _stretch(position >> order, 1)
            else:
                yield _stretch(position >> order, _contract(bits, order))

    def _numbers(self, start: int, last: int) -> list[int]:
        """The chunks that have bits set, or had until now, and touch start..last; upwards."""
        first, final = start >> self._shift + CHUNK_SHIFT, last >> self._shift + CHUNK_SHIFT
        if final - first < len(self._chunks):
            return [at for at in range(first, final + 1) if at in self._chunks]
        return sorted(at for at in self._chunks if first <= at <= final)

    def _part(self, at: int, start: int, last: int) -> tuple[int, int]:
        """The first and the last unit of chunk `at` that are in start..last."""
        base = at << CHUNK_SHIFT
        return max((start >> self._shift) - base, 0), min((last >> self._shift) - base, _LAST_UNIT)

    def _mark(self, start: int, last: int) -> None:
        for at in range(start >> self._shift + CHUNK_SHIFT, (last >> self._shift + CHUNK_SHIFT) + 1):
            low, high = self._part(at, start, last)
            chunk = self._chunks.setdefault(at, bytearray(len(_FULL)))
            begin, end = low >> 3, high >> 3
            first, final = 0xFF << (low & 7) & 0xFF, 0xFF >> 7 - (high & 7)
            if begin == end:
                chunk[begin] |= first & final
            else:
                chunk[begin] |= first
                chunk[begin + 1 : end] = _FULL[: end - begin - 1]
                chunk[end] |= final

    def _clear(self, at: int, low: int, high: int) -> None:
        chunk = self._chunks[at]
        if low == 0 and high == _LAST_UNIT:
            del self._chunks[at]
            return
        begin, end = low >> 3, high >> 3
        first, final = 0xFF << (low & 7) & 0xFF, 0xFF >> 7 - (high & 7)
        if begin == end:
            chunk[begin] &= ~(first & final)
        else:
            chunk[begin] &= ~first
            chunk[begin + 1 : end] = bytes(end - begin - 1)
            chunk[end] &= ~final
        if chunk.count(0) == len(chunk):
            del self._chunks[at]


def _stretch(position: int, bits: int) -> tuple[int, bytes]:
    """`bits` from bit `position` of a bitmap on, as (offset, bytes) without zero bytes at
    the ends.
    """
    position += (low := (bits & -bits).bit_length() - 1)
    bits = bits >> low << (position & 7)
    return position >> 3, bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def runs(bits: int) -> Iterator[tuple[int, int]]:
    """The runs of ones in `bits` as (position, length), upwards. Made for some thousand bits."""
    at = 0
    while bits:
        zeros = (bits & -bits).bit_length() - 1
        bits >>= zeros
        ones = (~bits & bits + 1).bit_length() - 1
        bits >>= ones
        yield at + zeros, ones
        at += zeros + ones


def _contract(bits: int, order: int) -> int:
    """One bit for each 2^order bits: set if any of them is."""
    for _ in range(order):
        pairs = bits.to_bytes((bits.bit_length() + 15) // 16 * 2, "little").translate(_PAIRS)
        bits = int.from_bytes(pairs[::2], "little") | int.from_bytes(pairs[1::2], "little") << 4
    return bits
