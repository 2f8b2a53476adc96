"""The device file: each open is a context, each ioctl one outcome, and one sentence for whoever asked why.

This is the one place where an outcome becomes a reply: success is 0, an IoctlError is -errno (and a line for `--why`), anything else is a
bug of ours: EIO to the client and a traceback in the log.
"""

import errno
import gc
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cuse_glue.caller import Caller
from cuse_glue.inject import Injector
from cuse_glue.mapped import Show
from cuse_glue.node import OpenFile

from ..devices import kinds
from ..engine.context import Context
from ..engine.host import Host
from ..errors import IoctlError
from ..uapi.vfio_table import name_of
from .descriptors import ALWAYS_READY, DescriptorBook
from .dispatch import Dispatcher
from .origins import ProcessOrigins
from .test_cmd import TestCommand

log: Final = logging.getLogger("iommud")

@dataclass(frozen=True)
class Options:
    """What a device offers. `why` gets one line for each refused ioctl; `mock`: the kernel's selftest driver is there, and its devices
    stand behind an IOMMU of the kind `iommu` (devices.kinds.KINDS). `watched`: whether clients, which `iommud run` has started, are under a
    seccomp filter of ours (cuse_glue.seccomp); None: they come from elsewhere. `pin`: "uring" makes pins true (cuse_glue.true_pin)."""

    mock: bool = False
    iommu: str = kinds.DEFAULT
    why: Callable[[str], None] | None = None
    pin: str = "watch"
    watched: bool | None = None


def calm_collector() -> None:
    """For a process that serves: no full garbage collections while clients wait.

    A million areas are millions of objects that a full collection looks at, for a second. The engine makes no cycles, so there is
    nothing to find; what Python's own machinery leaves (tracebacks) is looked for when no client is there.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 1_000_000_000)


class IommuDevice:
    """What a session serves as /dev/iommu."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        harmless_filters = None if self.options.watched is None else int(self.options.watched)
        self._origins = ProcessOrigins(true_pins=self.options.pin == "uring", harmless_filters=harmless_filters)
        self.true_pins = self._origins.true_pins
        self.host = Host()
        self._open_files = 0
        self._injector = Injector(harmless_filters=harmless_filters)
        self.mapped = ShownFile(self.host) if self.options.mock else None  # the mock alone has something to map
        test_command = TestCommand(self.options.iommu) if self.options.mock else None
        self.dispatcher = Dispatcher(self._origins, DescriptorBook(self._injector), test_command)

    def open(self, caller: Caller, flags: int) -> OpenFile:
        """A new context, unless we made the caller open a file that is being given to it."""
        given = self._injector.claim(caller)
        if given is not None:
            return given
        self._open_files += 1
        return IommuFile(self)

    def closed(self) -> None:
        """A context's file was released. With the last one, nothing that was kept about clients is worth keeping."""
        self._open_files -= 1
        if self.true_pins is not None:
            self.true_pins.released()
        if not self._open_files:
            self._origins.forget_callers()
            gc.collect()  # nobody waits for an answer now; see `calm_collector`

    def shutdown(self) -> None:
        """The session has ended: let go of what is kept about clients."""
        self._injector.close()
        if self.true_pins is not None:
            self.true_pins.close()
        self._origins.forget_callers()


class VfioContainer:
    """What a session serves as /dev/vfio/vfio: the same, but that pins are counted as VFIO always did, against the process."""

    def __init__(self, device: IommuDevice) -> None:
        self._device = device

    def open(self, caller: Caller, flags: int) -> OpenFile:
        file = self._device.open(caller, flags)
        if isinstance(file, IommuFile):
            file.context.set_rlimit_mode(1)  # Ref: v7.3 main.c iommufd_fops_open
        return file


class ShownFile:
    """What of devices can be mapped through the file, as a session wants it (cuse_glue.mapped.Mapped)."""

    def __init__(self, host: Host) -> None:
        self._shown = host.shown

    def begin(self, show: Show) -> None:
        self._shown.announce = show

    def page_in(self, file: OpenFile, offset: int, size: int) -> bytes:
        found = self._shown.read(file.context, offset, size) if isinstance(file, IommuFile) else None
        if found is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return found

    def page_out(self, offset: int, data: bytes) -> None:
        self._shown.write(offset, data)


class IommuFile:
    """One open of the device."""

    def __init__(self, device: IommuDevice) -> None:
        self._device = device
        self.context = Context(device.host)

    async def ioctl(self, caller: Caller, cmd: int, arg: int, compat: bool) -> int:
        result = await self._result(caller, cmd, arg)
        true_pins = self._device.true_pins
        return await true_pins.settle(caller, result) if true_pins is not None else result

    async def _result(self, caller: Caller, cmd: int, arg: int) -> int:
        try:
            return await self._device.dispatcher.dispatch(self.context, caller, cmd, arg)
        except IoctlError as refusal:
            why = self._device.options.why
            if why is not None:
                why(f"{caller.name()}: {name_of(cmd)}: {refusal}")
            return -refusal.errno
        except Exception:
            log.exception("bug: %s of %s", name_of(cmd), caller.name())
            return -errno.EIO

    async def read(self, caller: Caller, size: int, nonblocking: bool) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    async def write(self, caller: Caller, data: bytes, nonblocking: bool) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def poll(self, wake: Callable[[], None] | None) -> int:
        return ALWAYS_READY

    def release(self) -> None:
        self.context.release()
        self._device.closed()
