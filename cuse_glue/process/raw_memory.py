"""Moving bytes by address: between us and a process, and between us and a mapping of ours whose
file may shrink under us.

Everything here may run in a worker thread: nothing is kept between calls.

Why is even a copy from our own mapping a system call? When a client truncates the file, a plain
memcpy dies of SIGBUS, and the daemon with it. process_vm_writev on ourselves reads the *local* side
as any system call reads its arguments, so that a page that is gone makes a short count. Only the
remote side is looked up page by page. So the shared mapping is always the local side, whichever way
the bytes go, and our private buffer the remote one. If that buffer has huge pages the copy is as
fast as memcpy, with small pages half as fast.

To look up a page of 4 KiB costs more than to copy it, and a client's private memory cannot be
reached without a lookup. So several threads make a large copy, if there are processors for them.
"""

import errno
import mmap
import os
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

import cffi

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct vec { uintptr_t base; size_t length; };
    ssize_t process_vm_readv(int pid, const struct vec *local, unsigned long nlocal,
                             const struct vec *remote, unsigned long nremote, unsigned long flags);
    ssize_t process_vm_writev(int pid, const struct vec *local, unsigned long nlocal,
                              const struct vec *remote, unsigned long nremote, unsigned long flags);
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset);
    int munmap(void *address, size_t length);
    long syscall(long number, ...);
    struct pm_scan_arg { uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages,
                         category_inverted, category_mask, category_anyof_mask, return_mask; };
    struct page_region { uint64_t start, end, categories; };
    int ioctl(int fd, unsigned long request, ...);
    ssize_t pread(int fd, void *buffer, size_t count, long offset);
    ssize_t pwrite(int fd, const void *buffer, size_t count, long offset);
    ssize_t preadv2(int fd, const struct vec *places, int count, long offset, int flags);
    ssize_t pwritev2(int fd, const struct vec *places, int count, long offset, int flags);
    int memcmp(const void *one, const void *other, size_t count);
    """
)
_libc: Any = _ffi.dlopen(None)

_MAP_NORESERVE: Final = 0x4000  # no huge pages are reserved: that is for the client to do
_HUGE_PAGE: Final = 2 << 20  # bytes; where it is another size, aligning to this does no harm
_PAGEMAP_SCAN: Final = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), Linux 6.7
_FILE: Final = 1 << 2  # PAGE_IS_*
_PRESENT: Final = 1 << 3
_SWAPPED: Final = 1 << 4
_PFN_ZERO: Final = 1 << 5
_GUARD: Final = 1 << 8  # Linux 6.16
_PRESENT_ENTRY: Final = 1 << 63  # of an entry of /proc/PID/pagemap
_FILE_ENTRY: Final = 1 << 61
_GUARD_ENTRY: Final = 1 << 58  # Linux 6.15
_ENTRY: Final = 8  # bytes of /proc/PID/pagemap for one page
_REGIONS: Final = 512  # that one scan tells of at most
_SYS_MEMFD_SECRET: Final = 447
_SYS_KCMP: Final = {"x86_64": 312, "aarch64": 272}.get(os.uname().machine)
_KCMP_VM: Final = 1
_FAILED: Final = (1 << _ffi.sizeof("size_t") * 8) - 1

SHARE: Final = 4 << 20  # bytes; twice that is moved by two threads, which take 0.1 ms to start
MOST_SHARES: Final = 4
SHARE_ALIGNMENT: Final = 2 << 20  # bytes: a huge page is not moved by two

Buffer = bytes | bytearray | memoryview


def _address(holder: Any) -> int:
    return int(_ffi.cast("uintptr_t", holder))


def _move(call: Any, pid: int, local: int, remote: int, length: int) -> int:
    """Returns how many bytes were moved before one could not be. Of a large move, some bytes after
    that one may have been moved as well.
    """
    shares = min(length // SHARE, MOST_SHARES)
    if shares > 1:
        shares = min(shares, len(os.sched_getaffinity(0)))
    if shares < 2:
        return _move_share(call, pid, local, remote, length)
    step = -(-length // shares // SHARE_ALIGNMENT) * SHARE_ALIGNMENT
    moved = [0] * shares

    def move(share: int) -> None:
        begin = share * step
        moved[share] = _move_share(call, pid, local + begin, remote + begin, min(step, length - begin))

    helpers = [threading.Thread(target=move, args=(share,), daemon=True) for share in range(1, shares)]
    started: list[threading.Thread] = []
    try:
        for share, helper in enumerate(helpers, 1):
            try:
                helper.start()
                started.append(helper)
            except RuntimeError:  # no thread is to be had
                move(share)
        move(0)
    finally:
        for helper in started:
            helper.join()
    done = 0
    for share, count in enumerate(moved, 1):
        done += count
        if done < min(share * step, length):
            break
    return done


def _move_share(call: Any, pid: int, local: int, remote: int, length: int) -> int:
    pair = _ffi.new("struct vec[2]")
    done = 0
    while done < length:
        pair[0].base, pair[1].base = local + done, remote + done
        pair[0].length = pair[1].length = length - done
        count = call(pid, pair, 1, pair + 1, 1, 0)
        if count <= 0:
            break
        done += count
    return done


class _ByNumber:
    """Counts the threads of ours that are just now reaching into processes by number.

    Such a call reaches the right process as long as the thread with that number waits for an answer
    of ours. A `Session` that ends the waiting of all clients first takes their numbers away, and
    then waits here for the calls that had got one. A MOMENT is enough: by then the kernel has
    looked up the right process, and only that one's memory can still make a call slow.
    """

    MOMENT: Final = 0.1  # seconds

    def __init__(self) -> None:
        self._none = threading.Condition()
        self._calls = 0

    def __enter__(self) -> None:
        with self._none:
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._none:
            self._calls -= 1
            if not self._calls:
                self._none.notify_all()

    def wait(self) -> None:
        with self._none:
            self._none.wait_for(lambda: not self._calls, self.MOMENT)


by_number: Final = _ByNumber()


def read_process(tid: Callable[[], int], address: int, buffer: Buffer) -> int:
    """Fill `buffer` from `address` of the memory of a thread that waits for an answer of ours.
    `tid` returns its number (0: it does not wait).

    Returns how many bytes were moved before one could not be.
    """
    with by_number, _ffi.from_buffer(buffer, require_writable=True) as holder:
        return _move(_libc.process_vm_readv, tid(), _address(holder), address, len(buffer))


def write_process(tid: Callable[[], int], address: int, data: Buffer) -> int:
    """Write `data` to `address`, as `read_process` reads. Returns how many bytes were moved before
    one could not be.
    """
    with by_number, _ffi.from_buffer(data) as holder:
        return _move(_libc.process_vm_writev, tid(), _address(holder), address, len(data))


def read_file(mem: int, address: int, buffer: Buffer) -> int:
    """Fill `buffer` from `address` of the address space whose /proc/PID/mem is open as `mem`.
    Returns how many bytes were moved before one could not be.
    """
    with _ffi.from_buffer(buffer, require_writable=True) as holder:
        return _move(_pread, mem, _address(holder), address, len(buffer))


def write_file(mem: int, address: int, data: Buffer) -> int:
    """Write `data` to `address`, as `read_file` reads, whatever the protection of private memory.
    Returns how many bytes were moved before one could not be.
    """
    with _ffi.from_buffer(data) as holder:
        return _move(_pwrite, mem, _address(holder), address, len(data))


def _pread(mem: int, local: Any, _one: int, remote: Any, _one_too: int, _flags: int) -> int:
    count: int = _libc.pread(mem, _ffi.cast("void *", local[0].base), local[0].length, remote[0].base)
    return count


def _pwrite(mem: int, local: Any, _one: int, remote: Any, _one_too: int, _flags: int) -> int:
    count: int = _libc.pwrite(mem, _ffi.cast("void *", local[0].base), local[0].length, remote[0].base)
    return count


def read_mapping(address: int, buffer: Buffer) -> int:
    """Fill `buffer` from our mapping at `address`. Returns how many bytes were moved before one
    could not be (the file has shrunk, or no page is left).
    """
    with _ffi.from_buffer(buffer, require_writable=True) as holder:
        return _move(_libc.process_vm_writev, os.getpid(), address, _address(holder), len(buffer))


def write_mapping(address: int, data: Buffer) -> int:
    """Write `data` to our mapping at `address`. Returns how many bytes were moved before one could
    not be.
    """
    with _ffi.from_buffer(data) as holder:
        return _move(_libc.process_vm_readv, os.getpid(), address, _address(holder), len(data))


def copy_mappings(to: Sequence[int], of: Sequence[int]) -> int:
    """Copy within our own memory, to and from places: address, length, address, length, ..., 1024
    places at most. Both come to the same number of bytes.

    It is done in order, so what was copied can be copied on. Returns how many bytes were copied
    before one could not be.
    """
    local, remote = array("Q", to), array("Q", of)
    with _ffi.from_buffer("struct vec[]", local) as locals_, _ffi.from_buffer("struct vec[]", remote) as remotes:
        done = int(_libc.process_vm_readv(os.getpid(), locals_, len(locals_), remotes, len(remotes), 0))
    return max(done, 0)


def gather_mappings(of: Sequence[int], buffer: Buffer) -> int:
    """Fill `buffer` from places as in `copy_mappings`, which come to its length. Returns as
    that.
    """
    with _ffi.from_buffer(buffer, require_writable=True) as holder:
        return copy_mappings((_address(holder), len(buffer)), of)


def read_file_into(fd: int, offset: int, places: Sequence[int], flags: int) -> int:
    """Fill our mappings at these places, as in `copy_mappings`, from byte `offset` of a file.
    `flags`: RWF_* of preadv2(2). Returns how many bytes were read before one could not be.
    """
    with _ffi.from_buffer("struct vec[]", array("Q", places)) as vecs:
        return max(int(_libc.preadv2(fd, vecs, len(vecs), offset, flags)), 0)


def write_file_from(fd: int, offset: int, places: Sequence[int], flags: int) -> int:
    """As `read_file_into`, the other way round."""
    with _ffi.from_buffer("struct vec[]", array("Q", places)) as vecs:
        return max(int(_libc.pwritev2(fd, vecs, len(vecs), offset, flags)), 0)


def locate(data: Buffer) -> int:
    """Where these bytes lie, as long as somebody refers to them."""
    return _address(_ffi.from_buffer(data))


def map_shared(fd: int, offset: int, length: int, *, writable: bool) -> int:
    """mmap(2) MAP_SHARED; may reach beyond the file's end. Nothing is read, allocated or reserved.
    OSError as mmap(2).
    """
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    got = _address(_libc.mmap(_ffi.NULL, length, prot, mmap.MAP_SHARED | _MAP_NORESERVE, fd, offset))
    if got == _FAILED:
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
    return got


def unmap(address: int, length: int) -> None:
    """munmap(2) of what `map_shared` gave."""
    if _libc.munmap(_ffi.cast("void *", address), length) != 0:
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))


def huge_buffer(length: int) -> memoryview:
    """A buffer of `length` bytes for large copies, of huge pages if the system gives them. It is
    freed with the last view of it.
    """
    area = mmap.mmap(-1, length + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        area.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        pass  # a kernel without huge pages
    start = -_address(_ffi.from_buffer(area)) % _HUGE_PAGE
    return memoryview(area)[start : start + length]


class _Scan:
    """PAGEMAP_SCAN of one page map: finds where pages of a kind begin and end. One thread at a
    time.
    """

    __slots__ = ("_argument", "_regions")

    def __init__(self, regions: int) -> None:
        self._regions: Any = _ffi.new("struct page_region[]", regions)
        scan: Any = _ffi.new("struct pm_scan_arg *")
        scan.size = _ffi.sizeof("struct pm_scan_arg")
        scan.vec, scan.vec_len = _address(self._regions), regions
        self._argument = scan

    def __call__(
        self, pagemap: int, start: int, end: int, *, all_of: int = 0, any_of: int = 0, inverted: int = 0
    ) -> int:
        """Returns how many regions were found; they are in `region`, and `upto` tells how far it
        looked. Negative: -errno.
        """
        scan = self._argument
        scan.start, scan.end = start, end
        scan.category_inverted, scan.category_mask, scan.category_anyof_mask = inverted, all_of, any_of
        scan.return_mask = all_of | any_of
        found: int = _libc.ioctl(pagemap, _PAGEMAP_SCAN, scan)
        return found if found >= 0 else -_ffi.errno

    def region(self, index: int) -> tuple[int, int]:
        return self._regions[index].start, self._regions[index].end

    @property
    def upto(self) -> int:
        return int(self._argument.walk_end)


_one: Final = _Scan(1)


def any_absent(pagemap: int, start: int, end: int) -> bool | None:
    """Whether a page of `start` to `end` is neither in memory nor swapped out. `pagemap`: an open
    /proc/PID/pagemap.

    None: the kernel cannot tell so quickly. Also False when nobody lives there any more.
    """
    found = _Scan(1)(pagemap, start, end, all_of=_PRESENT | _SWAPPED, inverted=_PRESENT | _SWAPPED)
    if found < 0 and found != -errno.ESRCH:
        return None
    return found > 0


def first_away(pagemap: int, start: int, end: int, *, its_own: bool = False) -> int | None:
    """The first page of `start` to `end` that is not in memory just now, even if it is swapped out.
    None: all are there.

    `its_own`: only the process's own pages count, neither a file's nor the page of zeros that all
    share. For the loop's thread.
    """
    found = _one(pagemap, start, end, any_of=_PRESENT | (_FILE | _PFN_ZERO if its_own else 0), inverted=_PRESENT)
    if found >= 0:
        return _one.region(0)[0] if found else None
    for page in range(start, end, mmap.PAGESIZE):
        entry = _entry(pagemap, page)
        if not entry & _PRESENT_ENTRY or (its_own and entry & _FILE_ENTRY):
            return page
    return None


def first_guard(pagemap: int, start: int, end: int) -> int | None:
    """The first page of `start` to `end` that is a guard (MADV_GUARD_INSTALL). For the loop's
    thread.

    None: there is none, or the kernel does not tell (6.13 and 6.14 do not).
    """
    global _guards_are_told
    if _guards_are_told:
        found = _one(pagemap, start, end, all_of=_GUARD)
        if found >= 0:
            return _one.region(0)[0] if found else None
        if found != -errno.EINVAL:
            return None
        _guards_are_told = False
    while start < end:  # this kernel calls guards swapped out
        found = _one(pagemap, start, end, all_of=_SWAPPED)
        if found <= 0:
            return None
        first, start = _one.region(0)
        for page in range(first, start, mmap.PAGESIZE):
            if _entry(pagemap, page) & _GUARD_ENTRY:
                return page
    return None


_guards_are_told = True


def _entry(pagemap: int, address: int) -> int:
    return int.from_bytes(os.pread(pagemap, _ENTRY, address // mmap.PAGESIZE * _ENTRY), "little")


def with_bytes(pagemap: int, start: int, end: int) -> tuple[list[tuple[int, int]], int]:
    """Where there may be anything but zeros in private anonymous memory (page boundaries), and how
    far that was looked for.

    A kernel without PAGEMAP_SCAN says: everywhere.
    """
    scan = _Scan(_REGIONS)
    found = scan(pagemap, start, end, all_of=_PFN_ZERO, any_of=_PRESENT | _SWAPPED, inverted=_PFN_ZERO)
    if found < 0:
        return [(start, end)], end
    return [scan.region(index) for index in range(found)], scan.upto


class Zeros:
    """A buffer for bytes that should be zero."""

    def __init__(self, size: int) -> None:
        self.buffer: Final = memoryview(bytearray(size))
        self._zeros = bytes(size)

    def count(self, length: int) -> int:
        """How many of the first `length` bytes in the buffer are zero, before one that is not."""
        if not _libc.memcmp(_ffi.from_buffer(self.buffer), self._zeros, length):
            return length
        data = bytes(self.buffer[:length])
        return length - len(data.lstrip(b"\0"))


def same_memory(pid: int, other: int) -> bool:
    """Whether two processes share one address space. Also False if that cannot be told."""
    if _SYS_KCMP is None:
        return False
    arguments = (_ffi.cast("long", number) for number in (pid, other, _KCMP_VM, 0, 0))
    return bool(_libc.syscall(_SYS_KCMP, *arguments) == 0)


def memfd_secret() -> int | None:
    """A descriptor of secret memory (memfd_secret(2)), whose file system has no name. None: the
    kernel does not have it.
    """
    fd: int = _libc.syscall(_SYS_MEMFD_SECRET, _ffi.cast("long", os.O_CLOEXEC))
    return fd if fd >= 0 else None
