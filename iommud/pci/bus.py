"""The PCI bus as Linux's driver core has it: which functions are there, and which driver has each.

A function is plugged in once, and may be removed and found again by a rescan. It has one driver at
most: vfio-pci, or a native one, which stands for a driver of the kernel's own. Native drivers are
asked first whether they take a function.

While vfio-pci has a function there is a VFIO device, with a number. While vfio-pci has any function
of a group there is a VFIO group, with a number. Numbers are the lowest that are free. If somebody
has a device open, its driver is taken away only when the device is closed: the client is asked to
close it.

While a native driver has a function, the DMA of its group is the kernel's (kernel_dma.py).

Ref: v7.3 drivers/base/{bus,dd}.c, drivers/pci/{pci-driver,pci-sysfs}.c,
drivers/vfio/{group,vfio_main}.c
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EBUSY, EINVAL, EIO, ENODEV
from typing import Final, Protocol

from ..errors import IoctlError
from .address import Address
from .driver import NO_DRIVER, VFIO_PCI, Driver
from .function import PciFunction
from .kernel_dma import KernelDma
from .plugged import Plugged
from .type1 import Parameters
from .vfio_pci import VfioPci


class Users(Protocol):
    """Those who have device files: told what comes and goes."""

    def bound(self, plugged: Plugged) -> None:
        """vfio-pci has it now: `plugged.vfio`."""

    async def let_go(self, plugged: Plugged) -> None:
        """It is to be taken away. Ask whoever has it open (Interrupts.tell_request, now and every
        ten seconds), and return when nobody has: `plugged.vfio.opened` is None.
        """

    def unbound(self, plugged: Plugged) -> None:
        """vfio-pci has it no longer: its device file goes."""


class Nobody:
    """There are no device files."""

    def bound(self, plugged: Plugged) -> None:
        pass

    async def let_go(self, plugged: Plugged) -> None:
        pass

    def unbound(self, plugged: Plugged) -> None:
        pass


class Bus:
    """All functions. `first_group`: IOMMU groups are numbered from there on. `dma`: whose the DMA
    of groups is; None: nobody else's but the kernel's.
    """

    def __init__(self, users: Users | None = None, *, first_group: int = 0, dma: KernelDma | None = None) -> None:
        self.users: Users = users or Nobody()
        self.dma: Final = dma or KernelDma()
        self.changed: Callable[[], None] = lambda: None  # after something came, went, or was bound
        self.parameters: Final = Parameters()
        self.autoprobe = True
        self._vfio: Final = Driver(VFIO_PCI)
        self._native: Final[dict[str, Driver]] = {}
        self._plugged: Final[dict[Address, Plugged]] = {}
        self._first_group: Final = first_group
        self._groups: Final[dict[object, int]] = {}  # by what their devices give as `group`
        self._group_numbers: Final[dict[int, int]] = {}  # minors of the groups that vfio-pci uses

    @property
    def drivers(self) -> tuple[Driver, ...]:
        """In the order in which they are asked."""
        return (*self._native.values(), self._vfio)

    def plug(self, function: PciFunction, iommu: str, *, mappable: bool = True, driver: str = VFIO_PCI) -> Plugged:
        """Put a function into its place, and give it to `driver`. "none": to no driver. Any name
        but "vfio-pci": to the native driver of this name, whose table names such functions from now
        on.

        ValueError: the place is taken. EBUSY: KernelDma.use.
        """
        if function.address in self._plugged:
            raise ValueError(f"there is a device at {function.address} already")
        plugged = self._plugged[function.address] = Plugged(function, iommu, mappable=mappable)
        self.parameters.allows_no_iommu |= not plugged.isolated
        self._appear(plugged)
        if driver == VFIO_PCI:
            self._vfio.know(function.identity)
            self._bind(self._vfio, plugged)
        elif driver != NO_DRIVER:
            native = self._native.setdefault(driver, Driver(driver))
            native.made_for(function.identity)
            self._bind(native, plugged)
        self.changed()
        return plugged

    def __iter__(self) -> Iterator[Plugged]:
        """Those that are there, by address."""
        return (self._plugged[address] for address in sorted(self._plugged) if self._plugged[address].present)

    def find(self, name: str) -> Plugged:
        """The device with this address, which a newline may follow. ENODEV: there is none."""
        for plugged in self:
            if plugged.name == name.removesuffix("\n"):
                return plugged
        raise IoctlError(ENODEV, f"there is no device {name.strip()!r} of ours")

    def group_minor(self, group: int) -> int | None:
        """The number of the group's file; None: vfio-pci has none of its devices."""
        return self._group_numbers.get(group)

    # --- what /sys does ---

    def bind(self, driver: Driver, name: str) -> None:
        """drivers/NAME/bind. ENODEV: no such device, or the driver would not take it. EBUSY: it has
        a driver, or KernelDma.use.
        """
        plugged = self.find(name)
        if not driver.matches(plugged.function.identity, plugged.override):
            raise IoctlError(
                ENODEV, f"{driver.name} does not take {plugged.name}: neither its IDs nor driver_override say so"
            )
        if plugged.driver is not None:
            raise IoctlError(EBUSY, f"{plugged.driver} has {plugged.name}")
        self._bind(driver, plugged)
        self.changed()

    async def unbind(self, driver: Driver, name: str) -> None:
        """drivers/NAME/unbind; waits until nobody has it open. ENODEV: the driver does not have
        it.
        """
        plugged = self.find(name)
        if plugged.driver != driver.name:
            raise IoctlError(ENODEV, f"{driver.name} does not have {plugged.name}")
        await self._unbind(plugged)
        self.changed()

    def probe(self, name: str) -> None:
        """drivers_probe: let the first driver take it that would. ENODEV: no such device. EINVAL:
        that driver cannot, because a context has the DMA of the device's group.
        """
        plugged = self.find(name)
        if plugged.driver is not None:
            return
        try:
            self._probe(plugged)
        except IoctlError as refusal:
            raise IoctlError(EINVAL, str(refusal.why)) from None
        self.changed()

    def new_id(self, driver: Driver, text: str) -> None:
        """The driver takes such devices from now on, and at once those that are there and have no
        driver. EINVAL, EEXIST: Driver.new_id.
        """
        driver.new_id(text)
        for plugged in self:
            if plugged.driver is None and driver.matches(plugged.function.identity, plugged.override):
                with suppress(IoctlError):
                    self._bind(driver, plugged)
        self.changed()

    async def remove(self, plugged: Plugged) -> None:
        """Take the device off the bus, its driver first; a rescan finds it again."""
        while plugged.driver is not None:  # somebody else may bind it while we wait
            await self._unbind(plugged)
        if not plugged.present:
            return  # somebody else did it meanwhile
        plugged.present = False
        plugged.override = None
        plugged.enabled = 0
        self._leave_group(plugged)
        self.changed()

    def follow(self, plugged: Plugged, number: int | None) -> None:
        """Do as another process, which has the bus: there vfio-pci has this device, by this number;
        None: it does not have it. Nobody may have the device open here.
        """
        plugged.native = None  # whoever has it there: it is nothing to clients
        if number is None:
            plugged.vfio = plugged.number = None
            return
        if plugged.vfio is None:
            plugged.vfio = VfioPci(plugged.host, mappable=plugged.mappable)
        plugged.number = number

    def rescan(self) -> None:
        """Find what was removed."""
        for plugged in self._plugged.values():
            if not plugged.present:
                self._appear(plugged)
                if self.autoprobe:
                    with suppress(IoctlError):
                        self._probe(plugged)
        self.changed()

    def enable(self, plugged: Plugged, on: bool) -> None:
        """`enable` of a device. EBUSY: it has a driver. EIO: it is not enabled."""
        if plugged.driver is not None:
            raise IoctlError(EBUSY, f"{plugged.name} has a driver, whose it is to enable it")
        if on:
            _enable(plugged)
            return
        if not plugged.enabled:
            raise IoctlError(EIO, f"{plugged.name} is not enabled")
        _disable(plugged)

    def _appear(self, plugged: Plugged) -> None:
        plugged.present = True
        if plugged.isolated:
            self._join_group(plugged)

    def _probe(self, plugged: Plugged) -> None:
        """EBUSY: KernelDma.use. No other driver is asked then, as in the kernel."""
        for driver in self.drivers:
            if driver.matches(plugged.function.identity, plugged.override):
                self._bind(driver, plugged)
                return

    def _bind(self, driver: Driver, plugged: Plugged) -> None:
        """EBUSY: KernelDma.use."""
        if driver is self._vfio:
            self._bind_vfio(plugged)
            return
        self.dma.use(plugged)
        plugged.native = driver.name
        _enable(plugged)

    def _bind_vfio(self, plugged: Plugged) -> None:
        if not plugged.isolated:  # VFIO makes a group for such a device, while vfio-pci has it
            self._join_group(plugged)
        plugged.vfio = VfioPci(plugged.host, mappable=plugged.mappable)
        plugged.number = _free({other.number for other in self._plugged.values()}, 0)
        assert plugged.group is not None
        if plugged.group not in self._group_numbers:
            self._group_numbers[plugged.group] = _free(set(self._group_numbers.values()), 0)
        self.users.bound(plugged)

    async def _unbind(self, plugged: Plugged) -> None:
        if plugged.native is not None:
            plugged.native = None
            _disable(plugged)
            self.dma.leave(plugged)
            return
        vfio = plugged.vfio
        await self.users.let_go(plugged)
        if plugged.vfio is not vfio:
            return  # somebody else did it meanwhile
        plugged.vfio = None
        self.users.unbound(plugged)
        plugged.number = None
        group = plugged.group
        assert group is not None
        if all(other.vfio is None or other.group != group for other in self._plugged.values()):
            del self._group_numbers[group]
        if not plugged.isolated:
            self._leave_group(plugged)

    def _join_group(self, plugged: Plugged) -> None:
        key = plugged.group_key
        if key not in self._groups:
            self._groups[key] = _free(set(self._groups.values()), self._first_group)
        plugged.group = self._groups[key]

    def _leave_group(self, plugged: Plugged) -> None:
        group, plugged.group = plugged.group, None
        if all(other.group != group for other in self._plugged.values()):
            self._groups.pop(plugged.group_key, None)


def _enable(plugged: Plugged) -> None:
    """Ref: v7.3 drivers/pci/pci.c pci_enable_device"""
    plugged.enabled += 1
    plugged.host.enable()


def _disable(plugged: Plugged) -> None:
    """Ref: v7.3 drivers/pci/pci.c pci_disable_device"""
    plugged.enabled -= 1
    if not plugged.enabled:
        plugged.host.clear_master()


def _free(taken: set[int | None] | set[int], least: int) -> int:
    while least in taken:
        least += 1
    return least
