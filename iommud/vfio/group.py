"""VFIO's groups: the devices that an IOMMU cannot tell apart, behind one file, /dev/vfio/7.
Programs that are older than the devices' own files open the group's file, give the group a
container, and ask it for devices.

With CONFIG_IOMMUFD_VFIO_CONTAINER a container is a context of /dev/iommu. The group has it from
SET_CONTAINER to UNSET_CONTAINER, or to its close. A device that is opened by the group is bound to
that context, and attached to its compat IOAS; it stays so until its own last close, even if the
group is closed before.

With CONFIG_VFIO_CONTAINER (`--vfio type1`) /dev/vfio/vfio is a container of VFIO's own (type1/),
in which all devices of the group are, opened or not; /dev/iommu is as above. A device that was
opened there keeps its group open, and in the container.

A group's file and its devices' own files exclude each other: whoever comes later gets EBUSY. A
group's file can be open once at a time; a device can be opened by its group any number of times.

A device without an IOMMU is a group by itself. If it is opened by its group, it is bound to nothing
and attached to nothing: its DMA goes to physical addresses.

Ref: v7.3 drivers/vfio/group.c
"""

from errno import EBUSY, EINVAL, ENODEV
from typing import Final

from ..engine.device.context import Context
from ..engine.mapping.objects import Object
from ..engine.memory.host import Host
from ..errors import IoctlError
from ..ops.request import Client
from .claims import bound_by_files, open_group
from .device import VfioDevice
from .type1.container import Container


class VfioGroup(Object):
    """A group, as long as vfio-pci has any of its devices. It has no ID. It is locked before device
    sets are.
    """

    kind = "group"

    def __init__(self, number: int, host: Host, *, isolated: bool) -> None:
        """`isolated`: its devices stand behind an IOMMU."""
        super().__init__()
        self.number: Final = number
        self.isolated: Final = isolated
        self.devices: Final[list[VfioDevice]] = []  # that can be asked for, newest first
        self.members = 0  # devices that vfio-pci has; also those about to go
        self.is_open = False
        self.by_their_files = 0  # devices that are bound by their own files
        self.context: Context | None = None
        self.container: Container | None = None  # it has one of the two, or none
        self._used = 0  # its devices that are open in the container
        self._is_left = False  # its file is closed, and devices keep it open
        self._host: Final = host
        self._opened_as: Final = open_group(number)
        self._by_files_as: Final = bound_by_files(number)

    def __str__(self) -> str:
        return f"group {'' if self.isolated else 'noiommu-'}{self.number}"

    @property
    def is_gone(self) -> bool:
        """vfio-pci has none of its devices any more. Who has it open still has a file."""
        return not self.members

    @property
    def has_container(self) -> bool:
        return self.context is not None or self.container is not None

    @property
    def is_owned(self) -> bool:
        """The DMA of its devices belongs to a context, or to the kernel. Without an IOMMU it is
        nobody's.
        """
        return self.isolated and any(self._host.is_claimed(device.plugged.function.group) for device in self.devices)

    def open(self) -> None:
        """EBUSY: it is open, or a device of it is bound by its own file. Ref: v7.3 group.c
        vfio_group_fops_open
        """
        share = self._host.share
        others = share.count(self._opened_as, 1)  # first: the other side looks after it has counted
        try:
            if self.by_their_files or share.count(self._by_files_as, 0):
                raise IoctlError(EBUSY, f"a device of {self} is bound to an iommufd by its own file")
            if self.is_open or others:
                raise IoctlError(EBUSY, f"{self} is open already, and can be opened once")
        except IoctlError:
            share.count(self._opened_as, -1)
            raise
        self.is_open = True

    def close(self) -> None:
        """Its file is closed. Devices that are open in its container keep it open. Ref: v7.3
        group.c vfio_group_fops_release
        """
        if self._used:
            self._is_left = True
            return
        if self.has_container:
            self.unset_container()
        self.is_open = self._is_left = False
        self._host.share.count(self._opened_as, -1)

    def take(self) -> None:
        """Another host had it open so far."""
        self.is_open = True

    def leave(self) -> None:
        """Another host has it open from now on."""
        self.is_open = False

    def block(self) -> None:
        """A device is to be bound by its own file, until `unblock`. EBUSY: the group is open. Ref:
        v7.3 group.c vfio_device_block_group
        """
        share = self._host.share
        share.count(self._by_files_as, 1)
        if self.is_open or share.count(self._opened_as, 0):
            share.count(self._by_files_as, -1)
            raise IoctlError(EBUSY, f"{self} is open, so its devices cannot be bound by their own files")
        self.by_their_files += 1

    def unblock(self) -> None:
        self.by_their_files -= 1
        self._host.share.count(self._by_files_as, -1)

    def set_context(self, context: Context) -> None:
        """EINVAL: the container is for devices without an IOMMU and the group's have one, or the
        reverse.
        """
        if self.isolated:
            context.ensure_compat_ioas()
        else:
            context.set_no_iommu()
        context.get()
        self.context = context

    def set_container(self, container: Container, caller: Client) -> None:
        """Errors: Container.add."""
        container.add(self, caller)
        self.container = container

    def unset_container(self) -> None:
        """EINVAL: it has none. EBUSY: devices are open in it. Ref: v7.3 group.c
        vfio_group_ioctl_unset_container
        """
        if self._used:
            raise IoctlError(EBUSY, f"{self._used} devices of {self} are open")
        context, self.context = self.context, None
        container, self.container = self.container, None
        if context is not None:
            context.put()
        elif container is not None:
            container.remove(self)
        else:
            raise IoctlError(EINVAL, f"{self} has no container")

    def use_container(self) -> None:
        """A device is opened in the container; until `unuse_container`. Ref: v7.3 container.c
        vfio_group_use_container
        """
        self._used += 1

    def unuse_container(self) -> None:
        self._used -= 1
        if self._is_left:
            self.close()

    def find(self, name: bytes) -> VfioDevice:
        """The device of this name. ENODEV: there is none. EINVAL: something follows the name. That
        could be a VF's token, but no device here takes one.

        Ref: v7.3 vfio_pci_core.c vfio_pci_core_match
        """
        for device in self.devices:
            own = device.plugged.name.encode()
            rest = name.removeprefix(own)
            if not name.startswith(own) or (rest and not rest.startswith(b" ")):
                continue
            if rest.strip(b" "):
                raise IoctlError(
                    EINVAL, f"{rest.decode('ascii', 'replace')!r} follows the name of {device}: it takes no token"
                )
            return device
        raise IoctlError(ENODEV, f"{self} has no device {name.decode('ascii', 'replace')!r}")


