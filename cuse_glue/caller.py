"""The process behind a request: its memory, descriptors and capabilities.

A request names a **thread** (its id in our pid namespace). What it may do and what its memory holds is asked of the kernel at the
moment the request needs it; nothing about a client is cached but what cannot change. `Mm` stands for one address space and outlives
the request: an exec gives the same thread another one (`mm.py`).

The calls go through cffi because Python has no binding for them. Numbers (addresses) cross as integers; the scratch structs below are
used by the reader's thread only, for up to a page; larger transfers may run in a worker thread.
"""

import errno
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Protocol

import cffi
import trio

from . import thread
from .inline import interruptible, leave

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct vec { uintptr_t base; size_t length; };
    ssize_t process_vm_readv(int pid, const struct vec *local, unsigned long nlocal,
                             const struct vec *remote, unsigned long nremote, unsigned long flags);
    ssize_t process_vm_writev(int pid, const struct vec *local, unsigned long nlocal,
                              const struct vec *remote, unsigned long nremote, unsigned long flags);
    struct cap_header { uint32_t version; int pid; };
    struct cap_data { uint32_t effective, permitted, inheritable; };
    int capget(struct cap_header *header, struct cap_data *data);
    """
)
_libc: Any = _ffi.dlopen(None)

CAP_IPC_LOCK: Final = 14
CAP_SYS_RAWIO: Final = 17
CAP_SYS_RESOURCE: Final = 24

_CAPABILITY_VERSION_3: Final = 0x20080522

MANY: Final = 1024  # places that one call of the kernel's takes
_PAGEMAPS: Final = 256  # threads whose pagemap is kept open
_PAGE: Final = os.sysconf("SC_PAGESIZE")
_SCRATCH_SIZE: Final = 4096
_scratch: Final = bytearray(_SCRATCH_SIZE)
_scratch_c: Final = _ffi.from_buffer(_scratch)
_scratch_address: Final = int(_ffi.cast("uintptr_t", _scratch_c))
_local: Any = _ffi.new("struct vec *")
_remote: Any = _ffi.new("struct vec *")
_cap_header: Any = _ffi.new("struct cap_header *", {"version": _CAPABILITY_VERSION_3})
_cap_data: Any = _ffi.new("struct cap_data[2]")


class Memory(Protocol):
    """A client's memory, as the engine's side sees it; tests have a twin of bytes."""

    def read(self, address: int, length: int) -> bytes:
        """At most `length` bytes from `address`; shorter when a byte cannot be read, empty when the first cannot."""

    def write(self, address: int, data: bytes) -> int:
        """How many bytes of `data` were written before one could not be."""

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes:
        """As `read`, of up to MANY places (address, length), one behind the other, until one cannot be read."""

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int:
        """As `write`, to up to MANY places."""


class ProcessMemory:
    """The memory of a live thread, by process_vm_readv and process_vm_writev (they respect page protection)."""

    __slots__ = ("_tid",)

    def __init__(self, tid: int) -> None:
        self._tid = tid

    def read(self, address: int, length: int) -> bytes:
        if length <= _SCRATCH_SIZE:
            _remote.base = address
            _local.base = _scratch_address
            _local.length = _remote.length = length
            count = _libc.process_vm_readv(self._tid, _local, 1, _remote, 1, 0)
            return bytes(_scratch[:count]) if count > 0 else b""
        data = bytearray(length)
        local, remote = _vectors(data, address)
        count = _libc.process_vm_readv(self._tid, local, 1, remote, 1, 0)
        return bytes(memoryview(data)[:count]) if count > 0 else b""

    def touch(self, address: int) -> bool:
        """Bring in the page of `address`, which may take long; from a worker thread. Whether there is one."""
        data = bytearray(1)
        local, remote = _vectors(data, address)
        return bool(_libc.process_vm_readv(self._tid, local, 1, remote, 1, 0) > 0)

    def write(self, address: int, data: bytes) -> int:
        if len(data) <= _SCRATCH_SIZE:
            _remote.base = address
            _local.base = int(_ffi.cast("uintptr_t", _ffi.from_buffer(data)))
            _local.length = _remote.length = len(data)
            return max(0, int(_libc.process_vm_writev(self._tid, _local, 1, _remote, 1, 0)))
        local, remote = _vectors(data, address)
        return max(0, int(_libc.process_vm_writev(self._tid, local, 1, remote, 1, 0)))

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes:
        data = bytearray(sum(length for _, length in places))
        return bytes(data[: self._many(_libc.process_vm_readv, data, places)])

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int:
        return self._many(_libc.process_vm_writev, data, places)

    def _many(self, call: Any, data: bytes | bytearray, places: Sequence[tuple[int, int]]) -> int:
        start = int(_ffi.cast("uintptr_t", _ffi.from_buffer(data)))
        local, remote = _ffi.new("struct vec *", (start, len(data))), _ffi.new("struct vec[]", list(places))
        return max(0, int(call(self._tid, local, 1, remote, len(places), 0)))


def _vectors(data: bytes | bytearray, address: int) -> tuple[Any, Any]:
    """For large transfers, which may run in a worker thread: not the reader's scratch."""
    start = int(_ffi.cast("uintptr_t", _ffi.from_buffer(data)))
    return _ffi.new("struct vec *", (start, len(data))), _ffi.new("struct vec *", (address, len(data)))


