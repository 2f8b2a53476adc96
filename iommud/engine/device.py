"""Devices: what a driver binds to a context, and attaches to an IO address space.

A driver of iommud is an object with the methods of `Driver`; `bind` gives it a Device, by which it attaches, replaces, detaches and
unbinds, as the kernel's drivers do with include/linux/iommufd.h. The Device is an object with an ID that clients see, but only its
driver can make it go. `docs/devices.md` shows how to write one.

Ref: v7.3 device.c
"""

from collections.abc import Callable, Container, Generator, Hashable
from dataclasses import dataclass
from errno import EINVAL, ENOENT, EOPNOTSUPP
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import IoctlError
from . import noiommu
from .domain import AnyDomain, Domain, NestedDomain
from .fault import FaultReporter, PageFault
from .group import Group
from .hwpt import NO_PASID, Hwpt, alloc_paging
from .ioas import Ioas
from .objects import Object
from .user_data import UserData
from .viommu import Viommu, ViommuDriver

if TYPE_CHECKING:
    from .context import Context
    from .vdevice import Vdevice

T = TypeVar("T")


@dataclass(frozen=True)
class Region:
    """IOVAs that a device cannot use (inclusive). `sw_msi`: the window in which software places interrupt addresses."""

    start: int
    last: int
    sw_msi: bool = False


class Driver(Protocol):
    """What the engine asks of a device's driver. One that derives from this need not write what it does not have."""

    name: str
    group: Hashable  # devices of equal group share a page table; a device that is alone: itself
    cache_coherent: bool = True  # its DMA sees the CPU's caches; one that does not cannot be bound (EINVAL)
    iommu: Hashable = "emulated"  # the kind of IOMMU before the device: page tables of another kind do not suit it; None: noiommu.py
    unit: Hashable = None  # which IOMMU of that kind: a vIOMMU is a part of one, and takes no other's devices
    dirty_tracking: bool = False  # its page tables can record what DMA wrote
    nesting: bool = False  # it has nested page tables
    viommu_types: Container[int] = frozenset()  # the kinds of vIOMMU that it can be behind
    enforces_coherency: bool = False  # its page tables make all DMA see the CPU's caches, whatever the device asks for
    ats: bool = False  # the device may ask for translations ahead of its DMA
    max_pasids: int = 0  # how many PASIDs it has, counted from 0; 0: none
    pasid_exec: bool = False  # a PCI device whose DMA with a PASID may ask to execute
    pasid_priv: bool = False  # a PCI device whose DMA with a PASID may be privileged

    def domain(self, flags: int, data: UserData | None) -> Domain:
        """A new page table. `flags`: domain.NEST_PARENT, DIRTY_TRACKING, PASID; `data`: what a client said of it.

        EOPNOTSUPP: it cannot do that, or does not know that type of data. Others: UserData.struct.
        """

    def nested_domain(self, parent: Domain, flags: int, data: UserData) -> NestedDomain:
        """A new page table below which `parent` lies. `flags`: domain.PASID. Errors as `domain`. Only with `nesting`."""
        raise IoctlError(EOPNOTSUPP, f"{self.name} has no nested page tables")

    def new_viommu(self, viommu: Viommu, viommu_type: int, data: UserData | None) -> ViommuDriver:
        """The driver of `viommu`, a new one of one of `viommu_types`. Errors as `domain`."""
        raise IoctlError(EOPNOTSUPP, f"{self.name} has no vIOMMU")

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        """What guests need to know of its IOMMU: the type of the data, and the data. `data_type`: what a client asked for; 0: anything.

        Type 0: there is nothing to tell. EOPNOTSUPP: not that type.
        """
        return 0, b""

    def attach(self, domain: AnyDomain) -> None:
        """This device's DMA goes through `domain`, of this kind of IOMMU, from now on. EINVAL: incompatible, another will be tried.

        It must take back what it had: when another device of its group refuses a replacement, all return to the old page table.
        """

    def detach(self) -> None:
        """This device's DMA is blocked from now on. Must not fail."""

    def attach_pasid(self, pasid: int, domain: AnyDomain, old: AnyDomain | None) -> None:
        """As `attach`, for DMA with this PASID (1 to max_pasids - 1); `old`: what it had there. Only with `max_pasids`."""
        raise IoctlError(EOPNOTSUPP, f"{self.name} has no PASIDs")

    def detach_pasid(self, pasid: int) -> None:
        """As `detach`, for DMA with this PASID."""
        raise AssertionError(f"{self.name} has no PASIDs")

    def reserved_regions(self) -> list[Region]:
        """IOVAs that must never be mapped for it: they are reserved in every IOAS that it is attached to."""
        return []

    def unplugged(self) -> None:
        """The device is gone: it was unbound, and will not be bound again. Asked of those that come and go by the test ioctl."""
        return


