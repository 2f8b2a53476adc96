"""Seize a client's thread (ptrace.py), and say in words what forbids it."""

import errno
import signal
import threading
from collections.abc import Callable

from ..errors import ControlError, ThreadGone
from ..system import status
from ..system.status import Status
from . import ptrace


def seize(
    tid: int,
    machine: ptrace.Machine,
    memory: ptrace.Memory,
    purpose: str,
    may_be_gone: Callable[[], bool],
    harmless_filters: int | None = None,
) -> ptrace.Tracee:
    """Seize thread `tid`, which runs on. `memory`: that of its address space. `purpose`: for
    people, what it cannot do if this fails.

    ControlError: another traces it, it has a seccomp filter of its own, or we may not. ThreadGone:
    it is gone, or whoever has its number now cannot be seized. `may_be_gone()`: whether the thread
    may be gone; it cannot be while its request has no reply. `harmless_filters`: the thread
    descends from the process that we come from, and has this many more seccomp filters than we
    have; these permit the calls that we have it make. None: it can be anybody's thread.
    """
    try:
        return ptrace.Tracee(tid, machine, memory, ptrace.SUSPEND_SECCOMP)
    except OSError as error:
        # EPERM may be about SUSPEND_SECCOMP: we lack CAP_SYS_ADMIN, or are under a filter
        # ourselves. EINVAL always is: the kernel does not have it. Once the thread has its reply it
        # can die, and an exec can give its number to another thread. Before the reply neither can
        # happen.
        if error.errno == errno.ESRCH or may_be_gone():
            raise ThreadGone from None
    tracer = _status(tid).number("TracerPid")
    if tracer:
        raise ControlError(
            f"the client is traced by process {tracer} (a debugger, strace), and only one can: it cannot {purpose}"
        )
    if has_filters_of_its_own(tid, harmless_filters):
        raise ControlError(
            f"the client has a seccomp filter, which might kill it if we made it call the kernel; to suspend that takes CAP_SYS_ADMIN: "
            f"it cannot {purpose}"
        )
    try:
        return ptrace.Tracee(tid, machine, memory)
    except OSError as error:
        if error.errno == errno.ESRCH or may_be_gone():
            raise ThreadGone from None
        raise ControlError(f"the client may not be traced by us ({error.strerror}): it cannot {purpose}") from None


def has_filters_of_its_own(tid: int, harmless_filters: int | None) -> bool:
    """Whether the client has seccomp filters that might forbid our calls. `harmless_filters`: as
    for `seize`.
    """
    # Filters are inherited and never dropped, and our own permit our calls. So filters that the
    # client and we have from the same ancestor do no harm. If the client can be anybody's, these
    # are as many as the first process has (a container's). Filters that only a service has
    # (systemd's SystemCallFilter=) say nothing about other processes.
    theirs, ours, first = (_status(each).number("Seccomp_filters") for each in (tid, threading.get_native_id(), 1))
    return theirs > (min(ours, first) if harmless_filters is None else ours + harmless_filters)


def is_killed(tid: int) -> bool:
    """Whether a thread is gone, or about to die by SIGKILL."""
    try:
        pending = status.read(tid).mask("SigPnd")
    except OSError:
        return True
    return pending is None or bool(pending >> (signal.SIGKILL - 1) & 1)


def _status(tid: int) -> Status:
    """The status of a thread; empty if the thread is gone."""
    try:
        return status.read(tid)
    except OSError:
        return Status(b"")
