"""How a client's thread that is under our control (ptrace.py) gets a descriptor of a file of ours.
There are three ways; the gentlest comes first.

`reopen`: it opens the device again, through the descriptor that it has. That is one call; but it
needs the right to open the device, and a /proc that it can see.

`send`: we have opened the file, and send it. The client makes a pair of sockets, we fetch one end,
and the client receives from the other. That needs no right and no path, but three free numbers at
once.

`add`: a twin of the client (twin.py) puts a filter on itself. We fetch the filter's listener, and
by it we put the descriptor into the client (SECCOMP_IOCTL_NOTIF_ADDFD). That needs one free number,
and that no filter of the client's own has a listener.

In each way the descriptor gets the lowest number that was free. Whatever the client's other threads
do to these descriptors meanwhile harms nobody else: before we send anything, we make sure that the
other end is the client's.
"""

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import ThreadGone
from ..process import thread
from ..system import seccomp
from ..system.page import PAGE_SIZE
from . import ptrace
from .twin import Twin

PATH: Final = "/proc/thread-self/fd/{}"
LOOK: Final = 1000  # milliseconds between looks whether a helper is still there
# The client may not open it, or does not see it. Another way may do.
BARRED: Final = frozenset(
    (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EROFS, errno.ENOSYS)
)

_AT_FDCWD: Final = -100
_READ_WRITE: Final = 3  # PROT_*
_SCRATCH: Final = 0x22  # MAP_PRIVATE | MAP_ANONYMOUS
_PEER: Final = struct.Struct("=3i")  # struct ucred: process, uid, gid
_RECEIVE: Final = 0x4000_0040  # MSG_CMSG_CLOEXEC | MSG_DONTWAIT
_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_NEW_LISTENER: Final = 8


class CallFailed(Exception):
    """The client could not make one of the calls. Nothing is left of the others."""

    def __init__(self, error: int, what: str) -> None:
        super().__init__(f"{what}: {os.strerror(error)}")
        self.errno = error
        self.what = what


# --- reopen ---


def reopen(tracee: ptrace.Tracee, descriptor: int, flags: int) -> int:
    """Let it open `descriptor` again. Returns a number, or -errno. Raises CallFailed."""
    with _room(tracee, PATH.format(descriptor).encode() + b"\0") as place:
        # O_EMPTYPATH (Linux 7.3) would need no path, but F_GETFL shows it ever after.
        return tracee.call(tracee.machine.openat, _AT_FDCWD, place, flags)


@contextmanager
def _room(tracee: ptrace.Tracee, data: bytes) -> Iterator[int]:
    """The address of `data` in its memory, for as long as this lasts. Raises CallFailed."""
    try:
        address = _map(tracee)
    except CallFailed:
        # Its memory is limited. Use what is below its stack, if its stack pointer points to one.
        with _below_stack(tracee, data) as place:
            yield place
        return
    with _mapped(tracee, address):
        _write(tracee, address, data)
        yield address


@contextmanager
def _below_stack(tracee: ptrace.Tracee, data: bytes) -> Iterator[int]:
    m, memory = tracee.machine, tracee.memory
    place = (tracee.stack_pointer - m.red_zone - len(data)) & m.most & ~15
    before = memory.read(place, len(data))
    if len(before) < len(data):
        # The stack ends here. It grows only when its own thread touches it, in or out of the
        # kernel.
        tracee.call(m.sigprocmask, 0, 0, place, 8)
        before = memory.read(place, len(data))
    if len(before) < len(data):
        raise CallFailed(errno.ENOMEM, "have a page of memory")
    try:
        _write(tracee, place, data)
        yield place
    finally:
        memory.write(place, before)


@contextmanager
def page(tracee: ptrace.Tracee) -> Iterator[int]:
    """A page of new memory, for as long as this lasts. Nothing of the client's own memory is
    touched, wherever its stack pointer points. Raises CallFailed.
    """
    address = _map(tracee)
    with _mapped(tracee, address):
        yield address


def _map(tracee: ptrace.Tracee) -> int:
    m = tracee.machine
    found = tracee.call(m.mmap, 0, PAGE_SIZE, _READ_WRITE, _SCRATCH, -1, 0)
    if m.is_error(found):
        raise CallFailed(-found, "have a page of memory")
    return int(found & m.most)


@contextmanager
def _mapped(tracee: ptrace.Tracee, address: int) -> Iterator[None]:
    try:
        yield
    except ThreadGone:
        raise
    except BaseException:
        tracee.call(tracee.machine.munmap, address, PAGE_SIZE)
        raise
    tracee.call(tracee.machine.munmap, address, PAGE_SIZE)


def _write(tracee: ptrace.Tracee, address: int, data: bytes) -> None:
    if tracee.memory.write(address, data) != len(data):
        raise CallFailed(errno.EFAULT, f"be given an argument at {address:#x}")


def fetch(tracee: ptrace.Tracee, number: int) -> int:
    """A descriptor of ours for the open file behind the thread's descriptor; close it. OSError: it
    has none with that number.
    """
    fd = thread.descriptor(tracee.tid, number)
    try:
        tracee.check()  # else `fd` may be another program's
    except BaseException:
        os.close(fd)
        raise
    return fd


# --- send ---


