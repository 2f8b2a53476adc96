"""VFIO's container: an open /dev/vfio/vfio, and the groups that are in it. What it can do, its
driver says, which VFIO_SET_IOMMU sets: type1, or none at all for devices without an IOMMU. The
driver stays until the last group leaves; the container, until its file is closed and no group is in
it.

Ref: v7.3 container.c
"""

from collections.abc import Hashable, Sequence
from errno import EINVAL, ENODEV, ENOTTY, EPERM
from typing import Final, Protocol

from ...engine.device.context import Context
from ...engine.memory.host import Host
from ...errors import IoctlError
from ...ops.noiommu import CAP_SYS_RAWIO, check_may_open
from ...ops.request import Client
from ...ops.vfio import DMA_CC, NOIOMMU, TYPE1, TYPE1V2, UNMAP_ALL
from ...pci.type1 import Parameters
from ...uapi.header import const
from ..device import VfioDevice
from .driver import Type1

UPDATE_VADDR: Final = const("VFIO_UPDATE_VADDR")
_OF_TYPE1: Final = (TYPE1, TYPE1V2, UNMAP_ALL)  # what the driver has in any container


class Group(Protocol):
    """A VfioGroup. `isolated`: its devices stand behind an IOMMU."""

    @property
    def isolated(self) -> bool: ...

    @property
    def devices(self) -> Sequence[VfioDevice]: ...


