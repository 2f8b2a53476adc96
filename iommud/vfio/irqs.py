"""VFIO_DEVICE_SET_IRQS and VFIO_DEVICE_IOEVENTFD: eventfds of the client's, in both directions.

Ref: v7.3 vfio_pci_core.c vfio_pci_ioctl_set_irqs, vfio_pci_ioctl_ioeventfd
"""

from ..ops.request import Request
from ..pci.interrupts import IrqSet
from .device import Bound
from .outside import Outside


async def set_irqs(bound: Bound, request: Request, outside: Outside) -> None:
    """EFAULT: the data cannot be read. Others: Interrupts.check, Interrupts.set."""
    cmd = request.cmd
    irqs = bound.opened.irqs
    asked = IrqSet(cmd.argsz, cmd.flags, cmd.index, cmd.start, cmd.count)
    size, place = irqs.check(asked), request.address + request.user_size
    await request.settle(place, size)
    data = request.read(place, size, "the data") if size else b""
    irqs.set(asked, data, outside.eventfds(request.caller))


async def ioeventfd(bound: Bound, request: Request, outside: Outside) -> None:
    """Errors: IoEventFds.set."""
    cmd = request.cmd
    bound.opened.ioeventfds.set(cmd.offset, cmd.data, cmd.flags, cmd.fd, outside.eventfds(request.caller))
