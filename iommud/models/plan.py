"""The devices of `--device`, in their order: what each is, and where it stands.

The process that makes their files goes by it, and so does the one that makes the devices. Nothing
is made here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from ..pci.address import Address
from ..pci.driver import NO_DRIVER, VFIO_PCI
from .registry import BadDevice, DeviceSpec, parse

DEFAULT_KIND: Final = "vtd"
NO_IOMMU: Final = "none"
_PLACES: Final = 32  # devices of a bus


@dataclass(frozen=True, slots=True)
class Planned:
    """One device: `kind` of IOMMU that it stands behind; `file`: the name of its file below
    /dev/vfio/devices, whose number is `number`. Devices that vfio-pci does not have yet are
    expected to come last, in their order.
    """

    number: int
    spec: DeviceSpec
    address: Address
    kind: str

    @property
    def isolated(self) -> bool:
        """It stands behind an IOMMU."""
        return self.kind != NO_IOMMU

    @property
    def has_native_driver(self) -> bool:
        """A driver of the kernel's own has it at first."""
        return self.spec.driver not in (VFIO_PCI, NO_DRIVER)

    @property
    def file(self) -> str:
        """Ref: v7.3 vfio_main.c vfio_device_set_noiommu_and_name"""
        return f"{'' if self.isolated else 'noiommu-'}vfio{self.number}"


def plan(
    texts: Sequence[str], kinds: Collection[str], default: str | None = None, others: Collection[Address] = ()
) -> list[Planned]:
    """The devices that were asked for. `kinds`: the kinds of IOMMU that there are. `default`: the
    kind for a device that names none. `others`: addresses of somebody else's devices.

    BadDevice: it makes no sense, or two are at one address, or no place is left.
    """
    specs = [parse(text, kinds) for text in texts]
    taken = dict.fromkeys(others, "a device of the machine's")
    for spec in specs:
        if spec.address is not None:
            if spec.address in taken:
                raise BadDevice(f"{spec.model} and {taken[spec.address]} cannot both be at {spec.address}")
            taken[spec.address] = spec.model
    in_order = sorted(range(len(specs)), key=lambda index: specs[index].driver != VFIO_PCI)
    free = (Address(device=device) for device in range(_PLACES))
    found = []
    for index, spec in enumerate(specs):
        address = spec.address
        if address is None:
            address = next((place for place in free if place not in taken), None)
            if address is None:
                raise BadDevice(f"bus {Address().bus:02x} is full: say bdf= for devices beyond {_PLACES}")
            taken[address] = spec.model
        found.append(Planned(in_order.index(index), spec, address, spec.iommu or default or DEFAULT_KIND))
    return found


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """One group of VFIO's: `number` of the IOMMU group; `minor` of its file, whose name below
    /dev/vfio is `file`.
    """

    number: int
    minor: int
    isolated: bool

    @property
    def file(self) -> str:
        """Ref: v7.3 group.c vfio_create_group"""
        return f"{'' if self.isolated else 'noiommu-'}{self.number}"


def groups(planned: Sequence[Planned], first: int) -> list[PlannedGroup]:
    """The groups of these devices, numbered from `first` on as the bus numbers them. A device
    without an IOMMU has a group only while vfio-pci has it. Groups of which vfio-pci has no device
    yet are expected to come last, in their order.
    """
    numbers: dict[object, bool] = {}  # of each group, in the order of numbers: whether it is isolated
    had: list[object] = []  # in the order of minors
    waiting = []
    for each in planned:
        isolated = each.isolated
        key = ("group", each.spec.group) if isolated and each.spec.group is not None else ("alone", each.number)
        is_bound = each.spec.driver == VFIO_PCI
        if isolated or is_bound:
            numbers.setdefault(key, isolated)
        else:
            waiting.append(key)
        if is_bound and key not in had:
            had.append(key)
    numbers |= dict.fromkeys(waiting, False)
    had += [key for key in numbers if key not in had]
    return [
        PlannedGroup(first + place, had.index(key), isolated) for place, (key, isolated) in enumerate(numbers.items())
    ]