_pagemaps: Final[OrderedDict[int, int]] = OrderedDict()
_ENTRY: Final = 8  # bytes of /proc/PID/pagemap for one page
_PRESENT: Final = 1 << 63
_WRITE_PROTECTED: Final = 1 << 57  # by userfaultfd


def _pagemap_entries(tid: int, first: int, count: int) -> bytes:
    """What /proc/TID/pagemap says of `count` pages; empty when it cannot be told."""
    fd = _pagemaps.get(tid)
    if fd is not None:
        entries = os.pread(fd, count * _ENTRY, first * _ENTRY)
        if entries:
            return entries
        # That address space is gone (exec, exit, or the number of another thread now).
        del _pagemaps[tid]
        os.close(fd)
    try:
        fd = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            forget_threads()
        return b""
    _pagemaps[tid] = fd
    if len(_pagemaps) > _PAGEMAPS:
        os.close(_pagemaps.popitem(last=False)[1])
    return os.pread(fd, count * _ENTRY, first * _ENTRY)


def forget_threads() -> None:
    """Close what is kept about threads that called; it is opened again when needed."""
    while _pagemaps:
        os.close(_pagemaps.popitem()[1])


class Caller:
    """One thread, for the length of one request.

    tid 0 means that the thread is not visible from our pid namespace: nothing of it can be reached.
    """

    __slots__ = ("gid", "memory", "tid", "uid")

    def __init__(self, tid: int, uid: int, gid: int) -> None:
        self.tid = tid
        self.uid = uid
        self.gid = gid
        self.memory: Memory = ProcessMemory(tid)

    def capable(self, capability: int) -> bool:
        """Whether the thread has `capability` (CAP_*) in effect, in our own user namespace.

        As the kernel's capable(): capabilities in a namespace that the client made itself do not count.
        """
        if self.tid == 0:
            return False
        _cap_header.version = _CAPABILITY_VERSION_3
        _cap_header.pid = self.tid
        if _libc.capget(_cap_header, _cap_data) != 0:
            return False
        if not _cap_data[capability // 32].effective >> capability % 32 & 1:
            return False
        try:
            return os.readlink(f"/proc/{self.tid}/ns/user") == _our_user_namespace()
        except OSError:
            return False

    def resident(self, address: int, length: int) -> bool:
        """Whether `length` bytes at `address` (at most a few pages) can be reached at once, as nearly always.

        A page that is not there may take as long as its owner likes to come (userfaultfd, a file system of his); then `settle` first.
        """
        first = address // _PAGE
        count = (address + length - 1) // _PAGE - first + 1
        if first >> 51:
            return True  # no such address: reading it fails at once
        entries = _pagemap_entries(self.tid, first, count)
        if count == 1 and entries:
            return int.from_bytes(entries, "little") & (_PRESENT | _WRITE_PROTECTED) == _PRESENT
        return len(entries) == count * _ENTRY and all(
            int.from_bytes(entries[at : at + _ENTRY], "little") & (_PRESENT | _WRITE_PROTECTED) == _PRESENT
            for at in range(0, len(entries), _ENTRY)
        )

    async def settle(self, address: int, length: int) -> None:
        """Have the pages brought in, from a worker thread, so that whoever makes that slow delays only himself.

        Returns when they are there, or cannot come: reading them tells.
        """
        await leave()
        memory = ProcessMemory(self.tid)
        pages = range(address // _PAGE * _PAGE, address + length, _PAGE)
        with interruptible():
            await trio.to_thread.run_sync(_touch, memory, pages, abandon_on_cancel=True)

    def descriptor(self, number: int) -> int:
        """As thread.descriptor."""
        return thread.descriptor(self.tid, number)

    def process(self) -> int:
        """As thread.process."""
        return thread.process(self.tid)

    def maps(self, offset: int, length: int) -> bool:
        """Whether its process has a shared mapping of any file at an offset in these bytes. No other process is asked."""
        try:
            with open(f"/proc/{self.tid}/maps", "rb") as table:
                return any(
                    fields[1][3:4] == b"s" and offset <= int(fields[2], 16) < offset + length for fields in map(bytes.split, table)
                )
        except OSError:
            return False

    def name(self) -> str:
        """`comm[tid]`, for people."""
        try:
            with open(f"/proc/{self.tid}/comm", encoding="utf-8", errors="replace") as comm:
                return f"{comm.read().rstrip()}[{self.tid}]"
        except OSError:
            return f"[{self.tid}]"


def _touch(memory: ProcessMemory, pages: range) -> None:
    for page in pages:
        if not memory.touch(page):
            return


_user_namespace = ""


def _our_user_namespace() -> str:
    global _user_namespace
    if not _user_namespace:
        _user_namespace = os.readlink("/proc/self/ns/user")
    return _user_namespace