class Device(Object):
    """A device bound to a context. Users: its driver, and its attachments."""

    kind = "device"
    __slots__ = ("_faults", "context", "driver", "group", "vdevice")

    def __init__(self, context: "Context", driver: Driver, group: Group) -> None:
        super().__init__()
        self._faults = FaultReporter()
        self.context = context
        self.driver = driver
        self.group = group
        self.vdevice: Vdevice | None = None  # as a guest knows it

    def __str__(self) -> str:
        return f"device {self.id} ({self.driver.name})"

    def destroy(self) -> None:
        self.group.bound.remove(self)
        if not self.group.bound:
            del self.context.groups[self.group.key]
            self.context.host.release(self.group.key)

    def attach(self, pt_id: int, pasid: int = NO_PASID) -> Generator[None, None, int]:
        """Connect to an IOAS (an automatic page table is found or made) or to a HWPT; returns the HWPT's ID.

        ENOENT: no such object. EINVAL: it is neither, or incompatible. Others: Group.attach, IoPagetable.add_domain.
        Ref: v7.3 device.c iommufd_device_attach
        """
        hwpt, _ = yield from self._change(pt_id, pasid, replace=False)
        self.users.append(hwpt)
        return hwpt.id

    def replace(self, pt_id: int, pasid: int = NO_PASID) -> Generator[None, None, int]:
        """As `attach`, in place of what the device is attached to. On failure nothing has changed.

        Ref: v7.3 device.c iommufd_device_replace
        """
        hwpt, old = yield from self._change(pt_id, pasid, replace=True)
        if old is not None:
            for member in self.group.attachments[pasid].devices:
                member.users[member.users.index(old)] = hwpt
            self._put(old)
        return hwpt.id

    def detach(self, pasid: int = NO_PASID) -> None:
        """Undo `attach`; nothing when it is not attached. Ref: v7.3 device.c iommufd_device_detach"""
        hwpt = self.group.detach(self, pasid)
        if hwpt is not None:
            self.users.remove(hwpt)
            self._put(hwpt)

    def detach_all(self) -> None:
        """Detach wherever it is attached: its driver goes."""
        for pasid in list(self.group.attachments):
            self.detach(pasid)

    def dma_read(self, iova: int, buffer: memoryview, pasid: int = NO_PASID) -> None:
        """Read memory as the device: fill `buffer` (bytes) from `iova` on, through the device's page table. Of a device without an IOMMU
        `iova` is a physical address, and where it is attached does not matter.

        ENOENT: it is not attached, or its page table shows nothing there; or no page table without an IOMMU does. EPERM: mapped without
        READABLE. EFAULT: the memory was lost. What was copied before the error stays. All is done when this returns.
        """
        self._dma(iova, buffer, pasid, write=False)

    def dma_write(self, iova: int, data: memoryview, pasid: int = NO_PASID) -> None:
        """Write memory as the device; as `dma_read`. EPERM: mapped without WRITEABLE."""
        self._dma(iova, data, pasid, write=True)

    def report_fault(self, fault: PageFault, respond: Callable[[int], None]) -> None:
        """Tell whoever handles the faults of the page table that the device is attached to, and wait for the response.

        `respond` is called exactly once for a whole group, with its last fault's: now or later, with fault.SUCCESS (try again) or INVALID
        (give up). EINVAL: nobody handles faults; then the response was INVALID.
        """
        self._faults.report(self, fault, respond)

    def _dma(self, iova: int, data: memoryview, pasid: int, *, write: bool) -> None:
        if self.driver.iommu is None:
            noiommu.dma(self.context.host, iova, data, write=write)
            return
        found = self.group.attached_at(self, pasid)
        if found is None:
            raise IoctlError(ENOENT, f"{self} is not attached: its DMA is blocked")
        found.hwpt.dma(iova, data, write=write)

    def unbind(self) -> None:
        """Undo `bind`; the device must be detached. Its vDEVICE goes with it. Ref: v7.3 device.c iommufd_device_unbind"""
        self.users.remove(self.driver)
        if self.vdevice is not None:
            self.context.objects.entomb(self.vdevice)
        self.context.objects.remove_by_owner(self)

    def _change(self, pt_id: int, pasid: int, *, replace: bool) -> Generator[None, None, tuple[Hwpt, Hwpt | None]]:
        found = self.context.objects.get(pt_id, Object)
        if isinstance(found, Hwpt):
            return found, self._connect(found, pasid, replace)
        if not isinstance(found, Ioas):
            raise IoctlError(EINVAL, f"{found} is neither an IOAS nor a HWPT")
        return (yield from self._change_auto(found, pasid, replace))

    def _change_auto(self, ioas: Ioas, pasid: int, replace: bool) -> Generator[None, None, tuple[Hwpt, Hwpt | None]]:
        # Ref: v7.3 device.c iommufd_device_auto_get_domain
        for hwpt in ioas.hwpts:
            if hwpt.auto:
                try:
                    return hwpt, self._connect(hwpt, pasid, replace)
                except IoctlError as refusal:
                    if refusal.errno != EINVAL:
                        raise
        objects = self.context.objects
        hwpt = yield from alloc_paging(self.context, ioas, self, attach_to=None if replace else pasid)
        old = None
        if replace:
            try:
                old = self._connect(hwpt, pasid, replace)
            except BaseException:
                objects.abort_and_destroy(hwpt)
                raise
        hwpt.auto = True
        objects.publish(hwpt)
        return hwpt, old

    def _connect(self, hwpt: Hwpt, pasid: int, replace: bool) -> Hwpt | None:
        if replace:
            return self.group.replace(self, hwpt, pasid)
        self.group.attach(self, hwpt, pasid)
        return None

    def _put(self, hwpt: Hwpt) -> None:
        """`hwpt` lost a user; an automatic one goes with its last. Ref: v7.3 iommufd_private.h iommufd_hw_pagetable_put"""
        if hwpt.auto and not hwpt.users and not hwpt.shortterm_users:
            self.context.objects.remove_by_owner(hwpt)


def bind(context: "Context", driver: Driver) -> Device:
    """Take a device into a context; its DMA is blocked until it is attached.

    EINVAL: not cache coherent. EPERM: another context owns its group. A device without an IOMMU is a group of its own, whatever it says,
    and need not be coherent. Ref: v7.3 device.c iommufd_device_bind
    """
    key = driver.group if driver.iommu is not None else object()
    device = Device(context, driver, context.groups.get(key) or Group(key))
    context.objects.reserve(device)
    try:
        if driver.iommu is not None and not driver.cache_coherent:
            raise IoctlError(EINVAL, f"{driver.name} is not cache coherent")
        context.host.claim(key, context)
    except IoctlError:
        context.objects.abort(device)
        raise
    context.groups[key] = device.group
    device.group.bound.append(device)
    device.users.append(driver)
    context.objects.publish(device)
    return device


def at_once(steps: Generator[None, None, T]) -> T:
    """Do all of an `attach` or `replace` now, without its pauses: for tests, and where nobody waits."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
