"""A PCI function, which a model derives from.

A model declares what it is (identity, BARs, capabilities) in class attributes, or in attributes of
its own set before it calls `super().__init__`, and writes four methods: `load`, `store`, `reset`,
and `__init__` for what it remembers. It is given memory (`dma_read`, `dma_write`), interrupts
(`interrupt`, `intx`) and time (`after`, `start`), and knows nothing of VFIO, of iommufd or of
files.

Names that the class keeps for itself begin with two underscores, so that no name in a model can
clash with them.

The rest of this class is the hardware that every function has: its configuration space, its power
state, the MSI-X table. What a host does to a function (enabling, masking, resetting it) is in
host.py.
"""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from ..engine.device.context import Context
from ..engine.device.device import Device, Move, bind
from ..engine.device.iommu import Iommu
from ..engine.device.model import Model
from ..errors import IoctlError
from . import registers as r
from .address import Address
from .bars import ROM, Bar, Layout, Windows
from .capabilities import Capability, Extended, place
from .messages import Messages
from .scheduler import Cancel, Idle, Scheduler
from .space import ConfigSpace
from .storage import NoStorage, Storage

PAUSE: Final = 1 << 20  # bytes of DMA after which others have a turn


@dataclass(frozen=True, slots=True)
class Identity:
    """What a driver knows a device by. `class_code`: 24 bits of class, subclass and interface."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem_device: int = 0


@dataclass(slots=True)
class Slot:
    """Where a function is plugged in: its address, who gives it time, windows and the bytes of a
    disk, and its IOMMU group (None: it is alone in one).
    """

    address: Address = field(default_factory=Address)
    scheduler: Scheduler = field(default_factory=Idle)
    windows: Windows = field(default_factory=Windows)
    group: Hashable | None = None
    storage: Storage = field(default_factory=NoStorage)


class DmaFault(Exception):
    """A DMA was refused; the part before the refusal was done. The model decides what to do then.
    `data`: what a read has got, and zeros for the rest.
    """

    def __init__(self, why: str, data: bytes = b"") -> None:
        super().__init__(why)
        self.data = data


class Wires(Protocol):
    """What a function's interrupts reach: the host's interrupt controller."""

    def message(self, vector: int) -> None:
        """A message has arrived."""

    def line(self) -> None:
        """The level of the function's INTx may have changed: `function.intx_asserted`."""


class Unplugged:
    """Nobody listens."""

    def message(self, vector: int) -> None:
        pass

    def line(self) -> None:
        pass


