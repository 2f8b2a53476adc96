"""A namespace: a stretch of the disk, cut into blocks.

Its format (how large a block is) can be changed by the driver, and lasts as long as the device.
"""

from typing import Final
from uuid import NAMESPACE_OID, uuid5

from ...pci.storage import Disk

FORMATS: Final = (9, 12)  # LBA formats: blocks of 512 and 4096 bytes
ALIGNMENT: Final = 1 << 20  # bytes, at which a namespace begins
# Which organisation gave the identifiers out: a locally administered number, so nobody.
OUI: Final = bytes((0xAE, 0x6F, 0x6D))


class Namespace:
    """`size` bytes of `disk`, from `start` on."""

    def __init__(self, nsid: int, disk: Disk, start: int, size: int, block: int, serial: str) -> None:
        """`block`: bytes of a block, one of FORMATS. `serial`: of the controller."""
        self.nsid: Final = nsid
        self.disk: Final = disk
        self.start: Final = start
        self.size: Final = size
        self.uuid: Final = uuid5(NAMESPACE_OID, f"iommud nvme {serial} {nsid}").bytes
        self.eui64: Final = OUI + self.uuid[:5]
        self.nguid: Final = self.uuid[8:] + OUI + self.uuid[:5]
        self.shift = block.bit_length() - 1
        self.formatting = False

    @property
    def format(self) -> int:
        """The index of its LBA format."""
        return FORMATS.index(self.shift)

    @property
    def blocks(self) -> int:
        return self.size >> self.shift


def divide(disk: Disk, count: int, block: int, serial: str) -> list[Namespace]:
    """`count` namespaces of one size. ValueError: the disk is too small for so many."""
    size = disk.size if count == 1 else disk.size // count // ALIGNMENT * ALIGNMENT
    if size < max(1 << shift for shift in FORMATS):
        raise ValueError(f"a disk of {disk.size} bytes is too small for {count} namespaces")
    size -= size % block
    return [Namespace(index + 1, disk, index * size, size, block, serial) for index in range(count)]
