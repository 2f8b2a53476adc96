"""dma-bufs: memory of a device, or of a driver, that its owner shows to others and can take back.

A buffer is not pinned and not charged: who maps it (IOAS_MAP_FILE) is *attached*. When the owner revokes the buffer, all who are attached
at that moment lose it for ever: their areas stay, so that they can be unmapped, and show nothing. Whoever maps it later is refused
until the owner gives it free again. Accesses, which work with the CPU, cannot reach it at all.

Ref: v7.3 pages.c iopt_alloc_dmabuf_pages, iopt_map_dmabuf, iopt_revoke_notify
"""

from collections.abc import Hashable, Iterable
from errno import EFAULT, EINVAL, ENODEV
from typing import Final

from ..errors import IoctlError
from .pages import PAGE_SIZE, AccountMode, Identity, Pages, Slice, Stretch

_TOGETHER: Final = 1 << 30  # bytes of a buffer that lie together: a device's memory is one range


class DmaBuf:
    """`size` bytes, a multiple of the page."""

    def __init__(self, size: int) -> None:
        self.memory = bytearray(size)
        self.revoked = False
        self.attached: list[Attachment] = []

    @property
    def size(self) -> int:
        return len(self.memory)

    def attach(self) -> "Attachment":
        """ENODEV: it is revoked."""
        if self.revoked:
            raise IoctlError(ENODEV, "the dma-buf is revoked")
        return Attachment(self)

    def revoke(self, revoked: bool) -> None:
        """Take it back, or give it free to be mapped anew. Who has it mapped loses it either way."""
        self.revoked = revoked
        for attachment in self.attached:
            attachment.lost = True


class Attachment:
    """One mapping of a buffer: the `Origin` of one Pages."""

    is_file = False  # of an ordinary file, which could change hands
    uid = 0  # nobody is charged
    mm: Hashable = None

    def __init__(self, buffer: DmaBuf) -> None:
        self.buffer = buffer
        self.lost = False

    def hold(self) -> None:
        self.buffer.attached.append(self)

    def drop(self) -> None:
        self.buffer.attached.remove(self)

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> "DmaBufPin":
        return DmaBufPin(self, start, length)

    def alive(self) -> bool:
        return not self.lost

    def read_now(self, address: int, buffer: memoryview) -> None:
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
    """How a page table shows `length` bytes of a buffer, from byte `start`. Nothing is pinned by it."""

    __slots__ = ("_attachment", "_length", "_start")

    def __init__(self, attachment: Attachment, start: int, length: int) -> None:
        self._attachment = attachment
        self._start = start
        self._length = length

    def _memory(self) -> memoryview:
        if self._attachment.lost:
            raise IoctlError(EFAULT, "the dma-buf was revoked")
        return memoryview(self._attachment.buffer.memory)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._memory()[self._start + offset : self._start + offset + len(buffer)]

    def write_from(self, offset: int, data: memoryview) -> None:
        self._memory()[self._start + offset : self._start + offset + len(data)] = data

    def identity(self, offset: int) -> Identity:
        if self._attachment.lost:
            raise IoctlError(EFAULT, "the dma-buf was revoked")
        return self._attachment.buffer, self._start + offset

    def stretches(self) -> Iterable[Stretch]:
        if not self._attachment.lost:
            yield Stretch(self._attachment.buffer, self._start, self._length, _TOGETHER)

    def close(self) -> None:
        pass


class DmaBufPages(Pages):
    """What an area of a dma-buf is backed by."""

    __slots__ = ("_attachment",)

    def __init__(self, attachment: Attachment, start: int, start_byte: int, length: int, *, writable: bool) -> None:
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
