"""VFIO_DEVICE_RESET, and the reset of a device by its bus.

All functions here are on a root bus, which cannot be reset, as the integrated devices of a PC.

Ref: v7.3 vfio_pci_core.c vfio_pci_ioctl_reset, vfio_pci_ioctl_get_pci_hot_reset_info,
vfio_pci_ioctl_pci_hot_reset
"""

from errno import EINVAL, ENODEV

from ..errors import IoctlError
from ..ops.request import Request
from .device import Bound
from .outside import Outside


async def reset(bound: Bound, _request: Request, _outside: Outside) -> None:
    """EINVAL: it has no reset."""
    bound.reset()


async def get_pci_hot_reset_info(bound: Bound, _request: Request, _outside: Outside) -> None:
    """ENODEV, always."""
    raise IoctlError(ENODEV, f"{bound.device} is on a root bus, which cannot be reset")


async def pci_hot_reset(bound: Bound, request: Request, _outside: Outside) -> None:
    """EINVAL: flags are not 0; groups are named on a device's own file, or none on a file that the
    group gave. ENODEV otherwise.
    """
    cmd = request.cmd
    if cmd.flags or bool(cmd.count) != bound.by_group:
        count = "not 0 on a device that its group opened" if bound.by_group else "0 on a device's own file"
        raise IoctlError(EINVAL, f"flags are {cmd.flags:#x}, must be 0; count is {cmd.count}, must be {count}")
    raise IoctlError(ENODEV, f"{bound.device} is on a root bus, which cannot be reset")
