"""seccomp user notification: system calls that wait until another process has said what becomes of them (Linux 5.9).

A filter (classic BPF) is put on a process and on all that it will start. It is asked about each system call; the few that it picks become
notifications on the *listener*, a descriptor that came with the filter. Whoever holds it answers each with an errno, or lets the call go
on as if nothing had been. The kernel remembers which numbers the filter always lets go on, so any other call costs next to nothing.

The filter here picks the calls that a FUSE server is never asked about, though a device file may refuse them:

- mmap(2) of a file: each shared one; of the private ones those that no loader of programs makes: to be written to where the kernel chooses
  the place, or from 4 GiB or more into the file.
- read(2), write(2), pread64, pwrite64 of no bytes, and readv, writev of an empty list.

A call of another architecture (a 32-bit program, x32) goes on unasked.

Ref: v7.3 include/uapi/linux/seccomp.h, Documentation/userspace-api/seccomp_filter.rst
"""

import errno
import fcntl
import platform
import re
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from . import libc

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

_SET_MODE_FILTER: Final = 1
_SPEC_ALLOW: Final = 1 << 2  # do not slow the program down for fear of what it might guess
_NEW_LISTENER: Final = 1 << 3
_WAIT_KILLABLE_RECV: Final = 1 << 5  # Linux 5.19: once its call is being looked at, only a fatal signal interrupts it
_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000
_CONTINUE: Final = 1

_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE: Final = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_ID: Final = struct.Struct("=Q")
_RECV: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102
_SET_FLAGS: Final = 0x40082104
_SYNC_WAKE_UP: Final = 1  # Linux 6.6: the two of us take turns on one processor


class Unavailable(Exception):
    """No filter with a listener can be had; the text says why."""


@dataclass(frozen=True)
class Machine:
    """Numbers of one kind of machine."""

    architecture: int  # AUDIT_ARCH_*
    seccomp: int
    calls: dict[str, int]  # what can be picked


X86_64: Final = Machine(
    0xC000003E, 317, {"read": 0, "write": 1, "mmap": 9, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20}
)
ARM64: Final = Machine(
    0xC00000B7, 277, {"read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "mmap": 222}
)


def machine() -> Machine | None:
    """The one we run on; None: nobody has described it."""
    return {"x86_64": X86_64, "aarch64": ARM64}.get(platform.machine())


class Notification(NamedTuple):
    """One call that waits. `tid`: who made it, in our pid namespace; 0: not visible from there."""

    id: int
    tid: int
    number: int
    arguments: tuple[int, ...]  # six of 64 bits, as they were in the registers


def install() -> int:
    """Put the filter on the calling thread, for good; returns the listener (close-on-exec).

    It takes CAP_SYS_ADMIN in the thread's user namespace (or no_new_privs, which is not set here). Raises Unavailable.
    """
    here = machine()
    if here is None:
        raise Unavailable(f"the numbers of {platform.machine()} are not known here")
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        # Without it the kernel is also too old to tell the listener that nobody is left.
        if not re.search(r"^Seccomp_filters:", status.read(), re.MULTILINE):
            raise Unavailable("the kernel is older than 5.9, or lacks CONFIG_SECCOMP_FILTER")
    flags = _NEW_LISTENER | _SPEC_ALLOW
    program = picking(here)
    try:
        try:
            listener = libc.seccomp(here.seccomp, _SET_MODE_FILTER, flags | _WAIT_KILLABLE_RECV, program)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            listener = libc.seccomp(here.seccomp, _SET_MODE_FILTER, flags, program)
    except OSError as error:
        reason = "there is a listener already" if error.errno == errno.EBUSY else error.strerror
        raise Unavailable(f"the kernel refuses the filter: {reason}") from None
    try:
        fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
    except OSError:
        pass  # only slower
    return listener


def receive(listener: int) -> Notification | None:
    """The next notification, of which there is one (POLLIN); None: its caller was interrupted meanwhile.

    Does not wait: the kernel counts a notification until somebody has tried to receive it, whatever became of its caller.
    """
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECV, buffer, True)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    identity, tid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(identity, tid, number, tuple(arguments))


def is_waiting(listener: int, notification: Notification) -> bool:
    """Whether its caller still waits: then what was read by its `tid` was the caller's."""
    try:
        fcntl.ioctl(listener, _ID_VALID, _ID.pack(notification.id))
    except OSError:
        return False
    return True


def answer(listener: int, notification: Notification, error: int) -> None:
    """End the call with the errno `error`, or with 0 let it go on. No effect if its caller does not wait any more."""
    try:
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(notification.id, 0, -error, 0 if error else _CONTINUE))
    except OSError as failure:
        if failure.errno not in (errno.ENOENT, errno.EINPROGRESS):
            raise


# --- the filter ---

_LOAD: Final = 0x20  # the 32-bit word at an offset in struct seccomp_data
_AND: Final = 0x54
_IF_EQUAL: Final = 0x15
_IF_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_INSTRUCTION: Final = struct.Struct("=HBBI")
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4


def _argument(index: int, *, upper: bool = False) -> int:
    return 16 + index * 8 + (4 if upper else 0)  # little-endian, as all of ours


def picking(machine: Machine) -> bytes:
    """The filter, as an array of struct sock_filter."""
    empty = sorted(number for name, number in machine.calls.items() if name != "mmap")
    lines: list[tuple[int, int, str, str] | str] = [  # instruction, operand, where to go if true, if false ("": the next)
        (_LOAD, _ARCHITECTURE, "", ""),
        (_IF_EQUAL, machine.architecture, "", "allow"),
        (_LOAD, _NUMBER, "", ""),
        *((_IF_EQUAL, number, "empty", "") for number in empty),
        (_IF_EQUAL, machine.calls["mmap"], "mmap", "allow"),
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
        "notify",
        (_RETURN, _NOTIFY, "", ""),
    ]
    return _assemble(lines)


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
