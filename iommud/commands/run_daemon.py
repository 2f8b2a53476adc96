"""What the daemon of `iommud run` does once it is alone: it serves one program, until the program's
namespace has gone. run.py tells how it came to be.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import trio

from cuse_glue.fuse.session import Session, serve_together
from cuse_glue.fuse.tree_node import TreeNode

from ..doors import Door, doors
from ..file.device_file import IommuDevice
from ..file.refusals import Refusals
from ..ops.giving import picked
from ..settings import Settings
from .attributes import attributes
from .daemon import prepare_process
from .handover import Handover
from .machine import taken
from .sys_place import merged
from .sys_plan import pack

if TYPE_CHECKING:
    from cuse_glue.watch.watcher import Watcher

log: Final = logging.getLogger("iommud.commands.run")

# seconds in which the log of a connection that ends with its program can still be written
LAST_WORDS: Final = 1.0


def serve(connection: socket.socket, settings: Settings, watcher: "Watcher | None") -> bool:
    """Serve what the program's process hands over by `connection`. False: it died before that."""
    handed = Handover.receive(connection)
    if handed is None:
        return False
    say = prepare_process(settings)
    device = IommuDevice(
        settings,
        say=say,
        # our own filter, which makes system calls wait for the watcher
        harmless_filters=int(handed.listening is not None),
        places=frozenset(handed.devices),
        others=taken(),
        first_group=handed.first_group,
    )
    sessions = _sessions(handed, settings, device, _begin_to_watch(watcher, handed, settings, device))
    message = b"ready"
    if handed.tree is not None:
        tree, message = _tree(handed.tree, device, say)
        sessions.append(tree)
    elif settings.devices:
        log.warning("there is no /sys for the devices to be seen in")
    for session in sessions if settings.devices else ():
        session.follow(sessions)

    def ready() -> None:
        with connection:
            try:
                connection.send(message)
            except BrokenPipeError:
                pass  # the program was killed while it waited; its namespace goes, and so do we

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hang_up, handed.program)
            nursery.start_soon(_close_on_signal, sessions)
            # A program may lose one device file (umount, pivot_root), and go on with others that it
            # has open.
            await serve_together(sessions, ready, to_the_last=True)
            nursery.cancel_scope.cancel()
        device.shutdown()

    trio.run(main)
    return True


def _begin_to_watch(
    watcher: "Watcher | None", handed: Handover, settings: Settings, device: IommuDevice
) -> Refusals | None:
    """Let the watcher answer the program's system calls. Returns what answers the watcher's
    questions; None: nobody watches.
    """
    if watcher is None:
        return None
    listening = handed.listening
    if listening is None:
        watcher.dismiss()
        log.info("system calls are not watched: %s", handed.unwatched)
        return None
    watcher.watch(
        listening.listener,
        listening.user_namespace,
        {place: os.makedev(*door.number) for place, door in _with_doors(handed.devices, handed, settings)},
        picked(mock=settings.mock, devices=bool(settings.devices)) if listening.ioctls else {},
    )
    return Refusals(watcher.pid, device.host, device.why)


def _with_doors(numbers: list[int], handed: Handover, settings: Settings) -> Iterator[tuple[int, Door]]:
    """Each of the numbers that were handed over, with its door."""
    return zip(numbers, doors(settings, handed.first_group), strict=True)


def _sessions(handed: Handover, settings: Settings, device: IommuDevice, refusals: Refusals | None) -> list[Session]:
    """One for each device file."""
    return [
        Session(
            fuse,
            device.opener(door),
            attributes(door, os.geteuid(), os.getegid()),
            mapped=device.mapped_by(door),
            watched=refusals,
        )
        for fuse, door in _with_doors(handed.connections, handed, settings)
    ]


def _tree(fuse: int, device: IommuDevice, say: Callable[[str], None] | None) -> tuple[Session, bytes]:
    """The session of what is to be seen in /sys, and the steps by which the program's process
    shows it there.
    """
    shown = merged(device, say)
    return Session(fuse, TreeNode(shown.root, os.geteuid(), os.getegid())), pack(shown.steps)


async def _hang_up(program: int) -> None:
    """Let go of the user's stderr when the program (a pidfd) ends, even if something that it
    started lives on.
    """
    await trio.lowlevel.wait_readable(program)
    await trio.sleep(LAST_WORDS)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


async def _close_on_signal(sessions: list[Session]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            for session in sessions:
                session.close()
