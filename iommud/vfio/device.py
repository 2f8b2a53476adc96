"""A VFIO device: a function bound to vfio-pci, known to all who open its file, and driven by one at
a time.

Whoever opens the file can do nothing with it until the device is bound to an iommufd. From then
until the file is closed nobody else can bind the device. So what there is to remember stands in
three places: `VfioDevice` as long as the daemon runs, `DeviceFile` from open to close, `Bound` from
bind to close.

Whoever has the device's group gets a file that is bound already (group.py). Such files of one
device share one `Bound`, until the last of them is closed.

Ref: v7.3 drivers/vfio/vfio_main.c, device_cdev.c, iommufd.c
"""

from collections.abc import Callable, Generator
from errno import EINVAL, EIO, ENODEV, ENOSPC
from typing import Final, Protocol
from weakref import WeakSet

from ..engine.device.context import Context
from ..engine.device.device import Device
from ..engine.device.iommu import Iommu
from ..engine.mapping.objects import Object
from ..engine.memory.share import Alone, Everywhere, Share
from ..errors import IoctlError
from ..pci.driver import VFIO_PCI
from ..pci.plugged import Plugged
from ..pci.triggers import Trigger
from ..pci.vfio_pci import Opened, VfioPci
from .bar_buffer import BarBuffer

_INT_MAX: Final = (1 << 31) - 1


class DeviceSet(Object):
    """What is locked while a device is bound or attached: the devices that one reset resets. Here
    each device is a set by itself. A set has no ID. It is locked before the objects of contexts
    are.
    """

    kind = "device set"


class Group(Protocol):
    """What a device's own file needs of its group: errors as iommud.vfio.group.VfioGroup."""

    def block(self) -> None: ...

    def unblock(self) -> None: ...


class VfioDevice:
    """One device, as long as it is plugged in: vfio-pci may have it, and lose it."""

    def __init__(self, plugged: Plugged, iommu: Iommu, share: Share | None = None) -> None:
        """`share`: other processes that have the same devices."""
        self.plugged: Final = plugged
        self.share: Final = share or Alone()
        self.claimed_as: Final = Everywhere(plugged.name)
        self.iommu: Final = iommu
        self.set: Final = DeviceSet()
        self.bound: Bound | None = None
        self.group: Group | None = None  # while vfio-pci has it
        self.files = 0  # that are open

    def __str__(self) -> str:
        plugged = self.plugged
        name = plugged.name if plugged.vfio is None else plugged.vfio_name
        return f"{name} ({plugged.function.name})"

    @property
    def vfio(self) -> VfioPci:
        """ENODEV: vfio-pci does not have it."""
        if self.plugged.vfio is None:
            raise IoctlError(ENODEV, f"{VFIO_PCI} does not have {self}")
        return self.plugged.vfio


