"""Whether another iommud lives at a place, without touching the place.

Whoever asks a FUSE mount for anything (stat, statvfs, open) waits for ever if its daemon is dead
and a process that is stuck in the kernel still holds the connection. So a daemon holds a lock
(flock) as long as it lives. The lock is on a file that only the daemon's user can open, in
/run/iommud, or in $XDG_RUNTIME_DIR/iommud for a user who may not write to /run. The file says (in
JSON, for people as well) what the daemon made. If the lock of such a file is free, a killed daemon
has left the file.

A flock belongs to the open file, which children inherit. A child that may outlive the daemon closes
`Lock.fd`.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
from dataclasses import dataclass, field
from typing import Any, Final

from cuse_glue.errors import Unusable

log: Final = logging.getLogger("iommud.commands.serve")

DIRECTORY: Final = "/run/iommud"


class PlaceTaken(Unusable):
    """A living daemon has the place."""


@dataclass
class Lock:
    """Held until `release`. `left`: what a killed daemon had written into the file; None:
    nothing.
    """

    fd: int
    left: dict[str, Any] | None
    _directory: str
    _name: str
    _told: dict[str, Any] = field(default_factory=dict)

    def tell(self, **facts: Any) -> None:
        """Write down what is about to be made, or has been made, for whoever finds this after we
        were killed. Later facts are added to the earlier ones.
        """
        self._told |= facts
        data = json.dumps({"pid": os.getpid(), **self._told}).encode() + b"\n"
        os.pwrite(self.fd, data, 0)
        os.ftruncate(self.fd, len(data))

    def release(self) -> None:
        """Remove the file, and let go of the lock. A file that was `left` stays, unless it was
        taken over (`tell`) or `left` was set to None. Must not fail.
        """
        try:
            if self.left is None or self._told:
                os.unlink(os.path.join(self._directory, self._name))
        except OSError as error:
            log.info("%s stays in %s: %s", self._name, self._directory, error.strerror)
        os.close(self.fd)
        _remove_empty(self._directory)


def take(what: str, identity: str) -> Lock:
    """Take the lock of a place. `what`: the place, for people. `identity` is the same for all names
    of that place, and differs for every other place.

    Raises PlaceTaken, or Unusable if the lock's file cannot be made.
    """
    name = hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]
    while True:
        directory = _directory()
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # another daemon ended, and removed the directory
        except OSError as error:
            raise Unusable(f"{path}, the lock of {what}, cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = (_read(fd) or {}).get("pid")
            os.close(fd)
            raise PlaceTaken(
                f"{what} is served by another iommud already" + (f" (process {pid})" if pid else "")
            ) from None
        if _is_at(fd, path):
            return Lock(fd, _read(fd), directory, name)
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    """Whether `fd` is still the file at `path`. Between our open and our lock, a daemon that had
    the lock may have unlinked the file and ended.
    """
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _read(fd: int) -> dict[str, Any] | None:
    try:
        told = json.loads(os.pread(fd, 1 << 16, 0))
    except ValueError:
        return None  # the daemon was killed before it made anything
    return told if isinstance(told, dict) else None


def _directory() -> str:
    """The directory for locks. It exists now, and is ours alone. Raises Unusable."""
    try:
        return _made(DIRECTORY)
    except PermissionError as error:
        own = os.environ.get("XDG_RUNTIME_DIR")
        if os.geteuid() == 0 and not own:
            raise Unusable(
                f"{DIRECTORY}, for locks, cannot be made ({error.strerror}): root may not write to /run here"
            ) from None
    except OSError as error:
        raise Unusable(f"{DIRECTORY}, for locks, cannot be made ({error.strerror}): /run has to be writable") from None
    if not own:
        raise Unusable(
            f"{DIRECTORY}, for locks, cannot be made by you: `iommud serve` needs root; `iommud run -- COMMAND` does not"
        )
    try:
        return _made(os.path.join(own, "iommud"))
    except OSError as error:
        raise Unusable(f"{own}/iommud, for locks, cannot be made: {error.strerror}") from None


def _made(directory: str) -> str:
    """Make sure that it exists. Raises OSError; Unusable if others can get at it."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except FileNotFoundError:  # no /run at all
        os.mkdir(os.path.dirname(directory), 0o755)
        os.mkdir(directory, 0o700)
    status = os.lstat(directory)
    if status.st_uid == 0 != os.geteuid():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise Unusable(f"{directory}, for locks, is not a directory that is yours alone (mode 0700): remove it")
    return directory


def _remove_empty(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            log.info("%s stays: %s", directory, error.strerror)
