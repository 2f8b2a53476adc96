"""`iommud serve`: one device file for everybody, in the foreground.

By CUSE the kernel makes /dev/NAME and takes it away again when we end, however we end. It does not say when something else has that
path already, which then stays in front of our device: we look before and afterwards. By FUSE we make an empty file
and mount on it; that file is locked as long as we live, so what a crashed daemon left behind (the file, and a mount
that answers ENOTCONN) can be told from what a living one serves, and is taken over. Whatever else stands at the path
is somebody else's: we say so and stop.
"""

import errno
import faulthandler
import fcntl
import grp
import logging
import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cuse_glue import mount, reach
from cuse_glue.mount import Unusable

from . import stderr
from .limits import allow_many_files
from .systemd import notify, show_life

if TYPE_CHECKING:
    from .cli import Settings

log: Final = logging.getLogger("iommud.serve")

CUSE_DEVICE: Final = "/dev/cuse"
CUSE_CLASS: Final = "/sys/class/cuse"
NAME: Final = "iommu"
VFIO: Final = "vfio/vfio"  # beside it
VFIO_MODE: Final = 0o666  # what the kernel gives it: it does nothing without a device
SOURCE: Final = "iommud"
STOP: Final = (signal.SIGTERM, signal.SIGINT)
REFUSED: Final = 1  # exit statuses; 2 is argparse's
BUG: Final = 70  # EX_SOFTWARE of sysexits.h
CUSE_NAME: Final = re.compile(r"[\w.+:-]+(/[\w.+:-]+)*", re.ASCII)
LONGEST_NAME: Final = 200  # of a CUSE device, bytes
EMPTY_FILE_MODE: Final = 0  # nothing else makes files like that, so a left one is known as ours


@dataclass(frozen=True, slots=True)
class Place:
    """Where to serve: absolute path `fuse`, or name under /dev `cuse`; neither: /dev/`name`, by what the kernel has."""

    fuse: str | None = None
    cuse: str | None = None
    name: str = NAME
    mode: int = 0o660
    group: str | None = None


def serve(place: Place, settings: "Settings") -> int:
    """Serve until SIGTERM or SIGINT, or until the mount is taken away. Returns the exit status."""
    stderr.configure(settings.log_level)
    faulthandler.enable()  # a watchdog sends SIGABRT: then the log tells where we were
    allow_many_files()
    for number in STOP:  # until the session takes them over; what stands by then is cleaned up on the way out
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with ExitStack() as stack:
            reach.check()
            gid = _gid(place.group)
            if place.fuse is None and (place.cuse is not None or _kernel_has_cuse()):
                doors = _cuse_doors(stack, place.name if place.cuse is None else place.cuse, place.mode, settings.vfio)
            else:
                doors = _fuse_doors(stack, _fuse_path(place), place.mode, settings.vfio)
            _serve(doors, settings, gid)
    except Unusable as error:
        stderr.write_line(f"iommud: {error}", logging.ERROR)
        notify(f"STATUS=Refused: {error}")
        return REFUSED
    except Exception:
        log.exception("bug: the daemon failed")
        return BUG
    return 0


def clean(place: Place, settings: "Settings") -> int:
    """Take away what a daemon that died has left at the place, if it did: a mount and a file. What lives, or is another's, stays."""
    stderr.configure(settings.log_level)
    path = _fuse_path(place)
    beside = os.path.join(os.path.dirname(path), VFIO)
    for each in (path, beside) if settings.vfio else (path,):
        if place.cuse is None and (mount.mounted_type(each) is not None or os.path.lexists(each)):
            try:
                _remove(each, _claim(each))
            except Unusable as error:
                log.info("%s", error)
            else:
                log.warning("%s: a daemon that died had left it", each)
    return 0


def _fuse_path(place: Place) -> str:
    return os.path.realpath(place.fuse or f"/dev/{place.name}")


