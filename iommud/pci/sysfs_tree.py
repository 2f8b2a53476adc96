"""/sys as the functions of a bus make it: their directories, and all that names them elsewhere.

`SysfsTree(bus, ...)` has `entries`, by path below /sys. After the bus has changed (a driver was
bound, a device removed, MSI turned on), `refresh` makes them anew and tells what is different, so
that whoever shows the tree can follow. Entries whose path and kind stay the same are the same
objects. Directories may be there already, with the machine's own things.

Ref: v7.3 drivers/iommu/{iommu,iommu-sysfs}.c, drivers/vfio/{group,vfio_main,device_cdev}.c,
drivers/base/bus.c
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from errno import EINVAL, EPERM
from functools import partial
from typing import Final, Protocol

from ..errors import IoctlError
from . import sysfs_device
from .bus import Bus
from .driver import VFIO_PCI, Driver
from .plugged import Plugged
from .sysfs import Directory, Entry, File, Link, boolean, constant, number, text
from .type1 import Parameters

MODULES: Final = ("vfio", "vfio_pci", "vfio_pci_core", "vfio_iommu_type1", "iommufd")


class IommuShown(Protocol):
    """What /sys tells of an IOMMU: iommud.iommus.shown."""

    @property
    def name(self) -> str:
        """As Linux calls it."""
        ...

    @property
    def files(self) -> Mapping[str, str]:
        """Of its own directory: {"intel-iommu/cap": ...}."""
        ...

    @property
    def reserved(self) -> Sequence[tuple[int, int, str]]:
        """IOVAs that its devices cannot use: first, last, and why: "msi", "reserved"."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """What the tree needs to know of where it is shown.

    `device_major` and `group_major`: the major numbers of VFIO's devices and groups, which no other
    device has. `iommus`: the kinds that devices stand behind, but for "none".
    """

    cpus: int = 1
    device_major: int = 511
    group_major: int = 510
    iommus: Mapping[str, IommuShown] = field(default_factory=dict)
    type1: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """From one tree to the next. `added` has what was replaced, too."""

    added: dict[str, Entry]
    removed: list[str]


class SysfsTree:
    """The entries as they are, by path below /sys, a directory before what is in it."""

    def __init__(self, bus: Bus, machine: Machine) -> None:
        self._bus: Final = bus
        self._machine: Final = machine
        self._kept: dict[tuple[Plugged | None, str], Entry] = {}
        self._types: dict[int, str] = {}  # of groups, where somebody has chosen
        self.entries: dict[str, Entry] = dict(self._all())

    def refresh(self) -> Changes:
        """After a change."""
        self._kept = {key: entry for key, entry in self._kept.items() if key[0] is None or key[0].present}
        before, self.entries = self.entries, dict(self._all())
        added = {path: entry for path, entry in self.entries.items() if before.get(path) != entry}
        return Changes(added, [path for path in reversed(before) if path not in self.entries])

    def _all(self) -> Iterator[tuple[str, Entry]]:
        yield from self._bus_files()
        for module in MODULES:
            yield f"module/{module}", Directory()
        # Linux has no such name. driverctl looks for it; where it is missing, driverctl asks
        # modprobe, which knows no such module here.
        yield f"module/{VFIO_PCI}", Link("vfio_pci")
        yield "module/vfio/parameters", Directory()
        unsafe = any(not plugged.isolated for plugged in self._bus)
        yield (
            "module/vfio/parameters/enable_unsafe_noiommu_mode",
            self._keep(None, "unsafe", constant("Y\n" if unsafe else "N\n", 0o644)),
        )
        if self._machine.type1:
            yield from self._type1()
        for plugged in self._bus:
            yield from self._device(plugged)
        for kind in sorted({plugged.iommu for plugged in self._bus if plugged.isolated}):
            yield from self._iommu(kind)
        yield from self._groups()

    def _type1(self) -> Iterator[tuple[str, Entry]]:
        """The parameters of VFIO's own container."""
        home, said = "module/vfio_iommu_type1/parameters", self._bus.parameters
        yield home, Directory()
        for name in ("allow_unsafe_interrupts", "disable_hugepages"):
            show = text(partial(_show_switch, said, name), partial(_store_switch, said, name))
            yield f"{home}/{name}", self._keep(None, f"{home}/{name}", show)
        limit = text(lambda: f"{said.dma_entry_limit}\n", said.set_limit)
        yield f"{home}/dma_entry_limit", self._keep(None, f"{home}/dma_entry_limit", limit)

    def _bus_files(self) -> Iterator[tuple[str, Entry]]:
        bus = self._bus
        for directory in ("bus/pci", "bus/pci/devices", "bus/pci/drivers", "bus/pci/slots"):
            yield directory, Directory()
        for name, entry in (
            ("bus/pci/rescan", text(None, lambda said: bus.rescan() if number(said) else None)),
            ("bus/pci/drivers_probe", text(None, bus.probe)),
            ("bus/pci/drivers_autoprobe", text(lambda: f"{bus.autoprobe:d}\n", self._set_autoprobe)),
        ):
            yield name, self._keep(None, name, entry)
        for driver in bus.drivers:
            yield from self._driver_files(driver)

    def _driver_files(self, driver: Driver) -> Iterator[tuple[str, Entry]]:
        bus, home = self._bus, f"bus/pci/drivers/{driver.name}"
        yield home, Directory()
        for name, entry in (
            (f"{home}/bind", text(None, lambda said: bus.bind(driver, said))),
            (f"{home}/unbind", text(None, lambda said: bus.unbind(driver, said))),
            (f"{home}/new_id", text(None, lambda said: bus.new_id(driver, said))),
            (f"{home}/remove_id", text(None, driver.remove_id)),
            (f"{home}/uevent", text(None, sysfs_device.event)),
        ):
            yield name, self._keep(None, name, entry)
        yield f"module/{driver.module}", Directory()
        yield f"{home}/module", _link(home, f"module/{driver.module}")

    def _device(self, plugged: Plugged) -> Iterator[tuple[str, Entry]]:
        home = _home(plugged)
        yield from self._root_bus(plugged)
        yield home, Directory()
        for name, entry in sysfs_device.files(self._bus, plugged, self._machine.cpus):
            yield f"{home}/{name}", self._keep(plugged, name, entry)
        yield f"{home}/subsystem", _link(home, "bus/pci")
        yield f"bus/pci/devices/{plugged.name}", _link("bus/pci/devices", home)
        if plugged.isolated:
            yield f"{home}/iommu", _link(home, f"devices/virtual/iommu/{self._machine.iommus[plugged.iommu].name}")
        if plugged.group is not None:
            yield f"{home}/iommu_group", _link(home, f"kernel/iommu_groups/{plugged.group}")
        if plugged.driver is not None:
            driver = f"bus/pci/drivers/{plugged.driver}"
            yield f"{home}/driver", _link(home, driver)
            yield f"{driver}/{plugged.name}", _link(driver, home)
        if plugged.vfio is None:
            return
        name, numbers = plugged.vfio_name, f"{self._machine.device_major}:{plugged.number}"
        there = f"{home}/vfio-dev/{name}"
        yield f"{home}/vfio-dev", Directory()
        yield from self._character(there, "vfio-dev", numbers, f"vfio/devices/{name}")
        yield f"{there}/device", Link(f"../../../{plugged.name}")

    def _root_bus(self, plugged: Plugged) -> Iterator[tuple[str, Entry]]:
        """The host bridge that it is behind."""
        root, cpus = _root(plugged), self._machine.cpus
        name = root.removeprefix("devices/pci")
        there = f"{root}/pci_bus/{name}"
        every = f"0-{cpus - 1}" if cpus > 1 else "0"
        for directory in (root, f"{root}/pci_bus", there, "class/pci_bus"):
            yield directory, Directory()
        for path, entry in (
            (f"{root}/uevent", text(lambda: "", sysfs_device.event)),
            (f"{there}/uevent", text(lambda: "", sysfs_device.event)),
            (f"{there}/cpuaffinity", constant(sysfs_device.cpu_mask(cpus) + "\n")),
            (f"{there}/cpulistaffinity", constant(every + "\n")),
            (f"{there}/rescan", text(None, lambda said: self._bus.rescan() if number(said) else None)),
        ):
            yield path, self._keep(None, path, entry)
        yield f"{there}/device", Link(f"../../../pci{name}")
        yield f"{there}/subsystem", _link(there, "class/pci_bus")
        yield f"class/pci_bus/{name}", _link("class/pci_bus", there)

    def _groups(self) -> Iterator[tuple[str, Entry]]:
        for directory in ("kernel/iommu_groups", "devices/virtual", "devices/virtual/vfio"):
            yield directory, Directory()
        seen: set[int] = set()
        for plugged in self._bus:
            if plugged.group is None:
                continue
            home = f"kernel/iommu_groups/{plugged.group}"
            if plugged.group not in seen:
                seen.add(plugged.group)
                yield home, Directory()
                yield f"{home}/devices", Directory()
                yield from self._group_files(plugged, home)
            yield f"{home}/devices/{plugged.name}", _link(f"{home}/devices", _home(plugged))
            minor = self._bus.group_minor(plugged.group)
            if plugged.vfio is not None and minor is not None:
                numbers = f"{self._machine.group_major}:{minor}"
                there = f"devices/virtual/vfio/{plugged.group_name}"
                yield from self._character(there, "vfio", numbers, f"vfio/{plugged.group_name}")

    def _group_files(self, plugged: Plugged, home: str) -> Iterator[tuple[str, Entry]]:
        group, isolated = plugged.group, plugged.isolated
        assert group is not None
        show = text(
            lambda: f"{self._types.get(group, 'DMA-FQ') if isolated else 'unknown'}\n",
            lambda said: self._set_type(group, isolated, said),
        )
        yield f"{home}/type", self._keep(plugged, f"type {group}", show)
        ranges = self._machine.iommus[plugged.iommu].reserved if isolated else ()
        regions = "".join(f"0x{first:016x} 0x{last:016x} {why}\n" for first, last, why in ranges)
        yield f"{home}/reserved_regions", self._keep(plugged, "reserved_regions", constant(regions))
        if not plugged.isolated:
            yield f"{home}/name", constant("vfio-noiommu\n")

    def _iommu(self, kind: str) -> Iterator[tuple[str, Entry]]:
        shown = self._machine.iommus[kind]
        name = shown.name
        home = f"devices/virtual/iommu/{name}"
        for directory in ("devices/virtual", "devices/virtual/iommu", "class/iommu", home, f"{home}/devices"):
            yield directory, Directory()
        yield f"{home}/subsystem", _link(home, "class/iommu")
        yield f"{home}/uevent", self._keep(None, f"{home}/uevent", text(lambda: "", sysfs_device.event))
        yield f"class/iommu/{name}", _link("class/iommu", home)
        for path, value in shown.files.items():
            if "/" in path:
                yield f"{home}/{path.split('/')[0]}", Directory()
            yield f"{home}/{path}", self._keep(None, f"{home}/{path}", constant(value + "\n"))
        for plugged in self._bus:
            if plugged.iommu == kind:
                yield f"{home}/devices/{plugged.name}", _link(f"{home}/devices", _home(plugged))

    def _character(self, home: str, of_class: str, numbers: str, node: str) -> Iterator[tuple[str, Entry]]:
        """A character device of a class, below /dev at `node`."""
        major, minor = numbers.split(":")
        name = home.rsplit("/", 1)[1]
        yield home, Directory()
        yield f"{home}/dev", self._keep(None, f"{home}/dev {numbers}", constant(numbers + "\n"))
        event = f"MAJOR={major}\nMINOR={minor}\nDEVNAME={node}\n"
        yield f"{home}/uevent", self._keep(None, f"{home}/uevent {numbers}", text(lambda: event, sysfs_device.event))
        yield f"{home}/subsystem", _link(home, f"class/{of_class}")
        yield f"class/{of_class}", Directory()
        yield f"class/{of_class}/{name}", _link(f"class/{of_class}", home)
        yield "dev/char", Directory()
        yield f"dev/char/{numbers}", _link("dev/char", home)

    def _keep(self, plugged: Plugged | None, name: str, entry: Entry) -> Entry:
        """The entry of this name that there was, if it is alike, so that what somebody has open
        stays the same.
        """
        old = self._kept.get((plugged, name))
        if isinstance(old, File) and isinstance(entry, File) and _alike(old, entry):
            return old
        self._kept[plugged, name] = entry
        return entry

    def _set_autoprobe(self, said: str) -> None:
        self._bus.autoprobe = said[:1] != "0"

    def _set_type(self, group: int, isolated: bool, said: str) -> None:
        """EINVAL: no such type, or there is no IOMMU. EPERM: a client or a native driver has a
        device of the group.

        Ref: v7.3 drivers/iommu/iommu.c iommu_group_store_type
        """
        wanted = said.removesuffix("\n")
        if not isolated or wanted not in ("identity", "DMA", "DMA-FQ", "auto"):
            raise IoctlError(EINVAL, f"{said!r} is no type of group: there are identity, DMA, DMA-FQ and auto")
        if wanted == "DMA-FQ" and self._types.get(group) == "DMA":
            self._types[group] = wanted
            return
        devices = [plugged for plugged in self._bus if plugged.group == group]
        if any(plugged.native or (plugged.vfio and plugged.vfio.opened) for plugged in devices):
            raise IoctlError(EPERM, f"somebody has a device of group {group}")
        self._types[group] = "DMA-FQ" if wanted == "auto" else wanted


def _show_switch(parameters: Parameters, name: str) -> str:
    return "Y\n" if getattr(parameters, name) else "N\n"


def _store_switch(parameters: Parameters, name: str, said: str) -> None:
    setattr(parameters, name, boolean(said))


def _alike(old: File, new: File) -> bool:
    """Whether the one can stand for the other: made by the same code for the same thing."""
    if (old.mode, old.size, old.constant, old.public) != (new.mode, new.size, new.constant, new.public):
        return False
    return not old.constant or _content(old) == _content(new)


def _content(file: File) -> bytes:
    return file.read(0, file.size) if file.read else b""


def _root(plugged: Plugged) -> str:
    address = plugged.function.address
    return f"devices/pci{address.segment:04x}:{address.bus:02x}"


def _home(plugged: Plugged) -> str:
    return f"{_root(plugged)}/{plugged.name}"


def _link(directory: str, target: str) -> Link:
    """A link in `directory` to `target`, both below /sys."""
    here, there = directory.split("/"), target.split("/")
    common = 0
    while common < min(len(here), len(there)) and here[common] == there[common]:
        common += 1
    return Link("/".join([".."] * (len(here) - common) + there[common:]))
