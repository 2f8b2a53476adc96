"""The directory of a FUSE place. It is reached so that nobody but its owner can lead us elsewhere,
and made if it is missing.

The path is walked from descriptor to descriptor. A symbolic link is followed only out of a
directory that others may not write to. In the last directory nobody else may write at all: whoever
can write there can put another file in the device's place, and every client would open that.
"""

import grp
import logging
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from cuse_glue.errors import Unusable
from cuse_glue.mounts.mount import mounts_at

log: Final = logging.getLogger("iommud.commands.serve")

MOST_LINKS: Final = 40  # as the kernel has it
MODE: Final = 0o755  # of what is made
_WALK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Spot:
    """A name in a directory: the directory's descriptor, and the name."""

    directory: int
    name: str

    @property
    def path(self) -> str:
        """The path where it is now, without links."""
        return os.path.join(os.readlink(f"/proc/self/fd/{self.directory}"), self.name)

    @property
    def handle(self) -> str:
        """A path for system calls; it leads through the descriptor."""
        return f"/proc/self/fd/{self.directory}/{self.name}"


@contextmanager
def reach(path: str, *, make: bool) -> Iterator[Spot]:
    """The spot of the absolute `path`. Missing directories are made (mode 0755), and removed again
    afterwards if nobody has used them.

    Raises Unusable if others may write to the directory, or if it cannot be made; FileNotFoundError
    if it is missing and must not be made.
    """
    with ExitStack() as stack:
        try:
            spot = _walk(stack, path, make)
            status = os.fstat(spot.directory)
        except FileNotFoundError:
            if make:
                raise Unusable(f"{path} cannot be made: a directory of it was removed") from None
            raise
        except PermissionError as error:
            raise Unusable(f"{path} cannot be made by you: {_of_whom(error)}") from None
        except OSError as error:
            raise Unusable(f"{path} cannot be made: {error.strerror}") from None
        who = who_else_may_write(status)
        if who is not None:
            where = os.path.dirname(spot.path)
            raise Unusable(
                f"{where} can be written to by others ({who}), who could put something else where clients look for the device: "
                "choose another --fuse PATH, in a directory that only root may write to (one that is missing is made)"
            )
        yield spot


def _of_whom(error: OSError) -> str:
    where = f" ({error.filename}: {error.strerror})" if error.filename else ""
    if os.geteuid() == 0:
        return f"root lacks CAP_DAC_OVERRIDE here{where}"
    return f"`iommud serve` needs root{where}; `iommud run -- COMMAND` does not"


def who_else_may_write(status: os.stat_result) -> str | None:
    """Who can put names into this directory, besides root and us. None: nobody."""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to {_user(status.st_uid)}"
    if status.st_mode & stat.S_IWOTH:
        return f"its mode is {stat.S_IMODE(status.st_mode):04o}"
    if status.st_mode & stat.S_IWGRP:
        return f"its mode is {stat.S_IMODE(status.st_mode):04o}, its group {_group(status.st_gid)}"
    return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _walk(stack: ExitStack, path: str, make: bool) -> Spot:
    def descend(name: str, parent: int | None) -> int:
        fd = os.open(name, _WALK, dir_fd=parent)
        stack.callback(os.close, fd)
        return fd

    here = descend("/", None)
    todo = path.split("/")[::-1]
    links = 0
    while True:
        name = todo.pop()
        if name in ("", ".") or (name == ".." and not todo):
            if not todo:
                raise Unusable(f"{path} is a directory: give the path of a file in one, like {path.rstrip('/')}/iommu")
            continue
        link = _link(here, name)
        if link is not None:
            links += 1
            who = who_else_may_write(os.fstat(here))
            if who is not None or links > MOST_LINKS:
                at = os.path.join(os.readlink(f"/proc/self/fd/{here}"), name)
                raise Unusable(
                    f"{path} leads through the symbolic link {at}, which is in a directory that others may write to ({who}): "
                    "give the path without it"
                    if who
                    else f"{path} leads through too many symbolic links"
                )
            todo += link.split("/")[::-1]
            if link.startswith("/"):
                here = descend("/", None)
            continue
        if not todo:
            return Spot(here, name)
        try:
            below = descend(name, here)
        except FileNotFoundError:
            if not make:
                raise
            below = _make(stack, here, name, descend)
        if not stat.S_ISDIR(os.fstat(below).st_mode):
            raise Unusable(f"{os.readlink(f'/proc/self/fd/{below}')} is no directory: choose another --fuse PATH")
        here = below


def _link(directory: int, name: str) -> str | None:
    """Where the name points, if it is a symbolic link; else None. A mount point is not asked."""
    if mounts_at(directory, name):
        return None
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


def _make(stack: ExitStack, parent: int, name: str, descend: Callable[[str, int], int]) -> int:
    os.mkdir(name, MODE, dir_fd=parent)
    fd = descend(name, parent)
    status = os.fstat(fd)

    def remove() -> None:
        try:
            if os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), status):
                os.rmdir(name, dir_fd=parent)
        except OSError as error:
            log.info("the directory %s stays: %s", name, error.strerror)

    if status.st_uid != os.geteuid():
        raise Unusable(f"{os.readlink(f'/proc/self/fd/{fd}')} was exchanged by somebody: choose another --fuse PATH")
    stack.callback(remove)
    os.chmod(f"/proc/self/fd/{fd}", MODE)  # whatever the umask
    return fd
