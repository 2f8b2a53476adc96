"""Features: what Set Features and Get Features change and tell.

None can be saved: after a reset each has its default again.

Ref: NVM Express Base Specification 1.4 section 5.21
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from . import wire as w
from .identify import POWER_STATES, WARNING_TEMPERATURE
from .wire import ALL_NAMESPACES, Failed

CURRENT, DEFAULT, SAVED, SUPPORTED = 0, 1, 2, 3  # SEL
_OF_NAMESPACE, _CHANGEABLE = 1 << 1, 1 << 2  # what SUPPORTED tells
_SAVE: Final = 1 << 31
OVER, UNDER = 0, 1  # which threshold of temperature
_NO_DEALLOCATED_ERROR: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class _Feature:
    """`mask`: the bits of dword 11 that are remembered."""

    default: int
    mask: int
    of_namespace: bool = False


FEATURES: Final[Mapping[int, _Feature]] = {
    w.ARBITRATION: _Feature(0, 0xFFFF_FF07),
    w.POWER_MANAGEMENT: _Feature(0, 0xFF),
    w.TEMPERATURE_THRESHOLD: _Feature(WARNING_TEMPERATURE, 0xFFFF),
    w.ERROR_RECOVERY: _Feature(0, 0xFFFF, of_namespace=True),
    w.VOLATILE_WRITE_CACHE: _Feature(1, 0x1),
    w.NUMBER_OF_QUEUES: _Feature(0, 0),
    w.INTERRUPT_COALESCING: _Feature(0, 0xFFFF),
    w.INTERRUPT_VECTOR: _Feature(0, 1 << 16),
    w.WRITE_ATOMICITY: _Feature(0, 0x1),
    w.ASYNC_EVENTS: _Feature(0, 0x1F),
    w.TIMESTAMP: _Feature(0, 0),
}


class Features:
    """`queues`: pairs of I/O queues; `vectors`: interrupts; `namespaces`: how many; `now`: seconds
    since some moment.
    """

    def __init__(self, queues: int, vectors: int, namespaces: int, now: Callable[[], float]) -> None:
        self._queues: Final = queues
        self._vectors: Final = vectors
        self._namespaces: Final = namespaces
        self._now: Final = now
        self.reset()

    def reset(self) -> None:
        # Values by feature, and by what it has one each of: a namespace, a vector, a threshold.
        self._values: dict[tuple[int, int], int] = {}
        self._timestamp = 0  # milliseconds
        self._timestamp_set = False
        self._timestamp_at = self._now()

    @property
    def caches_writes(self) -> bool:
        """A write may be completed before it is sure to stay."""
        return bool(self._value(w.VOLATILE_WRITE_CACHE))

    @property
    def reported_warnings(self) -> int:
        """Which bits of SMART's critical warning are events."""
        return self._value(w.ASYNC_EVENTS)

    def threshold(self, which: int) -> int:
        """Kelvin; OVER or UNDER."""
        default = WARNING_TEMPERATURE if which == OVER else 0
        return self._values.get((w.TEMPERATURE_THRESHOLD, which), default)

    def set(self, nsid: int, dword10: int, dword11: int, *, has_queues: bool, data: Callable[[int], bytes]) -> int:
        """Set Features; returns dword 0 of the completion. `has_queues`: there are I/O queues.
        `data` reads so many bytes of the command's. Failed, DmaFault.
        """
        number = dword10 & 0xFF
        feature = self._find(number)
        if dword10 & _SAVE:
            raise Failed(w.FEATURE_NOT_SAVEABLE)
        if feature.of_namespace and not nsid:
            raise Failed(w.INVALID_NAMESPACE)
        if nsid and nsid != ALL_NAMESPACES:
            if nsid > self._namespaces:
                raise Failed(w.INVALID_NAMESPACE)
            if not feature.of_namespace:
                raise Failed(w.FEATURE_NOT_OF_NAMESPACE)
        if number == w.NUMBER_OF_QUEUES:
            return self._set_queues(dword11, has_queues)
        if number == w.TIMESTAMP:
            self._set_timestamp(data(8))
            return 0
        for which in self._which(number, nsid, dword11):
            self._values[number, which] = dword11 & feature.mask
        return 0

    def get(self, nsid: int, dword10: int, dword11: int, *, put: Callable[[bytes], None]) -> int:
        """Get Features; dword 0 of the completion. `put` writes the command's data. Failed,
        DmaFault.
        """
        number, select = dword10 & 0xFF, dword10 >> 8 & 7
        feature = self._find(number)
        if feature.of_namespace and not 1 <= nsid <= self._namespaces:
            raise Failed(w.INVALID_NAMESPACE)
        if select == SUPPORTED:
            return _CHANGEABLE | (_OF_NAMESPACE if feature.of_namespace else 0)
        if select > SUPPORTED:
            raise Failed(w.INVALID_FIELD)
        if number == w.NUMBER_OF_QUEUES:
            return self._granted
        if number == w.TIMESTAMP:
            put(self._get_timestamp(current=select == CURRENT))
            return 0
        which = self._which(number, nsid, dword11)[0]
        default = self._default(number, which)
        value = self._values.get((number, which), default) if select == CURRENT else default
        return value | which if number == w.INTERRUPT_VECTOR else value

    def _find(self, number: int) -> _Feature:
        found = FEATURES.get(number)
        if found is None:
            raise Failed(w.INVALID_FIELD)
        return found

    def _value(self, number: int) -> int:
        return self._values.get((number, 0), FEATURES[number].default)

    @staticmethod
    def _default(number: int, which: int) -> int:
        return 0 if number == w.TEMPERATURE_THRESHOLD and which == UNDER else FEATURES[number].default

    def _which(self, number: int, nsid: int, dword11: int) -> list[int]:
        """Of what there is one value each, which ones are meant. Failed: dword 11 says what cannot
        be.
        """
        if number == w.TEMPERATURE_THRESHOLD:
            sensor, which = dword11 >> 16 & 0xF, dword11 >> 20 & 3
            if sensor not in (0, 0xF) or which > UNDER:
                raise Failed(w.INVALID_FIELD)
            return [which]
        if number == w.INTERRUPT_VECTOR:
            if dword11 & 0xFFFF >= self._vectors:
                raise Failed(w.INVALID_FIELD)
            return [dword11 & 0xFFFF]
        if number == w.ERROR_RECOVERY:
            if dword11 & _NO_DEALLOCATED_ERROR:
                raise Failed(w.INVALID_FIELD)
            return list(range(1, self._namespaces + 1)) if nsid == ALL_NAMESPACES else [nsid]
        if number == w.POWER_MANAGEMENT and dword11 & 0x1F >= len(POWER_STATES):
            raise Failed(w.INVALID_FIELD)
        return [0]

    @property
    def _granted(self) -> int:
        return (self._queues - 1) * 0x1_0001

    def _set_queues(self, wanted: int, has_queues: bool) -> int:
        if has_queues:
            raise Failed(w.COMMAND_SEQUENCE_ERROR)
        if wanted & 0xFFFF == 0xFFFF or wanted >> 16 == 0xFFFF:
            raise Failed(w.INVALID_FIELD)
        return self._granted

    def _set_timestamp(self, data: bytes) -> None:
        self._timestamp = int.from_bytes(data[:6], "little")
        self._timestamp_set, self._timestamp_at = True, self._now()

    def _get_timestamp(self, *, current: bool) -> bytes:
        if not current:
            return bytes(8)
        passed = int((self._now() - self._timestamp_at) * 1000)
        return (self._timestamp + passed & (1 << 48) - 1).to_bytes(6, "little") + bytes([self._timestamp_set << 1, 0])
