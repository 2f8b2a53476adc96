"""A model of the IO page table that is too simple to be wrong: plain lists, scanned from one end to
the other.
"""

from dataclasses import dataclass, field
from errno import EINVAL

from iommud.engine.memory.origin import PAGE_SIZE
from iommud.engine.memory.span import U64_MAX

HUGE = 2 << 20


@dataclass
class ModelArea:
    iova: int
    length: int
    source: tuple[str, int]  # which pages object, and the byte offset in it
    address: int  # where the first byte comes from
    writable_pages: bool
    prot: int

    @property
    def last(self) -> int:
        return self.iova + self.length - 1


@dataclass
class ModelTable:
    areas: list[ModelArea] = field(default_factory=list)
    allowed: list[tuple[int, int]] = field(default_factory=list)
    reserved: list[tuple[int, int, object]] = field(default_factory=list)
    alignment: int = 1

    def overlapping(self, start: int, last: int) -> list[ModelArea]:
        return sorted((a for a in self.areas if a.iova <= last and start <= a.last), key=lambda a: a.iova)

    def cut(self, last: int) -> int:
        """Two areas of one, the lower of which ends at `last`; the errno."""
        for area in self.overlapping(last, last):
            if last in (area.iova, area.last):
                continue
            done = last + 1 - area.iova
            source, offset = area.source
            if (last + 1) % self.alignment or (offset + done) % self.alignment:
                return EINVAL
            upper = ModelArea(
                last + 1,
                area.length - done,
                (source, offset + done),
                area.address + done,
                area.writable_pages,
                area.prot,
            )
            self.areas.append(upper)
            area.length = done
        return 0

    def taken(self) -> list[tuple[int, int]]:
        return sorted([(a.iova, a.last) for a in self.areas] + [(s, e) for s, e, _ in self.reserved])

    def choose(self, address: int, length: int) -> int | None:
        """Walk every hole upwards; the kernel's alignment rule."""
        alignment = 1
        while alignment < length:
            alignment *= 2
        if address:
            while address % alignment:
                alignment //= 2
        alignment = min(alignment, HUGE)
        if alignment < self.alignment:
            return None
        windows: list[tuple[int, int]] = []
        for start, last in sorted(self.allowed):
            if windows and start <= windows[-1][1] + 1:
                windows[-1] = windows[-1][0], max(last, windows[-1][1])
            else:
                windows.append((start, last))
        if not windows:
            windows = [(PAGE_SIZE, U64_MAX - PAGE_SIZE)]
        for low, high in windows:
            low, high = max(low, PAGE_SIZE), min(high, U64_MAX - PAGE_SIZE)
            if low > high:
                continue
            begin = self.fit(low, high, length, alignment, address % PAGE_SIZE)
            if begin is None:
                continue
            position = begin
            for start, last in [*self.taken(), (high + 1, high + 1)]:
                if last < position:
                    continue
                if start > position:
                    found = self.fit(position, min(start - 1, high), length, alignment, address % PAGE_SIZE)
                    if found is not None:
                        return found
                position = max(position, last + 1)
                if position > high:
                    break
        return None

    @staticmethod
    def fit(start: int, last: int, length: int, alignment: int, offset: int) -> int | None:
        aligned = -(-start // alignment) * alignment
        if start + alignment - 1 > U64_MAX:
            return None
        aligned |= offset
        if aligned >= last or last - aligned + 1 < length:
            return None
        return aligned
