"""FUSE on one regular file: the file becomes the device, and no directory tree is needed. Or on a
directory, for a tree.

Whoever opens /dev/fuse and mounts it must be in the user namespace that owns the mount namespace.
So a private namespace (namespace.py) is entered before either. A crashed daemon leaves a mount that
answers ENOTCONN. If a stuck process still holds the connection, the mount does not answer at all.
So no mount is ever asked what it is: mountinfo tells it, by the type `fuse.NAME`.
"""

import errno
import os
import re
import stat
from typing import Final, NamedTuple

from ..errors import Unusable
from ..system import capability, libc

FUSE_DEVICE: Final = "/dev/fuse"


def open_fuse() -> int:
    """A new connection that is not mounted yet: /dev/fuse, close-on-exec. Raises Unusable."""
    try:
        return os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unusable(
            f"{FUSE_DEVICE} is not there: load the kernel module (modprobe fuse), or give the container the device "
            f"(--device {FUSE_DEVICE})"
        ) from None
    except PermissionError:
        raise Unusable(f"{FUSE_DEVICE} may not be opened by you: {_to_open_it()}") from None
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise Unusable(
            f"{FUSE_DEVICE} cannot be opened ({error.strerror}): the kernel may lack CONFIG_FUSE_FS"
        ) from None


def _to_open_it() -> str:
    allow = f"make it readable and writable for all (chmod 0666 {FUSE_DEVICE}, as most distributions do)"
    if os.geteuid() != 0:
        return f"{allow}, or run this as root"
    if os.stat(FUSE_DEVICE).st_mode & 0o006 == 0o006:
        return f"root may not, and its mode is not why: in a container, --device {FUSE_DEVICE} permits it"
    if not capability.has(capability.DAC_OVERRIDE):
        return f"root lacks CAP_DAC_OVERRIDE here: {allow}"
    return f"in a container, --device {FUSE_DEVICE} permits it"


def mount_fuse(
    fd: int, target: str, *, name: str, mode: int, shown: str | None = None, is_directory: bool = False
) -> None:
    """Mount the connection `fd` on `target`, a regular file, a device or a directory (sentences
    call it `shown`), as type `fuse.NAME`.

    Every user may use it. The kernel checks permissions: by `mode`, until GETATTR has answered.
    Raises Unusable.
    """
    shown = shown or target
    root_mode = (stat.S_IFDIR if is_directory else stat.S_IFREG) | mode
    options = (
        f"fd={fd},rootmode={root_mode:o},user_id={os.geteuid()},group_id={os.getegid()},allow_other,default_permissions"
    )
    try:
        libc.mount(name, target, f"fuse.{name}", libc.MS_NOSUID | libc.MS_NODEV, options)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            lacks = os.geteuid() == 0 and not capability.has(capability.SYS_ADMIN)
            raise Unusable(
                f"FUSE may not be mounted on {shown} ({error.strerror}): "
                + (
                    "root lacks CAP_SYS_ADMIN here; in a container, --cap-add SYS_ADMIN gives it"
                    if lacks
                    else "it takes root, or a user namespace that no security module (AppArmor, SELinux, seccomp) restricts"
                )
            ) from None
        raise Unusable(f"FUSE cannot be mounted on {shown}: {error.strerror}") from None


def unmount(target: str) -> None:
    """Take the mount off `target` now, even if somebody has it open. No error if nothing is mounted
    there.

    First the connection is ended, so that every client that waits goes on: without a mount nobody
    could end it any more. None of this asks the server.
    """
    for flags in libc.MNT_FORCE, libc.MNT_DETACH:
        try:
            libc.umount(target, flags | libc.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            if error.errno != errno.EBUSY or flags == libc.MNT_DETACH:
                raise
        else:
            return


class Mounted(NamedTuple):
    """A mount: the type of its filesystem, and the number of its device."""

    kind: str
    device: str


def mounts_at(directory: int, name: str) -> list[Mounted]:
    """What is mounted on `name` in an open directory, the uppermost last. No mount is touched, so
    this also works for dead ones.
    """
    path = os.path.join(os.readlink(f"/proc/self/fd/{directory}"), name)
    with open(f"/proc/self/fdinfo/{directory}", encoding="ascii") as info:
        below = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
    there = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            if _unescape(fields[4]) == path:
                there[fields[1]] = fields[0], Mounted(fields[fields.index("-", 6) + 1], fields[2])
    found = []
    while below in there:
        below, mounted = there.pop(below)
        found.append(mounted)
    return found


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
