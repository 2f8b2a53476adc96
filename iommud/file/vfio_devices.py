"""The devices that were asked for, made and plugged into a bus."""

from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Final, Protocol

import trio

from cuse_glue.errors import Unusable
from cuse_glue.request.inline import interruptible, leave

from ..engine.device.iommu import Iommu
from ..engine.memory.host import Host
from ..engine.memory.share import Everywhere
from ..iommus.kinds import CLASSES, new_iommu
from ..models.plan import Planned, plan
from ..models.registry import BadDevice, make
from ..pci.address import Address
from ..pci.bars import Windows
from ..pci.bus import Bus
from ..pci.function import Slot
from ..pci.kernel_dma import KernelDma
from ..pci.plugged import Plugged
from ..settings import Settings
from ..vfio.device import VfioDevice
from ..vfio.group import Groups, VfioGroup
from .clock import Clock
from .disk import Disks

ASK_AGAIN: Final = 10.0  # seconds. Ref: v7.3 vfio_main.c vfio_unregister_group_dev


class Shared(Protocol):
    """What is known of devices in all processes that have them. `name`: a device's address."""

    def number(self, name: str) -> int | None:
        """The number that the device has now; -1: vfio-pci does not have it. None: nobody has said
        anything of it, so it is as it was at the start.
        """

    def opened(self, name: str, count: int) -> None:
        """`count` more files of it are open here; negative: fewer."""


def plug(
    settings: Settings, bus: Bus, others: Collection[Address], why: Callable[[str], None] | None, disks: Disks | None
) -> Iterator[Plugged]:
    """Make all devices, and put them into their places. `disks`: that were opened already.
    Unusable: one cannot be made.
    """
    clock, windows, disks = Clock(), Windows(), disks or Disks()
    try:
        for each in _planned(settings, others):
            function = make(each.spec, Slot(each.address, clock, windows, _group(each), disks.of(each.address)))
            function.why = why
            yield bus.plug(function, each.kind, mappable=each.spec.mappable, driver=each.spec.driver)
    except BadDevice as error:
        raise Unusable(str(error)) from None


def open_disks(settings: Settings) -> Disks:
    """For processes that have the same devices. Unusable: as `plug`."""
    disks = Disks()
    try:
        for each in _planned(settings, ()):
            make(each.spec, Slot(each.address, storage=disks.of(each.address)))
    except BadDevice as error:
        raise Unusable(str(error)) from None
    return disks


def groups_of_the_kernel(settings: Settings, others: Collection[Address]) -> set[Everywhere]:
    """The groups of which a native driver has a device at the start. Unusable: as `plug`."""
    try:
        planned = _planned(settings, others)
    except BadDevice as error:
        raise Unusable(str(error)) from None
    return {_group(each) for each in planned if each.isolated and each.has_native_driver}


def _planned(settings: Settings, others: Collection[Address]) -> list[Planned]:
    return plan(settings.devices, CLASSES, settings.iommu_of_devices, others)


def _group(planned: Planned) -> Everywhere:
    alone = planned.spec.group is None
    return Everywhere(f"device {planned.address}" if alone else f"group {planned.spec.group}")


