"""The directory of one PCI device in /sys: what each file says, and what writing to it does.

Ref: v7.3 drivers/pci/pci-sysfs.c; Documentation/ABI/testing/sysfs-bus-pci
"""

from collections.abc import Iterator
from errno import EINVAL, EIO
from typing import Final

from ..errors import IoctlError
from . import registers as r
from .bars import ROM, Resource
from .bus import Bus
from .plugged import Plugged
from .rom import image_size
from .sysfs import Directory, Entry, File, boolean, constant, number, same, text

IRQ_BASE: Final = 64  # message interrupts get numbers from here on, which nobody else has
SHOWN: Final = 13  # windows in `resource`: BARs, ROM, those of VFs
_UNPRIVILEGED: Final = 64
_STATES: Final = ("D0", "D1", "D2", "D3hot")
_EVENTS: Final = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")


def files(bus: Bus, plugged: Plugged, cpus: int) -> Iterator[tuple[str, Entry]]:
    """Names below the device's directory, without links to elsewhere."""
    function, identity = plugged.function, plugged.function.identity
    for name, value in (
        ("vendor", f"0x{identity.vendor:04x}"),
        ("device", f"0x{identity.device:04x}"),
        ("subsystem_vendor", f"0x{identity.subsystem_vendor:04x}"),
        ("subsystem_device", f"0x{identity.subsystem_device:04x}"),
        ("revision", f"0x{identity.revision:02x}"),
        ("class", f"0x{identity.class_code:06x}"),
        ("modalias", modalias(plugged)),
        ("resource", "\n".join(_resources(plugged))),
        ("local_cpus", cpu_mask(cpus)),
        ("local_cpulist", f"0-{cpus - 1}" if cpus > 1 else "0"),
        ("ari_enabled", "0"),
        ("dma_mask_bits", "32"),
        ("consistent_dma_mask_bits", "32"),
    ):
        yield name, constant(value + "\n")
    yield "uevent", text(lambda: uevent(plugged), event)
    yield "irq", text(lambda: f"{_irq(plugged)}\n")
    yield "enable", text(lambda: f"{_enabled(plugged)}\n", lambda said: bus.enable(plugged, bool(number(said))))
    yield "driver_override", text(lambda: f"{plugged.override or '(null)'}\n", lambda said: _override(plugged, said))
    yield "remove", text(None, lambda said: _remove(bus, plugged, said), 0o220)
    yield "rescan", text(None, lambda said: bus.rescan() if number(said) else None)
    yield "numa_node", text(lambda: "-1\n", _numa_node)
    for name, first in (("msi_bus", True), ("broken_parity_status", False), ("d3cold_allowed", True)):
        yield name, _flag(first)
    yield "power_state", text(lambda: f"{_STATES[plugged.host.power_state]}\n")
    if plugged.host.able():
        yield "reset", text(None, lambda said: _reset(plugged, said))
        yield "reset_method", text(lambda: _methods(plugged), lambda said: _choose(plugged, said))
    yield from _link(plugged)
    yield (
        "config",
        File(
            0o644,
            function.config.size,
            lambda offset, length: _read_config(plugged, offset, length),
            lambda offset, data: _write_config(plugged, offset, data),
            public=_UNPRIVILEGED,
        ),
    )
    for index, resource in sorted(function.layout.resources.items()):
        if index == ROM:
            yield "rom", _rom(plugged)
            continue
        yield f"resource{index}", _window(plugged, index, resource)
        if resource.bar.prefetchable:
            yield f"resource{index}_wc", File(0o600, resource.bar.size)
    if r.PCI_CAP_ID_VPD in function.where:
        yield "vpd", File(0o600, 0, lambda offset, length: function.vpd[offset : offset + length])
    if serial := function.where.get(r.PCI_EXT_CAP_ID_DSN + 0x10000):
        unique = function.config.read(serial + 4, 8).to_bytes(8, "big")
        yield "serial_number", constant(unique.hex("-") + "\n", 0o400)
    yield "power", Directory()
    yield "power/control", _control(plugged)
    yield "power/runtime_status", text(lambda: "suspended\n" if _idle(plugged) else "active\n")
    if plugged.host.mode:
        kind = "msix" if plugged.host.mode == r.PCI_CAP_ID_MSIX else "msi"
        yield "msi_irqs", Directory()
        for vector in sorted(plugged.host.allocated):
            yield f"msi_irqs/{IRQ_BASE + vector}", constant(f"{kind}\n")


