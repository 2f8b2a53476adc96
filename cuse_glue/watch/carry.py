"""An ioctl that gives its caller a descriptor: the watcher carries it out in the caller's place.
order.py has the session's side.

A FUSE server cannot give descriptors. To make a client open one itself takes rights that the client
may have given up, and ptrace, which its debugger may be using. The seccomp listener can put a
descriptor into the client (SECCOMP_IOCTL_NOTIF_ADDFD), whatever the client may do or see.

The filter knows only the command. For some commands the struct decides whether they give a
descriptor: then we look at the struct here. If the struct changes after that, either the ioctl goes
the other way (inject.py), or we carry it out although it gives nothing. Both are right.

Whatever is closed here is closed before the client goes on. Otherwise it would be in the way of
what the client does next.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Collection, Mapping
from typing import Final

from ..process import thread
from ..request.mark import Mark
from ..system import libc, seccomp, status
from ..system.page import PAGE_SIZE
from .questions import FINISH, GIFT, NOT_MARKED, ORDER, PERFORM

Picked = Mapping[int, Collection[int] | None]
"""The commands that may give a descriptor. If a command has words here: only if the struct's second
word (of 32 bits) is one of them.
"""

_PRESENT: Final = 0x80  # of a pagemap entry's highest byte
_WRITE_PROTECTED: Final = 0x02  # by userfaultfd


class Errand:
    """One such ioctl."""

    def __init__(
        self,
        listener: int,
        notification: seccomp.Notification,
        devices: Collection[int],
        picked: Picked,
        step_aside: Callable[[], None],
    ) -> None:
        """`step_aside`: must be called before anything that may last."""
        here = seccomp.machine()
        self._listener = listener
        self._notification = notification
        self._tid = notification.tid
        self._devices = devices
        self._picked = picked
        self._step_aside = step_aside
        self._compat = here is not None and notification.architecture != here.architecture
        number, command, argument = notification.arguments[:3]
        self._number = number & 0xFFFF_FFFF
        self._command = command & 0xFFFF_FFFF
        self._argument = argument & 0xFFFF_FFFF if self._compat else argument
        self._open: list[int] = []

    def run(self) -> None:
        """Carry it out. The client goes on, with the ioctl's result or into the kernel."""
        try:
            result = self._carry_out()
        except OSError:
            # There is no such descriptor, it is O_PATH, or the caller or the server is gone: the
            # kernel's own answer is right then.
            result = None
        finally:
            for fd in self._open:
                os.close(fd)
        if result is None:
            seccomp.answer(self._listener, self._notification, 0)
        else:
            seccomp.finish(self._listener, self._notification, result)

    def _carry_out(self) -> int | None:
        """The result of the ioctl; negative is -errno. None: it is not for us."""
        if not self._tid or not self._is_ours():
            return None
        mem = self._open_memory()
        words = self._picked[self._command]
        if words is not None and self._second_word(mem) not in words:
            return None
        self._step_aside()
        maps = self._keep(os.open(f"/proc/{self._tid}/maps", os.O_RDONLY | os.O_CLOEXEC)) if mem >= 0 else -1
        uid, gid = self._ids()
        fd = self._keep(thread.descriptor(self._tid, self._number))
        if not seccomp.is_waiting(self._listener, self._notification):
            return None  # nobody is there who would see it
        if not self._is_reachable(mem):
            return None
        order = bytearray(ORDER.pack(self._argument, self._tid, self._command, uid, gid, mem, maps) + bytes(GIFT.size))
        result = _ioctl(fd, PERFORM, order)
        place, kind, gives, flags = GIFT.unpack_from(order, ORDER.size)
        if not gives:
            return result
        return _ioctl(fd, FINISH, self._give(fd, flags, Mark(place, kind) if place else None))

    def _is_ours(self) -> bool:
        try:
            return libc.identity(f"/proc/{self._tid}/fd/{self._number}")[0] in self._devices
        except PermissionError:  # a program that is not dumpable: its /proc is root's
            return libc.identity(self._keep(thread.descriptor(self._tid, self._number)))[0] in self._devices

    def _open_memory(self) -> int:
        try:
            return self._keep(os.open(f"/proc/{self._tid}/mem", os.O_RDWR | os.O_CLOEXEC))
        except PermissionError:
            return -1  # the session knows whether that matters

    def _ids(self) -> tuple[int, int]:
        """The user and group IDs with which the client opens files."""
        known = status.read(self._tid)
        return int(known.words("Uid")[3]), int(known.words("Gid")[3])

    def _second_word(self, mem: int) -> int:
        if not self._entry() & _PRESENT:
            self._step_aside()  # it may take as long to come as its owner likes
        if mem < 0:
            from ..process.client_memory import by_number

            data = by_number(self._tid, self._ids()[0]).read(self._argument, 8)
        elif self._argument < 1 << 63 and seccomp.is_waiting(
            self._listener, self._notification
        ):  # so it also waited when `mem` was opened
            data = os.pread(mem, 8, self._argument)
        else:
            data = b""
        if len(data) < 8:
            raise OSError(errno.EFAULT, "no struct")
        return int.from_bytes(data[4:], "little")

    def _entry(self) -> int:
        """The highest byte of the pagemap entry of the page in which the struct begins."""
        try:
            pagemap = os.open(f"/proc/{self._tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(pagemap, 8, self._argument // PAGE_SIZE * 8)[7]
            finally:
                os.close(pagemap)
        except (OSError, IndexError, OverflowError):
            return 0

    def _is_reachable(self, mem: int) -> bool:
        """Whether the struct can be read and written through `mem` without waiting for anybody.
        `mem` brings in what is only swapped out.

        It cannot bring in what a userfaultfd provides, or allows to be written. Such an ioctl goes
        to the server like any other.
        """
        if mem < 0:
            return True
        if self._argument >> 63 or self._entry() & _WRITE_PROTECTED:
            return False
        size = int.from_bytes(os.pread(mem, 4, self._argument), "little")
        last = self._argument + min(max(size, 4), PAGE_SIZE) - 1
        return len(os.pread(mem, 1, last)) == 1

    def _keep(self, fd: int) -> int:
        self._open.append(fd)
        return fd

    def _give(self, fd: int, flags: int, mark: Mark | None) -> int:
        """Give the client a new open file of the device. Returns its number there, or -errno."""
        try:
            new = self._keep(os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC))
            if mark is not None:
                try:
                    mark.put_on(new)
                except OSError:
                    return NOT_MARKED
            return seccomp.add(self._listener, self._notification, new, close_on_exec=bool(flags & os.O_CLOEXEC))
        except OSError as error:
            return -(error.errno or errno.EIO)


def _ioctl(fd: int, command: int, argument: bytearray | int) -> int:
    try:
        result: int = (
            fcntl.ioctl(fd, command, argument, True)
            if isinstance(argument, bytearray)
            else fcntl.ioctl(fd, command, argument)
        )
    except OSError as error:
        return -(error.errno or errno.EIO)
    return result
