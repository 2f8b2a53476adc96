"""The watcher: a small process that stands between a program and the system calls that FUSE answers without asking its server.

A seccomp filter (`seccomp.py`) makes those calls of the program, on whatever descriptor, wait for the watcher. It looks whose file it is.
Any other's goes on at once. Of a file of ours it fetches the descriptor and asks the server, with an ioctl that nobody else can make: the
session knows the watcher by its process id.

    program   mmap(fd) ······························································· ENXIO, or goes on
    watcher   └▶ device of fd? ── not ours: goes on              ┌ refused, or 0 ──────┘
                              └── ours: fetch fd, ioctl(QUESTION)┤
    server                                  └▶ Watched.refusal(open file, call)

Why a process of its own, and not a thread of the server: when a listener is closed, calls that wait for it, and all later ones, fail with
ENOSYS. The program must not lose its shared memory because the server died. The watcher is small, holds no state, and ends when the last
process under the filter has ended. A server that is gone answers ENOTCONN, and the call goes on.

What is looked at (a descriptor's number, its device) can be changed by another thread of the program before the call goes on. This is about
answering as a device would, and protects nobody.
"""

import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from . import libc, seccomp, thread
from .detach import close_all_but

if TYPE_CHECKING:
    from .node import OpenFile

QUESTION: Final = 0x5700  # _IO('W', 0): FUSE itself copies nothing
MESSAGE: Final = struct.Struct("=IIi6Q")  # thread, number of the call, flags of the open file, arguments
_DEVICE: Final = struct.Struct("=Q")


class Call(NamedTuple):
    """A system call that somebody is about to make on a file of ours."""

    name: str
    tid: int
    flags: int  # of the open file, as F_GETFL tells them
    arguments: tuple[int, ...]  # six, as they were in the registers: 64 bits without a sign


class Watched(Protocol):
    """What a session needs to know about the watcher of its clients."""

    @property
    def watcher(self) -> int:
        """Its process id."""

    def refusal(self, file: "OpenFile", call: Call) -> int:
        """The errno with which a file like this refuses the call; 0: as FUSE answers it, so it is."""


def read_question(message: bytes) -> Call:
    """What the watcher asks. ValueError: it is no question."""
    here = seccomp.machine()
    if len(message) != MESSAGE.size or here is None:
        raise ValueError("no question")
    tid, number, flags, *arguments = MESSAGE.unpack(message)
    for name, its in here.calls.items():
        if its == number:
            return Call(name, tid, flags, tuple(arguments))
    raise ValueError(f"no call has the number {number}")


class Watcher:
    """The watcher, a child of ours. `watch` or `dismiss` it."""

    def __init__(self, name: str) -> None:
        """Forks: the process must have one thread. `name`: as ps(1) shows it, up to 15 bytes. OSError: it cannot."""
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.fork()
            if self.pid == 0:
                _be_watcher(theirs.fileno(), name)

    def watch(self, listener: int, user_namespace: int, devices: Collection[int]) -> None:
        """Let it answer the listener. `devices`: those of our files (st_dev). `user_namespace`: where they were mounted, and FUSE lets
        nobody in from outside. Both descriptors are its own from now on.

        BrokenPipeError: it is gone.
        """
        message = b"".join(_DEVICE.pack(device) for device in devices)
        try:
            socket.send_fds(self._link, [message], [listener, user_namespace])
        finally:
            os.close(listener)
            os.close(user_namespace)
            self.dismiss()

    def dismiss(self) -> None:
        """It is not needed, unless it watches already."""
        self._link.close()


def _be_watcher(link: int, name: str) -> None:
    status = 1
    try:
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT:
            signal.signal(number, signal.SIG_IGN)  # it is not the server that is asked to end here
        _keep_only(link)
        with open("/proc/self/comm", "w", encoding="ascii") as comm:
            comm.write(name)
        with socket.socket(fileno=link) as connection:
            message, descriptors, _, _ = socket.recv_fds(connection, 4096, 2)
        if descriptors:
            listener, user_namespace = descriptors
            if not os.path.samestat(os.fstat(user_namespace), os.stat("/proc/self/ns/user")):
                libc.setns(user_namespace, libc.CLONE_NEWUSER)
            os.close(user_namespace)
            _watch(listener, {device for (device,) in _DEVICE.iter_unpack(message)})
        status = 0
    finally:
        os._exit(status)


def _keep_only(kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in 0, 1, 2:
        os.dup2(null, number)
    close_all_but(kept)


def _watch(listener: int, devices: set[int]) -> None:
    """Answer until nobody is left who could ask."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        ((_, events),) = poll.poll()
        if events & select.POLLIN:
            notification = seccomp.receive(listener)
            if notification is not None:
                seccomp.answer(listener, notification, _verdict(listener, notification, devices))
        elif events:
            return


def _verdict(listener: int, notification: seccomp.Notification, devices: set[int]) -> int:
    """The errno for a call; 0: it goes on."""
    here = seccomp.machine()
    assert here is not None
    which = 4 if notification.number == here.calls["mmap"] else 0
    number = notification.arguments[which] & 0xFFFF_FFFF
    try:
        if not notification.tid or libc.identity(f"/proc/{notification.tid}/fd/{number}")[0] not in devices:
            return 0
        fd = thread.descriptor(notification.tid, number)
        try:
            if not seccomp.is_waiting(listener, notification):
                return 0
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            question = MESSAGE.pack(notification.tid, notification.number, flags, *notification.arguments)
            error: int = fcntl.ioctl(fd, QUESTION, bytearray(question), True)
            return error
        finally:
            os.close(fd)
    except OSError:
        return 0  # no such descriptor, or O_PATH; the caller, or the server, is gone: the kernel's own answer is right
