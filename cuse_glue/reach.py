"""Whether this process may use the system calls by which a client is reached: its memory, and its descriptors.

A container's seccomp profile often permits mounts to root and forbids these two. Then every ioctl would fail with EFAULT, and nobody would
know why; so it is asked of ourselves first, whom nothing else forbids it to.
"""

import errno
import os
from typing import Any, Final

import cffi

from . import libc
from .mount import Unusable

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct vec { void *base; size_t length; };
    ssize_t process_vm_readv(int pid, const struct vec *local, unsigned long nlocal,
                             const struct vec *remote, unsigned long nremote, unsigned long flags);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)


def check() -> None:
    """Raises Unusable where process_vm_readv(2) or pidfd_getfd(2) is forbidden, or not there."""
    bytes_ = _ffi.new("char[2]")
    local, remote = _ffi.new("struct vec *", [bytes_, 1]), _ffi.new("struct vec *", [bytes_ + 1, 1])
    if _libc.process_vm_readv(os.getpid(), local, 1, remote, 1, 0) != 1:
        raise _unusable("the memory of programs cannot be read", "process_vm_readv", _ffi.errno)
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(libc.pidfd_getfd(pidfd, pidfd))
    except OSError as error:
        raise _unusable("the descriptors of programs cannot be fetched", "pidfd_getfd", error.errno or 0) from None
    finally:
        os.close(pidfd)


def _unusable(what: str, call: str, number: int) -> Unusable:
    if number == errno.ENOSYS:
        return Unusable(f"{what}: the kernel has no {call}(2)")
    return Unusable(
        f"{what} ({call}: {os.strerror(number)}): in a container its seccomp profile forbids it, and "
        "--cap-add SYS_PTRACE, or --security-opt seccomp=unconfined, permits it"
    )
