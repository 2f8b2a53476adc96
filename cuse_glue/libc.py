"""The system calls that Python's `os` has no name for (cffi, ABI mode: nothing is compiled).

Each raises OSError with the kernel's errno, its text, and the path it was about.
"""

import os
import struct
from collections.abc import Sequence
from typing import Any, Final

import cffi

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000

_SYS_PIDFD_GETFD: Final = 438
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_INO: Final = 0x100
_STATX: Final = struct.Struct("=32xQ96xII")  # inode, and the device that it is on

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
    int umount2(const char *target, int flags);
    int unshare(int flags);
    int setns(int fd, int type);
    int execvpe(const char *file, char *const argv[], char *const envp[]);
    long syscall(long number, ...);
    int statx(int directory, const char *path, int flags, unsigned int mask, void *status);
    struct sock_fprog { unsigned short length; const void *filter; };
    """
)
_libc: Final[Any] = _ffi.dlopen(None)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _check(_libc.mount(_text(source), _text(target), _text(kind), flags, _text(data)), target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_text(target), flags), target)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _check(_libc.setns(fd, kind))


def execute(argv: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """execvpe(3): does not return, or raises. Unlike os.execvpe it hands over the environment byte for byte."""
    arguments = [_ffi.new("char[]", word) for word in argv]
    variables = [_ffi.new("char[]", word) for word in environment]
    failed = _libc.execvpe(
        arguments[0],
        _ffi.new("char *[]", [*arguments, _ffi.NULL]),
        _ffi.new("char *[]", [*variables, _ffi.NULL]),
    )
    _check(failed, os.fsdecode(argv[0]))


def seccomp(number: int, operation: int, flags: int, program: bytes) -> int:
    """seccomp(2), which has this `number`, with an array of struct sock_filter."""
    filter_ = _ffi.new("char[]", program)
    form = _ffi.new("struct sock_fprog *", (len(program) // 8, filter_))
    return _result(_libc.syscall(number, _long(operation), _long(flags), form))


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): a descriptor of ours (close-on-exec) for the same open file."""
    return _result(_libc.syscall(_SYS_PIDFD_GETFD, _long(pidfd), _long(number), _long(0)))


def identity(place: int | str) -> tuple[int, int]:
    """Device and inode of an open file, or of what a path leads to.

    Asks no server: a stat(2) of a FUSE file waits for whoever serves it, who may be hostile, or ourselves.
    """
    status = _ffi.new("char[256]")
    directory, path = (place, b"") if isinstance(place, int) else (_AT_FDCWD, os.fsencode(place))
    _check(_libc.statx(directory, path, _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_INO, status))
    inode, major, minor = _STATX.unpack(_ffi.buffer(status)[: _STATX.size])
    return os.makedev(major, minor), inode


def _long(value: int) -> Any:
    return _ffi.cast("long", value)


def _result(value: int) -> int:
    if value < 0:
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
    return value


def _text(value: str | None) -> Any:
    return _ffi.NULL if value is None else os.fsencode(value)


def _check(result: int, path: str | None = None) -> None:
    if result != 0:
        number: int = _ffi.errno
        raise OSError(number, os.strerror(number), path)
