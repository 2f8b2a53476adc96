"""From a caller's bytes to a struct and back, by the size rules that let structs grow.

The first u32 is the size that the caller knows the struct to have. Shorter than ours: what is missing reads as zero. Longer: what
we do not know must be zero. Ref: v7.3 main.c iommufd_fops_ioctl, include/linux/uaccess.h copy_struct_from_user
"""

from typing import Any

from .header import ffi
from .table import Row


def decode(row: Row, data: bytes) -> Any:
    """The struct from the `data` that the caller supplied (at most row.size bytes), zero-extended."""
    cmd = ffi.new(row.pointer)
    ffi.memmove(cmd, data, len(data))
    return cmd


def encode(cmd: Any, size: int) -> bytes:
    """The first `size` bytes of a struct, to be written back."""
    return bytes(ffi.buffer(cmd, size))