def _kernel_has_cuse() -> bool:
    """Whether there is more than a node of it: udev makes that for every module that could be loaded."""
    try:
        os.close(os.open(CUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return True  # and `_cuse` will say what it is
        log.info("%s cannot be opened (%s): FUSE it is", CUSE_DEVICE, error.strerror)
        return False
    return True


@dataclass(frozen=True, slots=True)
class Door:
    """A connection to the kernel, and what clients open to reach it; `cuse_name` where that is a character device."""

    fd: int
    where: str
    mode: int
    cuse_name: str | None = None


def _cuse_doors(stack: ExitStack, name: str, mode: int, vfio: bool) -> list[Door]:
    names = [(name, mode), (VFIO, VFIO_MODE)] if vfio else [(name, mode)]
    return [Door(stack.enter_context(_cuse(each)), f"/dev/{each} (CUSE)", mode, each) for each, mode in names]


def _fuse_doors(stack: ExitStack, path: str, mode: int, vfio: bool) -> list[Door]:
    doors = [Door(stack.enter_context(_fuse(path, mode)), f"{path} (FUSE)", mode)]
    if vfio:
        beside = os.path.join(os.path.dirname(path), VFIO)
        stack.enter_context(_directory(os.path.dirname(beside)))
        doors.append(Door(stack.enter_context(_fuse(beside, VFIO_MODE)), f"{beside} (FUSE)", VFIO_MODE))
    return doors


def _serve(doors: list[Door], settings: "Settings", gid: int) -> None:
    import trio

    from cuse_glue.node import Attributes, Opener
    from cuse_glue.session import Session, serve_together

    from .ops.files import IommuDevice, Options, VfioContainer, calm_collector

    where = ", ".join(door.where for door in doors)
    why = stderr.write_line if settings.why else None
    device = IommuDevice(Options(mock=settings.mock, iommu=settings.iommu, why=why, pin=settings.pin))
    openers: tuple[Opener, Opener] = device, VfioContainer(device)
    sessions = [
        Session(
            door.fd,
            opener,
            Attributes(mode=door.mode, uid=os.geteuid(), gid=gid),
            cuse_name=door.cuse_name,
            mapped=device.mapped if opener is device else None,
        )
        for door, opener in zip(doors, openers, strict=False)
    ]
    asked_to_stop = False
    is_ready = False
    refusal: Unusable | None = None

    def ready() -> None:
        nonlocal is_ready, refusal
        try:
            for door in doors:
                if door.cuse_name is not None:
                    _dress_node(door.cuse_name, door.mode, gid)
        except Unusable as error:
            refusal = error
            sessions[0].close()
            return
        is_ready = True
        stderr.write_line(f"iommud: serving {where}")
        notify(f"READY=1\nSTATUS=Serving {where}")

    async def stop(task_status: trio.TaskStatus[None]) -> None:
        nonlocal asked_to_stop
        with trio.open_signal_receiver(*STOP) as signals:
            task_status.started()
            async for _ in signals:
                asked_to_stop = True
                notify("STOPPING=1")
                sessions[0].close()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(stop)
            nursery.start_soon(show_life)
            await serve_together(sessions, ready)
            nursery.cancel_scope.cancel()
        device.shutdown()

    calm_collector()
    trio.run(main)
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)  # impatience must not stop the cleaning up
    if not is_ready and not asked_to_stop:
        raise refusal or Unusable(f"{where} was refused by the kernel: another program made a device of that name at the same time")
    if not asked_to_stop:
        stderr.write_line(f"iommud: {where} was taken away")


@contextmanager
def _fuse(path: str, mode: int) -> Iterator[int]:
    """A FUSE connection, mounted on `path`. Mount and file are gone afterwards; the descriptor is the session's."""
    lock = _claim(path)
    try:
        fd = mount.open_fuse()
        mount.mount_fuse(fd, path, name=SOURCE, mode=mode)
        try:
            yield fd
        finally:
            mount.unmount(path)
    finally:
        _remove(path, lock)


def _remove(path: str, lock: int) -> None:
    """The end of what `_claim` began."""
    try:
        if os.path.samestat(os.lstat(path), os.fstat(lock)):
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody cleaned up before us
    os.close(lock)


@contextmanager
def _directory(path: str) -> Iterator[None]:
    """A directory, made if it is not there, and then taken away again if nobody has put anything into it. Raises Unusable."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        yield
        return
    except OSError as error:
        raise Unusable(f"{path} cannot be made: {error.strerror}") from None
    try:
        os.chmod(path, 0o755)  # whatever the umask
        yield
    finally:
        try:
            os.rmdir(path)
        except OSError as error:
            log.info("%s stays: %s", path, error.strerror)


def _claim(path: str) -> int:
    """A descriptor that holds the lock of the file at `path`, new or left by a dead daemon. Raises Unusable."""
    kind = mount.mounted_type(path)
    if kind is not None and kind != f"fuse.{SOURCE}":
        raise Unusable(
            f"{path} is a mount of type {kind}, and not ours to take: unmount it, or choose another --fuse PATH"
        )
    if kind is not None and not mount.is_stale(path):
        raise Unusable(f"{path} is served by another iommud already")
    try:
        while mount.is_stale(path):
            log.info("%s: taking over from a daemon that died", path)
            mount.unmount(path)
        lock = _open_empty(path)
    except PermissionError:
        raise Unusable(
            f"{path} cannot be made by you: `iommud serve` needs root; `iommud run -- COMMAND` does not"
        ) from None
    except OSError as error:
        raise Unusable(f"{path} cannot be made: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Unusable(f"{path} is served by another iommud already") from None
    return lock


def _open_empty(path: str) -> int:
    """An empty file at `path` that we made, now or in an earlier life. Raises Unusable for any other, and OSError."""
    try:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, EMPTY_FILE_MODE)
    except FileExistsError:
        pass
    status = os.lstat(path)
    if stat.S_ISCHR(status.st_mode):
        raise Unusable(f"{path} is a real device, so this machine needs no iommud there; --fuse PATH serves elsewhere")
    if not stat.S_ISREG(status.st_mode) or status.st_size or stat.S_IMODE(status.st_mode) != EMPTY_FILE_MODE:
        raise Unusable(f"{path} is there already, and not ours to take: remove it, or choose another --fuse PATH")
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


@contextmanager
def _cuse(name: str) -> Iterator[int]:
    """A CUSE connection on which /dev/`name` can be made. The descriptor is the session's. Raises Unusable."""
    node, elsewhere = f"/dev/{name}", "choose another --cuse NAME, or --fuse PATH"
    if not CUSE_NAME.fullmatch(name) or os.path.normpath(node) != node or len(name) > LONGEST_NAME:
        raise Unusable(f"--cuse {name}: that is no name that a device below /dev can have")
    ours = _cuse_number(name)
    try:
        found = os.lstat(node)
    except OSError:
        if ours is not None:
            raise Unusable(f"there is a CUSE device {name} already, though not at {node}: {elsewhere}") from None
    else:
        if ours is not None and found.st_rdev == ours:
            raise Unusable(f"{node} is served already, by another iommud or another program that uses CUSE: {elsewhere}")
        if stat.S_ISCHR(found.st_mode):
            raise Unusable(f"{node} is a real device, so this machine needs no iommud there: {elsewhere}")
        raise Unusable(f"{node} is there already, and not ours to take: remove it; or {elsewhere}")
    try:
        fd = os.open(CUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unusable(
            f"{CUSE_DEVICE} is not there: load the kernel module (modprobe cuse), or serve by --fuse PATH"
        ) from None
    except OSError as error:
        raise Unusable(f"{CUSE_DEVICE} cannot be opened ({error.strerror}): `iommud serve` needs root") from None
    yield fd


def _cuse_number(name: str) -> int | None:
    """The device number of the CUSE device of that name, whoever serves it; None: there is none."""
    try:
        with open(f"{CUSE_CLASS}/{name.replace('/', '!')}/dev", encoding="ascii") as file:
            major, minor = map(int, file.read().split(":"))
    except OSError:
        return None
    return os.makedev(major, minor)


def _dress_node(name: str, mode: int, gid: int) -> None:
    """Give the new /dev/`name` its group and mode, after a look that it is the one that CUSE made. Raises Unusable."""
    node = f"/dev/{name}"
    number = _cuse_number(name)
    try:
        fd = os.open(node, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise Unusable(f"{node} did not appear ({error.strerror}): is /dev no devtmpfs? --fuse PATH serves anywhere") from None
    try:
        if os.fstat(fd).st_rdev != number:
            raise Unusable(f"{node} is another device or file, which came there at the same moment, and stays: choose another --cuse NAME")
        itself = f"/proc/self/fd/{fd}"
        os.chown(itself, -1, gid)
        os.chmod(itself, mode)
    except OSError as error:
        raise Unusable(f"{node} cannot be given its group and mode: {error.strerror}") from None
    finally:
        os.close(fd)


def _gid(group: str | None) -> int:
    if group is None:
        return os.getegid()
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Unusable(f"there is no group {group}") from None

