"""Moving bytes by address: between us and a process, and between us and a mapping of ours whose file may shrink under us.

Everything here may run in a worker thread: nothing is kept between calls.

Why a copy from our own mapping is a system call as well: when a client truncates the file, a plain memcpy dies of SIGBUS, and the daemon
with it. process_vm_writev on ourselves reads the *local* side as any system call reads its arguments, so that a page that is gone is a
short count. The direction matters: only the remote side (our private buffer) is looked up page by page, so a shared mapping must be
the local side, whichever way the bytes go. A buffer of huge pages then moves at memcpy's speed, one of small pages at half of it.
"""

import errno
import mmap
import os
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
    """
)
_libc: Any = _ffi.dlopen(None)

_MAP_NORESERVE: Final = 0x4000  # of huge pages: those are the client's to reserve
_HUGE_PAGE: Final = 2 << 20  # bytes; where it is another size, aligning to this does no harm
_PAGEMAP_SCAN: Final = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), Linux 6.7
_PRESENT_OR_SWAPPED: Final = 1 << 3 | 1 << 4
_SYS_MEMFD_SECRET: Final = 447
_FAILED: Final = (1 << _ffi.sizeof("size_t") * 8) - 1

Buffer = bytes | bytearray | memoryview


def _address(holder: Any) -> int:
    return int(_ffi.cast("uintptr_t", holder))


def _move(call: Any, pid: int, local: int, remote: int, length: int) -> int:
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


def read_process(tid: int, address: int, buffer: Buffer) -> int:
    """Fill `buffer` from `address` of thread `tid`'s memory; bytes moved before one could not be."""
    with _ffi.from_buffer(buffer, require_writable=True) as holder:
        return _move(_libc.process_vm_readv, tid, _address(holder), address, len(buffer))


def write_process(tid: int, address: int, data: Buffer) -> int:
    """Write `data` to `address` of thread `tid`'s memory; bytes moved before one could not be."""
    with _ffi.from_buffer(data) as holder:
        return _move(_libc.process_vm_writev, tid, _address(holder), address, len(data))


def read_mapping(address: int, buffer: Buffer) -> int:
    """Fill `buffer` from our mapping at `address`; bytes moved before one could not be (the file has shrunk, or no page is left)."""
    with _ffi.from_buffer(buffer, require_writable=True) as holder:
        return _move(_libc.process_vm_writev, os.getpid(), address, _address(holder), len(buffer))


def write_mapping(address: int, data: Buffer) -> int:
    """Write `data` to our mapping at `address`; bytes moved before one could not be."""
    with _ffi.from_buffer(data) as holder:
        return _move(_libc.process_vm_readv, os.getpid(), address, _address(holder), len(data))


def map_shared(fd: int, offset: int, length: int, *, writable: bool) -> int:
    """mmap(2) MAP_SHARED; may reach beyond the file's end. Nothing is read, allocated or reserved. OSError as mmap(2)."""
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
    """A buffer of `length` bytes for large copies, of huge pages where the system gives them. It goes with the last view of it."""
    area = mmap.mmap(-1, length + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        area.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        pass  # a kernel without
    start = -_address(_ffi.from_buffer(area)) % _HUGE_PAGE
    return memoryview(area)[start : start + length]


def any_absent(pagemap: int, start: int, end: int) -> bool | None:
    """Whether a page of `start` to `end` is neither in memory nor swapped out, by /proc/PID/pagemap open as `pagemap`.

    None: the kernel cannot tell so quickly. False as well when nobody lives there any more.
    """
    region = _ffi.new("struct page_region *")
    scan: Any = _ffi.new("struct pm_scan_arg *")
    scan.size = _ffi.sizeof("struct pm_scan_arg")
    scan.start, scan.end = start, end
    scan.vec, scan.vec_len, scan.max_pages = _address(region), 1, 1
    scan.category_inverted = scan.category_mask = scan.return_mask = _PRESENT_OR_SWAPPED
    found: int = _libc.ioctl(pagemap, _PAGEMAP_SCAN, scan)
    if found < 0 and _ffi.errno != errno.ESRCH:
        return None
    return found > 0


def memfd_secret() -> int | None:
    """A descriptor of secret memory (memfd_secret(2)), whose file system has no name; None where the kernel has it not."""
    fd: int = _libc.syscall(_SYS_MEMFD_SECRET, _ffi.cast("long", os.O_CLOEXEC))
    return fd if fd >= 0 else None
