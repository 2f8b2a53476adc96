"""What stat(2) shows of device files. This is light, for those that only make them."""

from typing import Final

from cuse_glue.fuse.node import Attributes

from ..doors import Behind, Door

ALL_REGIONS: Final = 0x7FFF_FFFF_FFFF_0000  # bytes: as large as a file can be, of whole pages


def attributes(door: Door, uid: int, gid: int) -> Attributes:
    """What stat(2) shows of a door's file. That of a device has a place for each region; so has
    that of a group, of which devices' descriptors are made.
    """
    if door.behind in (Behind.DEVICE, Behind.GROUP):
        return Attributes(door.mode, uid, gid, size=ALL_REGIONS, has_positions=True)
    return Attributes(door.mode, uid, gid)
