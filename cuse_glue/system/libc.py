"""The system calls that Python's `os` has no name for (cffi, ABI mode: nothing is compiled).

Each raises OSError with the kernel's errno, its text, and the path it was about.
"""

import errno
import os
import platform
import signal
import struct
from collections.abc import Sequence
from typing import Any, Final

import cffi

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWUSER: Final = 0x1000_0000

_CLONE_FILES: Final = 0x400
_SYS_CLONE: Final = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
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
    int prctl(int option, ...);
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
    """execvpe(3): does not return, or raises. Unlike os.execvpe it passes the environment on byte
    for byte.
    """
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


def prctl(option: int, argument: int) -> None:
    """prctl(2) with one argument."""
    _check(_libc.prctl(option, _long(argument)))


def clone_sharing_descriptors() -> int:
    """As fork(2), but both processes have one table of descriptors. Returns the child's ID, and 0
    in the child.

    Python does not notice it (no hooks run): the child must do little, and end by os._exit.
    OSError(EAGAIN): no process can be made.
    """
    if _SYS_CLONE is None:
        raise OSError(errno.ENOSYS, "clone(2) of this machine is not known")
    return _result(_libc.syscall(_SYS_CLONE, _long(_CLONE_FILES | signal.SIGCHLD), *[_long(0)] * 4))


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): a descriptor of ours (close-on-exec) for the same open file."""
    return _result(_libc.syscall(_SYS_PIDFD_GETFD, _long(pidfd), _long(number), _long(0)))


def identity(place: int | str) -> tuple[int, int]:
    """Device and inode of an open file, or of what a path leads to.

    No server is asked. A stat(2) of a FUSE file would wait for its server, which may be hostile, or
    be ourselves.
    """
    status = _ffi.new("char[256]")
    directory, path = (place, b"") if isinstance(place, int) else (_AT_FDCWD, os.fsencode(place))
    _check(_libc.statx(directory, path, _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_INO, status))
    inode, major, minor = _STATX.unpack(_ffi.buffer(status)[: _STATX.size])
    return os.makedev(major, minor), inode


def statx(fd: int, flags: int, mask: int) -> bytes:
    """statx(2) of an open file: struct statx."""
    status = _ffi.new("char[256]")
    _check(_libc.statx(fd, b"", flags | _AT_EMPTY_PATH, mask, status))
    return bytes(_ffi.buffer(status))


def fstat(number: int, fd: int, size: int) -> bytes:
    """fstat(2), which has this `number`: struct stat, of `size` bytes."""
    status = _ffi.new(f"char[{size}]")
    _result(_libc.syscall(number, _long(fd), status))
    return bytes(_ffi.buffer(status))


def device_of(fd: int) -> int:
    """The device that an open file is on (st_dev). Asks no server. Works for any file: the kernel
    does not refuse a statx(2) that asks for nothing else.

    Ref: v7.3 fs/fuse/dir.c fuse_getattr
    """
    status = _ffi.new("char[256]")
    _check(_libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0, status))
    _, major, minor = _STATX.unpack(_ffi.buffer(status)[: _STATX.size])
    return os.makedev(major, minor)


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
