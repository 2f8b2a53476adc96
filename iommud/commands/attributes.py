"""What stat(2) shows of device files. This imports no engine, for processes that only make the
files.
"""

from typing import Final

from cuse_glue.fuse.node import Attributes

from ..doors import Behind, Door

ALL_REGIONS: Final = 0x7FFF_FFFF_FFFF_0000  # bytes: as large as a file can be, of whole pages


def attributes(door: Door, uid: int, gid: int) -> Attributes:
    """What stat(2) shows of a door's file. A device's file has a position for each region. So has a
    group's file, because a device's descriptor is one more open of it.
    """
    if door.behind in (Behind.DEVICE, Behind.GROUP):
        return Attributes(door.mode, uid, gid, size=ALL_REGIONS, has_positions=True)
    return Attributes(door.mode, uid, gid)
