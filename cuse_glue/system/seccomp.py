"""seccomp user notification (Linux 5.9): system calls that wait until another process has said what
becomes of them.

A filter (classic BPF) is put on a process and on everything that it will start. It is asked about
each system call. The few that it picks become notifications on the *listener*, a descriptor that
came with the filter. Whoever holds the listener answers each with an errno, or lets the call go on
as if nothing had happened. The kernel remembers which call numbers the filter always lets go on, so
any other call costs next to nothing.

The filter here picks calls that a FUSE server is never asked about, though a device file may refuse
them:

- mmap(2) of a file: each shared mapping, and those private ones that no loader of programs makes
  (writable ones at a place that the kernel chooses, or ones from 4 GiB or more into the file).
- read(2), write(2), pread64, pwrite64 of no bytes, and readv, writev of an empty list.
- ioctl(2) of the commands that it is told to pick, which are those that give a descriptor; by
  32-bit programs as well.

- If it is told to, also the calls that tell about an open file: fstat(2), and fstatat(2) and
  statx(2) with AT_EMPTY_PATH.

The filter lets every other call of another architecture (a 32-bit program, x32) go on.

Ref: v7.3 include/uapi/linux/seccomp.h, Documentation/userspace-api/seccomp_filter.rst
"""

import errno
import fcntl
import os
import platform
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..errors import Unusable
from . import libc, status

MAP_SHARED: Final = 1
MAP_PRIVATE: Final = 2
MAP_SHARED_VALIDATE: Final = 3
MAP_TYPE: Final = 0xF
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_GROWSDOWN: Final = 0x100
MAP_DENYWRITE: Final = 0x800  # of no effect since Linux 2.6; glibc's loader sets it
MAP_HUGETLB: Final = 0x40000
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

AT_EMPTY_PATH: Final = 0x1000

_SET_MODE_FILTER: Final = 1
_SPEC_ALLOW: Final = 1 << 2  # do not slow the program down for fear of what it might guess
_NEW_LISTENER: Final = 1 << 3
# Linux 5.19: once the listener has received a call, only a fatal signal interrupts the call
_WAIT_KILLABLE_RECV: Final = 1 << 5
_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000
_CONTINUE: Final = 1

_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE: Final = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_ADDITION: Final = struct.Struct("=QIIII")  # struct seccomp_notif_addfd
_ID: Final = struct.Struct("=Q")
_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102
_ADDFD: Final = 0x40182103
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1  # Linux 6.6: the two of us take turns on one processor


class Stat(NamedTuple):
    """The machine's struct stat: its size, and where some of it is (bytes)."""

    size: int
    mode: int  # 4 bytes
    device: int  # st_rdev, 8 bytes
    length: int  # st_size, 8 bytes


@dataclass(frozen=True)
class CallNumbers:
    """Numbers of one kind of machine."""

    architecture: int  # AUDIT_ARCH_*
    seccomp: int
    calls: dict[str, int]  # what can be picked
    ioctl: int
    compat: int  # architecture of its 32-bit programs
    compat_ioctl: int
    fstat: int
    fstatat: int
    statx: int
    stat: Stat

    @property
    def ioctls(self) -> tuple[int, int]:
        """Both numbers of ioctl(2). None of the `calls` has one of them."""
        return self.ioctl, self.compat_ioctl

    @property
    def stats(self) -> tuple[int, int, int]:
        """Numbers of the calls that tell about an open file; none of them is among `calls`."""
        return self.fstat, self.fstatat, self.statx


