"""Sets VmPin of another process to any number: we register memory of ours in a ring that a thread
of that process made (uring.py).
"""

import ctypes
import mmap
import os
import threading
from typing import Any, Final

from ..system.page import PAGE_SIZE
from .uring import LARGEST_BUFFER, make_table, map_, update

_NORESERVE: Final = 0x4000
_FIXED: Final = 0x10
_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)


class Dummy:
    """Memory that costs little and counts for much: 2 MiB, mapped again and again."""

    REAL: Final = 2 << 20  # bytes

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mapped = 0  # bytes
        self.address = 0

    def reach(self, length: int) -> int:
        """The address of at least `length` bytes (at most LARGEST_BUFFER). OSError(ENOMEM): there
        is no room for it.
        """
        with self._lock:
            if not self.address:
                # No large pages: the kernel counts them once, however often they are registered.
                self._fd = os.memfd_create("iommud-pinned", os.MFD_CLOEXEC)
                os.ftruncate(self._fd, self.REAL)
                self.address = map_(0, LARGEST_BUFFER, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE, -1)
                _libc.madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(LARGEST_BUFFER), mmap.MADV_NOHUGEPAGE)
            while self._mapped < length:
                at = self.address + self._mapped
                map_(at, self.REAL, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _FIXED, self._fd)
                _libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(self.REAL), mmap.MADV_NOHUGEPAGE)
                self._mapped += self.REAL
            return self.address


DUMMY: Final = Dummy()


class Counter:
    """A client's ring, by which we set its VmPin. Owns the descriptor.

    A slot of its table is empty or full. Slot k holds 2^k pages, up to the largest size of a
    buffer; each later slot holds that size. So a few buffers make any number of pages, and a few
    changes make another number.
    """

    LARGEST: Final = (LARGEST_BUFFER // PAGE_SIZE).bit_length() - 1
    SLOTS: Final = LARGEST + 1024

    def __init__(self, fd: int) -> None:
        """OSError: the descriptor is no ring, or the ring has buffers already."""
        self._fd = fd
        self._shown: set[int] = set()
        make_table(fd, self.SLOTS)

    @property
    def shown(self) -> int:
        """How many pages it counts now."""
        return sum(1 << min(slot, self.LARGEST) for slot in self._shown)

    def show(self, pages: int) -> None:
        """Count `pages` from now on. OSError(ENOMEM): our own limit does not allow it, and fewer
        are counted.
        """
        whole, rest = divmod(pages, 1 << self.LARGEST)
        wanted = {slot for slot in range(self.LARGEST) if rest >> slot & 1}
        wanted.update(range(self.LARGEST, min(self.LARGEST + whole, self.SLOTS)))
        for slot in self._shown - wanted:
            update(self._fd, slot, 0, 0)
            self._shown.remove(slot)
        for slot in sorted(wanted - self._shown, reverse=True):
            length = PAGE_SIZE << min(slot, self.LARGEST)
            update(self._fd, slot, DUMMY.reach(length), length)
            self._shown.add(slot)

    def close(self) -> None:
        os.close(self._fd)