def send(tracee: ptrace.Tracee, fd: int, *, close_on_exec: bool) -> int:
    """Returns the number that the client has for our `fd` now. CallFailed: EMFILE (too few numbers
    are free), others.
    """
    m = tracee.machine
    with page(tracee) as place:
        _check(
            tracee.call(m.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0, place), "make sockets"
        )
        first, second = (int(number) for number in struct.unpack("=ii", tracee.memory.read(place, 8).ljust(8, b"\xff")))
        try:
            _send_to(tracee, second, fd)
            third = _receive(tracee, place, first)
            result = tracee.call(m.dup3, third, first, os.O_CLOEXEC if close_on_exec else 0)
            tracee.call(m.close, third)
            _check(result, "give it its number")
        except ThreadGone:
            raise
        except BaseException:
            tracee.call(m.close, first)
            raise
        finally:
            tracee.call(m.close, second)
        return first


def _check(result: int, what: str) -> None:
    if result < 0:
        raise CallFailed(-result, what)


def _send_to(tracee: ptrace.Tracee, end: int, fd: int) -> None:
    """Send our `fd` to the client: from its socket `end` to the peer of that socket."""
    try:
        with socket.socket(fileno=fetch(tracee, end)) as ours:
            # What is sent comes from us, whom somebody else might trust. So it must go to nobody
            # but this client.
            peer, _, _ = _PEER.unpack(ours.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            if ours.family != socket.AF_UNIX or peer != thread.process(tracee.tid):
                raise CallFailed(errno.EBADF, "keep its sockets")
            socket.send_fds(ours, [b"\0"], [fd], socket.MSG_DONTWAIT)
    except OSError as error:
        raise CallFailed(error.errno or errno.EBADF, "be sent a descriptor") from None


def _receive(tracee: ptrace.Tracee, place: int, end: int) -> int:
    """Let the client receive the message. Returns the descriptor's number there."""
    m = tracee.machine
    word = m.bits // 8
    head = struct.Struct("=QI4xQQQQI4x" if word == 8 else "=7I")  # struct msghdr
    vector = struct.Struct("=QQ" if word == 8 else "=II")
    control = struct.Struct("=Qiii" if word == 8 else "=Iiii")  # struct cmsghdr, and the descriptor
    space = -(-control.size // word) * word
    at_vector = place + head.size
    at_control = at_vector + vector.size
    at_byte = at_control + space
    form = head.pack(0, 0, at_vector, 1, at_control, space, 0) + vector.pack(at_byte, 1)
    _write(tracee, place, form)
    _check(tracee.call(m.recvmsg, end, place, _RECEIVE), "receive a descriptor")
    answer = tracee.memory.read(at_control, control.size)
    size, level, kind, number = control.unpack(answer) if len(answer) == control.size else (0, 0, 0, 0)
    if (size, level, kind) != (control.size, socket.SOL_SOCKET, socket.SCM_RIGHTS):
        raise CallFailed(errno.EMFILE, "receive a descriptor")  # cut short: no number was free
    return int(number)


# --- add ---


def add(tracee: ptrace.Tracee, fd: int, *, close_on_exec: bool) -> int:
    """As `send`. The client must have no filter of its own: one of the calls must go through all
    filters, and such a filter might kill the client for it.
    """
    with page(tracee) as place:
        try:
            helper = Twin(tracee)
        except OSError as error:
            raise CallFailed(error.errno or errno.EAGAIN, "have another process") from None
        try:
            return _add_by(helper, place, fd, close_on_exec=close_on_exec)
        except ThreadGone:
            tracee.check()
            raise CallFailed(errno.ESRCH, "keep its other process") from None
        finally:
            helper.end()
            tracee.resume()


def _add_by(helper: ptrace.Tracee, place: int, fd: int, *, close_on_exec: bool) -> int:
    m = helper.machine
    program = seccomp.picking_one(m.getpid)
    form = struct.pack("=H6xQ" if m.bits == 64 else "=H2xI", len(program) // seccomp.INSTRUCTION_SIZE, place + 16)
    _write(helper, place, form.ljust(16, b"\0") + program)
    _check(helper.call(m.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "do without new privileges")
    number = helper.call(m.seccomp, _SET_MODE_FILTER, _NEW_LISTENER, place)
    _check(number, "have a filter")
    try:
        listener = fetch(helper, number)
    except OSError as error:
        raise CallFailed(error.errno or errno.EBADF, "have a listener") from None
    finally:
        helper.call(m.close, number)
    try:
        if os.readlink(f"/proc/self/fd/{listener}") != "anon_inode:seccomp notify":
            raise CallFailed(errno.EBADF, "keep its listener")
        outcome = -errno.ESRCH

        def answer() -> None:
            nonlocal outcome
            outcome = _answer(listener, fd, close_on_exec=close_on_exec)

        helper.obey_filters()
        helper.call(m.getpid, inside=answer)
        _check(outcome, "be given a descriptor")
        return outcome
    finally:
        os.close(listener)


def _answer(listener: int, fd: int, *, close_on_exec: bool) -> int:
    """Put the descriptor in, while the helper is in its call. Returns a number, or -errno."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        for _, events in poll.poll(LOOK):
            if not events & select.POLLIN:
                return -errno.ESRCH
            notification = seccomp.receive(listener)
            if notification is not None:
                try:
                    return seccomp.add(listener, notification, fd, close_on_exec=close_on_exec)
                except OSError as error:
                    return -(error.errno or errno.EIO)
                finally:
                    seccomp.answer(listener, notification, 0)