def uevent(plugged: Plugged) -> str:
    """What the kernel tells udev of it."""
    identity = plugged.function.identity
    return (
        (f"DRIVER={plugged.driver}\n" if plugged.driver else "") + f"PCI_CLASS={identity.class_code:X}\n"
        f"PCI_ID={identity.vendor:04X}:{identity.device:04X}\n"
        f"PCI_SUBSYS_ID={identity.subsystem_vendor:04X}:{identity.subsystem_device:04X}\n"
        f"PCI_SLOT_NAME={plugged.name}\nMODALIAS={modalias(plugged)}\n"
    )


def modalias(plugged: Plugged) -> str:
    """The alias by which a driver is found."""
    identity = plugged.function.identity
    base, sub, interface = identity.class_code.to_bytes(3, "big")
    return (
        f"pci:v{identity.vendor:08X}d{identity.device:08X}sv{identity.subsystem_vendor:08X}sd{identity.subsystem_device:08X}"
        f"bc{base:02X}sc{sub:02X}i{interface:02X}"
    )


def event(said: str) -> None:
    """A write to a uevent: an event of a known kind, which nobody hears. EINVAL: another kind."""
    if said.removesuffix("\n").split(" ")[0] not in _EVENTS:
        raise IoctlError(EINVAL, f"{said!r} is no event: there are {', '.join(_EVENTS)}")


def cpu_mask(cpus: int) -> str:
    """A mask of so many CPUs, as the kernel prints it: 32 bits in a word, separated by commas."""
    digits = f"{(1 << cpus) - 1:x}"
    head = len(digits) % 8
    return ",".join(filter(None, [digits[:head], *(digits[at : at + 8] for at in range(head, len(digits), 8))]))


def _resources(plugged: Plugged) -> Iterator[str]:
    for index in range(SHOWN):
        found = plugged.function.layout.resources.get(index)
        if found is None:
            yield f"0x{0:016x} 0x{0:016x} 0x{0:016x}"
        else:
            yield f"0x{found.start:016x} 0x{found.last:016x} 0x{_flags(index, found):016x}"


def _flags(index: int, resource: Resource) -> int:
    """IORESOURCE_*: aligned to its size, I/O or memory, and what the register says."""
    if index == ROM:
        return 0x46200
    bar = resource.bar
    kind = 0x100 if bar.io else 0x200 | (0x10_0000 if bar.wide else 0) | (0x2000 if bar.prefetchable else 0)
    return 0x40000 | kind | bar.flags


def _irq(plugged: Plugged) -> int:
    if plugged.host.mode == r.PCI_CAP_ID_MSI:
        return IRQ_BASE
    return plugged.function.config.read(r.PCI_INTERRUPT_LINE, 1) if plugged.function.interrupt_pin else 0


def _enabled(plugged: Plugged) -> int:
    return plugged.enabled + (plugged.vfio is not None and plugged.vfio.opened is not None)


def _override(plugged: Plugged, said: str) -> None:
    if len(said) >= 4095:
        raise IoctlError(EINVAL, f"a driver's name has at most 4094 bytes, not {len(said)}")
    plugged.override = said.split("\n")[0] or None


async def _remove(bus: Bus, plugged: Plugged, said: str) -> None:
    if number(said):
        await bus.remove(plugged)


def _numa_node(said: str) -> None:
    if said.strip() != "-1":
        raise IoctlError(EINVAL, "the device is at no node: -1")


def _flag(first: bool) -> File:
    """A number that means yes or no, and does nothing here."""
    state = [first]

    def store(said: str) -> None:
        state[0] = bool(number(said))

    return text(lambda: f"{state[0]:d}\n", store)


