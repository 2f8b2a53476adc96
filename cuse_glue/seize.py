"""To take a client's thread in hand (ptrace.py): what may forbid it, said in words."""

import errno
import re
import signal
import threading
from collections.abc import Callable
from typing import Final

from . import ptrace

_STATUS: Final = re.compile(rb"^(TracerPid|Seccomp|Seccomp_filters):\t(\d+)$", re.MULTILINE)


class NotOurs(Exception):
    """The thread cannot be seized; the text says why."""


def seize(
    tid: int, machine: ptrace.Machine, purpose: str, may_be_gone: Callable[[], bool], harmless_filters: int | None = None
) -> ptrace.Tracee:
    """Seize thread `tid`, which runs on. `purpose`: what it cannot do if that fails, for people.

    NotOurs: another traces it, a seccomp filter of its own, or we may not. ptrace.Gone: it is gone, or whoever has its number now cannot be
    seized. `may_be_gone()`: nothing keeps it from that, as a request without a reply does. `harmless_filters`:
    how many seccomp filters it has that let through what we make it call, beside those that we both have from where we come; None: it is
    anybody's.
    """
    try:
        return ptrace.Tracee(tid, machine, ptrace.SUSPEND_SECCOMP)
    except OSError as error:
        # EPERM may be about seccomp (we are not CAP_SYS_ADMIN, or are under a filter ourselves); EINVAL is: a kernel without it.
        # Once it has its reply the thread can die, and its id be another's (an exec); before, it cannot.
        if error.errno == errno.ESRCH or may_be_gone():
            raise ptrace.Gone from None
    tracer = _status(tid).get("TracerPid", 0)
    if tracer:
        raise NotOurs(f"the client is traced by process {tracer} (a debugger, strace), and only one can: it cannot {purpose}")
    # Filters are inherited and never dropped, and ours let us do it, so what the client has from where we have ours does no harm. Of
    # anybody's client that is as many as the first process has (a container's). What only a service has (systemd's SystemCallFilter=)
    # says nothing of others.
    theirs, ours, first = (_status(each).get("Seccomp_filters", 0) for each in (tid, threading.get_native_id(), 1))
    if theirs > (min(ours, first) if harmless_filters is None else ours + harmless_filters):
        raise NotOurs(
            f"the client has a seccomp filter, which might kill it if we made it call the kernel; to suspend that takes CAP_SYS_ADMIN: "
            f"it cannot {purpose}"
        )
    try:
        return ptrace.Tracee(tid, machine)
    except OSError as error:
        if error.errno == errno.ESRCH or may_be_gone():
            raise ptrace.Gone from None
        raise NotOurs(f"the client may not be traced by us ({error.strerror}): it cannot {purpose}") from None


def is_killed(tid: int) -> bool:
    """Whether a thread is gone, or about to die by SIGKILL."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            pending = re.search(rb"^SigPnd:\t(\w+)$", file.read(), re.MULTILINE)
    except OSError:
        return True
    return pending is None or bool(int(pending[1], 16) >> (signal.SIGKILL - 1) & 1)


def _status(tid: int) -> dict[str, int]:
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            return {name.decode(): int(value) for name, value in _STATUS.findall(file.read())}
    except OSError:
        return {}
