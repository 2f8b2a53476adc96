"""The PCI bus as Linux's driver core has it: which functions are there, and which of them vfio-pci
has.

A function is plugged in once, and may be removed and found again by a rescan. vfio-pci takes a
function whose ID it was told (`new_id`), or that is to have no other driver (`driver_override`).
While vfio-pci has a function there is a VFIO device, with a number. While vfio-pci has any function
of a group there is a VFIO group, with a number. Numbers are the lowest that are free. If somebody
has a device open, its driver is taken away only when the device is closed: the client is asked to
close it.

Ref: v7.3 drivers/base/{bus,dd}.c, drivers/pci/{pci-driver,pci-sysfs}.c,
drivers/vfio/{group,vfio_main}.c
"""

from collections.abc import Callable, Iterator
from errno import EBUSY, EEXIST, EIO, ENODEV
from typing import Final, Protocol

from ..errors import IoctlError
from .address import Address
from .function import PciFunction
from .host import Host
from .ids import DynamicId
from .type1 import Parameters
from .vfio_pci import VfioPci

DRIVER: Final = "vfio-pci"


class Users(Protocol):
    """Those who have device files: told what comes and goes."""

    def bound(self, plugged: "Plugged") -> None:
        """vfio-pci has it now: `plugged.vfio`."""

    async def let_go(self, plugged: "Plugged") -> None:
        """It is to be taken away. Ask whoever has it open (Interrupts.tell_request, now and every
        ten seconds), and return when nobody has: `plugged.vfio.opened` is None.
        """

    def unbound(self, plugged: "Plugged") -> None:
        """vfio-pci has it no longer: its device file goes."""


class Nobody:
    """There are no device files."""

    def bound(self, plugged: "Plugged") -> None:
        pass

    async def let_go(self, plugged: "Plugged") -> None:
        pass

    def unbound(self, plugged: "Plugged") -> None:
        pass


class Plugged:
    """A function in its place. `iommu`: the kind that it stands behind; `group`: its IOMMU group's
    number, None: it has none.
    """

    def __init__(self, function: PciFunction, iommu: str, *, mappable: bool) -> None:
        self.function: Final = function
        self.host: Final = Host(function)
        self.iommu: Final = iommu
        self.mappable: Final = mappable
        self.present = False
        self.group: int | None = None
        self.vfio: VfioPci | None = None  # while vfio-pci has it
        self.number: int | None = None  # the VFIO device's
        self.override: str | None = None
        self.enabled = 0  # how often, by `enable`

    @property
    def name(self) -> str:
        return str(self.function.address)

    @property
    def isolated(self) -> bool:
        """It stands behind an IOMMU."""
        return self.iommu != "none"

    @property
    def group_key(self) -> object:
        """What all devices of its group have in common. Without an IOMMU each is alone."""
        return self.function.group if self.isolated else self

    @property
    def vfio_name(self) -> str:
        """Its device file's name: vfio0."""
        return f"{'' if self.isolated else 'noiommu-'}vfio{self.number}"

    @property
    def group_name(self) -> str:
        """Its group's file's name: 7, or noiommu-7."""
        return f"{'' if self.isolated else 'noiommu-'}{self.group}"


