"""Log pages: health, errors, firmware, and what each command does.

Ref: NVM Express Base Specification 1.4 section 5.14
"""

from collections import deque
from collections.abc import Callable
from struct import pack, pack_into
from typing import Final

from . import wire as w
from .command import Command
from .features import OVER, UNDER, Features
from .identify import ERROR_ENTRIES
from .wire import ALL_NAMESPACES, Failed

TEMPERATURE: Final = 310  # Kelvin, always
TOO_HOT_OR_COLD, READ_ONLY = 1 << 1, 1 << 3  # critical warnings
_UNIT: Final = 512_000  # bytes that count one in the health log
_SPARE, _SPARE_THRESHOLD = 100, 10  # per cent
_SUPPORTED, _CHANGES_CONTENT, _CHANGES_NAMESPACE, _ALONE = 1, 1 << 1, 1 << 2, 1 << 16


class Logs:
    """`now`: seconds since some moment. What it counts lasts as long as the device."""

    def __init__(self, features: Features, firmware: str, now: Callable[[], float], *, readonly: bool) -> None:
        self._features: Final = features
        self._firmware: Final = firmware
        self._now: Final = now
        self._readonly: Final = readonly
        self._born: Final = now()
        self.reads = self.writes = self.read_bytes = self.written_bytes = self.media_errors = 0
        self._errors = 0
        self._entries: deque[bytes] = deque(maxlen=ERROR_ENTRIES)  # the newest first

    @property
    def warnings(self) -> int:
        """SMART's critical warning."""
        features = self._features
        found = READ_ONLY if self._readonly else 0
        if features.threshold(OVER) <= TEMPERATURE or features.threshold(UNDER) >= TEMPERATURE:
            found |= TOO_HOT_OR_COLD
        return found

    def failed(self, command: Command, status: int) -> None:
        """A command failed; `status` as in its completion, without the phase."""
        self._errors += 1
        nsid = command.nsid if command.sqid else 0
        lba = command.slba if command.sqid else 0
        entry = pack("<QHHHHQIB", self._errors, command.sqid, command.cid, status << 1, 0xFFFF, lba, nsid, 0)
        self._entries.appendleft(entry.ljust(64, b"\0"))

    def page(self, number: int, nsid: int) -> bytes:
        """The whole of one. Failed: there is no such page, or not of one namespace."""
        if number == w.LOG_ERROR:
            return b"".join(self._entries).ljust(64 * ERROR_ENTRIES, b"\0")
        if number == w.LOG_SMART:
            if nsid not in (0, ALL_NAMESPACES):
                raise Failed(w.INVALID_FIELD)
            return self._health()
        if number == w.LOG_FIRMWARE:
            return pack("<B7x8s", 1, f"{self._firmware:<8}".encode("ascii")).ljust(512, b"\0")
        if number == w.LOG_EFFECTS:
            return _EFFECTS
        raise Failed(w.LOG_PAGE_INVALID)

    def _health(self) -> bytes:
        data = bytearray(512)
        pack_into("<BHBBB", data, 0, self.warnings, TEMPERATURE, _SPARE, _SPARE_THRESHOLD, 0)
        counts = (
            -(-self.read_bytes // _UNIT),
            -(-self.written_bytes // _UNIT),
            self.reads,
            self.writes,
            0,
            1,
            int((self._now() - self._born) / 3600),
            0,
            self.media_errors,
            self._errors,
        )
        for index, count in enumerate(counts):
            at = 32 + 16 * index
            data[at : at + 16] = count.to_bytes(16, "little")
        return bytes(data)


def _effects() -> bytes:
    admin, io = [0] * 256, [0] * 256
    for opcode in (
        w.DELETE_SQ,
        w.CREATE_SQ,
        w.GET_LOG_PAGE,
        w.DELETE_CQ,
        w.CREATE_CQ,
        w.IDENTIFY,
        w.ABORT,
        w.SET_FEATURES,
        w.GET_FEATURES,
        w.ASYNC_EVENT_REQUEST,
        w.DOORBELL_BUFFER_CONFIG,
    ):
        admin[opcode] = _SUPPORTED
    admin[w.FORMAT_NVM] = _SUPPORTED | _CHANGES_CONTENT | _CHANGES_NAMESPACE | _ALONE
    for opcode in (w.FLUSH, w.READ, w.COMPARE, w.VERIFY):
        io[opcode] = _SUPPORTED
    for opcode in (w.WRITE, w.WRITE_ZEROES, w.DATASET_MANAGEMENT):
        io[opcode] = _SUPPORTED | _CHANGES_CONTENT
    return pack("<256I256I", *admin, *io).ljust(4096, b"\0")


_EFFECTS: Final = _effects()