def _reset(plugged: Plugged, said: str) -> None:
    if number(said) != 1:
        raise IoctlError(EINVAL, "1 resets the device, nothing else does")
    plugged.host.try_reset()


def _methods(plugged: Plugged) -> str:
    found = " ".join(plugged.host.reset_methods)
    return found + "\n" if found else ""


def _choose(plugged: Plugged, said: str) -> None:
    if same(said, "default"):
        plugged.host.choose_resets(None)
    else:
        plugged.host.choose_resets(tuple(said.split()))


def _link(plugged: Plugged) -> Iterator[tuple[str, Entry]]:
    at = plugged.function.where.get(r.PCI_CAP_ID_EXP)
    if at and plugged.function.config.read(at + r.PCI_EXP_LNKCAP, 4):
        for name, value in (("link_speed", "2.5 GT/s PCIe"), ("link_width", "1")):
            yield f"current_{name}", constant(value + "\n")
            yield f"max_{name}", constant(value + "\n")


def _cut(offset: int, length: int) -> Iterator[tuple[int, int]]:
    """The accesses of the kernel: (offset, size), to the next dword first, then dwords, then the
    rest.
    """
    end = offset + length
    while offset < end:
        size = 4 if offset % 4 == 0 and end - offset >= 4 else 2 if offset % 2 == 0 and end - offset >= 2 else 1
        yield offset, size
        offset += size


def _read_config(plugged: Plugged, offset: int, length: int) -> bytes:
    space = plugged.function.config
    length = max(0, min(length, space.size - offset))
    return b"".join(space.read(at, size).to_bytes(size, "little") for at, size in _cut(offset, length))


async def _write_config(plugged: Plugged, offset: int, data: bytes) -> int:
    space = plugged.function.config
    length = max(0, min(len(data), space.size - offset))
    for at, size in _cut(offset, length):
        space.write(at, size, int.from_bytes(data[at - offset : at - offset + size], "little"))
    return length


def _window(plugged: Plugged, index: int, resource: Resource) -> File:
    """Memory is there to be mapped, and neither read nor written; ports are read and written one by
    one.
    """
    size = resource.bar.size
    if not resource.bar.io:
        return File(0o600, size)

    def port(offset: int, length: int) -> bool:
        if offset >= size:
            return False
        if offset + length > size or length not in (1, 2, 4):
            raise IoctlError(EINVAL, f"{length} bytes at {offset:#x} are not one access to {size} ports")
        return True

    def read(offset: int, length: int) -> bytes:
        if not port(offset, length):
            return b""
        return plugged.function.read_bar(index, offset, length).to_bytes(length, "little")

    async def write(offset: int, data: bytes) -> int:
        if not port(offset, len(data)):
            return 0
        plugged.function.write_bar(index, offset, len(data), int.from_bytes(data, "little"))
        return len(data)

    return File(0o600, size, read, write)


def _rom(plugged: Plugged) -> File:
    """The ROM, which shows nothing until 1 is written to it. EINVAL: that was not done. EIO: there
    is no image.
    """
    shown = [False]

    def read(offset: int, length: int) -> bytes:
        if not shown[0]:
            raise IoctlError(EINVAL, "write 1 to it first")
        if not (size := image_size(plugged.function.rom)):
            raise IoctlError(EIO, "the expansion ROM does not begin with an image")
        return plugged.function.rom[:size].ljust(size, b"\xff")[offset : offset + length]

    async def write(offset: int, data: bytes) -> int:
        shown[0] = boolean(data.decode("ascii", "replace"))
        return len(data)

    return File(0o600, plugged.function.layout.size(ROM), read, write)


def _control(plugged: Plugged) -> File:
    """Whether it may sleep when idle: a driver says auto."""
    said: list[str] = []

    def store(word: str) -> None:
        if word.removesuffix("\n") not in ("auto", "on"):
            raise IoctlError(EINVAL, f"{word!r} is neither auto nor on")
        said[:] = [word.removesuffix("\n")]

    return text(lambda: f"{said[0] if said else 'auto' if plugged.vfio else 'on'}\n", store)


def _idle(plugged: Plugged) -> bool:
    return plugged.vfio is not None and plugged.vfio.opened is None
