"""The watcher: a small process that stands between a program and those system calls that FUSE
answers without asking its server.

A seccomp filter (seccomp.py) makes such calls of the program wait for the watcher, whatever
descriptor they are about. The watcher looks whose file it is. If it is not ours, the call goes on
at once. If it is ours, the watcher fetches the descriptor and asks the server, by an ioctl that
nobody else can make: the session knows the watcher by its process ID.

    program   mmap(fd) ············································· ENXIO, or goes on
    watcher   └▶ device of fd? ── not ours: goes on              ┌ refused, or 0 ┘
                              └── ours: fetch fd, ioctl(QUESTION)┤
    server                                  └▶ Watched.refusal(open file, call)

The ioctls that give a descriptor wait for the watcher as well, and it carries them out (carry.py),
because a server alone cannot give any. If somebody wants that, the calls that tell about an open
file wait for it, too (stats.py).

Why is it a process of its own, and not a thread of the server? When a listener is closed, calls
that wait for it fail with ENOSYS, and so do all later ones. The program must not lose its shared
memory because the server died. The watcher is small, holds no state, and ends when the last process
under the filter has ended. If the server is gone, the question is answered ENOTCONN, and the call
goes on.

Another thread of the program can change what is looked at (a descriptor's number, its device)
before the call goes on. The watcher makes the file answer as a device would; it protects nobody.
"""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping

from ..process import thread
from ..system import libc, seccomp
from ..system.detach import close_all_but
from . import stats
from .carry import Errand, Picked
from .crew import Crew
from .questions import MESSAGE, QUESTION


class Watcher:
    """The watcher, a child of ours. Call `watch` or `dismiss`."""

    def __init__(self, name: str) -> None:
        """Forks; the calling process must have one thread. `name`: as ps(1) shows it, up to 15
        bytes. OSError: it cannot be made.
        """
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.fork()
            if self.pid == 0:
                _be_watcher(theirs.fileno(), name)

    def watch(self, listener: int, user_namespace: int, devices: Mapping[int, int], picked: Picked) -> None:
        """Let it answer the listener. `devices`: by the device that a file of ours is on (st_dev),
        the number of the character device that the file is to show, if the filter picks the calls
        that tell about open files. `user_namespace`: where the files were mounted; FUSE lets nobody
        in from outside. Both descriptors are the watcher's own from now on. `picked`: the ioctls
        that the filter picks.

        BrokenPipeError: the watcher is gone.
        """
        wanted = [(command, None if words is None else list(words)) for command, words in picked.items()]
        message = json.dumps([list(devices.items()), wanted]).encode()
        try:
            socket.send_fds(self._link, [message], [listener, user_namespace])
        finally:
            os.close(listener)
            os.close(user_namespace)
            self.dismiss()

    def dismiss(self) -> None:
        """Let the watcher go, unless it watches already."""
        self._link.close()


def _be_watcher(link: int, name: str) -> None:
    status = 1
    try:
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT:
            signal.signal(number, signal.SIG_IGN)  # who sends these does not mean the watcher
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
            devices, picked = json.loads(message)
            _watch(listener, dict(devices), dict(picked))
        status = 0
    finally:
        os._exit(status)


def _keep_only(kept: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in 0, 1, 2:
        os.dup2(null, number)
    close_all_but(kept)


def _watch(listener: int, devices: dict[int, int], picked: Picked) -> None:
    """Answer until nobody is left who could ask; that ends the process."""
    here = seccomp.machine()
    assert here is not None

    def see_to(notification: seccomp.Notification, step_aside: Callable[[], None]) -> None:
        if notification.number in here.ioctls:
            Errand(listener, notification, devices, picked, step_aside).run()
        elif notification.number in here.stats:
            stats.answer(listener, notification, devices, step_aside)
        else:
            step_aside()  # the server may be slow to answer
            seccomp.answer(listener, notification, _verdict(listener, notification, devices))

    Crew(listener, see_to).work()


def _verdict(listener: int, notification: seccomp.Notification, devices: Collection[int]) -> int:
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
        # There is no such descriptor, it is O_PATH, or the caller or the server is gone: the
        # kernel's own answer is right then.
        return 0
