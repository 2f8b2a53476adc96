"""A client of /dev/iommu that does what the test says: `python client.py PATH`. One line of Python
in, one line `= value` out.
"""

import errno
import fcntl
import mmap
import os
import struct
import sys
from typing import Any

IOAS_ALLOC, MAP, UNMAP = 0x3B81, 0x3B85, 0x3B86
FIXED, WRITEABLE, READABLE = 1, 2, 4
PAGE = mmap.PAGESIZE

iommu = os.open(sys.argv[1], os.O_RDWR)
memory: dict[str, mmap.mmap] = {}  # shared with its children and whoever else has its pages


def ioas_alloc() -> int:
    command = bytearray(struct.pack("=III", 12, 0, 0))
    fcntl.ioctl(iommu, IOAS_ALLOC, command)
    return int(struct.unpack("=III", command)[2])


def address(of: mmap.mmap) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(of))


def map_new(
    name: str, ioas: int, iova: int, data: bytes, flags: int = READABLE | WRITEABLE, *, shared: bool = True
) -> None:
    """Make memory that begins with `data`, in whole pages, and show it at `iova`."""
    kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    made = memory[name] = mmap.mmap(-1, -(-len(data) // PAGE) * PAGE, kind | mmap.MAP_ANONYMOUS)
    made[: len(data)] = data
    command = struct.pack("=IIIIQQQ", 40, FIXED | flags, ioas, 0, address(made), len(made), iova)
    fcntl.ioctl(iommu, MAP, command)


def forget(name: str) -> None:
    """Unmap the memory from this process; the IOAS still shows it."""
    import gc

    made = memory.pop(name)
    gc.collect()
    made.close()


def unmap(ioas: int, iova: int, length: int) -> str:
    try:
        fcntl.ioctl(iommu, UNMAP, struct.pack("=IIQQ", 24, ioas, iova, length))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


for line in sys.stdin:
    names: dict[str, Any] = globals()
    print("=", repr(eval(line, names)), flush=True)
