"""One thread of another process, by its id: its process, and its descriptors."""

import errno
import os
import re
from typing import Final

from . import libc

_PIDFD_THREAD: Final = os.O_EXCL  # Linux 6.9


def process(tid: int) -> int:
    """The id of the process that the thread belongs to. OSError when it is gone."""
    with open(f"/proc/{tid}/status", "rb") as status:
        found = re.search(rb"^Tgid:\t(\d+)$", status.read(), re.MULTILINE)
    if found is None:
        raise OSError(errno.ESRCH, "no Tgid")
    return int(found[1])


def descriptor(tid: int, number: int) -> int:
    """A descriptor of ours for the same open file as the thread's descriptor `number`; close it.

    OSError(EBADF) when the thread has no such descriptor; other errnos when we may not fetch it.
    """
    pidfd = _pidfd(tid)
    try:
        return libc.pidfd_getfd(pidfd, number)
    finally:
        os.close(pidfd)


def _pidfd(tid: int) -> int:
    try:
        return os.pidfd_open(tid, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.pidfd_open(process(tid), 0)
