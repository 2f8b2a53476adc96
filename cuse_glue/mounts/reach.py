"""Whether this process may use the system calls that reach a client's memory and its descriptors.

A container's seccomp profile often permits mounts to root, and forbids these calls. Then every
ioctl would fail with EFAULT, and nobody would know why. So they are tried first on our own process,
where nothing but such a profile can forbid them.
"""

import errno
import os
from typing import Any, Final

import cffi

from ..errors import Unusable
from ..system import libc

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
    """Raises Unusable if process_vm_readv(2) or pidfd_getfd(2) is forbidden or missing, or if there
    is no /proc.
    """
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
    if number in (errno.EMFILE, errno.ENFILE):
        return Unusable(f"{what}: {os.strerror(number)} (ulimit -n)")
    return Unusable(
        f"{what} ({call}: {os.strerror(number)}): in a container its seccomp profile forbids it, and "
        "--cap-add SYS_PTRACE, or --security-opt seccomp=unconfined, permits it"
    )
