"""Moving bytes by address: between us and a process, and between us and a mapping of ours whose file may shrink under us.

Everything here may run in a worker thread: nothing is kept between calls.

Why a copy from our own mapping is a system call as well: when a client truncates the file, a plain memcpy dies of SIGBUS, and the daemon
with it. process_vm_writev on ourselves reads the *local* side as any system call reads its arguments, so that a page that is gone is a
short count. The direction matters: only the remote side (our private buffer) is looked up page by page, so a shared mapping must be
the local side, whichever way the bytes go. A buffer of huge pages then moves at memcpy's speed, one of small pages at half of it.
"""

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
    """
)
_libc: Any = _ffi.dlopen(None)

_MAP_NORESERVE: Final = 0x4000  # of huge pages: those are the client's to reserve
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


def memfd_secret() -> int | None:
    """A descriptor of secret memory (memfd_secret(2)), whose file system has no name; None where the kernel has it not."""
    fd: int = _libc.syscall(_SYS_MEMFD_SECRET, _ffi.cast("long", os.O_CLOEXEC))
    return fd if fd >= 0 else None
