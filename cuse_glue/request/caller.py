"""The process behind a request: its memory, descriptors and capabilities.

A request names a **thread** (by its number in our pid namespace). What the thread may do, and what
its memory holds, is asked of the kernel at the moment when the request needs it. Nothing about a
client is cached except what cannot change. `Mm` stands for one address space and outlives the
request; an exec gives the same thread another one (address_space.py).

A thread's number names whatever program runs under it **now**. Until its request is answered, that
is the program that asked: the thread cannot leave its call, so its process cannot execute another
program. So numbers are good until the answer, when `end` takes them away. What may go on for longer
(bringing in slow pages, looking through gigabytes) goes through files that were opened before
(bound.py).

The calls go through cffi, because Python has no binding for them. Numbers (addresses) cross as
integers. The scratch structs below are used by the reader's thread only, for at most a page; larger
transfers may run in a worker thread.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

import cffi
import trio

from ..process import raw_memory, thread
from ..process.aside import Touch, ZeroSearch
from ..process.bound import BoundMemory
from ..system.means import spare, with_means
from ..system.page import PAGE_SIZE
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

_OUT_OF_REACH: Final = (FileNotFoundError, ProcessLookupError, PermissionError)

B = TypeVar("B", bound="Touch | ZeroSearch")
R = TypeVar("R")

CAP_IPC_LOCK: Final = 14
CAP_SYS_RESOURCE: Final = 24

_CAPABILITY_VERSION_3: Final = 0x20080522

MANY: Final = 1024  # places that one call of the kernel's takes
_PAGEMAPS: Final = 256  # threads whose pagemap is kept open
_SCRATCH_SIZE: Final = 4096
_scratch: Final[Any] = _ffi.new("char[]", _SCRATCH_SIZE)
_local: Any = _ffi.new("struct vec *", {"base": int(_ffi.cast("uintptr_t", _scratch))})
_remote: Any = _ffi.new("struct vec *")
_cap_header: Any = _ffi.new("struct cap_header *", {"version": _CAPABILITY_VERSION_3})
_cap_data: Any = _ffi.new("struct cap_data[2]")
_move: Final[Any] = _ffi.memmove
_unpack: Final = cast(Callable[[Any, int], bytes], _ffi.unpack)


class Memory(Protocol):
    """A client's memory, as the engine's side sees it; tests have a twin of bytes."""

    def read(self, address: int, length: int) -> bytes:
        """At most `length` bytes from `address`; shorter when a byte cannot be read, empty when the
        first cannot.
        """

    def write(self, address: int, data: bytes) -> int:
        """How many bytes of `data` were written before one could not be."""

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes:
        """As `read`, of up to MANY places (address, length), one after the other, until one cannot
        be read.
        """

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int:
        """As `write`, to up to MANY places."""


class ProcessMemory:
    """The memory of a thread that waits for an answer of ours, by process_vm_readv and
    process_vm_writev (which respect page protection).

    They refuse memory whose mapping does not say PROT_READ. If its program could read it
    nevertheless (vma.py), it is read in another way.
    """

    __slots__ = ("tid",)

    def __init__(self, tid: int) -> None:
        self.tid = tid  # 0: nobody's, or not any more

    def read(self, address: int, length: int) -> bytes:
        if length <= _SCRATCH_SIZE:
            _remote.base = address
            _local.length = _remote.length = length
            count = _libc.process_vm_readv(self.tid, _local, 1, _remote, 1, 0)
            if count == length:
                return _unpack(_scratch, count)
            return self._and_more(_unpack(_scratch, max(count, 0)), address, length)
        data = bytearray(length)
        count = raw_memory.read_process(self.number, address, data)
        if count == length:
            return bytes(data)
        return self._and_more(bytes(data[:count]), address, length)

    def number(self) -> int:
        """The thread's number, as long as it may be used; else 0."""
        return self.tid

    def _and_more(self, found: bytes, address: int, length: int) -> bytes:
        """What process_vm_readv did not give, read in another way."""
        memory = self._bound()
        if memory is None:
            return found
        try:
            return found + memory.read(address + len(found), length - len(found))
        finally:
            memory.close()

    def _bound(self) -> BoundMemory | None:
        if not self.tid:
            return None
        try:
            return with_means(lambda: BoundMemory(self.tid))
        except OSError:
            return None  # it is gone, or not for us to look into

    def write(self, address: int, data: bytes) -> int:
        length = len(data)
        if length <= _SCRATCH_SIZE:
            _move(_scratch, data, length)
            _remote.base = address
            _local.length = _remote.length = length
            return max(0, int(_libc.process_vm_writev(self.tid, _local, 1, _remote, 1, 0)))
        return raw_memory.write_process(self.number, address, data)

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes:
        data = bytearray(sum(length for _, length in places))
        count = self._many(_libc.process_vm_readv, data, places)
        if count == len(data):
            return bytes(data)
        found = bytearray()
        for address, length in places:
            found += (part := self.read(address, length))
            if len(part) < length:
                break
        return bytes(found)

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int:
        return self._many(_libc.process_vm_writev, data, places)

    def _many(self, call: Any, data: bytes | bytearray, places: Sequence[tuple[int, int]]) -> int:
        start = int(_ffi.cast("uintptr_t", _ffi.from_buffer(data)))
        local, remote = _ffi.new("struct vec *", (start, len(data))), _ffi.new("struct vec[]", list(places))
        return max(0, int(call(self.tid, local, 1, remote, len(places), 0)))


