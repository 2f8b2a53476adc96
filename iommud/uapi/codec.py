"""From a caller's bytes to a struct and back, by the size rules that let structs grow.

The first u32 is the size of the struct as the caller knows it. If that is shorter than ours, the
missing bytes read as zero. If it is longer, the bytes that we do not know must be zero. Ref: v7.3
main.c iommufd_fops_ioctl, include/linux/uaccess.h copy_struct_from_user
"""

from typing import Any, Final

from .header import ffi
from .layout import Layout

NOTHING: Final = ffi.typeof("void *")  # what a number without a struct points to


def decode(struct: Layout, data: bytes) -> Any:
    """The struct from the `data` that the caller supplied (at most struct.size bytes), extended by
    zeros.
    """
    cmd = ffi.new(struct.pointer)
    ffi.memmove(cmd, data, len(data))
    return cmd


def encode(cmd: Any, size: int) -> bytes:
    """The first `size` bytes of a struct, to be written back."""
    return bytes(ffi.buffer(cmd, size))