class Groups:
    """All that there are, by number."""

    def __init__(self, host: Host) -> None:
        self._host: Final = host
        self._groups: Final[dict[int, VfioGroup]] = {}

    def find(self, number: int) -> VfioGroup | None:
        return self._groups.get(number)

    def add(self, device: VfioDevice) -> None:
        """vfio-pci has the device now."""
        plugged = device.plugged
        assert plugged.group is not None
        group = self._groups.get(plugged.group)
        if group is None:
            group = VfioGroup(plugged.group, self._host, isolated=plugged.isolated)
            self._groups[group.number] = group
        group.members += 1
        group.devices.insert(0, device)
        device.group = group
        if group.container is not None:
            group.container.device_came(group, device)

    def hide(self, device: VfioDevice) -> None:
        """The device is about to go: nobody can ask for it any more. Ref: v7.3 group.c
        vfio_device_group_unregister
        """
        group = self._of(device)
        if device in group.devices:
            group.devices.remove(device)

    def show(self, device: VfioDevice) -> None:
        """The device stays after all, unless somebody else has made it go."""
        if device.group is not None and device not in (group := self._of(device)).devices:
            group.devices.insert(0, device)

    def remove(self, device: VfioDevice) -> None:
        """vfio-pci has it no longer."""
        self.hide(device)
        group = self._of(device)
        device.group = None
        group.members -= 1
        if group.container is not None:
            group.container.device_left(group, device)
            if group.is_gone:
                group.unset_container()
        if group.is_gone:
            del self._groups[group.number]

    def _of(self, device: VfioDevice) -> VfioGroup:
        assert device.plugged.group is not None
        return self._groups[device.plugged.group]
