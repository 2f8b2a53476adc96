"""The registers of the common configuration: features, the device's status, and its queues, one of
which is selected.

Registers have 1 to 8 bytes. An access may be to a part of one, or to several: what is not written
stays as it is.

Ref: VIRTIO 1.2 2.1, 2.2, 4.1.4.3
"""

import struct
from dataclasses import dataclass
from typing import Final, Protocol

from .ring import Place
from .wire import (
    ACKNOWLEDGE,
    DEVICE_NEEDS_RESET,
    DRIVER,
    DRIVER_OK,
    FAILED,
    FEATURES_OK,
    NO_VECTOR,
    RING_PACKED,
    RING_RESET,
    VERSION_1,
)

_IMAGE: Final = struct.Struct("<IIIIHHBBHHHHHQQQHH")
SIZE: Final = _IMAGE.size
(
    DEVICE_FEATURE_SELECT,
    DEVICE_FEATURE,
    DRIVER_FEATURE_SELECT,
    DRIVER_FEATURE,
    CONFIG_VECTOR,
    QUEUE_COUNT,
    STATUS,
    GENERATION,
    QUEUE_SELECT,
    QUEUE_SIZE,
    QUEUE_VECTOR,
    QUEUE_ENABLE,
    QUEUE_NOTIFY_OFF,
    QUEUE_DESC,
    QUEUE_DRIVER,
    QUEUE_DEVICE,
    QUEUE_NOTIFY_DATA,
    QUEUE_RESET,
) = OFFSETS = (0, 4, 8, 12, 16, 18, 20, 21, 22, 24, 26, 28, 30, 32, 40, 48, 56, 58)
_ENDS: Final = (*OFFSETS[1:], SIZE)
_DRIVERS: Final = ACKNOWLEDGE | DRIVER | DRIVER_OK | FAILED  # bits of the status that a driver sets as it likes
_U32: Final = 0xFFFFFFFF


class Effects(Protocol):
    """What writes do to the rest of the device."""

    def forget(self) -> None:
        """The device is reset."""

    def forget_queue(self, index: int) -> None:
        """One queue is."""

    def is_resetting(self, index: int) -> bool:
        """Whether that is still under way."""


@dataclass(slots=True)
class Queue:
    """What a driver says of a queue: addresses are IOVAs."""

    size: int
    vector: int = NO_VECTOR
    enabled: bool = False
    descriptors: int = 0
    driver: int = 0
    device: int = 0

    @property
    def place(self) -> Place:
        return Place(self.size, self.descriptors, self.driver, self.device)


class Common:
    """`offered`: features, as bits. `vectors`: of MSI-X. `most`: descriptors of a queue."""

    def __init__(self, effects: Effects, *, offered: int, queues: int, vectors: int, most: int) -> None:
        self._effects: Final = effects
        self.offered: Final = offered
        self._queues: Final = queues
        self._vectors: Final = vectors
        self._most: Final = most
        self.reset()

    def reset(self) -> None:
        self.status = 0
        self.accepted = 0  # features
        self.vector = NO_VECTOR
        self.queues = [Queue(self._most) for _ in range(self._queues)]
        self._device_select = self._driver_select = self._select = 0

    @property
    def features(self) -> int:
        """Those that device and driver have agreed on; none before that."""
        return self.accepted if self.status & FEATURES_OK else 0

    @property
    def is_live(self) -> bool:
        """The device may touch its queues."""
        return self.status & (FEATURES_OK | DRIVER_OK | DEVICE_NEEDS_RESET) == FEATURES_OK | DRIVER_OK

    def load(self, offset: int, size: int) -> int:
        return int.from_bytes(self._image()[offset : offset + size], "little")

    def store(self, offset: int, size: int, value: int) -> None:
        end = offset + size
        for start, stop in zip(OFFSETS, _ENDS, strict=True):
            if start < end and offset < stop:
                register = bytearray(self._image()[start:stop])
                first, last = max(start, offset), min(stop, end)
                part = value >> 8 * (first - offset) & (1 << 8 * (last - first)) - 1
                register[first - start : last - start] = part.to_bytes(last - first, "little")
                self._write(start, int.from_bytes(register, "little"))

    def _image(self) -> bytes:
        index = self._select
        exists = index < self._queues
        queue = self.queues[index] if exists else Queue(0)
        return _IMAGE.pack(
            self._device_select,
            self._word(self.offered, self._device_select),
            self._driver_select,
            self._word(self.accepted, self._driver_select),
            self.vector,
            self._queues,
            self.status,
            0,  # nothing but the driver changes the device's configuration
            index,
            queue.size,
            queue.vector,
            queue.enabled,
            index if exists else 0,
            queue.descriptors,
            queue.driver,
            queue.device,
            0,
            exists and self._effects.is_resetting(index),
        )

    @staticmethod
    def _word(features: int, select: int) -> int:
        return features >> 32 * select & _U32 if select < 2 else 0

    def _write(self, register: int, value: int) -> None:
        if register == STATUS:
            self._write_status(value)
        elif register == DEVICE_FEATURE_SELECT:
            self._device_select = value
        elif register == DRIVER_FEATURE_SELECT:
            self._driver_select = value
        elif register == DRIVER_FEATURE and self._driver_select < 2 and not self.status & FEATURES_OK:
            shift = 32 * self._driver_select
            self.accepted = self.accepted & ~(_U32 << shift) | value << shift
        elif register == CONFIG_VECTOR:
            self.vector = self._vector(value)
        elif register == QUEUE_SELECT:
            self._select = value
        elif self._select < self._queues:
            self._write_queue(self.queues[self._select], register, value)

    def _write_status(self, value: int) -> None:
        """A driver never clears bits, but for all of them at once."""
        if not value:
            self._effects.forget()
            return
        if value & FEATURES_OK and self.accepted & VERSION_1 and not self.accepted & ~self.offered:
            self.status |= FEATURES_OK
        self.status |= value & _DRIVERS

    def _write_queue(self, queue: Queue, register: int, value: int) -> None:
        if register == QUEUE_VECTOR:
            queue.vector = self._vector(value)
        elif register == QUEUE_RESET:
            if value == 1 and self.features & RING_RESET:
                self.queues[self._select] = Queue(self._most)
                self._effects.forget_queue(self._select)
        elif queue.enabled:
            return
        elif register == QUEUE_SIZE:
            if self._allows(value):
                queue.size = value
        elif register == QUEUE_DESC:
            queue.descriptors = value
        elif register == QUEUE_DRIVER:
            queue.driver = value
        elif register == QUEUE_DEVICE:
            queue.device = value
        elif register == QUEUE_ENABLE:
            queue.enabled = value == 1 and not self._effects.is_resetting(self._select)

    def _allows(self, size: int) -> bool:
        """Split rings have a power of two of descriptors."""
        return 0 < size <= self._most and bool(self.features & RING_PACKED or not size & size - 1)

    def _vector(self, value: int) -> int:
        """Drivers read it back, to see whether the device has it."""
        return value if value < self._vectors else NO_VECTOR
