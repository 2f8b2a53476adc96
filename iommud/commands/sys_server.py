"""`iommud serve --sysfs DIR`: a process that has the PCI bus, and serves what /sys shows of it.

This process touches nothing of clients, so no client delays it. It decides whether vfio-pci has a
device, and by which number, and writes that into the table that all workers share. Workers look
there when a device is opened. To take a device away, this process first writes so, then waits until
no worker has the device open. Meanwhile it asks whoever has the device to give it back, as Linux
does.

No client drives the functions of this process: each worker has functions of its own
(file/vfio_file.py). So files that tell a device's state (`config`, `enable`, `power_state`) show
the state of a device that nobody has.

Ref: v7.3 vfio_main.c vfio_unregister_group_dev
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Collection, Hashable
from typing import Final, NoReturn

import trio

from cuse_glue.broker.channel import NOTE, WANT
from cuse_glue.broker.counts import Table
from cuse_glue.fuse.session import Session
from cuse_glue.fuse.tree_node import TreeNode
from cuse_glue.request.inline import interruptible, leave
from cuse_glue.system import detach

from ..file.disk import Disks
from ..file.vfio_devices import ASK_AGAIN, plug
from ..pci.address import Address
from ..pci.bus import Bus
from ..pci.kernel_dma import KernelDma
from ..pci.plugged import Plugged
from ..settings import Settings
from . import stderr
from .shares import KERNEL, SharedBus
from .sys_ends import SysfsEnds
from .sys_place import tree_of

log: Final = logging.getLogger("iommud.commands.serve")

MOMENT: Final = 0.005  # seconds between two looks at whether a device is still open
LOOKS: Final = 40  # at whether a group is free; a worker that takes longer has it


def start(
    settings: Settings,
    table: Table,
    notes: socket.socket,
    ends: SysfsEnds,
    others: Collection[Address],
    group: int,
    disks: Disks | None,
) -> None:
    """Fork this process out of one that has one thread. `others`, `group`, `disks`: as for
    Devices.
    """
    if os.fork() == 0:
        _be(settings, table, notes, ends, others, group, disks)
    ends.close()


def _be(
    settings: Settings,
    table: Table,
    notes: socket.socket,
    ends: SysfsEnds,
    others: Collection[Address],
    group: int,
    disks: Disks | None,
) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        detach.close_all_but(*ends, table.fd, notes.fileno())
        detach.name("iommud-sysfs")
        keeper = Keeper(SharedBus(table, KERNEL), notes, group)
        for _ in plug(settings, keeper.bus, others, None, disks):
            pass
        tree = tree_of(keeper.bus, stderr.write_line if settings.why else None)
        trio.run(_serve, Session(ends.tree, TreeNode(tree.root, os.geteuid(), os.getegid())), ends.alive)
        status = 0
    except Exception:
        log.exception("bug: the process for /sys")
    finally:
        os._exit(status)


async def _serve(session: Session, alive: int) -> None:
    async def end_with_the_broker() -> None:
        await trio.lowlevel.wait_readable(alive)
        session.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_with_the_broker)
        await session.serve()
        nursery.cancel_scope.cancel()


class Keeper:
    """Has the bus, and tells workers what becomes of it: pci.bus.Users."""

    def __init__(self, shared: SharedBus, notes: socket.socket, first_group: int) -> None:
        self.bus: Final = Bus(self, first_group=first_group, dma=KernelDma(self._claim, shared.release))
        self._shared = shared
        self._notes = notes

    def _claim(self, group: Hashable) -> bool:
        """Whoever has closed a device may bind its mate's driver next, but the worker carries the
        close out a little later. So look for a while. Nobody but root can make us wait.
        """
        for _ in range(LOOKS):
            if self._shared.claim(group):
                return True
            time.sleep(MOMENT)
        return self._shared.claim(group)

    def bound(self, plugged: Plugged) -> None:
        assert plugged.number is not None
        self._shared.keep(plugged.name, plugged.number)

    async def let_go(self, plugged: Plugged) -> None:
        """As file.vfio_devices.Devices. From here on nobody can open the device."""
        number, name = plugged.number, plugged.name
        assert number is not None
        self._shared.keep(name, -1)
        if not self._shared.open_files(name):
            return
        await leave()
        ask = trio.current_time()
        try:
            while self._shared.open_files(name):
                if trio.current_time() >= ask:
                    ask += ASK_AGAIN
                    for worker in self._shared.who_has(name):
                        self._notes.send(NOTE.pack(WANT, 0, worker, number))
                with interruptible():
                    await trio.sleep(MOMENT)
        except trio.Cancelled:
            self._shared.keep(name, number)
            raise

    def unbound(self, plugged: Plugged) -> None:
        pass
