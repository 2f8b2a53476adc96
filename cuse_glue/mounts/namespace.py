"""A private mount namespace: what one process and its children see of the filesystem, and nobody
else.

Leaving it costs nothing. With its last process, however that died, the kernel takes down the
namespace and every mount in it. Mounts of the host still arrive in it (its mounts are slaves), but
none of ours goes back to the host.

A user who may not unshare mounts also takes a user namespace. In it one user and one group map to
themselves, and every other owner shows as `nobody`.

If a directory such as /dev has to get one more name, it is laid out anew on a tmpfs. Each entry of
the old directory is bound to its place, so devices, terminals and shared memory are the same
objects; only the new name is new. One device cannot be bound alone: ptmx looks for `pts` in the
directory that it was opened in. So ptmx is made anew. If that is not permitted (in a user
namespace), it becomes a link into the old directory, which is then bound whole to `.host`.
"""

import errno
import os
import stat
from typing import Final

from ..errors import Unusable
from ..system import libc

_CHROOT: Final = (
    "a chroot into a directory that is no mount takes root, with CAP_SYS_ADMIN and CAP_SYS_CHROOT; or bind it onto itself "
    "before (mount --bind)"
)
_REFUSED: Final = {
    errno.EPERM: "it is not permitted to you: in a container, the seccomp profile forbids it (--security-opt seccomp=unconfined "
    "permits it); elsewhere see sysctl kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or run "
    "this as root",
    errno.ENOSPC: "the limit is reached: raise sysctl user.max_user_namespaces and user.max_mnt_namespaces",
    errno.EINVAL: "the kernel lacks CONFIG_USER_NS: run this as root",
    errno.ENOSYS: "the kernel lacks CONFIG_NAMESPACES",
}


def enter() -> None:
    """Put the calling process (it must have one thread) in a mount namespace of its own. Raises
    Unusable.
    """
    step = "a private mount namespace cannot be made"
    try:
        is_mount = _root_is_a_mount()
        try:
            libc.unshare(libc.CLONE_NEWNS)
        except PermissionError:
            _enter_as_user()
        if is_mount:
            libc.mount(None, "/", None, libc.MS_REC | libc.MS_SLAVE)
        else:
            step = "this chroot cannot be made a mount in a private namespace"
            _make_root_a_mount()
    except OSError as error:
        hint = _hint(error) if is_mount else f"{error.strerror}: {_CHROOT}"
        raise Unusable(f"{step}; {hint}") from None


def _hint(error: OSError) -> str:
    if error.errno == errno.EPERM and os.geteuid() == 0:
        return _REFUSED[errno.EPERM].replace(", or run this as root", ", or give root CAP_SYS_ADMIN")
    return _REFUSED.get(error.errno or 0) or error.strerror or ""


def _root_is_a_mount() -> bool:
    """Whether `/` is the root of a mount, as it is everywhere but in a chroot into a plain
    directory.
    """
    with open("/proc/self/mountinfo", "rb") as lines:
        return any(line.split(b" ")[4] == b"/" for line in lines)


def _make_root_a_mount() -> None:
    """In a chroot into a plain directory: bind the directory onto itself, and live in that mount.

    The mount that contains the directory has to become a slave first, or the host would see what we
    mount. That mount can be named only from outside. So we leave the chroot, which root may, and
    come back. Raises OSError.
    """
    root, here = (os.open(path, os.O_PATH | os.O_CLOEXEC) for path in ("/", "."))
    try:
        way_back = os.getcwd()
    except OSError:
        way_back = ""  # it was removed
    os.chdir("/")
    # any directory below: our own is then outside of the root, and `..` leads on
    os.chroot("/proc")
    while not os.path.samestat(os.stat("."), os.stat("..")):
        os.chdir("..")
    os.chroot(".")
    libc.mount(None, "/", None, libc.MS_REC | libc.MS_SLAVE)
    os.fchdir(root)
    os.close(root)
    place = os.getcwd()
    libc.mount(place, place, None, libc.MS_BIND | libc.MS_REC)
    os.chdir(place)
    os.chroot(".")
    if way_back.startswith("/"):
        os.chdir(way_back)
    else:
        os.fchdir(here)
    os.close(here)