class PciFunction(Model):
    """Derive from this, and say what differs."""

    name = "function"
    identity: Identity = Identity(0x1234, 0x0000, 0xFF0000)
    bars: Sequence[Bar] = ()
    rom: bytes = b""  # the image of an expansion ROM
    vpd: bytes = b""  # vital product data, of a function with that capability
    capabilities: Sequence[Capability] = ()
    extended: Sequence[Extended] = ()  # extended capabilities; any makes the configuration space one of 4096 bytes
    express: bool = False  # 4096 bytes of configuration space in any case
    interrupt_pin: int = 0  # 1 to 4: INTA to INTD; 0: it has no INTx
    command_bits: int = r.PCI_COMMAND_IO | r.PCI_COMMAND_MEMORY | r.PCI_COMMAND_MASTER | r.PCI_COMMAND_SERR
    scratch: bool = False  # configuration space that belongs to no capability can be written, and is remembered
    quiet_loads: bool = False  # no load has an effect: registers may be shown whole
    resettable: bool = True  # it has a reset at all: by a capability (FLR, AF, PM), or by its slot
    multifunction: bool = False
    virtual: bool = (
        False  # a VF of SR-IOV: its own IDs read as FFFF, and its memory is enabled by its physical function
    )

    def __init__(self, slot: Slot) -> None:
        """Plug the function into the slot, with power. ValueError: what it declares does not fit
        together.
        """
        self.slot: Final = slot
        self.address: Final = slot.address
        self.scheduler: Final = slot.scheduler
        self.group = self if slot.group is None else slot.group
        self.wires: Wires = Unplugged()
        self.device: Device | None = None  # while it is bound to a context
        self.why: Callable[[str], None] | None = None  # told a sentence for each DMA that is refused
        self.__line = False
        self.__awake = True  # it is in D0
        self.__masters = False  # and may do DMA and send messages
        self.__due: set[_Due] = set()
        self.layout: Final = Layout.of((*self.bars, *_rom_bar(self.rom)), slot.windows)
        self.config: Final = ConfigSpace(
            r.PCI_CFG_SPACE_EXP_SIZE if self.express or self.extended else r.PCI_CFG_SPACE_SIZE
        )
        self.__lay_header()
        self.where: Final = place(self.config, self.capabilities, self.extended)
        self.config.seal()
        self.messages: Final = Messages(self.config, self.where, self.__send)
        self.config.written = self.__written
        for bar, bytes_ in (self.messages.table, self.messages.pba):
            found = self.layout.resources.get(bar)
            if bar >= 0 and (found is None or found.bar.io or bytes_.stop > found.bar.size):
                raise ValueError(f"MSI-X needs {bytes_.start:#x} to {bytes_.stop - 1:#x} of BAR {bar}, of memory")

    # --- what a model writes ---

    def load(self, bar: int, offset: int, size: int) -> int:
        """A read of `size` bytes (1, 2, 4 or 8), within the BAR, by whoever drives the device. Bits
        beyond `size` are dropped.
        """
        return 0

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        """A write; as `load`. `value` is not negative, and no longer than `size`."""

    def reset(self) -> None:
        """The function is reset: forget everything. Timers and work have been called off, INTx is
        low.
        """

    # --- what a model is given ---

    def dma_read(self, iova: int, length: int) -> bytes:
        """Read memory. DmaFault: it is no bus master or has no power, it is not attached, or
        nothing is mapped there for reading.
        """
        data = bytearray(length)
        self.__dma(iova, memoryview(data), write=False)
        return bytes(data)

    def dma_write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Write memory; as `dma_read`."""
        self.__dma(iova, memoryview(data), write=True)

    def dma_moves(self, moves: Sequence[Move], begin: int = 0) -> int:
        """Many DMAs, from index `begin` on, in order and quickly. Returns how many were done. The
        next one, if any, is to be done by `dma_read` and `dma_write`, which say why it fails.
        """
        if self.device is None or not self.__masters:
            return 0
        return self.device.dma_moves(moves, begin)

    def dma_file(self, fd: int, offset: int, parts: Sequence[tuple[int, int]], *, write: bool, flags: int = 0) -> int:
        """Carry bytes from a file to memory (`write`), or from memory to a file, without a buffer
        between them. `parts`: pairs of IOVA and bytes; `flags`: RWF_* of preadv2(2), so that it
        does not wait. Returns how many bytes were carried; the rest is to be done by `dma_read` and
        `dma_write`, which say why if it fails.
        """
        if self.device is None or not self.__masters:
            return 0
        return self.device.dma_file(fd, offset, parts, write=write, flags=flags)

    def dma_gather(self, parts: Sequence[tuple[int, int]]) -> bytes:
        """Read many stretches, one behind the other, quickly: pairs of IOVA and bytes (1 or more).
        Returns what was read before one could not be; the rest is to be done by `dma_read`, which
        says why if it fails.
        """
        if self.device is None or not self.__masters:
            return b""
        return self.device.dma_gather(parts)

    async def long_dma_read(self, iova: int, length: int) -> bytes:
        """As `dma_read`, within work (`start`): others have a turn after each MiB, and may take the
        mapping away.
        """
        data = bytearray()
        for at in range(0, length, PAUSE):
            data += self.dma_read(iova + at, min(PAUSE, length - at))
            await self.scheduler.sleep(0)
        return bytes(data)

    async def long_dma_write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """As `dma_write`, within work, with turns as in `long_dma_read`."""
        for at in range(0, len(data), PAUSE):
            self.__dma(iova + at, memoryview(data)[at : at + PAUSE], write=True)
            await self.scheduler.sleep(0)

    @property
    def sends_messages(self) -> bool:
        """MSI or MSI-X is on: interrupts are to be sent by `interrupt`. Otherwise by `intx`."""
        return self.messages.msix_on or self.messages.msi_on

    def interrupt(self, vector: int = 0) -> None:
        """Signal an MSI or MSI-X vector. No effect if neither is on."""
        self.messages.signal(vector)

    def intx(self, level: bool) -> None:
        """Raise or lower the function's INTx line. It stays until told otherwise."""
        if level != self.__line:
            self.__line = level
            self.config.change(r.PCI_STATUS, 2, r.PCI_STATUS_INTERRUPT, r.PCI_STATUS_INTERRUPT if level else 0)
            self.wires.line()

    def after(self, seconds: float, call: Callable[[], None]) -> Cancel:
        """Do `call` once, in so many seconds, unless the function is reset before."""
        due = _Due(self.__due)
        due.inner = self.scheduler.after(seconds, due.once(call))
        return due

    def start(self, work: Callable[[], Awaitable[None]]) -> Cancel:
        """Begin long work beside all else; a reset calls it off."""
        due = _Due(self.__due)
        due.inner = self.scheduler.start(due.until_done(work))
        return due

    # --- a context of a client's ---

    def bind(self, context: Context, iommu: Iommu) -> Device:
        """Take the function into a context, behind `iommu`. Errors: engine.device.bind. The context
        stays until `unbind`.
        """
        self.device = bind(context, self, iommu)
        context.get()
        return self.device

    def unbind(self) -> None:
        """Detach the function from whatever it is attached to, and take it out of the context."""
        device, self.device = self.device, None
        if device is not None:
            device.detach_all()
            device.unbind()
            device.context.put()

    # --- the hardware of every function ---

    @property
    def command(self) -> int:
        return self.config.read(r.PCI_COMMAND, 2)

    @property
    def is_vga(self) -> bool:
        """It has VGA's old addresses: `load` and `store` get them as those of BAR 8
        (VFIO_PCI_VGA_REGION_INDEX).
        """
        return self.identity.class_code >> 8 == 0x0300

    @property
    def power_state(self) -> int:
        """PCI_D0 to PCI_D3HOT."""
        at = self.where.get(r.PCI_CAP_ID_PM)
        return self.config.read(at + r.PCI_PM_CTRL, 2) & r.PCI_PM_CTRL_STATE_MASK if at else r.PCI_D0

    @property
    def intx_pending(self) -> bool:
        """The function wants attention, whether INTx is disabled or not."""
        return self.__line

    @property
    def intx_asserted(self) -> bool:
        return self.__line and self.__awake and not self.command & r.PCI_COMMAND_INTX_DISABLE

    def read_bar(self, bar: int, offset: int, size: int) -> int:
        """A read on the bus of 1, 2, 4 or 8 bytes within a window. The ROM's window is bar 6. All
        ones if the function is not in D0: then nobody answers.
        """
        if not self.__awake:
            return (1 << 8 * size) - 1
        found = self.messages.load(bar, offset, size) if bar in self.messages.bars else None
        if found is None:
            if bar == ROM:
                return int.from_bytes(self.rom[offset : offset + size].ljust(size, b"\xff"), "little")
            found = self.load(bar, offset, size)
        return found & (1 << 8 * size) - 1

    def write_bar(self, bar: int, offset: int, size: int, value: int) -> None:
        """A write on the bus; as `read_bar`."""
        if not self.__awake:
            return
        if bar not in self.messages.bars or not self.messages.store(bar, offset, size, value):
            self.store(bar, offset, size, value & (1 << 8 * size) - 1)

    def power_on(self) -> None:
        """Reset everything, the configuration space too, as FLR does. The host has saved that
        before.
        """
        for due in list(self.__due):
            due.cancel()
        self.config.reset()
        self.__awake, self.__masters = True, False
        self.messages.reset()
        self.intx(False)
        self.reset()

    def __send(self, vector: int) -> None:
        if self.__masters:
            self.wires.message(vector)

    def __dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        if self.__masters and self.device is not None:
            try:
                if write:
                    self.device.dma_write(iova, data)
                else:
                    self.device.dma_read(iova, data)
            except IoctlError as error:  # the engine's observer has been told
                raise self.__fault(iova, data, str(error), write=write) from error
            return
        if not self.command & r.PCI_COMMAND_MASTER:
            why = "bus mastering is off in its command register"
        elif not self.__awake:
            why = f"it is in D{self.power_state}"
        else:
            why = "it is bound to no /dev/iommu"
        fault = self.__fault(iova, data, why, write=write)
        if self.why is not None:
            self.why(str(fault))
        raise fault

    def __fault(self, iova: int, data: memoryview, why: str, *, write: bool) -> DmaFault:
        way = "write to" if write else "read of"
        return DmaFault(f"{self.name} at {self.address}: DMA {way} {iova:#x}, {len(data)} bytes: {why}", bytes(data))

    def __written(self, offset: int, size: int) -> None:
        self.__awake = self.power_state == r.PCI_D0
        self.__masters = self.__awake and bool(self.command & r.PCI_COMMAND_MASTER)
        self.messages.written(offset, size)
        if self.sends_messages:  # a function must not use both
            self.intx(False)
        if offset < r.PCI_STATUS:
            self.wires.line()

    def __lay_header(self) -> None:
        space, identity = self.config, self.identity
        if self.scratch:
            space.put(r.PCI_STD_HEADER_SIZEOF, bytes(space.size - 64), write=b"\xff" * (space.size - 64))
        for offset, value in (
            (r.PCI_VENDOR_ID, 0xFFFF if self.virtual else identity.vendor),
            (r.PCI_DEVICE_ID, 0xFFFF if self.virtual else identity.device),
            (r.PCI_SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor),
            (r.PCI_SUBSYSTEM_ID, identity.subsystem_device),
        ):
            space.put(offset, value.to_bytes(2, "little"))
        space.put(r.PCI_REVISION_ID, (identity.revision | identity.class_code << 8).to_bytes(4, "little"))
        command = self.command_bits | (r.PCI_COMMAND_INTX_DISABLE if self.interrupt_pin else 0)
        if self.virtual:
            command = r.PCI_COMMAND_MASTER
        space.put(r.PCI_COMMAND, bytes(2), write=command.to_bytes(2, "little"))
        space.put(r.PCI_STATUS, bytes(2), clear=r.PCI_STATUS_ERRORS.to_bytes(2, "little"))
        space.put(r.PCI_CACHE_LINE_SIZE, b"\0", write=b"\xff")
        space.put(r.PCI_HEADER_TYPE, b"\x80" if self.multifunction else b"\0")
        space.put(r.PCI_INTERRUPT_LINE, b"\0", write=b"\xff")
        space.put(r.PCI_INTERRUPT_PIN, bytes([self.interrupt_pin]))
        for number, resource in self.layout.resources.items() if not self.virtual else ():
            rom = number == ROM
            at = r.PCI_ROM_ADDRESS if rom else r.PCI_BASE_ADDRESS_0 + 4 * number
            width = 8 if resource.bar.wide else 4
            bits = (1 << 8 * width) - resource.bar.size | (r.PCI_ROM_ADDRESS_ENABLE if rom else 0)
            value = resource.start | (0 if rom else resource.bar.flags)
            space.put(at, value.to_bytes(width, "little"), write=bits.to_bytes(width, "little"))


class _Due:
    """A timer or work of a function's, until it is over."""

    def __init__(self, of: "set[_Due]") -> None:
        self._of = of
        self._over = False
        self.inner: Cancel | None = None
        of.add(self)

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            self._of.discard(self)
            if self.inner is not None:
                self.inner.cancel()

    def once(self, call: Callable[[], None]) -> Callable[[], None]:
        def due() -> None:
            if not self._over:
                self._over = True
                self._of.discard(self)
                call()

        return due

    def until_done(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def go() -> None:
            try:
                if not self._over:
                    await work()
            finally:
                self._over = True
                self._of.discard(self)

        return go


def _rom_bar(rom: bytes) -> tuple[Bar, ...]:
    """The window of an expansion ROM, if there is one: a power of two, 2 KiB at least."""
    return (Bar(ROM, max(1 << (len(rom) - 1).bit_length(), 2048)),) if rom else ()
