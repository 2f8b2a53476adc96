"""io_uring, as far as it holds memory: buffers that are registered stay, whatever becomes of the mapping that they were registered by.

A ring belongs to the address space that made it: what is registered in it counts as that one's pinned memory (VmPin), whoever
registers it, and also against the user's limit if its maker lacked CAP_IPC_LOCK. What is registered is the memory of the one who calls. Both
are used here: `Counter` is a client's ring in which we register memory of our own, so that the client's VmPin goes up and down with no
help from the client; `Store` is a client's ring in which the client was made to register its own memory, and through which we read and
write that.

A client might have kept a descriptor of the ring that it made for us, and mapped the queue that we write our orders to, as another of its
threads can see the descriptor while it is there. We carry out these orders with our rights. So before a `Store` is used it is restricted, for
ever: to reads and writes between the buffers registered in it and a pipe of ours; whoever was faster and made it something else finds it
refused. And nobody is waited for: the pipe never blocks.

Ref: io_uring_setup(2), io_uring_register(2), io_uring_enter(2)
"""

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Sequence
from typing import Any, Final

SETUP: Final = 425
ENTER: Final = 426
REGISTER: Final = 427

PARAMS_SIZE: Final = 120  # struct io_uring_params
R_DISABLED: Final = 1 << 6  # IORING_SETUP_*
REGISTER_BUFFERS: Final = 0  # IORING_REGISTER_*
MOST_BUFFERS: Final = 16384  # of one ring
LARGEST_BUFFER: Final = 1 << 30  # bytes

_REGISTER_FILES: Final = 2
_REGISTER_RESTRICTIONS: Final = 11
_REGISTER_ENABLE_RINGS: Final = 12
_REGISTER_BUFFERS2: Final = 15
_REGISTER_BUFFERS_UPDATE: Final = 16
_READ_FIXED: Final = 4  # IORING_OP_*
_WRITE_FIXED: Final = 5
_FIXED_FILE: Final = 1  # IOSQE_*
_RESTRICT_REGISTER: Final = 0  # IORING_RESTRICTION_*
_RESTRICT_OPERATION: Final = 1
_RESTRICT_FLAGS_ALLOWED: Final = 2
_RESTRICT_FLAGS_REQUIRED: Final = 3
_SQES_OFFSET: Final = 0x1000_0000
_PAGE: Final = mmap.PAGESIZE
_PIPE_SIZE: Final = 1 << 20  # bytes, if we may; else what a pipe has

_PARAMS: Final = struct.Struct("=10I8IQ8IQ")
_PARAM_FLAGS: Final = struct.Struct("=8xI")
_VECTOR: Final = struct.Struct("=QQ")
_RSRC_REGISTER: Final = struct.Struct("=IIQQQ")  # nr, flags, -, data, tags
_RSRC_UPDATE: Final = struct.Struct("=IIQQII")  # offset, -, data, tags, nr, -
_RESTRICTION: Final = struct.Struct("=HBB12x")
_SQE: Final = struct.Struct("=BBHiQQIIQHHi16x")
_WORD: Final = struct.Struct("=I")
_CQE: Final = struct.Struct("=QiI")

_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: int) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result


def _register(fd: int, operation: int, data: bytes, count: int) -> None:
    buffer = ctypes.create_string_buffer(data, len(data))
    _call(REGISTER, fd, operation, ctypes.addressof(buffer) if data else 0, count)


def _update(fd: int, index: int, address: int, length: int) -> None:
    """Put a buffer of the caller's memory at `index` of a ring's table, or nothing (length 0). What was there is let go."""
    vector = ctypes.create_string_buffer(_VECTOR.pack(address, length), _VECTOR.size)
    data = _RSRC_UPDATE.pack(index, 0, ctypes.addressof(vector), 0, 1, 0)
    _register(fd, _REGISTER_BUFFERS_UPDATE, data, len(data))


def params(flags: int = 0) -> bytes:
    """struct io_uring_params, as io_uring_setup takes it."""
    return _PARAM_FLAGS.pack(flags).ljust(PARAMS_SIZE, b"\0")