X86_64: Final = CallNumbers(
    0xC000003E,
    317,
    {"read": 0, "write": 1, "mmap": 9, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20},
    ioctl=16,
    compat=0x40000003,
    compat_ioctl=54,
    fstat=5,
    fstatat=262,
    statx=332,
    stat=Stat(144, mode=24, device=40, length=48),
)
ARM64: Final = CallNumbers(
    0xC00000B7,
    277,
    {"read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "mmap": 222},
    ioctl=29,
    compat=0x40000028,
    compat_ioctl=54,
    fstat=80,
    fstatat=79,
    statx=291,
    stat=Stat(128, mode=16, device=32, length=48),
)


def machine() -> CallNumbers | None:
    """The kind that we run on. None: nobody has described it."""
    return {"x86_64": X86_64, "aarch64": ARM64}.get(platform.machine())


class Notification(NamedTuple):
    """One call that waits. `tid`: who made it, in our pid namespace; 0: not visible from there."""

    id: int
    tid: int
    number: int
    architecture: int
    arguments: tuple[int, ...]  # six of 64 bits, as they were in the registers


class Installed(NamedTuple):
    """A filter. `listener`: close-on-exec. `ioctls`: whether the ioctls that were asked for are
    picked.
    """

    listener: int
    ioctls: bool


def install(commands: Collection[int] = (), *, stats: bool = False) -> Installed:
    """Put the filter on the calling thread, for good. `commands`: ioctls to pick, if that can be
    done without harm. Before Linux 5.19 it cannot: any signal interrupts a call that is being
    carried out, and the call would be made again. `stats`: pick the calls that tell about an open
    file.

    Needs CAP_SYS_ADMIN in the thread's user namespace (or no_new_privs, which is not set here).
    Unusable: no filter with a listener can be had here.
    """
    here = machine()
    if here is None:
        raise Unusable(f"the numbers of {platform.machine()} are not known here")
    # Without it the kernel is also too old to tell the listener that nobody is left.
    if not status.read("self").words("Seccomp_filters"):
        raise Unusable("the kernel is older than 5.9, or lacks CONFIG_SECCOMP_FILTER")
    flags = _NEW_LISTENER | _SPEC_ALLOW
    picks_ioctls = bool(commands)
    try:
        try:
            listener = libc.seccomp(
                here.seccomp, _SET_MODE_FILTER, flags | _WAIT_KILLABLE_RECV, picking(here, commands, stats=stats)
            )
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            picks_ioctls = False
            listener = libc.seccomp(here.seccomp, _SET_MODE_FILTER, flags, picking(here, stats=stats))
    except OSError as error:
        reason = "there is a listener already" if error.errno == errno.EBUSY else error.strerror
        raise Unusable(f"the kernel refuses the filter: {reason}") from None
    try:
        fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
    except OSError:
        pass  # only slower
    return Installed(listener, picks_ioctls)


def receive(listener: int) -> Notification | None:
    """The next notification; there must be one (POLLIN). None: its caller was interrupted
    meanwhile.

    Does not wait. The kernel counts a notification until somebody has tried to receive it, even if
    its caller is gone.
    """
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECV, buffer, True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, tid, _, number, architecture, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(identity, tid, number, architecture, tuple(arguments))


def is_waiting(listener: int, notification: Notification) -> bool:
    """Whether the caller still waits. If so, what we have read by its `tid` was the caller's."""
    try:
        fcntl.ioctl(listener, _ID_VALID, _ID.pack(notification.id))
    except OSError:
        return False
    return True


def answer(listener: int, notification: Notification, error: int) -> None:
    """End the call with the errno `error`, or let it go on (0). No effect if its caller does not
    wait any more.
    """
    _send(listener, _RESPONSE.pack(notification.id, 0, -error, 0 if error else _CONTINUE))


def _send(listener: int, response: bytes) -> None:
    try:
        fcntl.ioctl(listener, _SEND, response)
    except OSError as failure:
        if failure.errno not in (errno.ENOENT, errno.EINPROGRESS):
            raise


def add(listener: int, notification: Notification, fd: int, *, close_on_exec: bool) -> int:
    """Give the caller a descriptor for our open file, with the lowest number that it has free.
    Returns the number. It cannot be taken back.

    OSError: EMFILE (no number is free), ENOENT (the caller does not wait any more).
    """
    flags = os.O_CLOEXEC if close_on_exec else 0
    number: int = fcntl.ioctl(listener, _ADDFD, bytearray(_ADDITION.pack(notification.id, 0, fd, 0, flags)), True)
    return number


def finish(listener: int, notification: Notification, result: int) -> None:
    """End the call with this result; negative is -errno. No effect if its caller does not wait any
    more.
    """
    _send(listener, _RESPONSE.pack(notification.id, max(result, 0), min(result, 0), 0))


# --- the filter ---

_LOAD: Final = 0x20  # the 32-bit word at an offset in struct seccomp_data
_AND: Final = 0x54
_IF_EQUAL: Final = 0x15
_IF_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_INSTRUCTION: Final = struct.Struct("=HBBI")
INSTRUCTION_SIZE: Final = _INSTRUCTION.size  # bytes
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4


def _argument(index: int, *, upper: bool = False) -> int:
    return 16 + index * 8 + (4 if upper else 0)  # little-endian, as all machines described here


def picking(machine: CallNumbers, commands: Collection[int] = (), *, stats: bool = False) -> bytes:
    """The filter, as an array of struct sock_filter."""
    ioctl = "ioctl" if commands else "allow"
    told = [
        (_IF_EQUAL, machine.fstat, "notify", ""),
        (_IF_EQUAL, machine.fstatat, "fstatat", ""),
        (_IF_EQUAL, machine.statx, "statx", ""),
    ]
    empty = sorted(number for name, number in machine.calls.items() if name != "mmap")
    lines: list[
        tuple[int, int, str, str] | str
    ] = [  # instruction, operand, where to go if true, if false ("": the next)
        (_LOAD, _ARCHITECTURE, "", ""),
        (_IF_EQUAL, machine.architecture, "", "other"),
        (_LOAD, _NUMBER, "", ""),
        (_IF_EQUAL, machine.ioctl, ioctl, ""),
        *((_IF_EQUAL, number, "empty", "") for number in empty),
        *(told if stats else ()),
        (_IF_EQUAL, machine.calls["mmap"], "mmap", "allow"),
        "other",
        (_IF_EQUAL, machine.compat, "", "allow"),
        (_LOAD, _NUMBER, "", ""),
        (_IF_EQUAL, machine.compat_ioctl, ioctl, "allow"),
        "ioctl",
        (_LOAD, _argument(1), "", ""),  # the lower half: to the kernel a command is an unsigned int
        *((_IF_EQUAL, command, "notify", "") for command in commands),
        (_RETURN, _ALLOW, "", ""),
        "empty",
        (_LOAD, _argument(2), "", ""),
        (_IF_EQUAL, 0, "", "allow"),
        (_LOAD, _argument(2, upper=True), "", ""),
        (_IF_EQUAL, 0, "notify", "allow"),
        "mmap",
        (_LOAD, _argument(3), "", ""),
        (_IF_ANY_BIT, MAP_ANONYMOUS, "allow", ""),
        (_AND, MAP_TYPE, "", ""),
        (_IF_EQUAL, MAP_PRIVATE, "", "notify"),
        (_LOAD, _argument(5, upper=True), "", ""),
        (_IF_EQUAL, 0, "", "notify"),
        (_LOAD, _argument(2), "", ""),
        (_IF_ANY_BIT, PROT_WRITE, "", "allow"),
        (_LOAD, _argument(3), "", ""),
        (_IF_ANY_BIT, MAP_FIXED | MAP_DENYWRITE, "allow", "notify"),
        "allow",
        (_RETURN, _ALLOW, "", ""),
        "fstatat",
        (_LOAD, _argument(3), "", ""),
        (_IF_ANY_BIT, AT_EMPTY_PATH, "notify", "let"),
        "statx",
        (_LOAD, _argument(2), "", ""),
        (_IF_ANY_BIT, AT_EMPTY_PATH, "notify", ""),
        "let",
        (_RETURN, _ALLOW, "", ""),
        "notify",
        (_RETURN, _NOTIFY, "", ""),
    ]
    return _assemble(lines)


def picking_one(number: int) -> bytes:
    """A filter that picks the call of this number, on any kind of machine."""
    return _assemble(
        [
            (_LOAD, _NUMBER, "", ""),
            (_IF_EQUAL, number, "", "allow"),
            (_RETURN, _NOTIFY, "", ""),
            "allow",
            (_RETURN, _ALLOW, "", ""),
        ]
    )


def _assemble(lines: list[tuple[int, int, str, str] | str]) -> bytes:
    places: dict[str, int] = {}
    instructions: list[tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(instructions)
        else:
            instructions.append(line)
    return b"".join(
        _INSTRUCTION.pack(code, *(places[place] - at - 1 if place else 0 for place in (true, false)), operand)
        for at, (code, operand, true, false) in enumerate(instructions)
    )
