"""vDEVICEs: a device as a guest knows it, by a number of the guest's own, behind a vIOMMU.

A device has at most one, which does not keep the device. When the device goes, its vDEVICE goes
first. Its ID stays taken until the context ends, so that a client that still has the ID finds
nothing under it.

Ref: v7.3 viommu.c iommufd_vdevice_alloc_ioctl, device.c iommufd_device_remove_vdev
"""

from errno import EEXIST

from ...errors import IoctlError
from ..mapping.objects import Object, ObjectTable
from .device import Device
from .viommu import Viommu


class Vdevice(Object):
    """`virt_id`: the guest's number of the device."""

    kind = "vDEVICE"
    __slots__ = ("device", "viommu", "virt_id")

    def __init__(self, viommu: Viommu, device: Device, virt_id: int) -> None:
        super().__init__()
        self.viommu = viommu
        self.device = device
        self.virt_id = virt_id
        viommu.vdevices[virt_id] = self
        viommu.users.append(self)
        device.vdevice = self

    def destroy(self) -> None:
        del self.viommu.vdevices[self.virt_id]
        self.viommu.users.remove(self)
        self.device.vdevice = None


def alloc_vdevice(objects: ObjectTable, viommu: Viommu, device: Device, virt_id: int) -> Vdevice:
    """A new vDEVICE. It is not published: publish it, or `abort_and_destroy`. `virt_id`: 0 to 2^64
    - 1.

    EINVAL: the device is not behind the vIOMMU's own IOMMU. EEXIST: it has a vDEVICE, or the number
    is taken. Then nothing has changed.
    """
    viommu.check_device(device)
    if device.vdevice is not None:
        raise IoctlError(EEXIST, f"{device} is {device.vdevice} already")
    if virt_id in viommu.vdevices:
        raise IoctlError(EEXIST, f"number {virt_id:#x} of {viommu} is {viommu.vdevices[virt_id]}")
    vdevice = Vdevice(viommu, device, virt_id)
    try:
        objects.reserve(vdevice)
    except IoctlError:
        vdevice.destroy()
        raise
    return vdevice
