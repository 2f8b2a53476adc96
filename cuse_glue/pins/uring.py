"""io_uring, as far as it pins memory: registered buffers stay, even if the mapping by which they
were registered goes.

A ring belongs to the address space that made it. What is registered in the ring counts as pinned
memory (VmPin) of that address space, whoever registers it. If the maker lacked CAP_IPC_LOCK, it
counts against the user's limit as well. What is registered is memory of the process that makes the
call. Both facts are used here. A `Counter` is a client's ring in which we register memory of our
own, so that the client's VmPin goes up and down without the client's help. A `BufferRing` is a
client's ring in which the client was made to register its own memory, and through which we read and
write that memory.

A client's other threads can see the descriptor of the ring while it is being made. They might keep
it, and map the queue that we write our orders to; and the kernel carries these orders out with our
rights. So before a `BufferRing` is used, it is restricted for ever: it can only move bytes between
the buffers that are registered in it and a pipe of ours, which serves that client alone. If the
client was faster and made something else of the ring, we refuse the ring. And we wait for nobody:
the pipe never blocks.

Ref: io_uring_setup(2), io_uring_register(2), io_uring_enter(2)
"""

import ctypes
import fcntl
import logging
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

log: Final = logging.getLogger("cuse_glue.pins.uring")

SETUP: Final = 425
ENTER: Final = 426
REGISTER: Final = 427

PARAMS_SIZE: Final = 120  # struct io_uring_params
R_DISABLED: Final = 1 << 6  # IORING_SETUP_*
MOST_BUFFERS: Final = 16384  # of one ring
LARGEST_BUFFER: Final = 1 << 30  # bytes

REGISTER_BUFFERS_UPDATE: Final = 16  # IORING_REGISTER_*
_REGISTER_FILES: Final = 2
_REGISTER_RESTRICTIONS: Final = 11
_REGISTER_ENABLE_RINGS: Final = 12
_REGISTER_BUFFERS2: Final = 15
_READ_FIXED: Final = 4  # IORING_OP_*
_WRITE_FIXED: Final = 5
_FIXED_FILE: Final = 1  # IOSQE_*
_RESTRICT_REGISTER: Final = 0  # IORING_RESTRICTION_*
_RESTRICT_OPERATION: Final = 1
_RESTRICT_FLAGS_ALLOWED: Final = 2
_RESTRICT_FLAGS_REQUIRED: Final = 3
_SQES_OFFSET: Final = 0x1000_0000
_PIPE_SIZE: Final = 1 << 20  # bytes, if we may; else what a pipe has

_PARAMS: Final = struct.Struct("=10I8IQ8IQ")
_PARAM_FLAGS: Final = struct.Struct("=8xI")
VECTOR: Final = struct.Struct("=QQ")
_RSRC_REGISTER: Final = struct.Struct("=IIQQQ")  # nr, flags, -, data, tags
_RSRC_UPDATE: Final = struct.Struct("=IIQQII")  # offset, -, data, tags, nr, -
_RESTRICTION: Final = struct.Struct("=HBB12x")
_SQE: Final = struct.Struct("=BBHiQQIIQHHi16x")
_SQE_SIZE: Final = 64
VECTOR_SIZE: Final = VECTOR.size
UPDATE_SIZE: Final = _RSRC_UPDATE.size
_WORD: Final = struct.Struct("=I")
_CQE: Final = struct.Struct("=QiI")

_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


def call(number: int, *arguments: int) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))
    if result < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return result


def register(fd: int, operation: int, data: bytes, count: int) -> None:
    buffer = ctypes.create_string_buffer(data, len(data))
    call(REGISTER, fd, operation, ctypes.addressof(buffer) if data else 0, count)


def update(fd: int, index: int, address: int, length: int) -> None:
    """Put a buffer of the caller's memory at `index` of a ring's table, or nothing (length 0). What
    was there before is unpinned.
    """
    vector = ctypes.create_string_buffer(VECTOR.pack(address, length), VECTOR.size)
    data = _RSRC_UPDATE.pack(index, 0, ctypes.addressof(vector), 0, 1, 0)
    register(fd, REGISTER_BUFFERS_UPDATE, data, len(data))


