"""Finds out whether this machine can make true pins (true_pin.py): it pins a page of our own
memory.
"""

import errno
import os
import resource
from typing import Final

from ..errors import Unusable
from ..system import status
from ..system.page import PAGE_SIZE
from ..tracing.ptrace import Machine, machine
from . import uring
from .pin_counter import Counter

NO_ROOM: Final = "--pin=uring cannot pin a page: RLIMIT_MEMLOCK leaves no room for it, and has to be raised"


def check() -> tuple[Machine, bool]:
    """Returns the machine, and whether its kernel counts in VmPin what a thread with our
    capabilities has registered. (Newer kernels do not, if the thread has CAP_IPC_LOCK.)

    Unusable: the machine cannot make true pins.
    """
    found = machine()
    if found is None:
        raise Unusable("--pin=uring does not know this kind of machine")
    _raise_limit()
    try:
        fd, _ = uring.setup(1)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise Unusable("--pin=uring needs io_uring, which this kernel does not have") from None
        if error.errno == errno.ENOMEM:
            raise Unusable(NO_ROOM) from None
        why = (
            "the sysctl kernel.io_uring_disabled, or a seccomp filter, forbids it"
            if error.errno == errno.EPERM
            else error.strerror
        )
        raise Unusable(f"--pin=uring needs io_uring, and cannot have it: {why}") from None
    try:
        counter = Counter(fd)
    except OSError as error:
        os.close(fd)
        raise Unusable(f"--pin=uring needs io_uring's registered buffers (Linux 5.13): {error.strerror}") from None
    before = _own_vm_pin()
    try:
        counter.show(1)
        counts = _own_vm_pin() != before
        counter.show(0)
    except OSError as error:
        raise Unusable(
            NO_ROOM if error.errno == errno.ENOMEM else f"--pin=uring cannot pin a page: {error.strerror}"
        ) from None
    finally:
        counter.close()
    return found, counts


def _own_vm_pin() -> int:
    return status.read("self").size("VmPin") // PAGE_SIZE


def _raise_limit() -> None:
    """Raise our own limit. When we count pins of clients without CAP_IPC_LOCK, the kernel compares
    them with *our* limit.
    """
    _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for limit in (resource.RLIM_INFINITY, most):
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return
        except (ValueError, PermissionError):
            pass
