"""FUSE on one regular file: the file becomes the device, and no directory tree is needed.

Whoever opens /dev/fuse and mounts it must be in the user namespace that owns the mount namespace, so a private
namespace (namespace.py) is entered before either. What a crashed daemon leaves is a mount that answers ENOTCONN; it
is found out by asking, and known as ours by its type, `fuse.NAME`.
"""

import errno
import os
import re
import stat
from typing import Final

from . import libc

FUSE_DEVICE: Final = "/dev/fuse"


class Unusable(Exception):
    """This machine, or this user, lacks something; the text is a sentence that says what, and how to get it."""


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
        raise Unusable(
            f"{FUSE_DEVICE} may not be opened by you: make it readable and writable for all (chmod 0666 {FUSE_DEVICE}, "
            "as most distributions do), or run this as root"
        ) from None
    except OSError as error:
        raise Unusable(
            f"{FUSE_DEVICE} cannot be opened ({error.strerror}): the kernel may lack CONFIG_FUSE_FS"
        ) from None


def mount_fuse(fd: int, target: str, *, name: str, mode: int) -> None:
    """Mount the connection `fd` on the regular file or device `target`, as type `fuse.NAME`.

    The kernel checks permissions, against `mode` until GETATTR has answered, and every user may come. Raises Unusable.
    """
    root_mode = stat.S_IFREG | mode
    options = (
        f"fd={fd},rootmode={root_mode:o},user_id={os.geteuid()},group_id={os.getegid()},allow_other,default_permissions"
    )
    try:
        libc.mount(name, target, f"fuse.{name}", libc.MS_NOSUID | libc.MS_NODEV, options)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Unusable(
                f"FUSE may not be mounted on {target} by you ({error.strerror}): it takes root, or a user namespace "
                "that no security module (AppArmor, SELinux, seccomp) restricts"
            ) from None
        raise Unusable(f"FUSE cannot be mounted on {target}: {error.strerror}") from None


def unmount(target: str) -> None:
    """Take the mount off `target` now, whoever has it open. No error if nothing is mounted there."""
    try:
        libc.umount(target, libc.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def is_stale(path: str) -> bool:
    """Whether `path` is a FUSE mount whose daemon is gone."""
    try:
        os.statvfs(path)  # asks the daemon; what stat(2) tells may be remembered of a dead one
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def mounted_type(path: str) -> str | None:
    """The type of the filesystem that is mounted right on `path` (the uppermost, where several are); None: none is.

    `path` is absolute and without symbolic links; it is not touched, so a stale mount can be asked for.
    """
    kind = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split(" ")
            if _unescape(fields[4]) == path:
                kind = fields[fields.index("-", 6) + 1]
    return kind


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