class Devices:
    """All devices. Each is found by the number of its file while vfio-pci has it."""

    def __init__(
        self,
        settings: Settings,
        host: Host,
        why: Callable[[str], None] | None,
        *,
        shared: Shared | None = None,
        others: Collection[Address] = (),
        first_group: int = 0,
        claims: bool = True,
        disks: Disks | None = None,
    ) -> None:
        """`host`: that of clients' contexts. `why` gets a sentence for each DMA that cannot even
        begin. `shared`: what is known in other processes with the same devices; None: there are
        none. `others`: addresses of the machine's own devices. `first_group`: from this number on
        the machine has no IOMMU groups. `claims`: what native drivers have is claimed in `host`;
        otherwise another process has done that. `disks`: that were opened already. Unusable: a
        device cannot be made.
        """
        self._host: Final = host
        dma = KernelDma(self._claim, host.release) if claims else KernelDma()
        self.bus: Final = Bus(self, first_group=first_group, dma=dma)
        self.groups: Final = Groups(host)
        self._by_function: Final[dict[Plugged, VfioDevice]] = {}
        self._idle = trio.Event()
        self._shared: Final = shared
        iommus: dict[str, Iommu] = {}  # one of each kind
        for plugged in plug(settings, self.bus, others, why, disks):
            if plugged.iommu not in iommus:
                iommus[plugged.iommu] = new_iommu(plugged.iommu)
            device = self._by_function[plugged] = VfioDevice(plugged, iommus[plugged.iommu], host.share)
            if plugged.vfio is not None:
                self.groups.add(device)

    def _claim(self, group: Hashable) -> bool:
        if self._host.is_claimed(group):
            return False
        self._host.claim(group, self.bus)
        return True

    def open(self, number: int) -> VfioDevice | None:
        """The device whose file has this number; one more open file of it is counted. None: there
        is no such device.
        """
        self._follow()
        for plugged, device in self._by_function.items():
            if plugged.vfio is not None and plugged.number == number:
                # Whoever takes a device away first says so, and then looks for open files. So count
                # first, and then look at the number.
                self.opening(device)
                if self._shared is None or self._shared.number(plugged.name) in (None, number):
                    return device
                self.close(device)
        return None

    def opening(self, device: VfioDevice) -> None:
        """It has one open file more, until `close`."""
        device.files += 1
        if self._shared is not None:
            self._shared.opened(device.plugged.name, 1)

    def group(self, number: int) -> VfioGroup | None:
        """The group whose file has this number. None: vfio-pci has no device of it."""
        self._follow()
        return self.groups.find(number)

    def _follow(self) -> None:
        if self._shared is None:
            return
        for plugged, device in self._by_function.items():
            number = self._shared.number(plugged.name)
            if number is None or device.files:
                continue
            had = plugged.vfio is not None
            self.bus.follow(plugged, None if number < 0 else number)
            if plugged.vfio is not None and not had:
                self.groups.add(device)
            elif had and plugged.vfio is None:
                self.groups.remove(device)

    def wanted(self, number: int) -> None:
        """The device with this number is wanted back: ask whoever has it here."""
        for plugged in self._by_function:
            if plugged.number == number and plugged.vfio is not None and plugged.vfio.opened is not None:
                plugged.vfio.opened.irqs.tell_request()

    def numbers_of_group(self, group: int | None) -> list[int]:
        """The numbers of the files of all devices that are in this group."""
        return [each.number for each in self._by_function if each.number is not None and each.group == group]

    def close(self, device: VfioDevice) -> None:
        """One of its files was closed."""
        device.files -= 1
        if self._shared is not None:
            self._shared.opened(device.plugged.name, -1)
        if not device.files:
            self._idle.set()
            self._idle = trio.Event()

    # --- what the bus tells ---

    def bound(self, plugged: Plugged) -> None:
        device = self._by_function.get(plugged)
        if device is not None:  # None: it is being made
            self.groups.add(device)

    async def let_go(self, plugged: Plugged) -> None:
        """Ask whoever has the device open to close it, and wait. A signal to the client that waits
        ends the wait, and all is as it was. That client may have the device open itself, and could
        not be killed otherwise.

        Ref: v7.3 vfio_main.c vfio_unregister_group_dev
        """
        device = self._by_function[plugged]
        self.groups.hide(device)
        try:
            await self._wait_until_closed(device, plugged)
        except BaseException:
            self.groups.show(device)
            raise

    async def _wait_until_closed(self, device: VfioDevice, plugged: Plugged) -> None:
        if device.files:
            await leave()
        while device.files:
            if plugged.vfio is not None and plugged.vfio.opened is not None:
                plugged.vfio.opened.irqs.tell_request()
            with interruptible(), trio.move_on_after(ASK_AGAIN):
                await self._idle.wait()

    def unbound(self, plugged: Plugged) -> None:
        self.groups.remove(self._by_function[plugged])
