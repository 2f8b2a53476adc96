"""What is common to open files that are there only for their ioctls."""

import errno
import os
import select
from collections.abc import Callable
from typing import ClassVar, Final

from cuse_glue.request.caller import Caller

# What poll(2) tells of a device without a poll of its own, such as the kernel's: ready for
# everything.
ALWAYS_READY: Final = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


class NoData:
    """An open file that can be neither read nor written: both are refused with `no_data`."""

    no_data: ClassVar[int] = errno.EINVAL

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        raise OSError(self.no_data, os.strerror(self.no_data))

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        raise OSError(self.no_data, os.strerror(self.no_data))

    def poll(self, wake: Callable[[], None] | None) -> int:
        return ALWAYS_READY
