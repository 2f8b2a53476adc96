"""What clients may map of the devices' own memory, through the file of their context: ranges of
that file.

An offset is drawn at random, out of very many, and belongs to one range on the whole host. The
server's kernel may not be able to keep the files of several contexts apart. So a client must not
find what it was not told. Ref: v7.3 driver.c _iommufd_alloc_mmap
"""

import secrets
from collections.abc import Callable
from typing import Final

from .origin import PAGE_SIZE

PLACES: Final = 1 << 32  # a 32-bit program names no page beyond


class Shown:
    """The ranges of a host, by offset (bytes). `announce`: called with offset and content of each
    range before a client is told of it. None: the file cannot be mapped, so there are no ranges.
    """

    __slots__ = ("_ranges", "announce")

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[object, bytearray]] = {}
        self.announce: Callable[[int, bytes], None] | None = None

    def __len__(self) -> int:
        return len(self._ranges)

    def show(self, context: object, memory: bytearray) -> tuple[int, int] | None:
        """Let clients map `memory`, whole pages, through the file of `context`. Returns the offset,
        which is not 0, and the length (bytes). None: nothing can be mapped here.
        """
        if self.announce is None:
            return None
        assert memory
        assert len(memory) % PAGE_SIZE == 0
        offset = 0
        while not offset or any(
            offset < start + len(other) and start < offset + len(memory) for start, (_, other) in self._ranges.items()
        ):
            offset = secrets.randbelow(PLACES) * PAGE_SIZE
        self._ranges[offset] = context, memory
        self.announce(offset, bytes(memory))
        return offset, len(memory)

    def hide(self, offset: int) -> None:
        """Undo `show`."""
        del self._ranges[offset]

    def is_range(self, context: object, offset: int, length: int) -> bool:
        """Whether exactly these bytes are a range of the file of `context`."""
        found = self._ranges.get(offset)
        return found is not None and found[0] is context and len(found[1]) == length

    def read(self, context: object, offset: int, size: int) -> bytes | None:
        """`size` bytes at `offset` of the file of `context`. None: they do not lie in one of its
        ranges.
        """
        found = self._at(offset, size)
        if found is None or found[1] is not context:
            return None
        start, _, memory = found
        return bytes(memory[offset - start : offset - start + size])

    def write(self, offset: int, data: bytes) -> None:
        """A client wrote there. No effect if it is no range any more."""
        found = self._at(offset, len(data))
        if found is not None:
            start, _, memory = found
            memory[offset - start : offset - start + len(data)] = data

    def _at(self, offset: int, size: int) -> tuple[int, object, bytearray] | None:
        for start, (context, memory) in self._ranges.items():
            if start <= offset and offset + size <= start + len(memory):
                return start, context, memory
        return None