class Bus:
    """All functions. `first_group`: IOMMU groups are numbered from there on."""

    def __init__(self, users: Users | None = None, *, first_group: int = 0) -> None:
        self.users: Users = users or Nobody()
        self.changed: Callable[[], None] = lambda: None  # after something came, went, or was bound
        self.ids: Final[list[DynamicId]] = []
        self.parameters: Final = Parameters()
        self.autoprobe = True
        self._plugged: Final[dict[Address, Plugged]] = {}
        self._first_group: Final = first_group
        self._groups: Final[dict[object, int]] = {}  # by what their devices give as `group`
        self._group_numbers: Final[dict[int, int]] = {}  # minors of the groups that vfio-pci uses

    def plug(self, function: PciFunction, iommu: str, *, mappable: bool = True, driver: str = DRIVER) -> Plugged:
        """Put a function into its place, and give it to `driver`, "vfio-pci" or "none".

        ValueError: the place is taken.
        """
        if function.address in self._plugged:
            raise ValueError(f"there is a device at {function.address} already")
        plugged = self._plugged[function.address] = Plugged(function, iommu, mappable=mappable)
        self.parameters.allows_no_iommu |= not plugged.isolated
        if driver == DRIVER:
            wanted = DynamicId(function.identity.vendor, function.identity.device)
            if wanted not in self.ids:
                self.ids.append(wanted)
        self._appear(plugged, probe=driver == DRIVER)
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

    def bind(self, name: str) -> None:
        """drivers/vfio-pci/bind. ENODEV: no such device, or the driver would not take it. EBUSY: it
        has a driver.
        """
        plugged = self.find(name)
        if not self.matches(plugged):
            raise IoctlError(
                ENODEV, f"{DRIVER} does not take {plugged.name}: neither new_id nor driver_override says so"
            )
        if plugged.vfio is not None:
            raise IoctlError(EBUSY, f"{plugged.name} has a driver")
        self._bind(plugged)
        self.changed()

    async def unbind(self, name: str) -> None:
        """drivers/vfio-pci/unbind; waits until nobody has it open. ENODEV: vfio-pci does not have
        it.
        """
        plugged = self.find(name)
        if plugged.vfio is None:
            raise IoctlError(ENODEV, f"{DRIVER} does not have {plugged.name}")
        await self._unbind(plugged)
        self.changed()

    def probe(self, name: str) -> None:
        """drivers_probe: let the driver take it, if it would. ENODEV: no such device."""
        plugged = self.find(name)
        if plugged.vfio is None and self.matches(plugged):
            self._bind(plugged)
            self.changed()

    def new_id(self, text: str) -> None:
        """The driver takes such devices from now on, and at once those that are there. EINVAL:
        DynamicId.parse. EEXIST: the driver was told this ID already.
        """
        wanted = DynamicId.parse(text)
        if wanted in self.ids:
            raise IoctlError(EEXIST, f"{DRIVER} was told {text.strip()!r} already")
        self.ids.append(wanted)
        for plugged in self:
            if plugged.vfio is None and self.matches(plugged):
                self._bind(plugged)
        self.changed()

    def remove_id(self, text: str) -> None:
        """Forget an ID. The driver keeps the devices that it has. EINVAL: DynamicId.parse. ENODEV:
        the driver was not told this ID.
        """
        unwanted = DynamicId.parse(text)
        for known in self.ids:
            if unwanted.names(known):
                self.ids.remove(known)
                return
        raise IoctlError(ENODEV, f"{DRIVER} was not told {text.strip()!r}")

    async def remove(self, plugged: Plugged) -> None:
        """Take the device off the bus, its driver first; a rescan finds it again."""
        if plugged.vfio is not None:
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
                self._appear(plugged, probe=self.autoprobe)
        self.changed()

    def enable(self, plugged: Plugged, on: bool) -> None:
        """`enable` of a device. EBUSY: it has a driver. EIO: it is not enabled."""
        if plugged.vfio is not None:
            raise IoctlError(EBUSY, f"{plugged.name} has a driver, whose it is to enable it")
        if on:
            plugged.enabled += 1
            plugged.host.enable()
            return
        if not plugged.enabled:
            raise IoctlError(EIO, f"{plugged.name} is not enabled")
        plugged.enabled -= 1
        if not plugged.enabled:
            plugged.host.clear_master()

    def matches(self, plugged: Plugged) -> bool:
        """vfio-pci would take it. Ref: v7.3 drivers/pci/pci-driver.c pci_match_device"""
        if plugged.override is not None:
            return plugged.override == DRIVER
        return any(known.matches(plugged.function.identity) for known in self.ids)

    def _appear(self, plugged: Plugged, *, probe: bool) -> None:
        plugged.present = True
        if plugged.isolated:
            self._join_group(plugged)
        if probe and self.matches(plugged):
            self._bind(plugged)

    def _bind(self, plugged: Plugged) -> None:
        if not plugged.isolated:  # VFIO makes a group for such a device, while vfio-pci has it
            self._join_group(plugged)
        plugged.vfio = VfioPci(plugged.host, mappable=plugged.mappable)
        plugged.number = _free({other.number for other in self._plugged.values()}, 0)
        assert plugged.group is not None
        if plugged.group not in self._group_numbers:
            self._group_numbers[plugged.group] = _free(set(self._group_numbers.values()), 0)
        self.users.bound(plugged)

    async def _unbind(self, plugged: Plugged) -> None:
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


def _free(taken: set[int | None] | set[int], least: int) -> int:
    while least in taken:
        least += 1
    return least