_pagemaps: Final[OrderedDict[int, int]] = OrderedDict()
_ENTRY: Final = 8  # bytes of /proc/PID/pagemap for one page
_PRESENT: Final = 1 << 63
_WRITE_PROTECTED: Final = 1 << 57  # by userfaultfd


def _pagemap_entries(tid: int, first: int, count: int) -> bytes:
    """`count` entries of /proc/TID/pagemap; empty if they cannot be read."""
    fd = _pagemaps.get(tid)
    if fd is not None:
        entries = os.pread(fd, count * _ENTRY, first * _ENTRY)
        if entries:
            return entries
        # That address space is gone (exec, exit, or the number of another thread now).
        del _pagemaps[tid]
        os.close(fd)
    try:
        fd = with_means(lambda: os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return b""
    _pagemaps[tid] = fd
    if len(_pagemaps) > _PAGEMAPS:
        os.close(_pagemaps.popitem(last=False)[1])
    return os.pread(fd, count * _ENTRY, first * _ENTRY)


def forget_threads() -> None:
    """Close what is kept about threads that called. It is opened again when needed."""
    while _pagemaps:
        os.close(_pagemaps.popitem()[1])


def forget_ended_threads() -> None:
    """Close what is kept about threads whose address spaces are gone."""
    for tid, fd in list(_pagemaps.items()):
        if not os.pread(fd, _ENTRY, 0):
            del _pagemaps[tid]
            os.close(fd)


spare(forget_threads)

MOMENT: Final = 0.001  # seconds between looks whether a thread of ours that is told to stop has
AT_ONCE: Final = 40  # threads of ours that one process may keep waiting
_limiters: Final[WeakValueDictionary[int, trio.CapacityLimiter]] = WeakValueDictionary()


def _limiter(caller: "Caller") -> trio.CapacityLimiter:
    """Each process has its own: a client that makes its memory slow takes no thread from others."""
    try:
        process = caller.process()
    except FileNotFoundError:
        process = 0  # not visible from here
    found = _limiters.get(process)
    if found is None:
        found = _limiters[process] = trio.CapacityLimiter(AT_ONCE)
    return found


class Caller:
    """One thread, for the length of one request.

    tid 0 means that the thread is not visible from our pid namespace; then nothing of it can be
    reached. `waits`: the thread is known to wait for our answer, until `end`.
    """

    __slots__ = ("gid", "memory", "tid", "uid", "waits")

    def __init__(self, tid: int, uid: int, gid: int, waits: bool = False) -> None:
        self.tid = tid
        self.uid = uid
        self.gid = gid
        self.waits = waits
        self.memory: ProcessMemory = ProcessMemory(tid)

    def end(self) -> None:
        """The request is answered, or its connection ends: from now on nobody is reached by its
        number.
        """
        self.tid = self.memory.tid = 0
        self.waits = False

    def capable(self, capability: int) -> bool:
        """Whether the thread has `capability` (CAP_*) in effect, in our own user namespace.

        As the kernel's capable(): capabilities in a namespace that the client made itself do not
        count.
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
        """Whether `length` bytes at `address` (at most a few pages) can be reached at once. They
        nearly always can.

        A page that is not there may take as long as its owner likes (userfaultfd, a file system of
        the client's own). Then call `settle` first.
        """
        first = address // PAGE_SIZE
        count = (address + length - 1) // PAGE_SIZE - first + 1
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
        """Have a worker thread bring in the pages, so that a client that makes them slow delays
        only itself.

        Returns when they are there, or cannot come. Reading them tells which.
        """
        await leave()
        pages = range(address // PAGE_SIZE * PAGE_SIZE, address + length, PAGE_SIZE)
        await self._aside(Touch(self.memory.number), lambda touch: touch(pages))

    async def zeros(self, address: int, length: int) -> tuple[int, bool]:
        """Returns how many of `length` bytes (any number) from `address` are zero before one that
        is not zero or cannot be read, and whether that one is not zero.
        """
        await leave()
        try:
            search = with_means(lambda: ZeroSearch(self.memory.number))
        except _OUT_OF_REACH:
            return 0, False
        return await self._aside(search, lambda search: search(address, length))

    async def _aside(self, work: B, act: Callable[[B], R]) -> R:
        """Run `act` on it in a thread. If the request is interrupted, nobody waits for the thread
        any longer. It is closed at the end.
        """

        def run() -> R:
            if not work.begin():
                raise InterruptedError  # nobody hears it
            try:
                return act(work)
            finally:
                work.close()
                work.over()

        try:
            limiter = _limiter(self)
            with interruptible():
                return await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)
        finally:
            if not work.stop():
                work.close()
            with trio.CancelScope(shield=True):
                while not work.sleeps():  # noqa: ASYNC110  (nothing tells when)
                    await trio.sleep(MOMENT)

    def descriptor(self, number: int) -> int:
        """As thread.descriptor."""
        return with_means(lambda: thread.descriptor(self.tid, number))

    def process(self) -> int:
        """As thread.process."""
        return with_means(lambda: thread.process(self.tid))

    def maps(self, offset: int, length: int) -> bool:
        """Whether the caller's process has a shared mapping of any file at an offset in these
        bytes. Other processes are not asked.
        """
        try:
            with with_means(lambda: open(f"/proc/{self.tid}/maps", "rb")) as table:
                return any(
                    fields[1][3:4] == b"s" and offset <= int(fields[2], 16) < offset + length
                    for fields in map(bytes.split, table)
                )
        except FileNotFoundError:
            return False

    def name(self) -> str:
        """The caller as people know it: `comm[tid]`."""
        try:
            with with_means(
                lambda: open(f"/proc/{self.tid}/comm", encoding="utf-8", errors="surrogateescape", newline="\n")
            ) as comm:
                return f"{comm.read().removesuffix(chr(10))}[{self.tid}]"
        except OSError:
            return f"[{self.tid}]"


_user_namespace = ""


def _our_user_namespace() -> str:
    global _user_namespace
    if not _user_namespace:
        _user_namespace = os.readlink("/proc/self/ns/user")
    return _user_namespace