class Bound:
    """A device from its bind to its last close, in a client's context."""

    def __init__(
        self,
        device: VfioDevice,
        context: Context,
        *,
        mappable: bool,
        by_group: bool = False,
        placed: bool = False,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """`mappable`: its BARs can be mapped. `by_group`: it was opened by its group. `placed`: it
        is in the context already, and stays there. `left`: called at the end of its last close.
        EINVAL: another file has bound it; or it should be placed, and is not. EINVAL, EPERM:
        engine.device.bind.

        Ref: v7.3 vfio_main.c vfio_df_open, vfio_df_device_first_open
        """
        self.device: Final = device
        self.context: Final = context
        self.by_group: Final = by_group
        self.files = 1  # that share it
        if device.bound is not None or not device.share.claim(device.claimed_as):
            raise IoctlError(EINVAL, f"another file has bound {device}")
        self._placed: Final = placed
        self._left: Final = left
        try:
            self.in_context: Final[Device] = self._device_in(context)
        except IoctlError:
            device.share.release(device.claimed_as)
            raise
        self.opened: Final[Opened] = device.vfio.open(mappable=mappable)
        self.low_power = False
        self._wake: Trigger | None = None  # what would be told that the device woke up
        self._attached = False
        self._pasids: set[int] = set()
        self._lent: Final[WeakSet[BarBuffer]] = WeakSet()  # those that somebody has, or has mapped
        self.opened.memory_changed = self._memory_changed
        device.bound = self

    def _device_in(self, context: Context) -> Device:
        function = self.device.plugged.function
        if not self._placed:
            return function.bind(context, self.device.iommu)
        if function.device is None:
            raise IoctlError(EINVAL, f"{self.device} could not be attached where its group is")
        return function.device

    def close(self) -> None:
        """One of its files is closed. With the last, the device is free for the next one. Ref: v7.3
        vfio_main.c vfio_df_close
        """
        self.files -= 1
        if self.files:
            return
        self.leave_low_power()
        self.opened.memory_changed = None
        self._move_all(revoked=True)
        self.device.vfio.close()
        if not self._placed:
            self.device.plugged.function.unbind()
        self.device.bound = None
        self.device.share.release(self.device.claimed_as)
        self._left()

    def attach(self, pt_id: int) -> Generator[None, None, int]:
        """Attach the device, or replace what it is attached to; returns the HWPT's ID. Errors:
        Device.attach, replace.

        Ref: v7.3 iommufd.c vfio_iommufd_physical_attach_ioas
        """
        how = self.in_context.replace if self._attached else self.in_context.attach
        hwpt_id = yield from how(pt_id)
        self._attached = True
        return hwpt_id

    def detach(self) -> None:
        """No effect if it is not attached. Ref: v7.3 iommufd.c vfio_iommufd_physical_detach_ioas"""
        if self._attached:
            self.in_context.detach()
            self._attached = False

    def attach_pasid(self, pasid: int, pt_id: int) -> Generator[None, None, int]:
        """As `attach`, for one PASID. ENOSPC: it is beyond 2^31 - 1.

        Ref: v7.3 iommufd.c vfio_iommufd_physical_pasid_attach_ioas
        """
        if pasid in self._pasids:
            return (yield from self.in_context.replace(pt_id, pasid))
        if pasid > _INT_MAX:
            raise IoctlError(ENOSPC, f"PASID {pasid:#x} is beyond 2^31 - 1")
        hwpt_id = yield from self.in_context.attach(pt_id, pasid)
        self._pasids.add(pasid)
        return hwpt_id

    def detach_pasid(self, pasid: int) -> None:
        """Ref: v7.3 iommufd.c vfio_iommufd_physical_pasid_detach_ioas"""
        if pasid in self._pasids:
            self.in_context.detach(pasid)
            self._pasids.remove(pasid)

    def load(self, bar: int, offset: int, size: int) -> int:
        """A load through a mapping; arguments as for Regions.load. EIO, which is a SIGBUS: the
        client has put the device into low power, or as Regions.load.

        Ref: v7.3 vfio_pci_core.c vfio_pci_vmf_insert_pfn
        """
        self._be_awake()
        return self.opened.regions.load(bar, offset, size)

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        """A store through a mapping. EIO: as `load`."""
        self._be_awake()
        self.opened.regions.store(bar, offset, size, value)

    def peek(self, bar: int, offset: int, size: int) -> bytes | None:
        """What loads of whole pages would give, without any effect. None: low power, or as
        Regions.peek.
        """
        return None if self.low_power else self.opened.regions.peek(bar, offset, size)

    def _be_awake(self) -> None:
        if self.low_power:
            raise IoctlError(
                EIO, f"{self.device} is in low power, and only VFIO_DEVICE_FEATURE_LOW_POWER_EXIT ends that"
            )

    def enter_low_power(self, wake: Trigger | None) -> None:
        """From now on loads and stores through a mapping are SIGBUS; pread and pwrite still work.
        EINVAL: the device is in low power already.

        It is as in a kernel without CONFIG_PM: the device never sleeps, so nothing wakes it up, and
        `wake` is never signalled. Ref: v7.3 vfio_pci_core.c vfio_pci_runtime_pm_entry
        """
        self._move_all(revoked=True)
        if self.low_power:
            raise IoctlError(EINVAL, f"{self.device} is in low power already")
        self.low_power, self._wake = True, wake

    def leave_low_power(self) -> None:
        """Ref: v7.3 vfio_pci_core.c vfio_pci_runtime_pm_exit"""
        self.low_power = False
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.close()
        if self.opened.config.memory_enabled:
            self._move_all(revoked=False)

    def reset(self) -> None:
        """EINVAL: it has no reset. Ref: v7.3 vfio_pci_core.c vfio_pci_ioctl_reset"""
        if self.device.vfio.reset_works:
            self._move_all(revoked=True)
        self.device.vfio.reset()

    def lend(self, buffer: BarBuffer) -> None:
        """A client gets this dma-buf of a BAR."""
        buffer.revoked = not self.opened.config.memory_enabled
        self._lent.add(buffer)

    def _memory_changed(self, enabled: bool) -> None:
        self._move_all(revoked=not enabled)

    def _move_all(self, *, revoked: bool) -> None:
        for buffer in self._lent:
            buffer.move(revoked)


class DeviceFile:
    """One open of the device: of its file, or by its group."""

    def __init__(self, device: VfioDevice, bound: Bound | None = None) -> None:
        """`bound`: it was opened by its group."""
        self.device: Final = device
        self.bound = bound
        self.by_group: Final = bound is not None

    def access(self) -> Bound:
        """What it is bound to. EINVAL: nothing yet."""
        if self.bound is None:
            raise IoctlError(
                EINVAL, f"{self.device} is not bound to an iommufd by this file (VFIO_DEVICE_BIND_IOMMUFD)"
            )
        return self.bound

    def read(self, position: int, length: int) -> bytes:
        """pread. EINVAL: not bound. Others: Regions.read."""
        return self.access().opened.regions.read(position, length)

    def write(self, position: int, data: bytes) -> int:
        """pwrite. EINVAL: not bound. Others: Regions.write."""
        return self.access().opened.regions.write(position, data)

    def release(self) -> None:
        """The last descriptor was closed. Ref: v7.3 vfio_main.c vfio_device_fops_release"""
        bound, self.bound = self.bound, None
        if bound is not None:
            bound.close()
            if not self.by_group and self.device.group is not None:
                self.device.group.unblock()
