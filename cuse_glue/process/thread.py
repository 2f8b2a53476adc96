"""One thread of another process, by its id: its process, and its descriptors."""

import errno
import os
from typing import Final

from ..system import libc, status

_PIDFD_THREAD: Final = os.O_EXCL  # Linux 6.9


def process(tid: int) -> int:
    """The ID of the process that the thread belongs to. OSError: the thread is gone."""
    return status.read(tid).number("Tgid")


def descriptor(tid: int, number: int) -> int:
    """A descriptor of ours for the open file behind the thread's descriptor `number`; close it.

    OSError(EBADF): the thread has no such descriptor. Other errnos: we may not fetch it.
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
