"""Devices: what a driver binds to a context, and attaches to an IO address space.

A driver of iommud is an object with the methods of `Driver`; `bind` gives it a Device, by which it attaches, replaces, detaches and
unbinds, as the kernel's drivers do with include/linux/iommufd.h. The Device is an object with an ID that clients see, but only its
driver can make it go. `docs/devices.md` shows how to write one.

Ref: v7.3 device.c
"""

from collections.abc import Generator, Hashable
from dataclasses import dataclass
from errno import EINVAL, ENOENT
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import IoctlError
from . import hwpt as hwpts
from .domain import Domain
from .group import Group
from .hwpt import HwptPaging
from .ioas import Ioas
from .objects import Object

if TYPE_CHECKING:
    from .context import Context

T = TypeVar("T")


@dataclass(frozen=True)
class Region:
    """IOVAs that a device cannot use (inclusive). `sw_msi`: the window in which software places interrupt addresses."""

    start: int
    last: int
    sw_msi: bool = False


class Driver(Protocol):
    """What the engine asks of a device's driver."""

    name: str

    @property
    def group(self) -> Hashable:
        """Devices of equal group share a page table. A device that is alone: itself."""

    @property
    def cache_coherent(self) -> bool:
        """Whether its DMA sees the CPU's caches; one that does not cannot be bound (EINVAL)."""

    def domain(self) -> Domain:
        """A new page table."""

    def attach(self, domain: Domain) -> None:
        """This device's DMA goes through `domain` from now on. IoctlError(EINVAL): incompatible, another will be tried.

        It must take back what it had: when another device of its group refuses a replacement, all return to the old page table.
        """

    def detach(self) -> None:
        """This device's DMA is blocked from now on. Must not fail."""

    def reserved_regions(self) -> list[Region]:
        """IOVAs that must never be mapped for it: they are reserved in every IOAS that it is attached to."""


class Device(Object):
    """A device bound to a context. Users: its driver, and its attachment."""

    kind = "device"
    __slots__ = ("context", "driver", "group")

    def __init__(self, context: "Context", driver: Driver, group: Group) -> None:
        super().__init__()
        self.context = context
        self.driver = driver
        self.group = group

    def __str__(self) -> str:
        return f"device {self.id} ({self.driver.name})"

    def destroy(self) -> None:
        self.group.bound.remove(self)
        if not self.group.bound:
            del self.context.groups[self.group.key]
            self.context.host.release(self.group.key)

    def attach(self, pt_id: int) -> Generator[None, None, int]:
        """Connect to an IOAS (an automatic page table is found or made) or to a HWPT; returns the HWPT's ID.

        ENOENT: no such object. EINVAL: it is neither, or incompatible. Others: Group.attach, IoPagetable.add_domain.
        Ref: v7.3 device.c iommufd_device_attach
        """
        hwpt, _ = yield from self._change(pt_id, replace=False)
        self.users.append(hwpt)
        return hwpt.id

    def replace(self, pt_id: int) -> Generator[None, None, int]:
        """As `attach`, in place of what the device is attached to. On failure nothing has changed.

        Ref: v7.3 device.c iommufd_device_replace
        """
        hwpt, old = yield from self._change(pt_id, replace=True)
        if old is not None:
            for member in self.group.attached:
                member.users[member.users.index(old)] = hwpt
            self._put(old)
        return hwpt.id

    def detach(self) -> None:
        """Undo `attach`. Ref: v7.3 device.c iommufd_device_detach"""
        hwpt = self.group.detach(self)
        if hwpt is not None:
            self.users.remove(hwpt)
            self._put(hwpt)

    def dma_read(self, iova: int, buffer: memoryview) -> None:
        """Read memory as the device: fill `buffer` (bytes) from `iova` on, through the device's page table.

        ENOENT: it is not attached, or its page table shows nothing there. EPERM: mapped without READABLE. EFAULT: the memory was lost.
        What was copied before the error stays. All is done when this returns.
        """
        self._page_table().dma(iova, buffer, write=False)

    def dma_write(self, iova: int, data: memoryview) -> None:
        """Write memory as the device; as `dma_read`. EPERM: mapped without WRITEABLE."""
        self._page_table().dma(iova, data, write=True)

    def _page_table(self) -> HwptPaging:
        hwpt = self.group.hwpt
        if hwpt is None or self not in self.group.attached:
            raise IoctlError(ENOENT, f"{self} is not attached: its DMA is blocked")
        return hwpt

    def unbind(self) -> None:
        """Undo `bind`; the device must be detached. Ref: v7.3 device.c iommufd_device_unbind"""
        self.users.remove(self.driver)
        self.context.objects.remove_by_owner(self)

    def _change(self, pt_id: int, *, replace: bool) -> Generator[None, None, tuple[HwptPaging, HwptPaging | None]]:
        found = self.context.objects.get(pt_id, Object)
        if isinstance(found, HwptPaging):
            return found, self._connect(found, replace)
        if not isinstance(found, Ioas):
            raise IoctlError(EINVAL, f"{found} is neither an IOAS nor a HWPT")
        return (yield from self._change_auto(found, replace))

    def _change_auto(self, ioas: Ioas, replace: bool) -> Generator[None, None, tuple[HwptPaging, HwptPaging | None]]:
        # Ref: v7.3 device.c iommufd_device_auto_get_domain
        for hwpt in ioas.hwpts:
            if hwpt.auto:
                try:
                    return hwpt, self._connect(hwpt, replace)
                except IoctlError as refusal:
                    if refusal.errno != EINVAL:
                        raise
        if not replace:
            return (yield from hwpts.alloc_auto(self.context, ioas, self)), None
        hwpt = yield from hwpts.alloc_detached(self.context, ioas, self)
        try:
            old = self._connect(hwpt, replace)
        except BaseException:
            hwpt.destroy()
            self.context.objects.abort(hwpt)
            raise
        self.context.objects.publish(hwpt)
        return hwpt, old

    def _connect(self, hwpt: HwptPaging, replace: bool) -> HwptPaging | None:
        if replace:
            return self.group.replace(self, hwpt)
        self.group.attach(self, hwpt)
        return None

    def _put(self, hwpt: HwptPaging) -> None:
        """`hwpt` lost a user; an automatic one goes with its last. Ref: v7.3 iommufd_private.h iommufd_hw_pagetable_put"""
        if hwpt.auto and not hwpt.users and not hwpt.shortterm_users:
            self.context.objects.remove_by_owner(hwpt)


def bind(context: "Context", driver: Driver) -> Device:
    """Take a device into a context; its DMA is blocked until it is attached.

    EINVAL: not cache coherent. EPERM: another context owns its group. Ref: v7.3 device.c iommufd_device_bind
    """
    key = driver.group
    device = Device(context, driver, context.groups.get(key) or Group(key))
    context.objects.reserve(device)
    try:
        if not driver.cache_coherent:
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
