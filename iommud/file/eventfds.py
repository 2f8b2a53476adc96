"""A client's eventfds as a device uses them: those that it signals, and those that it hears.

They are fetched while the client is in its ioctl, and kept as descriptors of ours; the client may
close its own. They differ from the kernel's in two points. A device hears an eventfd a moment after
it was signalled, when our task has its turn. And an eventfd whose counter is full is not signalled:
only the kernel could make it overflow.

Ref: v7.3 fs/eventfd.c, drivers/vfio/virqfd.c
"""

import fcntl
import logging
import os
import select
from collections.abc import Callable
from errno import EBADF, EINVAL
from typing import Final

import trio

from cuse_glue.request.caller import Caller

from ..errors import IoctlError
from ..pci.triggers import Ear, Trigger

log: Final = logging.getLogger("iommud")

_IS_EVENTFD: Final = "anon_inode:[eventfd]"
_COUNTER: Final = 8  # bytes that are read, or written


class EventFds:
    """pci.triggers.Descriptors of one caller."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def trigger(self, fd: int) -> Trigger:
        return Signalled(self._fetch(fd))

    def listen(self, fd: int, heard: Callable[[], None]) -> Ear:
        return Heard(self._fetch(fd), heard)

    def _fetch(self, number: int) -> int:
        """A descriptor of ours for the client's `number`. EBADF: there is none, or it was opened
        with O_PATH. EINVAL: it is no eventfd.
        """
        try:
            fd = self._caller.descriptor(number)
        except OSError as error:
            if error.errno != EBADF:
                raise
            raise IoctlError(EBADF, f"the caller has no descriptor {number}") from None
        if os.readlink(f"/proc/self/fd/{fd}") == _IS_EVENTFD:
            return fd
        has_path = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
        os.close(fd)
        if has_path:
            raise IoctlError(EBADF, f"descriptor {number} of the caller was opened with O_PATH")
        raise IoctlError(EINVAL, f"descriptor {number} of the caller is no eventfd")


class Signalled:
    """pci.triggers.Trigger."""

    __slots__ = ("_fd", "_poll")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def signal(self) -> None:
        if self._poll.poll(0):  # a write to a full one would wait
            os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        os.close(self._fd)


class Heard:
    """pci.triggers.Ear. `heard` is called in a task of its own."""

    __slots__ = ("_closed", "_fd", "_heard", "_poll")

    def __init__(self, fd: int, heard: Callable[[], None]) -> None:
        self._fd = fd
        self._heard = heard
        self._closed = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        trio.lowlevel.spawn_system_task(self._listen)

    def close(self) -> None:
        """A signal that has not been heard yet is never heard."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)

    async def _listen(self) -> None:
        try:
            while not self._closed:
                await trio.lowlevel.wait_readable(self._fd)
                if not self._closed and self._poll.poll(0):
                    os.read(self._fd, _COUNTER)
                    self._heard()
        except trio.ClosedResourceError:
            pass
        except Exception:
            log.exception("bug: an eventfd was heard")
        finally:
            self.close()
