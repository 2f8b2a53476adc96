"""The system calls that Python's `os` has no name for (cffi, ABI mode: nothing is compiled).

Each raises OSError with the kernel's errno, its text, and the path it was about.
"""

import os
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

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
    int umount2(const char *target, int flags);
    int unshare(int flags);
    int execvpe(const char *file, char *const argv[], char *const envp[]);
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


def _text(value: str | None) -> Any:
    return _ffi.NULL if value is None else os.fsencode(value)


def _check(result: int, path: str | None = None) -> None:
    if result != 0:
        number: int = _ffi.errno
        raise OSError(number, os.strerror(number), path)
