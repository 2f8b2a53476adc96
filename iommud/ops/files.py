"""The device file: each open is a context, each ioctl one outcome, and one sentence for whoever asked why.

This is the one place where an outcome becomes a reply: success is 0, an IoctlError is -errno (and a line for `--why`), anything else is a
bug of ours: EIO to the client and a traceback in the log.
"""

import errno
import logging
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cuse_glue.caller import Caller
from cuse_glue.origin import ClientFile, FileCache, Mm, MmCache

from ..engine.context import Context
from ..engine.host import Host
from ..errors import IoctlError
from ..uapi.table import name_of
from .dispatch import Dispatcher
from .test_cmd import test_cmd

log: Final = logging.getLogger("iommud")

ALWAYS_READY: Final = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM


@dataclass(frozen=True)
class Options:
    """What a device offers. `why` gets one line for each refused ioctl; `mock`: the kernel's selftest driver is there."""

    mock: bool = False
    why: Callable[[str], None] | None = None


class _Origins:
    def __init__(self) -> None:
        self.mms = MmCache()
        self.files = FileCache()

    def address_space(self, caller: Caller, readable: int) -> Mm:
        return self.mms.of(caller, readable)

    def file(self, caller: Caller, number: int, readable: int) -> ClientFile:
        return self.files.of(caller, number)

    def page_identity(self, caller: Caller, address: int) -> object:
        return None


class IommuDevice:
    """What a session serves as /dev/iommu."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._origins = _Origins()
        self.host = Host()
        self.dispatcher = Dispatcher(self._origins, None, test_cmd if self.options.mock else None)

    def open(self, caller: Caller, flags: int) -> "IommuFile":
        return IommuFile(self)

    def shutdown(self) -> None:
        """After the last release: let go of what is kept about clients."""
        self._origins.mms.close()


class IommuFile:
    """One open of the device."""

    def __init__(self, device: IommuDevice) -> None:
        self._device = device
        self.context = Context(device.host)

    async def ioctl(self, caller: Caller, cmd: int, arg: int, compat: bool) -> int:
        try:
            await self._device.dispatcher.dispatch(self.context, caller, cmd, arg)
        except IoctlError as refusal:
            why = self._device.options.why
            if why is not None:
                name = errno.errorcode.get(refusal.errno, str(refusal.errno))
                why(f"{caller.name()}: {name_of(cmd)}: {name}: {refusal.why}")
            return -refusal.errno
        except Exception:
            log.exception("bug: %s of %s", name_of(cmd), caller.name())
            return -errno.EIO
        return 0

    async def read(self, caller: Caller, size: int, nonblocking: bool) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    async def write(self, caller: Caller, data: bytes, nonblocking: bool) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def poll(self, wake: Callable[[], None] | None) -> int:
        return ALWAYS_READY

    def release(self) -> None:
        self.context.release()