def setup(entries: int, flags: int = 0) -> tuple[int, bytes]:
    """io_uring_setup(2) for ourselves: the descriptor, and what the kernel filled into the params. OSError."""
    buffer = ctypes.create_string_buffer(params(flags), PARAMS_SIZE)
    return _call(SETUP, entries, ctypes.addressof(buffer)), buffer.raw


def vectors(places: Sequence[tuple[int, int]]) -> bytes:
    """An array of struct iovec, of (address, length in bytes)."""
    return b"".join(_VECTOR.pack(*place) for place in places)


class Dummy:
    """Memory that costs little and counts for much: 2 MiB, mapped again and again."""

    REAL: Final = 2 << 20  # bytes

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._maps: list[Any] = []
        self._mapped = 0  # bytes
        self.address = 0

    def reach(self, length: int) -> int:
        """The address of at least `length` bytes (up to LARGEST_BUFFER). OSError(ENOMEM)."""
        with self._lock:
            if not self.address:
                # None of it may be in large pages: those are counted once, however often they are registered.
                self._fd = os.memfd_create("iommud-pinned", os.MFD_CLOEXEC)
                os.ftruncate(self._fd, self.REAL)
                self.address = _map(0, LARGEST_BUFFER, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE, -1)
                _libc.madvise(ctypes.c_void_p(self.address), ctypes.c_size_t(LARGEST_BUFFER), mmap.MADV_NOHUGEPAGE)
            while self._mapped < length:
                at = self.address + self._mapped
                _map(at, self.REAL, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _FIXED, self._fd)
                _libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(self.REAL), mmap.MADV_NOHUGEPAGE)
                self._mapped += self.REAL
            return self.address


_NORESERVE: Final = 0x4000
_FIXED: Final = 0x10
_libc.mmap.restype = ctypes.c_void_p


def _map(address: int, length: int, protection: int, flags: int, fd: int) -> int:
    got = _libc.mmap(
        ctypes.c_void_p(address), ctypes.c_size_t(length), protection, flags, fd, ctypes.c_long(0)
    )
    if got is None or got == ctypes.c_void_p(-1).value:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return int(got)


DUMMY: Final = Dummy()


class Counter:
    """A client's ring that makes its VmPin what we say. Owns the descriptor.

    Slot k of its table holds 2^k pages, or none, up to the largest a buffer can be; the slots after that hold that much each. So any
    number is made of few buffers, and the next one of few other.
    """

    LARGEST: Final = (LARGEST_BUFFER // _PAGE).bit_length() - 1
    SLOTS: Final = LARGEST + 1024

    def __init__(self, fd: int) -> None:
        """OSError: it is none, or has buffers already."""
        self._fd = fd
        self._shown: set[int] = set()
        nothing = ctypes.create_string_buffer(_VECTOR.size * self.SLOTS)
        data = _RSRC_REGISTER.pack(self.SLOTS, 0, 0, ctypes.addressof(nothing), 0)
        _register(fd, _REGISTER_BUFFERS2, data, len(data))

    @property
    def shown(self) -> int:
        """Pages."""
        return sum(1 << min(slot, self.LARGEST) for slot in self._shown)

    def show(self, pages: int) -> None:
        """Count `pages` from now on. OSError(ENOMEM): our own limit does not allow it, and less is counted."""
        whole, rest = divmod(pages, 1 << self.LARGEST)
        wanted = {slot for slot in range(self.LARGEST) if rest >> slot & 1}
        wanted.update(range(self.LARGEST, min(self.LARGEST + whole, self.SLOTS)))
        for slot in self._shown - wanted:
            _update(self._fd, slot, 0, 0)
            self._shown.remove(slot)
        for slot in sorted(wanted - self._shown, reverse=True):
            length = _PAGE << min(slot, self.LARGEST)
            _update(self._fd, slot, DUMMY.reach(length), length)
            self._shown.add(slot)

    def close(self) -> None:
        os.close(self._fd)
