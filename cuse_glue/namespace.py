"""A private mount namespace: what one process and its children see of the filesystem, and nobody else.

It costs nothing to leave: with its last process the kernel takes down the namespace and every mount in it, however
that process died. Mounts of the host still arrive (the mounts become slaves), none of ours goes back.

A user who may not unshare mounts takes a user namespace too, in which the one user and the one group that they are
map to themselves; every other owner shows as `nobody` there.

A directory that has to get one more name, like /dev, is laid out anew on a tmpfs: each entry of the old one is bound
to its place, so devices, terminals and shared memory are the same objects; only the new name is new. One device does not stand
being bound alone: ptmx looks for `pts` in the directory that it was opened in. It is made anew, and where that is not
permitted (in a user namespace) it becomes a link into the old directory, which is then bound whole to `.host`.
"""

import errno
import os
import stat
from typing import Final

from . import libc
from .mount import Unusable

_REFUSED: Final = {
    errno.EPERM: "it is not permitted to you: in a container, the seccomp profile forbids it (--security-opt seccomp=unconfined "
    "permits it); elsewhere see sysctl kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or run "
    "this as root",
    errno.ENOSPC: "the limit is reached: raise sysctl user.max_user_namespaces and user.max_mnt_namespaces",
    errno.EINVAL: "the kernel lacks CONFIG_USER_NS: run this as root",
    errno.ENOSYS: "the kernel lacks CONFIG_NAMESPACES",
}


def enter() -> None:
    """Put the calling process (it must have one thread) in a mount namespace of its own. Raises Unusable."""
    try:
        try:
            libc.unshare(libc.CLONE_NEWNS)
        except PermissionError:
            _enter_as_user()
        libc.mount(None, "/", None, libc.MS_REC | libc.MS_SLAVE)
    except OSError as error:
        hint = _REFUSED.get(error.errno or 0, error.strerror)
        raise Unusable(f"a private mount namespace cannot be made; {hint}") from None


def _enter_as_user() -> None:
    uid, gid = os.geteuid(), os.getegid()
    libc.unshare(libc.CLONE_NEWUSER | libc.CLONE_NEWNS)
    # The kernel takes a group map from an unprivileged process only once setgroups(2) is ruled out.
    for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1"):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def add_file(directory: str, name: str) -> str:
    """Make sure that the absolute `directory` has a file `name` to mount on; no other namespace sees a change.

    Returns its path. To be called in a private namespace. Raises OSError.
    """
    return _add(directory, name, is_directory=False)


def add_directory(directory: str, name: str) -> str:
    """As `add_file`, for a directory to add something to."""
    return _add(directory, name, is_directory=True)


def _add(directory: str, name: str, *, is_directory: bool) -> str:
    path = os.path.join(directory, name)
    with os.scandir(directory) as entries:
        # From the directory alone: a stat would fail on a stale mount or one that is not for us.
        kinds = {entry.name: (entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries}
    if kinds.get(name) == (False, is_directory):
        return path
    here = _here_below(directory)
    _lay_anew(directory, name, is_directory)
    if here is not None:
        os.chdir(here)
    return path


def _here_below(directory: str) -> str | None:
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
        libc.umount(host, libc.MNT_DETACH)  # the new directory, which was copied along: it covers the old one
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
