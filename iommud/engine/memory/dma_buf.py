"""dma-bufs: memory of a device, or of a driver, that its owner shows to others and can take back.

A buffer is not pinned and not charged. Whoever maps it (IOAS_MAP_FILE) is *attached*. When the
owner revokes the buffer, all who are attached at that moment lose it for ever: their areas stay, so
that they can be unmapped, and show nothing. Whoever maps it later is refused, until the owner
permits it again. Accesses, which work by the CPU, cannot reach it at all.

Ref: v7.3 pages.c iopt_alloc_dmabuf_pages, iopt_map_dmabuf, iopt_revoke_notify
"""

from collections.abc import Hashable, Iterable
from errno import EFAULT, EINVAL, ENODEV
from typing import Final

from ...errors import IoctlError
from .origin import PAGE_SIZE, AccountMode, Identity, Stretch
from .pages import Pages, Slice

_TOGETHER: Final = 1 << 30  # bytes of a buffer that lie together: a device's memory is one range


class DmaBuf:
    """A buffer of `size` bytes, a multiple of the page. Who derives from it has its memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.revoked = False
        self.attached: list[DmaBufMapping] = []

    def read_into(self, start: int, buffer: memoryview) -> None:
        """DMA from it: fill `buffer` from byte `start` on."""
        raise NotImplementedError

    def write_from(self, start: int, data: memoryview) -> None:
        """DMA to it."""
        raise NotImplementedError

    def attach(self) -> "DmaBufMapping":
        """ENODEV: it is revoked."""
        if self.revoked:
            raise IoctlError(ENODEV, "the dma-buf is revoked")
        return DmaBufMapping(self)

    def revoke(self, revoked: bool) -> None:
        """Take it back, or permit new mappings again. Either way, whoever has it mapped loses
        it.
        """
        self.revoked = revoked
        for attachment in self.attached:
            attachment.lost = True


class MemoryBuf(DmaBuf):
    """A buffer of plain memory."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.memory = bytearray(size)

    def read_into(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self.memory[start : start + len(buffer)]

    def write_from(self, start: int, data: memoryview) -> None:
        self.memory[start : start + len(data)] = data


class DmaBufMapping:
    """One mapping of a buffer: the `Origin` of one Pages."""

    is_file = False  # of an ordinary file, which could change hands
    uid = 0  # nobody is charged
    mm: Hashable = None

    def __init__(self, buffer: DmaBuf) -> None:
        self.buffer = buffer
        self.lost = False

    def get(self) -> None:
        self.buffer.attached.append(self)

    def put(self) -> None:
        self.buffer.attached.remove(self)

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> "DmaBufPin":
        return DmaBufPin(self, start, length)

    def alive(self) -> bool:
        return not self.lost

    def read_now(self, address: int, buffer: memoryview, *, itself: bool = True) -> None:
        raise AssertionError("accesses do not reach a dma-buf")

    def write_now(self, address: int, data: memoryview) -> None:
        raise AssertionError("accesses do not reach a dma-buf")

    def memlock_limit(self) -> int | None:
        return None

    def locked_pages(self) -> int:
        return 0

    def pinned(self, npages: int, locked: bool) -> None:
        pass  # its pages are the exporter's


class DmaBufPin:
    """How a page table shows `length` bytes of a buffer, from byte `start`. It pins nothing."""

    __slots__ = ("_attachment", "_length", "_start")

    def __init__(self, attachment: DmaBufMapping, start: int, length: int) -> None:
        self._attachment = attachment
        self._start = start
        self._length = length

    def _buffer(self) -> DmaBuf:
        if self._attachment.lost:
            raise IoctlError(EFAULT, "the dma-buf was revoked")
        return self._attachment.buffer

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._buffer().read_into(self._start + offset, buffer)

    def write_from(self, offset: int, data: memoryview) -> None:
        self._buffer().write_from(self._start + offset, data)

    def place(self, offset: int) -> None:
        """It can be revoked at any time."""

    def identity(self, offset: int) -> Identity:
        return self._buffer(), self._start + offset

    def stretches(self) -> Iterable[Stretch]:
        if not self._attachment.lost:
            yield Stretch(self._attachment.buffer, self._start, self._length, _TOGETHER)

    def close(self) -> None:
        pass


class DmaBufPages(Pages):
    """What an area of a dma-buf is backed by."""

    __slots__ = ("_attachment",)

    def __init__(self, attachment: DmaBufMapping, start: int, start_byte: int, length: int, *, writable: bool) -> None:
        super().__init__(attachment, start, start_byte, length, writable=writable, account_mode=AccountMode.NONE)
        self._attachment = attachment

    @property
    def revoked(self) -> bool:
        return self._attachment.lost

    def check_access(self) -> None:
        raise IoctlError(EINVAL, "accesses cannot reach a dma-buf")


def dma_buf_slice(buffer: DmaBuf, start: int, length: int, *, writable: bool) -> Slice:
    """`length` bytes of a buffer from `start`. EINVAL: it ends before. ENODEV: it is revoked."""
    if buffer.size <= start + length - 1:
        raise IoctlError(EINVAL, f"bytes {start:#x}+{length:#x} reach beyond the dma-buf's end at {buffer.size:#x}")
    start_byte = start % PAGE_SIZE
    pages = DmaBufPages(buffer.attach(), start - start_byte, start_byte, length, writable=writable)
    return Slice(pages, start_byte, length)
