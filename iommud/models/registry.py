"""The models by name, and what `--device MODEL[,key=value...]` says of one.

Keys that every device has are read here. A model's own keys are its class's `keys`, and become
arguments of its constructor. A model's module is loaded when the model is asked for.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final

from ..pci.address import Address
from ..pci.driver import NO_DRIVER, VFIO_PCI
from ..pci.function import PciFunction, Slot
from .keys import Key, Keys, number, switch

# The module here, the class in it, and what it is.
MODELS: Final[Mapping[str, tuple[str, str, str]]] = {
    "edu": ("edu", "Edu", "QEMU's educational device: a few registers, INTx and MSI, DMA of 4 KiB; 1234:11e8"),
    "ioat": ("ioat", "Ioat", "Intel's I/O DMA engine: copies and fills memory by chains of descriptors; 8086:2021"),
    "nvme": ("nvme.controller", "Nvme", "an NVM Express disk, on a file or in memory; 1234:4e56"),
    "null": ("null", "Null", "one BAR in which there is nothing"),
    "virtio-blk": ("virtio.blk", "VirtioBlk", "virtio's block device, version 1.2, modern PCI; 1af4:1042"),
}
MOST_DRIVER: Final = 64  # characters of a driver's name
MOST_GROUP: Final = 65535


class BadDevice(ValueError):
    """A device that nobody can make. What it says is for people, and tells what is allowed."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One --device. None: not said."""

    model: str
    address: Address | None = None  # bdf=
    iommu: str | None = None  # the kind that it stands behind
    group: int | None = None  # devices of one number are in one IOMMU group
    mappable: bool = True  # mmap=: its BARs can be mapped
    driver: str = VFIO_PCI  # what it is bound to at first, NO_DRIVER, or a driver of the kernel's own
    options: Mapping[str, object] = field(default_factory=dict)  # of the model's own


def parse(text: str, kinds: Collection[str]) -> DeviceSpec:
    """What `--device` was given; `kinds`: the kinds of IOMMU that there are. BadDevice: it makes no
    sense.
    """
    model, *words = text.split(",")
    keys = _keys(model)
    given: dict[str, object] = {}
    own: dict[str, object] = {}
    common = _common(kinds)
    for word in words:
        name, equals, value = word.partition("=")
        key = common.get(name) or keys.get(name)
        if key is None:
            raise BadDevice(f"{model} has no key {name!r}: there are {_list([*common, *keys])}")
        if not equals:
            raise BadDevice(f"{model}: {name} needs a value: {name}={key.form}")
        if name in given or name in own:
            raise BadDevice(f"{model}: {name} is given twice")
        try:
            (given if name in common else own)[name] = key.read(value)
        except ValueError as error:
            raise BadDevice(f"{model}: {name} is {error}") from None
    return DeviceSpec(model, options=own, **{_FIELDS[name]: value for name, value in given.items()})  # type: ignore[arg-type]


def from_anywhere(text: str, kinds: Collection[str], absolute: Callable[[str], str]) -> str:
    """What `--device` was given, for a process that is in another directory. `absolute`: of a path.
    BadDevice: it makes no sense.
    """
    parse(text, kinds)
    model, *words = text.split(",")
    keys, found = {**_common(kinds), **_keys(model)}, [model]
    for word in words:
        name, _, value = word.partition("=")
        found.append(f"{name}={absolute(value) if keys[name].is_path else value}")
    return ",".join(found)


def make(spec: DeviceSpec, slot: Slot) -> PciFunction:
    """Make the function, in the slot. BadDevice: its keys do not fit together."""
    try:
        return _load(spec.model)(slot, **spec.options)
    except ValueError as error:
        raise BadDevice(f"{spec.model}: {error}") from None


def asked_for_help(text: str, kinds: Collection[str]) -> str | None:
    """What to print for `help`, and for `MODEL,help`; None: that was not asked. BadDevice: there is
    no such model.
    """
    if text == "help":
        width = max(map(len, MODELS))
        rows = [f"  {name:<{width}} {what}" for name, (_, _, what) in sorted(MODELS.items())]
        return "\n".join(
            ["models:", *rows, "", "keys of every one:", *_rows(_common(kinds)), "", "MODEL,help lists its own keys."]
        )
    model, *words = text.split(",")
    if "help" not in words:
        return None
    keys = _keys(model)
    return "\n".join(
        [
            f"{model}: {MODELS[model][2]}",
            *(["keys of its own:", *_rows(keys)] if keys else ["It has no keys of its own."]),
        ]
    )


_FIELDS: Final = {"bdf": "address", "iommu": "iommu", "group": "group", "mmap": "mappable", "driver": "driver"}


def _common(kinds: Collection[str]) -> Keys:
    return {
        "bdf": Key(Address.parse, "SSSS:BB:DD.F", "where it is (default: a free place)"),
        "iommu": Key(_one_of(kinds), "|".join(kinds), "what it stands behind (default: --iommu's, or vtd)"),
        "group": Key(number(0, MOST_GROUP), "N", "its IOMMU group (default: one of its own)"),
        "mmap": Key(switch, "on|off", "whether its BARs can be mapped (default: on)"),
        "driver": Key(
            _driver,
            f"{VFIO_PCI}|{NO_DRIVER}|NAME",
            f"what it is bound to at first; NAME stands for a kernel driver (default: {VFIO_PCI})",
        ),
    }


def _one_of(names: Collection[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {_list(names)}, not {text!r}")
        return text

    return read


def _driver(text: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{MOST_DRIVER}}}", text):
        raise ValueError(f"{VFIO_PCI}, {NO_DRIVER} or a driver's name of letters, digits, _ and -, not {text!r}")
    return text


def _keys(model: str) -> Keys:
    if model not in MODELS:
        raise BadDevice(f"there is no model {model!r}: there are {_list(sorted(MODELS))}")
    found: Keys = getattr(_load(model), "keys", {})
    return found


def _load(model: str) -> Callable[..., PciFunction]:
    module, name, _ = MODELS[model]
    found: Callable[..., PciFunction] = getattr(import_module(f"{__package__}.{module}"), name)
    return found


def _rows(keys: Keys) -> list[str]:
    return [f"  {name + '=' + key.form:<28} {key.what}" for name, key in keys.items()]


def _list(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