def _enter_as_user() -> None:
    uid, gid = os.geteuid(), os.getegid()
    libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
    # The kernel takes a group map from an unprivileged process only once setgroups(2) is ruled out.
    for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def add_file(directory: str, name: str) -> str:
    """Make sure that the absolute `directory` has a file `name` to mount on. No other namespace
    sees a change.

    Returns its path. Must be called in a private namespace. Raises OSError.
    """
    return _add(directory, name, is_directory=False)


def add_directory(directory: str, name: str) -> str:
    """As `add_file`, but makes a directory, to add something to."""
    return _add(directory, name, is_directory=True)


def _add(directory: str, name: str, *, is_directory: bool) -> str:
    path = os.path.join(directory, name)
    with os.scandir(directory) as entries:
        # From the directory alone: a stat would fail on a stale mount or one that is not for us.
        kinds = {entry.name: (entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries}
    if kinds.get(name) == (False, is_directory):
        return path
    here = here_below(directory)
    _lay_anew(directory, name, is_directory)
    if here is not None:
        os.chdir(here)
    return path


def here_below(directory: str) -> str | None:
    """The current directory, if it is in `directory`, else None. For a chdir back to it, once
    `directory` names another one.
    """
    try:
        here = os.getcwd()
    except OSError:
        return None  # removed, or not ours to search: certainly not a path to come back to
    return here if os.path.commonpath((here, directory)) == directory else None


def _lay_anew(directory: str, name: str, is_directory: bool) -> None:
    old = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(old)
        writable = os.access(directory, os.W_OK)
        libc.mount(name, directory, "tmpfs", libc.MS_NOSUID, "mode=0755")
        with os.scandir(f"/proc/self/fd/{old}") as entries:
            for entry in entries:
                if entry.name != name:
                    _bind(entry, os.path.join(directory, entry.name))
        place = os.path.join(directory, name)
        if is_directory:
            os.mkdir(place)
            os.chmod(place, 0o755)  # whatever the umask
        else:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        _dress(directory, status, writable)
    finally:
        os.close(old)


def _bind(entry: os.DirEntry[str], place: str) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), place)
        return
    if entry.name == "ptmx":
        _make_ptmx(entry, place)
        return
    if entry.is_dir(follow_symlinks=False):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    try:
        libc.mount(entry.path, place, None, libc.MS_BIND | libc.MS_REC)
    except FileNotFoundError:  # unplugged since we read the directory
        (os.rmdir if os.path.isdir(place) else os.unlink)(place)


def _make_ptmx(entry: os.DirEntry[str], place: str) -> None:
    status = entry.stat(follow_symlinks=False)
    try:
        os.mknod(place, status.st_mode, status.st_rdev)
    except PermissionError:
        host = os.path.join(os.path.dirname(place), ".host")
        os.mkdir(host)
        libc.mount(os.path.dirname(entry.path), host, None, libc.MS_BIND | libc.MS_REC)
        # the new directory, which was copied along: it covers the old one
        libc.umount(host, libc.MNT_DETACH)
        os.symlink(".host/ptmx", place)
    else:
        os.chown(place, status.st_uid, status.st_gid)
        os.chmod(place, stat.S_IMODE(status.st_mode))


def _dress(directory: str, status: os.stat_result, writable: bool) -> None:
    try:
        os.chown(directory, status.st_uid, status.st_gid)
    except OSError:
        pass  # in a user namespace the old owner has no name: it stays ours
    os.chmod(directory, stat.S_IMODE(status.st_mode))
    if not writable and os.access(directory, os.W_OK):
        os.chmod(directory, stat.S_IMODE(status.st_mode) & ~0o222)
