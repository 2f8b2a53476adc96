"""A place for FUSE: an empty file that we make, and mount on.

A lock tells whether a living iommud has the place (place_lock.py). What a killed one has left is
taken over. A mount is known to be ours by its type and by the lock's file. A file is known to be
ours if it is empty, without permissions, has no other name, and is in a directory that nobody else
may write to (place_directory.py). Anything else at the path belongs to somebody else: we say so and
stop. Whatever was checked is held by a descriptor. Mount, umount and unlink go through that
descriptor, so they act on what was checked.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from cuse_glue.errors import Unusable
from cuse_glue.mounts import mount

from . import place_directory, place_lock
from .place_directory import Spot

log: Final = logging.getLogger("iommud.commands.serve")

SOURCE: Final = "iommud"
KIND: Final = f"fuse.{SOURCE}"
EMPTY_FILE_MODE: Final = 0  # nothing else makes such files, so one that was left is ours


class FusePlace(NamedTuple):
    """`fd`: the connection, which becomes the session's. `path`: without links. `locks`:
    descriptors that a child must not keep (Lock.fd).
    """

    fd: int
    path: str
    locks: tuple[int, ...]


@contextmanager
def fuse(path: str, mode: int) -> Iterator[FusePlace]:
    """A FUSE connection, mounted on the absolute `path`. Afterwards the mount, the file, and the
    directories that were missing are removed.

    Raises Unusable.
    """
    with ExitStack() as stack:
        spot = stack.enter_context(place_directory.reach(path, make=True))
        path = spot.path
        lock = place_lock.take(path, _identity(spot))
        stack.callback(lock.release)
        _clear(spot, lock_left=lock.left is not None)
        lock.tell(place=path)
        file = _claim(spot)
        stack.callback(_remove, spot, file)
        fd = _mount(stack, spot, f"/proc/self/fd/{file}", mode, is_directory=False)
        yield FusePlace(fd, path, (lock.fd, file))


@contextmanager
def directory(path: str) -> Iterator[FusePlace]:
    """As `fuse`, for a tree. It is mounted on the directory `path`, which must be empty, or is
    made. Raises Unusable.
    """
    with ExitStack() as stack:
        spot = stack.enter_context(place_directory.reach(path, make=True))
        path = spot.path
        lock = place_lock.take(path, _identity(spot))
        stack.callback(lock.release)
        _clear(spot, lock_left=lock.left is not None)
        made = _make_directory(spot) or bool(lock.left and lock.left.get("made"))
        lock.tell(place=path, made=made)
        if made:
            stack.callback(_remove_directory, spot)
        fd = _mount(stack, spot, spot.handle, place_directory.MODE, is_directory=True)
        yield FusePlace(fd, path, (lock.fd,))


def _mount(stack: ExitStack, spot: Spot, on: str, mode: int, *, is_directory: bool) -> int:
    """A connection, mounted until the stack ends. `on`: a path that leads to what is at the
    spot.
    """
    fd = mount.open_fuse()
    try:
        mount.mount_fuse(fd, on, name=SOURCE, mode=mode, shown=spot.path, is_directory=is_directory)
        device = mount.mounts_at(spot.directory, spot.name)[-1].device
    except BaseException:
        os.close(fd)
        raise
    stack.callback(_unmount, spot, device)
    return fd


def clean_directory(path: str) -> bool:
    """As `clean`, for what `directory` made."""
    with ExitStack() as stack:
        try:
            spot = stack.enter_context(place_directory.reach(path, make=False))
        except FileNotFoundError:
            return False
        lock = place_lock.take(spot.path, _identity(spot))
        stack.callback(lock.release)
        if lock.left is None:
            return False
        _clear(spot, lock_left=True)
        if lock.left.get("made"):
            _remove_directory(spot)
        lock.left = None
        return True


def clean(path: str) -> bool:
    """Take away the mount and the file that a killed iommud has left at the absolute `path`.
    Returns whether there were any.

    Raises Unusable if a living iommud has them, or if they are somebody else's.
    """
    with ExitStack() as stack:
        try:
            spot = stack.enter_context(place_directory.reach(path, make=False))
        except FileNotFoundError:
            return False
        lock = place_lock.take(spot.path, _identity(spot))
        stack.callback(lock.release)
        if not mount.mounts_at(spot.directory, spot.name) and not _exists(spot):
            lock.left = None
            return False
        _clear(spot, lock_left=lock.left is not None)
        if _exists(spot):
            _remove(spot, _claim(spot))
        lock.left = None
        return True


def _identity(spot: Spot) -> str:
    status = os.fstat(spot.directory)
    return f"fuse {status.st_dev} {status.st_ino} {spot.name}"


def _exists(spot: Spot) -> bool:
    try:
        os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _clear(spot: Spot, *, lock_left: bool) -> None:
    """Take away the mounts of a daemon that was killed; the caller has the place's lock. Raises
    Unusable for any other mount.
    """
    while mounts := mount.mounts_at(spot.directory, spot.name):
        kind = mounts[-1].kind
        if kind != KIND:
            raise Unusable(
                f"{spot.path} is a mount of type {kind}, and not ours to take: unmount it, or choose another --fuse PATH"
            )
        if not lock_left:
            raise Unusable(
                f"{spot.path} is a mount of type {kind}, by an iommud without a lock in {place_lock.DIRECTORY}, so it may "
                f"live in another container: stop it, or `umount --lazy {spot.path}`"
            )
        log.info("%s: taking over from a daemon that died", spot.path)
        mount.unmount(spot.handle)


def _unmount(spot: Spot, device: str) -> None:
    """Take our own mount away, and none that was made over it."""
    mounts = mount.mounts_at(spot.directory, spot.name)
    if mounts and mounts[-1].device == device:
        mount.unmount(spot.handle)
    elif mounts:
        log.warning("%s stays: something of type %s was mounted over it", spot.path, mounts[-1].kind)


def _remove(spot: Spot, file: int) -> None:
    """Unlink what `_claim` returned, if it is still there, and close it."""
    try:
        if mount.mounts_at(spot.directory, spot.name):
            return
        if os.path.samestat(os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False), os.fstat(file)):
            os.unlink(spot.name, dir_fd=spot.directory)
    except FileNotFoundError:
        pass  # somebody cleaned up before us
    except OSError as error:
        log.warning("%s cannot be removed: %s", spot.path, error.strerror)
    finally:
        os.close(file)


def _make_directory(spot: Spot) -> bool:
    """Make the directory, unless it is there, empty and safe. Returns whether it was made. Raises
    Unusable.
    """
    try:
        os.mkdir(spot.name, place_directory.MODE, dir_fd=spot.directory)
    except FileExistsError:
        pass
    except OSError as error:
        raise Unusable(f"{spot.path} cannot be made: {error.strerror}") from None
    else:
        os.chmod(spot.handle, place_directory.MODE)  # whatever the umask
        return True
    try:
        found = os.open(spot.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=spot.directory)
    except OSError:
        raise Unusable(f"{spot.path} is there already, and no directory: choose another --sysfs DIR") from None
    try:
        is_empty, who = not os.listdir(found), place_directory.who_else_may_write(os.fstat(found))
    finally:
        os.close(found)
    if not is_empty or who is not None:
        why = f"others may write to it ({who})" if who is not None else "it is not empty"
        raise Unusable(f"{spot.path} is there already, and {why}: choose another --sysfs DIR")
    return False


def _remove_directory(spot: Spot) -> None:
    try:
        os.rmdir(spot.name, dir_fd=spot.directory)
    except OSError as error:
        log.info("the directory %s stays: %s", spot.path, error.strerror)


def _claim(spot: Spot) -> int:
    """A descriptor of the empty file at the spot, which is then locked. The file is new, or was
    left by a dead daemon. Raises Unusable.

    The lock of the place alone does not do: another mount namespace may have the same directory and
    another /run.
    """
    try:
        file = _open_empty(spot)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES) and os.geteuid() != 0:
            raise Unusable(
                f"{spot.path} cannot be made by you: `iommud serve` needs root; `iommud run -- COMMAND` does not"
            ) from None
        hint = ": root lacks CAP_DAC_OVERRIDE here" if error.errno == errno.EACCES else ""
        raise Unusable(f"{spot.path} cannot be made: {error.strerror}{hint}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise Unusable(
            f"{spot.path} is served by another iommud already, in another container or mount namespace"
        ) from None
    return file


def _open_empty(spot: Spot) -> int:
    """Open an empty file, made now or left by a killed daemon. Raises Unusable for any other file,
    and OSError.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(spot.name, flags | os.O_CREAT | os.O_EXCL, EMPTY_FILE_MODE, dir_fd=spot.directory)
    except FileExistsError:
        pass
    seen = os.stat(spot.name, dir_fd=spot.directory, follow_symlinks=False)
    why = _not_ours(seen)
    if stat.S_ISCHR(seen.st_mode):
        raise Unusable(
            f"{spot.path} is a real device, so this machine needs no iommud there; --fuse PATH serves elsewhere"
        )
    if stat.S_ISDIR(seen.st_mode):
        raise Unusable(f"{spot.path} is a directory: give the path of a file in it, like {spot.path}/iommu")
    if why is None:
        file = os.open(spot.name, flags, dir_fd=spot.directory)
        status = os.fstat(file)
        why = _not_ours(status)
        if why is None and os.path.samestat(seen, status):
            return file
        os.close(file)
    why = why or "it was exchanged just now"
    raise Unusable(
        f"{spot.path} is there already, and not ours to take ({why}): remove it, or choose another --fuse PATH"
    )


def _not_ours(status: os.stat_result) -> str | None:
    """Why this is no file that we left. None: it is one."""
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_uid != os.geteuid():
        return "it belongs to another user"
    if status.st_size:
        return "it is not empty"
    if mode != EMPTY_FILE_MODE:
        return f"its mode is {mode:04o}, and that of what iommud makes is {EMPTY_FILE_MODE:04o}"
    if status.st_nlink != 1:
        return "it has another name as well"
    return None
