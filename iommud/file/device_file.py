"""The device file: each open is a context, each ioctl one outcome, and one sentence for whoever
asked why.

This is the one place where an outcome becomes a reply: success is 0, an IoctlError is -errno (and a
line for `--why`), anything else is a bug of ours: EIO to the client and a traceback in the log.
"""

import errno
import gc
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cuse_glue.pins.source import Sources
from cuse_glue.pins.true_pin import TruePins
from cuse_glue.request.caller import Caller
from cuse_glue.request.mapped import Mapped, Show
from cuse_glue.request.open_file import Opener, OpenFile
from cuse_glue.request.recognise import Broker, Elsewhere
from cuse_glue.system.means import lacked
from cuse_glue.tracing.inject import Injector

from ..doors import Behind, Door
from ..engine.device.context import Context
from ..engine.memory.host import Host
from ..engine.memory.share import Share
from ..errors import IoctlError
from ..ops.dispatch import Dispatcher
from ..ops.table import ROWS
from ..ops.vfio import vfio_ioctl
from ..ops.why import Why
from ..pci.address import Address
from ..selftest import kinds
from ..selftest.command import selftest_row
from ..settings import TYPE1, Settings
from ..uapi.names import name_of
from ..vfio.type1.container import Container
from .descriptors import DescriptorBook
from .disk import Disks
from .dma_why import DmaWhy
from .no_data import NoData
from .vfio_clients import Clients, Closings
from .vfio_container import ContainerFile, ContainerOpener
from .vfio_devices import Devices, Shared
from .vfio_file import VfioOpener
from .vfio_group_file import GroupOpener
from .vfio_mapped import Mappings

log: Final = logging.getLogger("iommud")

RUN_IS_GENEROUS: Final = 10.0  # times the lines of `--why` that are for each client of `serve`


@dataclass(slots=True)
class Outcome:
    """How one ioctl ends. `result`: what ioctl(2) returns, or -errno. `refusal`: the broken rule,
    if there was one.
    """

    caller: Caller
    cmd: int
    result: int
    refusal: IoctlError | None = None
    name_of: Callable[[int], str] = name_of  # what `cmd` is called


class Hook(Protocol):
    """Is told of each outcome before the client is."""

    async def after(self, outcome: Outcome) -> None:
        """May change the result, and may wait (cuse_glue.request.inline.leave); must not fail."""


class IommuDevice:
    """What is behind all device files of one daemon, or of one worker: contexts, clients, hooks. It
    is also the opener of /dev/iommu.
    """

    def __init__(
        self,
        settings: Settings = Settings(),  # noqa: B008  # frozen
        *,
        say: Callable[[str], None] | None = None,
        harmless_filters: int | None = None,
        places: Collection[int] | None = None,
        share: Share | None = None,
        announce: Callable[[int], None] | None = None,
        withdraw: Callable[[int], None] | None = None,
        broker: Broker | None = None,
        closings: Closings | None = None,
        shared: Shared | None = None,
        others: Collection[Address] = (),
        first_group: int = 0,
        disks: Disks | None = None,
    ) -> None:
        """`say`: gets a line for each refused ioctl. `harmless_filters`: how many seccomp
        filters the clients have that `iommud run` has put them under; None: it has not started
        them. `places`: the devices (st_dev) that our files are on; None: any.
        `share`: what other processes have of the same users; None: there is no other. `announce`,
        `withdraw`: as Injector. `broker`: who knows of other processes' open files, if there are
        any. `closings`: as Clients. `shared`, `others`, `first_group`,
        `disks`: as Devices.

        Raises Unusable: the machine cannot make true pins; a device cannot be made.
        """
        self.origins: Final = Sources(true_pins=settings.pin == "uring", harmless_filters=harmless_filters)
        self.why = None if say is None else Why(say, RUN_IS_GENEROUS if harmless_filters is not None else 1.0)
        self.host = Host(share)
        self.hooks: list[Hook] = []
        if self.why is not None:
            self.hooks.append(Told(self.why))
        if say is not None and settings.devices:
            self.host.observer = DmaWhy(say)
        if self.origins.true_pins is not None:
            self.hooks.append(Settled(self.origins.true_pins))
        self._open_files = 0
        self._injector = Injector(harmless_filters=harmless_filters, announce=announce, withdraw=withdraw)
        # the mock alone has something to map
        self.mapped = ShownFile(self.host) if settings.mock else None
        rows = (*ROWS, selftest_row(settings.iommu or kinds.DEFAULT)) if settings.mock else ROWS
        descriptors = DescriptorBook(self._injector)
        self.dispatcher = Dispatcher(rows, vfio_ioctl, self.origins, descriptors)
        tell = None if say is None else lambda why: say(f"iommud: {why}")
        self.devices = Devices(
            settings,
            self.host,
            tell,
            shared=shared,
            others=others,
            first_group=first_group,
            claims=share is None,
            disks=disks,
        )
        self.is_type1: Final = settings.vfio == TYPE1
        self._mappings = Mappings(tell) if settings.devices else None
        self._clients = Clients(
            self.origins,
            descriptors,
            places,
            behind,
            self._mappings,
            self.devices,
            broker=broker,
            closings=closings,
        )

    def open(self, caller: Caller, flags: int) -> OpenFile:
        """A new context. But if we made the caller open a file that is being given to it: that
        file.
        """
        given = self.given(caller)
        if given is not None:
            return given
        try:
            file = IommuFile(self)
        except IoctlError as refusal:
            raise self.refused(caller, "open", refusal) from None
        self.opened()
        return file

    def opener(self, door: Door) -> Opener:
        """What opens the files of one door."""
        if door.behind is Behind.DEVICE:
            return VfioOpener(self, self.devices, door.index, self._clients)
        if door.behind is Behind.GROUP:
            return GroupOpener(self, self.devices, door.index, self._clients)
        if door.behind is not Behind.CONTAINER:
            return self
        if self.is_type1:
            return ContainerOpener(self, self.host, self.devices.bus.parameters, self._clients)
        return VfioContainer(self)

    def mapped_by(self, door: Door) -> Mapped | None:
        """What can be mapped through the files of one door."""
        if door.behind in (Behind.DEVICE, Behind.GROUP):
            return self._mappings.of(door) if self._mappings is not None else None
        return self.mapped if door.behind is Behind.IOMMU else None

    def given(self, caller: Caller) -> OpenFile | None:
        """The file that the caller was made to open, if it was."""
        return self._injector.claim(caller)

    async def give(self, caller: Caller, file: OpenFile) -> int:
        """End the caller's ioctl with a descriptor of this file, to read and write; its number.
        Errors: Injector.give.
        """
        flags = os.O_RDWR | os.O_CLOEXEC
        return await self._injector.give(caller, file, flags=flags, address=None, fill=lambda number: b"")

    async def conclude(self, caller: Caller, cmd: int, name_of: Callable[[int], str], work: Awaitable[int]) -> int:
        """The result of an ioctl that `work` carries out: its own, or -errno. Elsewhere: it is
        another worker's to carry it out.
        """
        refusal: IoctlError | None = None
        try:
            result = await work
        except IoctlError as error:
            refusal = error
        except Elsewhere:
            raise
        except Exception as bug:
            if (lack := lacked(bug)) is not None:  # ENOMEM is Linux's for whatever it lacks
                refusal = IoctlError(errno.ENOMEM, lack)
            else:
                log.exception("bug: %s of %s", name_of(cmd), caller.name())
                result = -errno.EIO
        if refusal is not None:
            result = -refusal.errno
        if not self.hooks:
            return result
        outcome = Outcome(caller, cmd, result, refusal, name_of)
        for hook in self.hooks:
            await hook.after(outcome)
        return outcome.result

    def refused(self, caller: Caller, what: str, refusal: IoctlError) -> OSError:
        """What is raised for a refused call that is no ioctl; whoever asked is told why."""
        if self.why is not None:
            self.why.refused(caller, what, refusal)
        return OSError(refusal.errno, os.strerror(refusal.errno))

    def opened(self) -> None:
        """There is one more open file, until `closed`."""
        self._open_files += 1

    def closed(self) -> None:
        """An open file was released. When it was the last one, nothing that is kept about clients
        is worth keeping.
        """
        self._open_files -= 1
        if self.origins.true_pins is not None:
            self.origins.true_pins.settle_soon()
        if not self._open_files:
            self.origins.forget_callers()
            gc.collect()  # nobody waits for an answer now; see `calm_collector`

    def shutdown(self) -> None:
        """The session has ended: let go of what is kept about clients."""
        if self.why is not None:
            self.why.tell()
        self._injector.close()
        if self._mappings is not None:
            self._mappings.close()
        if self.origins.true_pins is not None:
            self.origins.true_pins.close()
        self.origins.forget_callers()


