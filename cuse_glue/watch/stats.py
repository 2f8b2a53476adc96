"""What fstat(2) tells of our files, where a program insists on a character device: FUSE has regular
files only, and its server cannot say otherwise (to the kernel, a file whose type has changed is
broken).

So the watcher makes the call on the program's own open file, and passes the answer on. It changes
the type, the number of the device, and the size, which is 0 for a device.

Calls with a path are not changed: stat(2) still finds a regular file.

Ref: v7.3 fs/fuse/dir.c fuse_stale_inode, fs/stat.c
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Mapping
from typing import Final

from ..process import thread
from ..process.bound import BoundMemory
from ..system import libc, seccomp

# struct statx: where its mode (2 bytes), size (8), and the device's major and minor (4 each) are
_MODE: Final = 28
_SIZE: Final = 40
_DEVICE: Final = 128
_INT_MAX: Final = (1 << 31) - 1


def answer(
    listener: int, notification: seccomp.Notification, shown: Mapping[int, int], step_aside: Callable[[], None]
) -> None:
    """Answer one of the calls CallNumbers.stats. `shown`: for files on these devices (st_dev), the
    number of the character device that the answer shows; for any other file the call goes on.
    `step_aside`: called before the server may be asked.
    """
    try:
        told = _tell(listener, notification, shown, step_aside)
    except OSError:
        # no such descriptor; the caller, or the server, is gone: the kernel's own answer is right
        told = None
    if told is None:
        seccomp.answer(listener, notification, 0)
    else:
        seccomp.finish(listener, notification, told)


def _tell(
    listener: int, notification: seccomp.Notification, shown: Mapping[int, int], step_aside: Callable[[], None]
) -> int | None:
    """What the call returns; None: it is not for us."""
    here = seccomp.machine()
    assert here is not None
    tid, number = notification.tid, notification.arguments[0] & 0xFFFF_FFFF
    if not tid or number > _INT_MAX:
        return None
    device = shown.get(libc.identity(f"/proc/{tid}/fd/{number}")[0])
    if device is None:
        return None
    step_aside()
    memory, fd = BoundMemory(tid), -1
    try:
        fd = thread.descriptor(tid, number)
        if not seccomp.is_waiting(listener, notification):
            return None
        path, place, data = _look(fd, notification, here, device)
        if path and memory.read(path, 1) != b"\0":
            return None  # with a path, AT_EMPTY_PATH has no effect
        return 0 if memory.write(place, data) == len(data) else -errno.EFAULT
    finally:
        memory.close()
        if fd >= 0:
            os.close(fd)


def _look(
    fd: int, notification: seccomp.Notification, here: seccomp.CallNumbers, device: int
) -> tuple[int, int, bytes]:
    """Where the path is, where the answer goes, and the answer."""
    _, *arguments = notification.arguments
    if notification.number == here.statx:
        path, flags, mask, place, _ = arguments
        data = bytearray(libc.statx(fd, flags & 0xFFFF_FFFF, mask & 0xFFFF_FFFF))
        (mode,) = struct.unpack_from("=H", data, _MODE)
        struct.pack_into("=H", data, _MODE, _as_device(mode))
        struct.pack_into("=QQ", data, _SIZE, 0, 0)
        struct.pack_into("=II", data, _DEVICE, os.major(device), os.minor(device))
        return path, place, bytes(data)
    path, place = (0, arguments[0]) if notification.number == here.fstat else (arguments[0], arguments[1])
    data = bytearray(libc.fstat(here.fstat, fd, here.stat.size))
    (mode,) = struct.unpack_from("=I", data, here.stat.mode)
    struct.pack_into("=I", data, here.stat.mode, _as_device(mode))
    struct.pack_into("=Q", data, here.stat.device, device)
    struct.pack_into("=Q", data, here.stat.length, 0)
    return path, place, bytes(data)


def _as_device(mode: int) -> int:
    return stat.S_IFCHR | stat.S_IMODE(mode)