class Container:
    """`context`: in which its devices are; no client sees it. `driver`: type1, once it is set.
    `is_set`: a driver is, which may be that of devices without an IOMMU.
    """

    def __init__(self, host: Host, parameters: Parameters) -> None:
        self.context: Final = Context(host)
        self.context.set_rlimit_mode(1)  # pins always counted against the process
        self.driver: Type1 | None = None
        self.is_set = False
        self._host: Final = host
        self._parameters: Final = parameters
        self._isolated = True
        self._groups: Final[list[Group]] = []  # newest first
        self._claimed: Final[dict[Group, Hashable]] = {}  # whose DMA is ours, and its name

    def __str__(self) -> str:
        return "the container"

    def close(self) -> None:
        """Its file is closed. Groups that are in it keep it. Ref: v7.3 container.c
        vfio_fops_release
        """
        self.context.put()

    # --- its groups ---

    def add(self, group: Group, caller: Client) -> None:
        """EPERM: a group without an IOMMU takes CAP_SYS_RAWIO, and does not mix with others; or the
        DMA of the group's devices is another context's. Others: Type1.attach_group.

        Ref: v7.3 container.c vfio_container_attach_group
        """
        if not group.isolated:
            check_may_open(caller, group)
        if self._groups and group.isolated != self._isolated:
            raise IoctlError(EPERM, f"{group} does not mix with the groups of the container: one has no IOMMU")
        self._claim(group)
        try:
            if self.driver is not None:
                self.driver.attach_group(group, group.devices)
        except BaseException:
            self._disclaim(group)
            raise
        self._isolated = group.isolated
        self._groups.insert(0, group)
        self.context.get()

    def remove(self, group: Group) -> None:
        """Undo `add`. With the last group the driver goes. Ref: v7.3 container.c
        vfio_group_detach_container
        """
        if self.driver is not None:
            self.driver.detach_group(group)
        self._disclaim(group)
        self._groups.remove(group)
        if not self._groups:
            self.driver, self.is_set = None, False
        self.context.put()

    def device_came(self, group: Group, device: VfioDevice) -> None:
        """vfio-pci has one more device of a group that is in the container."""
        if self.driver is not None:
            self.driver.device_came(group, device)

    def device_left(self, group: Group, device: VfioDevice) -> None:
        """vfio-pci has it no longer."""
        if self.driver is not None:
            self.driver.device_left(group, device)
            self._claim(group)

    def check_use(self, group: Group, caller: Client) -> None:
        """Whether a device of a group may be opened. EINVAL: no driver is set. EPERM: a device
        without an IOMMU takes CAP_SYS_RAWIO.

        Ref: v7.3 container.c vfio_group_use_container
        """
        if not self.is_set:
            raise IoctlError(EINVAL, "the container has no driver yet (VFIO_SET_IOMMU)")
        if not group.isolated:
            check_may_open(caller, f"the device of {group}")

    def _claim(self, group: Group) -> None:
        """EPERM: another context has the DMA of its devices."""
        if group.isolated:
            name = self._claimed.get(group) or group.devices[0].plugged.function.group
            self._host.claim(name, self.context)
            self._claimed[group] = name

    def _disclaim(self, group: Group) -> None:
        name = self._claimed.pop(group, None)
        if self._host.owner(name) is self.context:  # or the last device that was attached gave it back
            self._host.release(name)

    # --- its driver ---

    def check_extension(self, extension: int) -> int:
        """1: there is such a thing. 0: there is not, or it is unknown. Without a driver: whether
        any that the container's groups permit has it.

        Ref: v7.3 container.c vfio_container_ioctl_check_extension, vfio_iommu_type1.c
        vfio_iommu_type1_check_extension
        """
        if self.driver is not None:
            if extension == DMA_CC:
                return int(self.driver.enforces_coherency)
            return int(extension in (*_OF_TYPE1, UPDATE_VADDR))
        type1 = not self.is_set and (not self._groups or self._isolated)
        without = not self._groups or not self._isolated
        return int(
            (type1 and extension in _OF_TYPE1)
            or (without and extension == NOIOMMU and self._parameters.allows_no_iommu)
        )

    def set_iommu(self, kind: int, caller: Client) -> None:
        """EINVAL: there is no group, or a driver already; or the kind is UNMAP_ALL, which is only
        an extension. ENODEV: no driver that the groups permit is of this kind. EPERM: NOIOMMU takes
        CAP_SYS_RAWIO. Others: Type1.attach_group.

        Ref: v7.3 container.c vfio_ioctl_set_iommu, vfio_noiommu_open, vfio_iommu_type1.c
        vfio_iommu_type1_open
        """
        if not self._groups or self.is_set:
            raise IoctlError(EINVAL, "the container has a driver already" if self.is_set else "no group is in it")
        if self._isolated:
            if kind not in _OF_TYPE1:
                raise IoctlError(ENODEV, f"type1 is no driver of kind {kind}")
            if kind == UNMAP_ALL:
                raise IoctlError(EINVAL, "VFIO_UNMAP_ALL is an extension, and no kind")
            self.driver = self._new_driver(v2=kind == TYPE1V2)
        elif kind != NOIOMMU:
            raise IoctlError(ENODEV, f"kind {kind}; the groups have no IOMMU, and take VFIO_NOIOMMU_IOMMU")
        elif not caller.capable(CAP_SYS_RAWIO):
            raise IoctlError(EPERM, "VFIO_NOIOMMU_IOMMU takes CAP_SYS_RAWIO")
        self.is_set = True

    def _new_driver(self, *, v2: bool) -> Type1:
        driver = Type1(self.context, v2=v2, limit=self._parameters.dma_entry_limit)
        try:
            for group in self._groups:
                driver.attach_group(group, group.devices)
        except BaseException:
            driver.abandon()
            for group in self._groups:
                self._claim(group)
            raise
        return driver

    def driven(self, cmd: int) -> Type1:
        """What carries out the other ioctls. EINVAL: no driver is set. ENOTTY: it is that of
        devices without an IOMMU, which has none.
        """
        if not self.is_set:
            raise IoctlError(EINVAL, f"ioctl {cmd:#x} takes a container with a driver (VFIO_SET_IOMMU)")
        if self.driver is None:
            raise IoctlError(ENOTTY, "a container of devices without an IOMMU maps nothing")
        return self.driver