def behind(file: OpenFile | None) -> Container | Context | None:
    """What an open file of ours stands for, if it is one of /dev/iommu or a container."""
    if isinstance(file, ContainerFile):
        return file.container
    return file.context if isinstance(file, IommuFile) else None


class Told:
    """The hook of `--why`."""

    def __init__(self, why: Why) -> None:
        self._why = why

    async def after(self, outcome: Outcome) -> None:
        if outcome.refusal is not None:
            self._why.refused(outcome.caller, outcome.name_of(outcome.cmd), outcome.refusal)


class Settled:
    """The hook of `--pin=uring`: makes true what the ioctl pinned, before the client hears of
    it.
    """

    def __init__(self, true_pins: TruePins) -> None:
        self._true_pins = true_pins

    async def after(self, outcome: Outcome) -> None:
        outcome.result = await self._true_pins.settle(outcome.caller, outcome.result)


class VfioContainer:
    """What a session serves as /dev/vfio/vfio: the same, except that pins count against the
    process, as they always did in VFIO.
    """

    def __init__(self, device: IommuDevice) -> None:
        self._device = device

    def open(self, caller: Caller, flags: int) -> OpenFile:
        file = self._device.open(caller, flags)
        if isinstance(file, IommuFile):
            file.context.set_rlimit_mode(1)  # Ref: v7.3 main.c iommufd_fops_open
        return file


class ShownFile:
    """What of devices can be mapped through the file. It is the session's
    cuse_glue.request.mapped.Mapped.
    """

    def __init__(self, host: Host) -> None:
        self._shown = host.shown

    def begin(self, show: Show) -> None:
        self._shown.announce = show

    def page_in(self, file: OpenFile, toucher: Caller, offset: int, size: int) -> bytes:
        found = self._shown.read(file.context, offset, size) if isinstance(file, IommuFile) else None
        if found is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found

    def page_out(self, offset: int, data: bytes) -> None:
        self._shown.write(offset, data)


class IommuFile(NoData):
    """One open of the device."""

    def __init__(self, device: IommuDevice) -> None:
        self._device = device
        self.context = Context(device.host)

    def ioctl(self, caller: Caller, cmd: int, arg: int) -> Coroutine[Any, Any, int]:
        device = self._device
        return device.conclude(caller, cmd, name_of, device.dispatcher.dispatch(self.context, caller, cmd, arg))

    def release(self) -> None:
        self.context.put()
        self._device.closed()
