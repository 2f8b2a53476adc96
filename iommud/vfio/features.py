"""VFIO_DEVICE_FEATURE: what not every device has.

Of 7.3's features a function without SR-IOV and migration has two: low power, and dma-bufs of its
BARs.

Ref: v7.3 vfio_main.c vfio_ioctl_device_feature, vfio_pci_core.c vfio_pci_core_ioctl_feature
"""

from collections.abc import Awaitable, Callable, Mapping
from errno import EINVAL, ENOTTY
from typing import Final, NamedTuple

from ..errors import IoctlError
from ..ops.request import Request
from ..uapi.header import const, struct_size
from . import dma_buf
from .device import Bound
from .outside import Outside

_MASK: Final = const("VFIO_DEVICE_FEATURE_MASK")
_GET: Final = const("VFIO_DEVICE_FEATURE_GET")
_SET: Final = const("VFIO_DEVICE_FEATURE_SET")
_PROBE: Final = const("VFIO_DEVICE_FEATURE_PROBE")
_PRECOPY_INFO: Final = const("VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2")
_WAKEUP_SIZE: Final = struct_size("vfio_device_low_power_entry_with_wakeup")


async def feature(bound: Bound, request: Request, outside: Outside) -> None:
    """Ask for, get or set a feature. EINVAL: an unknown flag, GET with SET, neither of them, one
    that the feature has not, too little data. ENOTTY: no such feature. Others: the feature's.
    """
    cmd = request.cmd
    flags, which = cmd.flags, cmd.flags & _MASK
    ways, size = flags & (_GET | _SET), cmd.argsz - request.user_size
    if flags & ~(_MASK | _GET | _SET | _PROBE):
        raise IoctlError(EINVAL, f"flags {flags:#x} has unknown bits")
    if ways == _GET | _SET and not flags & _PROBE:
        raise IoctlError(EINVAL, "GET and SET in one")
    found = FEATURES.get(which)
    if found is None:
        if which == _PRECOPY_INFO:
            raise IoctlError(EINVAL, f"{bound.device} cannot be migrated")
        raise IoctlError(ENOTTY, f"{bound.device} does not have feature {which}")
    if ways & ~found.ways:
        raise IoctlError(EINVAL, f"feature {which} can be {'got' if found.ways == _GET else 'set'} only")
    if flags & _PROBE:
        return
    if not ways:
        raise IoctlError(EINVAL, "neither PROBE, GET nor SET")
    if size < found.size:
        raise IoctlError(EINVAL, f"argsz {cmd.argsz} leaves {size} bytes of data, feature {which} has {found.size}")
    await request.settle(request.address + request.user_size, found.size)
    await found.carry_out(bound, request, outside)


async def _low_power_entry(bound: Bound, _request: Request, _outside: Outside) -> None:
    bound.enter_low_power(None)


async def _low_power_entry_with_wakeup(bound: Bound, request: Request, outside: Outside) -> None:
    """EINVAL: no descriptor, or no eventfd, or entered already. EBADF: there is no such
    descriptor.
    """
    data = request.read(request.address + request.user_size, _WAKEUP_SIZE, "the eventfd")
    number = int.from_bytes(data[:4], "little", signed=True)
    if number < 0:
        raise IoctlError(EINVAL, f"{number} is no descriptor")
    wake = outside.eventfds(request.caller).trigger(number)
    try:
        bound.enter_low_power(wake)
    except IoctlError:
        wake.close()
        raise


async def _low_power_exit(bound: Bound, _request: Request, _outside: Outside) -> None:
    bound.leave_low_power()


class _Feature(NamedTuple):
    """`ways`: GET, SET; `size`: bytes of data that there must be."""

    ways: int
    size: int
    carry_out: Callable[[Bound, Request, Outside], Awaitable[None]]


FEATURES: Final[Mapping[int, _Feature]] = {
    const("VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY"): _Feature(_SET, 0, _low_power_entry),
    const("VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP"): _Feature(
        _SET, _WAKEUP_SIZE, _low_power_entry_with_wakeup
    ),
    const("VFIO_DEVICE_FEATURE_LOW_POWER_EXIT"): _Feature(_SET, 0, _low_power_exit),
    const("VFIO_DEVICE_FEATURE_DMA_BUF"): _Feature(_GET, dma_buf.SIZE, dma_buf.get_dma_buf),
}
