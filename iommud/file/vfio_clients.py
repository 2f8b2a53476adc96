"""What VFIO's device files need of real clients: iommud.vfio.outside.Outside."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from errno import EBADF, EBADFD
from functools import partial
from typing import Final, Protocol

import trio

from cuse_glue.pins.closing import Closer
from cuse_glue.request import recognise
from cuse_glue.request.address_space import Mm
from cuse_glue.request.caller import Caller
from cuse_glue.request.inline import interruptible, leave
from cuse_glue.request.open_file import OpenFile
from cuse_glue.request.recognise import Broker
from cuse_glue.system import libc

from ..engine.device.context import Context
from ..errors import IoctlError
from ..ops.request import Descriptors, Origins
from ..vfio.device import VfioDevice
from ..vfio.outside import Registers
from ..vfio.type1.container import Container
from .eventfds import EventFds
from .vfio_devices import Devices
from .vfio_mapped import Mappings
from .vfio_registers import candidates, find

log: Final = logging.getLogger("iommud")

MOMENT: Final = 0.001  # seconds between two looks
MOMENTS: Final = 1000  # looks; a worker that takes longer to close is stuck, and keeps the device


class Closings(Protocol):
    """Open files that clients have closed and workers have not. A close(2) returns before that."""

    def pending(self, numbers: Collection[int], group: int | None) -> bool:
        """Whether there are such of the devices with these numbers, by their own files or by this
        group's.
        """

    def carried_out(self, group: int) -> None:
        """This process has closed a file that was opened as this group's."""


class Clients:
    """`places`: the devices (st_dev) of our files; None: any file may be one of ours. `behind`:
    what a group or a device can be put into by an open file of ours. `mappings`: of BARs; None:
    there are no devices.

    `broker`: who knows of other workers' open files. None: there are no other workers, as with
    `closings`.
    """

    def __init__(
        self,
        origins: Origins,
        descriptors: Descriptors,
        places: Collection[int] | None,
        behind: Callable[[OpenFile | None], Container | Context | None],
        mappings: Mappings | None,
        devices: Devices,
        *,
        broker: Broker | None = None,
        closings: Closings | None = None,
    ) -> None:
        self.origins = origins
        self.descriptors = descriptors
        self._places: Final = places
        self._behind: Final = behind
        self._mappings: Final = mappings
        self._devices: Final = devices
        self._broker: Final = broker
        self._closings: Final = closings
        self._closer: Final = Closer()

    def eventfds(self, caller: Caller) -> EventFds:
        return EventFds(caller)

    def maps(self, device: VfioDevice, caller: Caller) -> bool:
        why_not = self._mappings.why_not(caller) if self._mappings is not None else "there are no devices"
        if why_not is not None:
            log.warning("the BARs of %s cannot be mapped: %s", device, why_not)
        return why_not is None

    async def context(self, caller: Caller, number: int) -> Context:
        found = await self._found(caller, number)
        if not isinstance(found, Context):
            raise IoctlError(EBADFD, f"descriptor {number} of the caller is no open /dev/iommu of ours")
        return found

    async def container(self, caller: Caller, number: int) -> Container | Context:
        found = await self._found(caller, number)
        if found is None:
            raise IoctlError(EBADFD, f"descriptor {number} of the caller is no open container of ours")
        return found

    async def registers(self, caller: Caller, start: int, length: int) -> list[Registers]:
        try:
            mm = self.origins.address_space(caller).mm
        except OSError:
            return []  # it is gone
        assert isinstance(mm, Mm)
        vmas = [vma for vma in candidates(mm, start, length) if self._places is None or vma.dev in self._places]
        if not vmas:
            return []
        await leave()
        return await trio.to_thread.run_sync(find, mm, vmas)

    async def _found(self, caller: Caller, number: int) -> Container | Context | None:
        """What is behind the caller's descriptor. EBADF: there is none of that number."""
        try:
            fd = caller.descriptor(number)
        except OSError as error:
            if error.errno != EBADF:
                raise
            raise IoctlError(EBADF, f"the caller has no descriptor {number}") from None
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
            os.close(fd)
            raise IoctlError(EBADF, f"descriptor {number} of the caller was opened with O_PATH")
        if self._places is not None and libc.device_of(fd) not in self._places:
            os.close(fd)
            return None
        fetched = [fd]
        try:
            await leave()
            with interruptible():
                # A poll of our own file is answered at once. For another's, only this client waits.
                which = partial(_which, fetched, self._broker)
                return self._behind(await trio.to_thread.run_sync(which, abandon_on_cancel=True))
        finally:
            # A client that was interrupted before a thread began. One of its files that stayed open
            # here would keep us alive for ever.
            with suppress(IndexError):
                self._closer.close(fetched.pop())

    async def quiet(self, group: int | None) -> None:
        if not self._is_closing(group):
            return
        await leave()
        for _ in range(MOMENTS):
            await trio.sleep(MOMENT)
            if not self._is_closing(group):
                return

    def quiet_group(self, number: int) -> None:
        """As `quiet`, of a group's file. Nothing else of this process goes on: one client is
        waiting for its open(2), and all others that could be here are the same user's.
        """
        for _ in range(MOMENTS):
            if not self._is_closing(number):
                return
            time.sleep(MOMENT)

    def _is_closing(self, group: int | None) -> bool:
        return self._closings is not None and self._closings.pending(self._devices.numbers_of_group(group), group)

    def group_closed(self, number: int) -> None:
        """A file that was opened as this group's was closed."""
        if self._closings is not None:
            self._closings.carried_out(number)


def _which(fetched: list[int], broker: Broker | None) -> OpenFile | None:
    """As recognise.which, of the descriptor in `fetched`, unless nobody waits for that any more.
    Takes it from there, and closes it, unless the file is another worker's. Then whoever catches
    `Elsewhere` has it, which keeps the file open.
    """
    try:
        fd = fetched.pop()
    except IndexError:
        return None
    try:
        found = recognise.which(fd, broker)
    except recognise.Elsewhere as elsewhere:
        elsewhere.kept = fd
        raise
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return found
