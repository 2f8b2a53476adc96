"""A virtio device as a modern PCI function. Its registers are in BAR 0; capabilities of a vendor's
tell where, and one of them is a window through which all of them can be reached by configuration
cycles alone.

A driver agrees with the device on features, says where its rings are, and sets DRIVER_OK. Then it
stores to a queue's notification register whenever it has made buffers available. If MSI-X is on,
the device interrupts by the vectors that the driver has given to each queue and to changes of the
configuration. Otherwise it raises INTx, and the ISR status tells why; a read of that clears both.

A ring that makes no sense, or cannot be reached, sets DEVICE_NEEDS_RESET. From then on the device
does nothing until it is reset.

Ref: VIRTIO 1.2 2.1.2, 4.1
"""

from typing import Final

from ...pci.bars import Bar
from ...pci.capabilities import Capability, Express, Msix, Pm, Vendor
from ...pci.function import Identity, PciFunction, Slot
from . import common
from .common import Common
from .packed import PackedRing
from .ring import Ring
from .split import SplitRing
from .wire import (
    CAPABILITY,
    CAPABILITY_BAR,
    CAPABILITY_DATA,
    CAPABILITY_LENGTH,
    CAPABILITY_OFFSET,
    COMMON_CFG,
    CONFIG_INTERRUPT,
    DEVICE_CFG,
    DEVICE_NEEDS_RESET,
    DRIVER_OK,
    FIRST_DEVICE,
    ISR_CFG,
    NO_VECTOR,
    NOTIFY_CFG,
    PCI_CFG,
    QUEUE_INTERRUPT,
    RING_PACKED,
    VENDOR,
)

COMMON, ISR, DEVICE, NOTIFY, TABLE, PENDING = 0x0000, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000  # in BAR 0
NOTIFY_STEP: Final = 4  # bytes from one queue's notification register to the next's
MOST_QUEUES: Final = 128  # their vectors fit before PENDING
MOST_DESCRIPTORS: Final = 256
_WINDOW_AT: Final = 0x40