def make_table(fd: int, slots: int) -> None:
    """Give a ring a table with so many slots for buffers, all empty. OSError: it is no ring, or has
    a table.
    """
    nothing = ctypes.create_string_buffer(VECTOR.size * slots)
    data = _RSRC_REGISTER.pack(slots, 0, 0, ctypes.addressof(nothing), 0)
    register(fd, _REGISTER_BUFFERS2, data, len(data))


def params(flags: int = 0) -> bytes:
    """struct io_uring_params, as io_uring_setup takes it."""
    return _PARAM_FLAGS.pack(flags).ljust(PARAMS_SIZE, b"\0")


def setup(entries: int, flags: int = 0) -> tuple[int, bytes]:
    """io_uring_setup(2) for ourselves. Returns the descriptor, and the params as the kernel filled
    them. OSError: it failed.
    """
    buffer = ctypes.create_string_buffer(params(flags), PARAMS_SIZE)
    return call(SETUP, entries, ctypes.addressof(buffer)), buffer.raw


def vectors(places: Sequence[tuple[int, int]]) -> bytes:
    """An array of struct iovec, of (address, length in bytes)."""
    return b"".join(VECTOR.pack(*place) for place in places)


def map_(address: int, length: int, protection: int, flags: int, fd: int, offset: int = 0) -> int:
    got = _libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(length), protection, flags, fd, ctypes.c_long(offset))
    if got is None or got == ctypes.c_void_p(-1).value:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return int(got)


