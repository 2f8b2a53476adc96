"""A block device: virtio-blk.

What a driver writes is in the disk's cache. It stays if the machine loses its power when a FLUSH is
done, or from the start: if the driver has set `writeback` to 0, or has accepted neither FLUSH nor
CONFIG_WCE.

Positions are in sectors of 512 bytes whatever `lba` is: that only tells drivers which blocks the
disk is good at.

Ref: VIRTIO 1.2 5.2
"""

from typing import ClassVar, Final

from ...pci.function import Slot
from ..disk import KEYS
from ..disk_work import DiskWork
from ..keys import Key, Keys, number, text
from .chain import Broken
from .request import DISCARD_SECTORS, RANGES, SEGMENTS, ZEROES_SECTORS
from .service import PIECE, Service
from .transport import VirtioPci
from .wire import (
    ACCESS_PLATFORM,
    BLK_BLK_SIZE,
    BLK_CONFIG,
    BLK_CONFIG_WCE,
    BLK_DISCARD,
    BLK_FLUSH,
    BLK_MQ,
    BLK_RO,
    BLK_SEG_MAX,
    BLK_SIZE_MAX,
    BLK_TOPOLOGY,
    BLK_WRITE_ZEROES,
    BLK_WRITEBACK,
    BLOCK,
    EVENT_IDX,
    ID_BYTES,
    IN_ORDER,
    INDIRECT_DESC,
    NOTIFICATION_DATA,
    RING_PACKED,
    RING_RESET,
    SECTOR,
    VERSION_1,
)

MOST_QUEUES: Final = 64
_GOOD: Final = 4096  # bytes of a block that the disk is good at
_OFFERED: Final = (
    VERSION_1
    | ACCESS_PLATFORM
    | RING_PACKED
    | INDIRECT_DESC
    | EVENT_IDX
    | IN_ORDER
    | NOTIFICATION_DATA
    | RING_RESET
    | BLK_SIZE_MAX
    | BLK_SEG_MAX
    | BLK_BLK_SIZE
    | BLK_FLUSH
    | BLK_TOPOLOGY
    | BLK_CONFIG_WCE
    | BLK_MQ
)


class VirtioBlk(VirtioPci):
    """Keys: see KEYS in models/disk.py; `queues`: how many; `serial`: what GET_ID tells."""

    name = "virtio-blk"
    kind = BLOCK
    keys: ClassVar[Keys] = {
        **KEYS,
        "queues": Key(number(1, MOST_QUEUES), "N", "how many queues it has (default: 4)"),
        "serial": Key(
            text(ID_BYTES), "TEXT", "its serial number, up to 20 characters (default: iommud- and where it is)"
        ),
    }

    def __init__(
        self,
        slot: Slot,
        *,
        file: str | None = None,
        size: int | None = None,
        readonly: bool = False,
        lba: int = SECTOR,
        queues: int = 4,
        serial: str | None = None,
    ) -> None:
        """ValueError: Storage.open."""
        self.disk: Final = slot.storage.open(file, size, readonly=readonly)
        self.queues = queues
        self.offered = _OFFERED | (BLK_RO if readonly else BLK_DISCARD | BLK_WRITE_ZEROES)
        self._lba: Final = lba
        self._identity: Final = (f"iommud-{slot.address}" if serial is None else serial).encode().ljust(ID_BYTES, b"\0")
        self._writeback: int | None = None  # as the driver has set it
        self.size: Final = self.disk.size // lba * lba  # bytes
        self._services: dict[int, Service] = {}
        self._ending: dict[int, Service] = {}  # of queues that were reset
        self._waiting: set[int] = set()  # queues that were notified of while older work holds
        self._work: Final = DiskWork(slot.scheduler, self._settled)
        super().__init__(slot, 0x010000)

    # --- the device's own registers ---

    def device_config(self) -> bytes:
        freed = () if self.disk.readonly else (DISCARD_SECTORS, RANGES, _GOOD // SECTOR, ZEROES_SECTORS, RANGES, 1)
        return BLK_CONFIG.pack(
            self.size // SECTOR,
            PIECE,
            SEGMENTS,
            self._lba,
            (_GOOD // self._lba).bit_length() - 1,
            0,  # the first block is aligned to those that it is good at
            _GOOD // self._lba,
            0,  # no length is better than others
            self._caches,
            self.queues,
            *(freed or (0,) * 6),
        )

    def device_config_written(self, offset: int, data: bytes) -> None:
        if self.features & BLK_CONFIG_WCE and offset <= BLK_WRITEBACK < offset + len(data):
            self._writeback = int(data[BLK_WRITEBACK - offset] != 0)

    @property
    def _caches(self) -> bool:
        """The register `writeback`."""
        if self._writeback is not None:
            return bool(self._writeback)
        return not self.features & BLK_CONFIG_WCE or bool(self.features & BLK_FLUSH)

    def _writes_through(self) -> bool:
        return not (self._caches if self.features & BLK_CONFIG_WCE else self.features & BLK_FLUSH)

    # --- queues ---

    def notified(self, index: int) -> None:
        if self._work.holds:
            self._waiting.add(index)
            return
        if index not in self._services:
            try:
                self._services[index] = Service(
                    self,
                    index,
                    self.disk,
                    self._work,
                    size=self.size,
                    identity=self._identity,
                    writes_through=self._writes_through,
                )
            except Broken as broken:
                self.broken(f"queue {index}: {broken}")
                return
        self._services[index].notified()

    def _settled(self) -> None:
        for index in sorted(self._waiting):
            if self.common.is_live and self.common.queues[index].enabled:
                self.notified(index)
        self._waiting.clear()
        for service in list(self._services.values()):
            service.settled()

    def stopped(self) -> None:
        for service in self._services.values():
            service.stop()
        self._services.clear()
        self._ending.clear()
        self._waiting.clear()
        self._work.reset()

    def queue_stopped(self, index: int) -> None:
        service = self._services.pop(index, None)
        if service is not None:
            service.stop()
            self._ending[index] = service

    def is_resetting(self, index: int) -> bool:
        return index in self._ending and self._ending[index].is_busy

    def forget(self) -> None:
        super().forget()
        self._writeback = None