class VirtioPci(PciFunction):
    """A model of a device sets `kind`, `offered` and `queues` before `super().__init__`, and writes
    the methods below.
    """

    kind: int
    offered: int  # features
    queues: int = 1  # up to MOST_QUEUES
    bars = (Bar(0, 0x8000, wide=True),)
    interrupt_pin = 1

    def __init__(self, slot: Slot, class_code: int) -> None:
        self.identity = Identity(
            VENDOR,
            FIRST_DEVICE + self.kind,
            class_code,
            revision=1,
            subsystem_vendor=VENDOR,
            subsystem_device=0x1100,
        )
        self.common: Final = Common(
            self, offered=self.offered, queues=self.queues, vectors=self.queues + 1, most=MOST_DESCRIPTORS
        )
        length = len(self.device_config())
        self.capabilities: list[Capability] = [
            Vendor(CAPABILITY.pack(PCI_CFG, 0, 0, 0) + bytes(4), write=_window_mask(), at=_WINDOW_AT),
            _capability(COMMON_CFG, COMMON, common.SIZE),
            _capability(NOTIFY_CFG, NOTIFY, NOTIFY_STEP * self.queues, NOTIFY_STEP.to_bytes(4, "little")),
            _capability(ISR_CFG, ISR, 1),
            _capability(DEVICE_CFG, DEVICE, length),
            Msix(self.queues + 1, table=(0, TABLE), pba=(0, PENDING)),
            Pm(),
            Express(integrated=True),
        ]
        super().__init__(slot)
        data = _WINDOW_AT + CAPABILITY_DATA
        self.config.answer(range(data, data + 4), self._look, self._put)
        self._isr = 0
        self._window_data = bytearray(4)

    # --- what a model of a device writes ---

    def device_config(self) -> bytes:
        """The device's own registers, as they are now; always of one length."""
        raise NotImplementedError

    def device_config_written(self, offset: int, data: bytes) -> None:
        """A store to these."""

    def notified(self, index: int) -> None:
        """The driver has made buffers available in this queue, which is enabled. The device is
        live.
        """
        raise NotImplementedError

    def stopped(self) -> None:
        """Give all queues up: the device is reset, or needs it."""
        raise NotImplementedError

    def queue_stopped(self, index: int) -> None:
        """Give one queue up."""
        raise NotImplementedError

    def is_resetting(self, index: int) -> bool:
        """Whether something of the queue as it was before `queue_stopped` is still under way."""
        raise NotImplementedError

    # --- what it is given ---

    @property
    def features(self) -> int:
        """What driver and device have agreed on."""
        return self.common.features

    def ring(self, index: int) -> Ring:
        """A ring at its start, where the driver says that it is. Broken: it can be at no such
        place.
        """
        place = self.common.queues[index].place
        kind = PackedRing if self.features & RING_PACKED else SplitRing
        return kind(self, place, self.features)

    def interrupt_queue(self, index: int) -> None:
        """Buffers of this queue were used."""
        self._signal(QUEUE_INTERRUPT, self.common.queues[index].vector)

    def broken(self, why: str) -> None:
        """Nothing more can be done until the device is reset."""
        self.common.status |= DEVICE_NEEDS_RESET
        self.stopped()
        if self.common.status & DRIVER_OK:
            self._signal(CONFIG_INTERRUPT, self.common.vector)
        self.complain(f"{why}; it needs a reset")

    def complain(self, why: str) -> None:
        """Tell people."""
        if self.why is not None:
            self.why(f"{self.name} at {self.address}: {why}")

    # --- as a PCI function ---

    def load(self, bar: int, offset: int, size: int) -> int:
        if offset < ISR:
            return self.common.load(offset, size)
        if offset == ISR:
            isr, self._isr = self._isr, 0
            self.intx(False)
            return isr
        if DEVICE <= offset < NOTIFY:
            return int.from_bytes(self.device_config()[offset - DEVICE : offset - DEVICE + size], "little")
        return 0

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        index, rest = divmod(offset - NOTIFY, NOTIFY_STEP)
        if 0 <= index < self.queues:
            if not rest and self.common.is_live and self.common.queues[index].enabled:
                self.notified(index)
        elif offset < common.SIZE:
            self.common.store(offset, size, value)
        elif DEVICE <= offset < NOTIFY:
            self.device_config_written(offset - DEVICE, value.to_bytes(size, "little"))

    def reset(self) -> None:
        self.forget()
        self._window_data = bytearray(4)

    def forget(self) -> None:
        self.stopped()
        self.common.reset()
        self._isr = 0
        self.intx(False)

    def forget_queue(self, index: int) -> None:
        self.queue_stopped(index)

    def _signal(self, bit: int, vector: int) -> None:
        if not self.sends_messages or bit == CONFIG_INTERRUPT:
            self._isr |= bit
        if not self.sends_messages:
            self.intx(True)
        elif vector != NO_VECTOR:
            self.interrupt(vector)

    # --- the window in configuration space ---

    def _window(self) -> tuple[int, int] | None:
        """Offset in BAR 0 and bytes of the access that it stands for; None: there is no such."""
        bar = self.config.read(_WINDOW_AT + CAPABILITY_BAR, 1)
        offset = self.config.read(_WINDOW_AT + CAPABILITY_OFFSET, 4)
        length = self.config.read(_WINDOW_AT + CAPABILITY_LENGTH, 4)
        if bar or length not in (1, 2, 4) or offset % length or offset + length > self.bars[0].size:
            return None
        return offset, length

    def _look(self, offset: int, size: int) -> int:
        at = offset - _WINDOW_AT - CAPABILITY_DATA
        found = self._window() if not at else None
        if found is not None:
            self._window_data[: found[1]] = self.read_bar(0, *found).to_bytes(found[1], "little")
        return int.from_bytes(self._window_data[at : at + size], "little")

    def _put(self, offset: int, size: int, value: int) -> None:
        at = offset - _WINDOW_AT - CAPABILITY_DATA
        self._window_data[at : at + size] = value.to_bytes(size, "little")
        found = self._window() if not at else None
        if found is not None:
            self.write_bar(0, *found, int.from_bytes(self._window_data[: found[1]], "little"))


def _capability(kind: int, offset: int, length: int, more: bytes = b"") -> Vendor:
    return Vendor(CAPABILITY.pack(kind, 0, offset, length) + more)


def _window_mask() -> bytes:
    return CAPABILITY.pack(0, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF) + b"\xff" * 4
