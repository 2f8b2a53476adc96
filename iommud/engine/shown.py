"""What of the devices' own memory clients may map, through the file of their context: ranges of that file.

Offsets are drawn at random, out of many, and are those of one range on the whole host: the server's kernel may not be able to keep the
files of several contexts apart, so what a client was not told it must not find. Ref: v7.3 driver.c _iommufd_alloc_mmap
"""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .context import Context

PLACES: Final = 1 << 49
STEP: Final = 4096  # bytes from place to place: a page


class Shown:
    """The ranges of a host, by offset (bytes). `announce`: called with offset and content of each before a client is told of it."""

    __slots__ = ("_ranges", "announce")

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[Context, bytearray]] = {}
        self.announce: Callable[[int, bytes], None] | None = None

    def __len__(self) -> int:
        return len(self._ranges)

    def show(self, context: "Context", memory: bytearray) -> int:
        """Let clients map `memory`, whole pages, by the file of `context`; returns the offset, which is not 0."""
        assert memory
        assert len(memory) % STEP == 0
        offset = 0
        while not offset or any(
            offset < start + len(other) and start < offset + len(memory) for start, (_, other) in self._ranges.items()
        ):
            offset = secrets.randbelow(PLACES) * STEP
        self._ranges[offset] = context, memory
        if self.announce is not None:
            self.announce(offset, bytes(memory))
        return offset

    def hide(self, offset: int) -> None:
        """Undo `show`."""
        del self._ranges[offset]

    def is_one(self, context: "Context", offset: int, length: int) -> bool:
        """Whether exactly these bytes are a range of the file of `context`."""
        found = self._ranges.get(offset)
        return found is not None and found[0] is context and len(found[1]) == length

    def read(self, context: "Context", offset: int, size: int) -> bytes | None:
        """`size` bytes at `offset` of the file of `context`; None: they are not in one range of it."""
        found = self._at(offset, size)
        if found is None or found[1] is not context:
            return None
        start, _, memory = found
        return bytes(memory[offset - start : offset - start + size])

    def write(self, offset: int, data: bytes) -> None:
        """A client wrote there; nothing, if it is no range any more."""
        found = self._at(offset, len(data))
        if found is not None:
            start, _, memory = found
            memory[offset - start : offset - start + len(data)] = data

    def _at(self, offset: int, size: int) -> "tuple[int, Context, bytearray] | None":
        for start, (context, memory) in self._ranges.items():
            if start <= offset and offset + size <= start + len(memory):
                return start, context, memory
        return None
