"""What of the devices' own memory clients may map, through the context's file: ranges of the file, each as long as it was shown.

Only exactly such a range can be mapped. Offsets are drawn at random, out of many: a server may not be able to keep the files of several
contexts apart, so what a client was not told it must not find. Ref: v7.3 driver.c _iommufd_alloc_mmap
"""

import secrets
from typing import Final

from .objects import Object
from .pages import PAGE_SIZE

PLACES: Final = 1 << 49  # pages


class Shown:
    """The ranges of one context, by offset (bytes)."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[Object, bytearray]] = {}

    def __len__(self) -> int:
        return len(self._ranges)

    def show(self, owner: Object, memory: bytearray) -> int:
        """Have clients map `memory`, whole pages, that is `owner`'s; returns the offset. Never the first page of the file."""
        assert memory
        assert len(memory) % PAGE_SIZE == 0
        offset = 0
        while not offset or any(offset < start + len(other) and start < offset + len(memory) for start, (_, other) in self._ranges.items()):
            offset = secrets.randbelow(PLACES) * PAGE_SIZE
        self._ranges[offset] = owner, memory
        return offset

    def hide(self, offset: int) -> None:
        """Undo `show`."""
        del self._ranges[offset]

    def at(self, offset: int) -> tuple[int, bytearray] | None:
        """The range that has this offset in it: where it begins, and its memory."""
        for start, (_, memory) in self._ranges.items():
            if start <= offset < start + len(memory):
                return start, memory
        return None