class Pipe:
    """The pipe between us and the rings of one client."""

    def __init__(self) -> None:
        """OSError: no descriptors are left."""
        self.ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.lock = threading.Lock()
        try:
            fcntl.fcntl(self.ends[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass
        self.capacity: Final = fcntl.fcntl(self.ends[1], fcntl.F_GETPIPE_SZ)

    def drain(self) -> None:
        try:
            while os.read(self.ends[0], self.capacity):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        for end in self.ends:
            os.close(end)


class PinLost(Exception):
    """A buffer cannot be reached any more; the text says why."""


class BufferRing:
    """A ring with a table of registered buffers: a client's with buffers of the client's, or one of
    `OwnRings` with buffers of ours. Owns the descriptor. A client's is closed with its last buffer.

    `read` and `write` may run in any thread.
    """

    ENTRIES: Final = 1

    def __init__(self, fd: int, slots: int) -> None:
        """Make a table with so many slots for buffers, all empty. OSError: `fd` is no ring, or not
        a new one.
        """
        self.fd = fd
        self._used = 0
        self._views: list[tuple[int, int]] = []
        self._tail = 0  # of the submission queue
        self._head = 0  # of the completion queue
        make_table(fd, slots)

    @staticmethod
    def update_arguments(index: int, address: int, count: int) -> bytes:
        """The arguments with which the client calls io_uring_register, to put `count` vectors,
        which lie at `address` of its memory, into the slots from `index` on.
        """
        return _RSRC_UPDATE.pack(index, 0, address, 0, count, 0)

    def open(self, pipe: Pipe) -> None:
        """Restrict the ring, whose table is filled, to `read`, `write` and `fill`. OSError: it
        cannot be restricted.
        """
        self._pipe = pipe
        register(self.fd, _REGISTER_FILES, struct.pack("=2i", *pipe.ends), 2)
        rules = (
            (_RESTRICT_REGISTER, REGISTER_BUFFERS_UPDATE),
            (_RESTRICT_OPERATION, _READ_FIXED),
            (_RESTRICT_OPERATION, _WRITE_FIXED),
            (_RESTRICT_FLAGS_ALLOWED, _FIXED_FILE),
            (_RESTRICT_FLAGS_REQUIRED, _FIXED_FILE),
        )
        register(
            self.fd,
            _REGISTER_RESTRICTIONS,
            b"".join(_RESTRICTION.pack(kind, what, 0) for kind, what in rules),
            len(rules),
        )
        register(self.fd, _REGISTER_ENABLE_RINGS, b"", 0)
        # The kernel wrote into the client's memory where the parts of the queues are. We do not
        # believe what is there. In a ring of our own they are in the same places.
        example, told = setup(self.ENTRIES, R_DISABLED)
        os.close(example)
        fields = _PARAMS.unpack(told)
        self._entries, completions = fields[0], fields[1]
        sq, cq = fields[10:19], fields[19:28]
        self._sq_tail, self._array, self._cq_tail, self._cqes, self._cq_head = sq[1], sq[6], cq[1], cq[5], cq[0]
        self._completions = completions
        self._queues = self._view(
            max(self._array + self._entries * _WORD.size, self._cqes + completions * _CQE.size), 0
        )
        self._orders = self._view(self._entries * _SQE_SIZE, _SQES_OFFSET)

    def _view(self, length: int, offset: int) -> Any:
        # Not by Python's mmap, which would keep one more descriptor for each mapping.
        address = map_(0, length, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.fd, offset)
        self._views.append((address, length))
        return (ctypes.c_ubyte * length).from_address(address)

    def close(self) -> None:
        """Close the ring. None of its buffers may be in use any more."""
        while self._views:
            address, length = self._views.pop()
            _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
        os.close(self.fd)

    def fill(self, slot: int, address: int, length: int) -> None:
        """Put a buffer of our own memory into a slot, or nothing (length 0). OSError: it cannot be
        pinned.
        """
        update(self.fd, slot, address, length)

    def take(self, address: int, slots: Sequence[int]) -> "RingSlots":
        """What was registered in these slots. Close it; the last one closes the ring."""
        self._used += len(slots)
        return RingSlots(address, [(self, slot) for slot in slots], self._give_back)

    def _give_back(self, places: Sequence[tuple["BufferRing", int]]) -> None:
        for _, slot in places:
            try:
                self.fill(slot, 0, 0)
            except OSError as failure:
                log.error("slot %d of a ring cannot be emptied: %s", slot, failure)
        self._used -= len(places)
        if not self._used:
            self.close()

    def read(self, slot: int, address: int, buffer: memoryview) -> None:
        """Fill `buffer` from `address` within a slot's buffer. Raises PinLost."""
        with self._pipe.lock:
            for at in range(0, len(buffer), self._pipe.capacity):
                part = buffer[at : at + self._pipe.capacity]
                done = 0
                while done < len(part):
                    count = self._move(_WRITE_FIXED, 1, slot, address + at + done, len(part) - done)
                    end = done + count
                    while done < end:
                        done += os.readv(self._pipe.ends[0], [part[done:end]])

    def write(self, slot: int, address: int, data: memoryview) -> None:
        """Write `data` to `address` within a slot's buffer. Raises PinLost."""
        with self._pipe.lock:
            for at in range(0, len(data), self._pipe.capacity):
                part = data[at : at + self._pipe.capacity]
                done = 0
                while done < len(part):
                    end = done + os.write(self._pipe.ends[1], part[done:])
                    while done < end:
                        done += self._move(_READ_FIXED, 0, slot, address + at + done, end - done)

    def _move(self, operation: int, end: int, slot: int, address: int, length: int) -> int:
        """Carry out one order at once. Returns how many bytes were moved, at least one. Raises
        PinLost.
        """
        index = self._tail & self._entries - 1
        order = _SQE.pack(operation, _FIXED_FILE, 0, end, 0, address, length, 0, 0, slot, 0, 0)
        self._orders[index * _SQE_SIZE : index * _SQE_SIZE + len(order)] = tuple(order)
        _WORD.pack_into(self._queues, self._array + index * _WORD.size, index)
        self._tail = self._tail + 1 & 0xFFFF_FFFF
        _WORD.pack_into(self._queues, self._sq_tail, self._tail)
        taken = call(ENTER, self.fd, 1, 0, 0, 0, 0)
        (tail,) = _WORD.unpack_from(self._queues, self._cq_tail)
        if taken == 1 and tail == self._head + 1 & 0xFFFF_FFFF:
            at = self._cqes + (self._head & self._completions - 1) * _CQE.size
            _, result, _ = _CQE.unpack_from(self._queues, at)
            self._head = tail
            _WORD.pack_into(self._queues, self._cq_head, tail)
            if 0 < result <= length:
                return int(result)
            why = os.strerror(-result) if result < 0 else f"{result} bytes"
        else:
            why = "the client has the ring that holds it, and does not leave it to us"
        self._pipe.drain()
        raise PinLost(why)


class RingSlots:
    """A stretch of memory that is registered in slots of LARGEST_BUFFER each; the last may be
    smaller.
    """

    def __init__(
        self,
        address: int,
        places: Sequence[tuple[BufferRing, int]],
        give_back: Callable[[Sequence[tuple[BufferRing, int]]], None],
    ) -> None:
        self._address = address
        self._places = places
        self._give_back = give_back

    def read(self, at: int, buffer: memoryview) -> None:
        """As BufferRing.read, across slots. Raises PinLost."""
        for (ring, slot), begin, end in self._parts(at, len(buffer)):
            ring.read(slot, self._address + at + begin, buffer[begin:end])

    def write(self, at: int, data: memoryview) -> None:
        """As BufferRing.write, across slots. Raises PinLost."""
        for (ring, slot), begin, end in self._parts(at, len(data)):
            ring.write(slot, self._address + at + begin, data[begin:end])

    def _parts(self, at: int, length: int) -> Iterator[tuple[tuple[BufferRing, int], int, int]]:
        begin = 0
        while begin < length:
            index, offset = divmod(at + begin, LARGEST_BUFFER)
            end = min(length, begin + LARGEST_BUFFER - offset)
            yield self._places[index], begin, end
            begin = end

    def close(self) -> None:
        self._give_back(self._places)


def pieces(address: int, length: int) -> list[tuple[int, int]]:
    """(address, length) of the buffers that a stretch of memory is registered as."""
    return [(at, min(LARGEST_BUFFER, address + length - at)) for at in range(address, address + length, LARGEST_BUFFER)]


class OwnRings:
    """Rings of our own, for memory that is mapped here. For one thread at a time; what `pin`
    returned may be read and written in any thread.
    """

    def __init__(self) -> None:
        self._pipe: Pipe | None = None
        self._rings: list[BufferRing] = []
        self._free: list[tuple[BufferRing, int]] = []

    def pin(self, address: int, length: int) -> RingSlots:
        """Pin memory of ours, which must be writable. OSError: it cannot be pinned (EFAULT), or
        our limits do not allow it (ENOMEM).
        """
        buffers = pieces(address, length)
        while len(self._free) < len(buffers):
            self._more()
        taken = self._free[-len(buffers) :]
        del self._free[-len(buffers) :]
        done = []
        try:
            for (ring, slot), buffer in zip(taken, buffers, strict=True):
                ring.fill(slot, *buffer)
                done.append((ring, slot))
        except OSError:
            for ring, slot in done:
                ring.fill(slot, 0, 0)
            self._free += taken
            raise
        return RingSlots(address, taken, self._give_back)

    def _more(self) -> None:
        if self._pipe is None:
            self._pipe = Pipe()
        fd, _ = setup(BufferRing.ENTRIES, R_DISABLED)
        try:
            ring = BufferRing(fd, MOST_BUFFERS)
        except OSError:
            os.close(fd)
            raise
        try:
            ring.open(self._pipe)
        except OSError:
            ring.close()
            raise
        self._rings.append(ring)
        self._free += [(ring, slot) for slot in range(MOST_BUFFERS)]

    def _give_back(self, places: Sequence[tuple[BufferRing, int]]) -> None:
        for ring, slot in places:
            ring.fill(slot, 0, 0)
        self._free += places

    def close(self) -> None:
        """Close the rings. Nothing may be pinned in them any more."""
        for ring in self._rings:
            ring.close()
        if self._pipe is not None:
            self._pipe.close()
        self._pipe, self._rings, self._free = None, [], []
