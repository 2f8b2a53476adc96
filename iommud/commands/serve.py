"""`iommud serve`: one device for many programs, in the foreground, by CUSE (cuse_place.py) or by
FUSE (fuse_place.py).

The files of PCI devices are served by FUSE in any case. Their registers are read and written at
positions, and CUSE does not tell its server the position (Ref: v7.3 fs/fuse/cuse.c cuse_read_iter:
it is always 0).
"""

import errno
import faulthandler
import grp
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NoReturn

from cuse_glue.errors import Unusable
from cuse_glue.mounts import reach
from cuse_glue.system.priority import go_first

from ..doors import Behind, Door, doors
from ..settings import Settings
from . import cuse_place, fuse_place, limits, stderr
from .fuse_place import FusePlace
from .limits import allow_many_files, fill_standard_descriptors
from .machine import first_group
from .systemd import life_interval, notify, show_life

log: Final = logging.getLogger("iommud.commands.serve")

STOP: Final = (signal.SIGTERM, signal.SIGINT)
REFUSED: Final = 1  # exit statuses; 2 is argparse's
BUG: Final = 70  # EX_SOFTWARE of sysexits.h
TAKEN_AWAY: Final = 75  # EX_TEMPFAIL: another try may succeed at once


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, or until the mount is taken away. Returns the exit status."""
    go_first()
    fill_standard_descriptors()
    stderr.configure(settings.log_level)
    faulthandler.enable(2)  # a watchdog sends SIGABRT: then the log tells where we were
    try:
        limits.check()
        allow_many_files()
        with ExitStack() as stack:
            with _no_interruption():
                reach.check()
                gid = _gid(settings.group)
                by_cuse = settings.fuse is None and (settings.cuse is not None or cuse_place.kernel_has_cuse())
                served = _by_cuse_and_fuse(stack, settings) if by_cuse else _by_fuse(stack, settings)
                tree = None if settings.sysfs is None else stack.enter_context(fuse_place.directory(settings.sysfs))
            return _serve(served, settings, gid, tree)
    except Unusable as error:
        return _refuse(str(error))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            log.exception("bug: the daemon failed")
            return BUG
        return _refuse(f"{error.strerror}: the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} (ulimit -n)")
    except Exception:
        log.exception("bug: the daemon failed")
        return BUG


def _refuse(why: str) -> int:
    stderr.write_line(f"iommud: {why}", logging.ERROR)
    notify("STATUS", f"Refused: {why}")
    return REFUSED


@contextmanager
def _no_interruption() -> Iterator[None]:
    """Delay SIGTERM and SIGINT until the cleaning code knows what was made. Then they raise
    SystemExit.
    """

    def end(*_: object) -> NoReturn:
        for number in STOP:
            signal.signal(number, signal.SIG_IGN)  # a second signal must not stop the cleaning up
        sys.exit(0)

    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    for number in STOP:
        signal.signal(number, end)
    try:
        yield
    except BaseException:
        for number in STOP:
            signal.signal(number, signal.SIG_IGN)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before - set(STOP))


def clean(settings: Settings) -> int:
    """Take away what a killed daemon has left there. What belongs to a living one, or to somebody
    else, stays. Returns the exit status.
    """
    fill_standard_descriptors()
    stderr.configure(settings.log_level)
    try:
        limits.check()
        with _no_interruption():
            for each, remove in _left(settings):
                try:
                    if remove(each):
                        log.warning("%s: a daemon that died had left it", each)
                except Unusable as error:
                    log.info("%s", error)
    except Unusable as error:
        return _refuse(str(error))
    return 0


def _left(settings: Settings) -> Iterator[tuple[str, Callable[[str], bool]]]:
    """What may have been left, and what takes it away; what was made last comes first."""
    if settings.sysfs is not None:
        yield settings.sysfs, fuse_place.clean_directory
    first = settings.fuse or f"/dev/{settings.name}"
    for path, door in reversed(_paths(settings, first)):
        if settings.cuse is None or door.has_regions:
            yield path, fuse_place.clean
    if settings.fuse is None:
        yield from ((name, cuse_place.clean) for name, _ in reversed(_nodes(settings)))


@cache
def _first_group(settings: Settings) -> int:
    return first_group() if settings.devices else 0


def _doors(settings: Settings) -> list[Door]:
    return doors(settings, _first_group(settings))


def _paths(settings: Settings, first: str) -> list[tuple[str, Door]]:
    """Where the files are, for FUSE: the first at the absolute path `first`, the others next to
    it.
    """
    one, *others = _doors(settings)
    return [(first, one), *((os.path.join(os.path.dirname(first), door.name), door) for door in others)]


def _nodes(settings: Settings) -> list[tuple[str, Door]]:
    """The names below /dev, for CUSE, of the doors that CUSE can serve."""
    one, *others = (door for door in _doors(settings) if not door.has_regions)
    return [(one.name if settings.cuse is None else settings.cuse, one), *((door.name, door) for door in others)]


@dataclass(frozen=True, slots=True)
class Served:
    """A connection to the kernel, and what clients open to reach it. `cuse_name`: if it is a
    character device.

    `locks`: descriptors that say that this daemon lives; a child closes them.
    """

    fd: int
    where: str
    door: Door
    cuse_name: str | None = None
    locks: tuple[int, ...] = ()
    path: str = ""


def _by_cuse_and_fuse(stack: ExitStack, settings: Settings) -> list[Served]:
    found = []
    for name, door in _nodes(settings):
        place = stack.enter_context(cuse_place.cuse(name))
        found.append(Served(place.fd, f"/dev/{name} (CUSE)", door, name, place.locks))
    return found + [_by_fuse_at(stack, f"/dev/{door.name}", door) for door in _doors(settings) if door.has_regions]


def _by_fuse(stack: ExitStack, settings: Settings) -> list[Served]:
    found: list[Served] = []
    first = settings.fuse or f"/dev/{settings.name}"
    for number in range(len(_doors(settings))):
        found.append(_by_fuse_at(stack, *_paths(settings, first)[number]))
        if not number:
            first = found[0].path  # without links: the others lie beside the file itself
    return found


def _by_fuse_at(stack: ExitStack, path: str, door: Door) -> Served:
    place = stack.enter_context(fuse_place.fuse(path, door.mode))
    return Served(place.fd, f"{place.path} (FUSE)", door, locks=place.locks, path=place.path)


def _serve(served: list[Served], settings: Settings, gid: int, tree: FusePlace | None) -> int:
    """Returns the exit status. `tree`: where /sys is served."""
    from cuse_glue.broker.broker import Broker, Ending
    from cuse_glue.broker.counts import Table
    from cuse_glue.broker.door import Door as Connection
    from cuse_glue.broker.worker import Links
    from cuse_glue.pins import can_pin

    from .attributes import attributes
    from .shares import note_closing, note_moving
    from .sys_ends import SysfsEnds

    if settings.pin == "uring":
        can_pin.check()
    where = ", ".join([*(each.where for each in served), *([] if tree is None else [f"{tree.path} (/sys)"])])

    table = Table()
    kept = [table.fd]
    ends, alive, needed = None, -1, None
    if tree is not None:
        theirs, alive = os.pipe2(os.O_CLOEXEC)  # `alive` ends with this process
        needed, end = os.pipe2(os.O_CLOEXEC)
        ends = SysfsEnds(tree.fd, theirs, end)

    disks: Any = None  # Disks, whose module is imported only where there are devices
    if settings.devices:
        from ..file.vfio_devices import open_disks

        disks = open_disks(settings)
        kept += disks.descriptors

    def prepare(links: Links) -> Callable[[int, int, Callable[[], None]], None]:
        from . import worker

        return worker.prepare(settings, table, links, ends, _first_group(settings), disks)

    def moving(door: int, giver: int, taker: int) -> None:
        if served[door].door.behind is Behind.GROUP:
            note_moving(table, served[door].door.index, giver, taker)

    broker = Broker(
        [
            Connection(
                each.fd,
                attributes(each.door, os.geteuid(), gid),
                each.cuse_name,
                mappable=each.door.is_mappable(settings),
                moves=each.door.has_regions,
                counted=each.door.behind is Behind.GROUP,
            )
            for each in served
        ],
        settings.shares.workers,
        prepare,
        [*kept, *(ends or ())],
        table.forget,
        lambda door, worker: note_closing(table, door, worker),
        moving,
        needed,
    )
    if ends is not None:
        ends.close()
    refusal: Unusable | None = None

    def ready() -> bool:
        nonlocal refusal
        try:
            for each in served:
                if each.cuse_name is not None:
                    cuse_place.dress_node(each.cuse_name, each.door.mode, gid)
        except Unusable as error:
            refusal = error
            return False
        stderr.write_line(f"iommud: serving {where}")
        notify("READY", "1", "STATUS", f"Serving {where}")
        return True

    ending = broker.serve(ready, show_life, life_interval(), lambda: notify("STOPPING", "1"))
    if alive >= 0:
        os.close(alive)
    if ending is Ending.REFUSED:
        raise refusal or Unusable(
            f"{where} was refused by the kernel: another program made a device of that name at the same time"
        )
    if ending is Ending.TAKEN_AWAY:
        stderr.write_line(f"iommud: {where} was taken away", logging.ERROR)
        return TAKEN_AWAY
    return BUG if ending is Ending.FAILED else 0


def _gid(group: str | None) -> int:
    if group is None:
        return os.getegid()
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Unusable(f"there is no group {group}") from None
