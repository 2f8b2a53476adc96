"""A place for CUSE: a name below /dev. The kernel makes the device there, and takes it away when we
end, however we end.

If something else has that path already, the kernel does not say so, and our device is hidden behind
it. So we look before and afterwards.
"""

import errno
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from cuse_glue.errors import Unusable

from . import place_lock
from .place_lock import Lock

log: Final = logging.getLogger("iommud.commands.serve")

CUSE_DEVICE: Final = "/dev/cuse"
CUSE_CLASS: Final = "/sys/class/cuse"
CUSE_NAME: Final = re.compile(r"[\w.+:-]+(/[\w.+:-]+)*", re.ASCII)
LONGEST_NAME: Final = 200  # of a CUSE device, bytes
UNTIL_GONE: Final = 1.0  # seconds in which a device goes after its connection was ended


def kernel_has_cuse() -> bool:
    """Whether the kernel has CUSE, and not only a node for it: udev makes a node for every module
    that could be loaded.
    """
    try:
        os.close(os.open(CUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return True  # `cuse` will meet the same error, and report it
        log.info("%s cannot be opened (%s): FUSE it is", CUSE_DEVICE, error.strerror)
        return False
    return True


class CusePlace(NamedTuple):
    """`fd`: the connection, which becomes the session's. `locks`: descriptors that a child must not
    keep (place_lock.py).
    """

    fd: int
    locks: tuple[int, ...]


_locks: Final[dict[str, Lock]] = {}  # of the names that this process has


@contextmanager
def cuse(name: str) -> Iterator[CusePlace]:
    """A CUSE connection on which /dev/`name` can be made. Raises Unusable."""
    _check_name(name)
    lock = place_lock.take(f"/dev/{name}", _identity(name))
    try:
        _clear(name, lock)
        _look(name)
        try:
            fd = os.open(CUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unusable(
                f"{CUSE_DEVICE} is not there: load the kernel module (modprobe cuse), or serve by --fuse PATH"
            ) from None
        except OSError as error:
            raise Unusable(f"{CUSE_DEVICE} cannot be opened ({error.strerror}): {_who_may()}") from None
        lock.tell(place=f"/dev/{name}")
        _locks[name] = lock
        yield CusePlace(fd, (lock.fd,))
    finally:
        _locks.pop(name, None)
        lock.release()


def clean(name: str) -> bool:
    """End the connection of an iommud that was killed, if a stuck process still holds it. Returns
    whether there was one.

    Raises Unusable if a living iommud has it, or if it stays all the same.
    """
    _check_name(name)
    lock = place_lock.take(f"/dev/{name}", _identity(name))
    try:
        if lock.left is None:
            return False
        was_there = _clear(name, lock)
        lock.left = None
        return was_there
    finally:
        lock.release()


def _identity(name: str) -> str:
    return f"cuse {name}"


def _who_may() -> str:
    if os.geteuid() != 0:
        return "`iommud serve` needs root"
    return f"in a container, --device {CUSE_DEVICE} permits it"


def _check_name(name: str) -> None:
    node = f"/dev/{name}"
    if not CUSE_NAME.fullmatch(name) or os.path.normpath(node) != node or len(name) > LONGEST_NAME:
        raise Unusable(f"--cuse {name}: that is no name that a device below /dev can have")


def _clear(name: str, lock: Lock) -> bool:
    """Take away the device of a daemon that was killed; the caller has its lock. Returns whether
    there was one.

    A device goes with the last descriptor of its connection. A process that is stuck in the kernel
    keeps such a descriptor. If we end the connection, the clients go on; the process stays stuck
    until the client in whose memory it waits lets it go on. Raises Unusable if the device stays.
    """
    number = cuse_number(name)
    if number is None or lock.left is None or lock.left.get("number") != number:
        return False
    log.info("/dev/%s: taking over from a daemon that died", name)
    deadline = time.monotonic() + UNTIL_GONE
    try:
        with open(f"{CUSE_CLASS}/{name.replace('/', '!')}/abort", "w", encoding="ascii") as abort:
            abort.write("1")
    except FileNotFoundError:
        pass  # it went just now
    except OSError as error:
        raise Unusable(
            f"/dev/{name} was left by an iommud that was killed, and cannot be ended: {error.strerror}"
        ) from None
    while cuse_number(name) == number:
        if time.monotonic() > deadline:
            raise Unusable(
                f"/dev/{name} was left by an iommud that was killed, and a process of it, which waits for the memory of a "
                "client, still holds it: end that client; or choose another --cuse NAME, or --fuse PATH"
            )
        time.sleep(0.005)
    return True


def _look(name: str) -> None:
    """Raises Unusable if something else has the name or the path."""
    node, elsewhere = f"/dev/{name}", "choose another --cuse NAME, or --fuse PATH"
    ours = cuse_number(name)
    try:
        found = os.lstat(node)
    except OSError:
        if ours is not None:
            raise Unusable(f"there is a CUSE device {name} already, though not at {node}: {elsewhere}") from None
        return
    if ours is not None and found.st_rdev == ours:
        raise Unusable(f"{node} is served already, by another program that uses CUSE: {elsewhere}")
    if stat.S_ISCHR(found.st_mode):
        raise Unusable(f"{node} is a real device, so this machine needs no iommud there: {elsewhere}")
    raise Unusable(f"{node} is there already, and not ours to take: remove it; or {elsewhere}")


def cuse_number(name: str) -> int | None:
    """The device number of the CUSE device of that name, whoever serves it. None: there is none."""
    try:
        with open(f"{CUSE_CLASS}/{name.replace('/', '!')}/dev", encoding="ascii") as file:
            major, minor = map(int, file.read().split(":"))
    except OSError:
        return None
    return os.makedev(major, minor)


def dress_node(name: str, mode: int, gid: int) -> None:
    """Give the new /dev/`name` its group and mode, after checking that it is the one that CUSE
    made. Raises Unusable.
    """
    node = f"/dev/{name}"
    number = cuse_number(name)
    try:
        fd = os.open(node, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Unusable(
            f"{node} did not appear ({error.strerror}): is /dev no devtmpfs? --fuse PATH serves anywhere"
        ) from None
    try:
        if os.fstat(fd).st_rdev != number:
            raise Unusable(
                f"{node} is another device or file, which came there at the same moment, and stays: choose another --cuse NAME"
            )
        itself = f"/proc/self/fd/{fd}"
        os.chown(itself, -1, gid)
        os.chmod(itself, mode)
        if name in _locks:
            _locks[name].tell(number=number)
    except OSError as error:
        raise Unusable(f"{node} cannot be given its group and mode: {error.strerror}") from None
    finally:
        os.close(fd)
