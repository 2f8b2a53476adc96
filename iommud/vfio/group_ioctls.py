"""The four ioctls of a group's file.

Ref: v7.3 drivers/vfio/group.c vfio_group_fops_unl_ioctl
"""

from collections.abc import Awaitable, Callable
from errno import EBADFD, EFAULT, EINVAL, ENODEV, ENOTTY, EPERM
from typing import Any, Final, Protocol

from ..engine.device.context import Context
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError
from ..ops.locking import in_steps, locked
from ..ops.noiommu import check_may_open
from ..ops.request import Client
from ..uapi import codec
from ..uapi.header import const, fields, offset_end
from ..uapi.layout import layout
from .device import Bound, DeviceFile, VfioDevice
from .group import VfioGroup
from .outside import Outside
from .type1.container import Container

STATUS: Final = layout("vfio_group_status")
_STATUS_SIZE: Final = offset_end(STATUS.name, "flags")
_FLAGS: Final = fields(STATUS.name)["flags"].offset
_VIABLE: Final = const("VFIO_GROUP_FLAGS_VIABLE")
_CONTAINER_SET: Final = const("VFIO_GROUP_FLAGS_CONTAINER_SET")


class Descriptors(Protocol):
    """Where the files of devices are counted and given out."""

    def opening(self, device: VfioDevice) -> None:
        """It has one open file more."""

    def closed(self, device: VfioDevice) -> None:
        """It has one less."""

    async def give(self, caller: Any, file: DeviceFile) -> int:
        """End the caller's ioctl with a descriptor of this file; returns its number. `opening` has
        been called for it. On any failure the file is released, which counts as `closed`. EMFILE:
        no number is free.
        """


async def dispatch(
    group: VfioGroup, caller: Client, outside: Outside, descriptors: Descriptors, cmd: int, argument: int
) -> int:
    """Carry out one ioctl; its result. IoctlError: what the client gets, and why. ENOTTY: there is
    no such ioctl.
    """
    await outside.quiet(group.number)
    if cmd == const("VFIO_GROUP_GET_DEVICE_FD"):
        return await _get_device_fd(group, caller, outside, descriptors, argument)
    handler = _HANDLERS.get(cmd)
    if handler is None:
        raise IoctlError(ENOTTY, f"no ioctl of a VFIO group has the number {cmd:#x}")
    await handler(group, caller, outside, argument)
    return 0


async def _get_status(group: VfioGroup, caller: Client, _outside: Outside, address: int) -> None:
    """Whether the group has a container, and whether the group could be used. EFAULT: the struct.
    EINVAL: argsz. ENODEV: vfio-pci has none of its devices any more.
    """
    cmd = codec.decode(STATUS, await _read(caller, address, _STATUS_SIZE, "the struct"))
    if cmd.argsz < _STATUS_SIZE:
        raise IoctlError(EINVAL, f"argsz {cmd.argsz} is less than {_STATUS_SIZE}, which struct {STATUS.name} has")
    async with locked(group):
        _check_is_there(group)
        flags = 0
        if group.has_container:
            flags = _CONTAINER_SET | _VIABLE
        elif not group.is_owned:
            flags = _VIABLE
    if caller.memory.write(address + _FLAGS, flags.to_bytes(4, "little")) < 4:
        raise IoctlError(EFAULT, f"flags cannot be written at {address + _FLAGS:#x}")


async def _set_container(group: VfioGroup, caller: Client, outside: Outside, address: int) -> None:
    """EFAULT: the descriptor's number cannot be read. EBADF: there is no such descriptor. EINVAL:
    the group has a container. ENODEV: as of GET_STATUS. EBADFD: it is neither a container nor
    /dev/iommu. Others: VfioGroup.set_context, set_container.
    """
    number = int.from_bytes(await _read(caller, address, 4, "the descriptor's number"), "little", signed=True)
    found, refusal = await _container(caller, outside, number)
    async with locked(group):
        if group.has_container:
            raise IoctlError(EINVAL, f"{group} has a container already")
        _check_is_there(group)
        if isinstance(found, Container):
            group.set_container(found, caller)
        elif found is not None:
            group.set_context(found)
        else:
            assert refusal is not None
            raise refusal


async def _unset_container(group: VfioGroup, _caller: Client, _outside: Outside, _argument: int) -> None:
    """Devices that are open stay where they are, if the container is /dev/iommu. Errors:
    VfioGroup.unset_container.
    """
    async with locked(group):
        group.unset_container()


async def _get_device_fd(
    group: VfioGroup, caller: Client, outside: Outside, descriptors: Descriptors, address: int
) -> int:
    """A descriptor of the named device, which is attached to the compat IOAS of the group's
    container. EFAULT, EINVAL: the name. EMFILE: no descriptor is free. Others: VfioGroup.find,
    _open.
    """
    device = group.find(await _name(caller, address))
    descriptors.opening(device)
    try:
        async with locked(group), locked(device.set):
            bound = await _open(group, device, caller, outside)
    except BaseException:
        descriptors.closed(device)
        raise
    return await descriptors.give(caller, DeviceFile(device, bound))


async def _open(group: VfioGroup, device: VfioDevice, caller: Client, outside: Outside) -> Bound:
    """EINVAL: the group has no container. EPERM: a device without an IOMMU takes CAP_SYS_RAWIO and
    a container without a compat IOAS; or another context has a device of the group. ENODEV: the
    container has no compat IOAS any more. Others: Bound.attach.

    Ref: v7.3 group.c vfio_df_group_open
    """
    if not group.has_container:
        raise IoctlError(EINVAL, f"{group} has no container (VFIO_GROUP_SET_CONTAINER)")
    if device.bound is not None:
        device.bound.files += 1
        return device.bound
    if group.container is not None:
        return _open_in_container(group, group.container, device, caller, outside)
    context = group.context
    assert context is not None
    if not group.isolated:
        return _open_without_iommu(device, context, caller, outside)
    bound = Bound(device, context, mappable=outside.maps(device, caller), by_group=True)
    try:
        ioas = context.compat_ioas()
        async with locked(ioas):
            await in_steps(bound.attach(ioas.id))
    except BaseException:
        bound.close()
        raise
    return bound


def _open_in_container(
    group: VfioGroup, container: Container, device: VfioDevice, caller: Client, outside: Outside
) -> Bound:
    """Errors: Container.check_use."""
    container.check_use(group, caller)
    bound = Bound(
        device,
        container.context,
        mappable=outside.maps(device, caller),
        by_group=True,
        placed=group.isolated,
        left=group.unuse_container,
    )
    group.use_container()
    return bound


def _open_without_iommu(device: VfioDevice, context: Context, caller: Client, outside: Outside) -> Bound:
    check_may_open(caller, device)
    if context.has_compat_ioas():
        raise IoctlError(EPERM, f"{device} has no IOMMU, and its container has an IOAS")
    nobodys = Context(context.host)  # VFIO binds it to nothing, but its DMA needs a host
    try:
        return Bound(device, nobodys, mappable=outside.maps(device, caller), by_group=True)
    finally:
        nobodys.put()


def _check_is_there(group: VfioGroup) -> None:
    if group.is_gone:
        raise IoctlError(ENODEV, f"vfio-pci has no device of {group} any more")


async def _container(
    caller: Client, outside: Outside, number: int
) -> tuple[Container | Context | None, IoctlError | None]:
    """The container behind the descriptor, or why it is none: that refusal comes after other
    checks.
    """
    try:
        return await outside.container(caller, number), None
    except IoctlError as refusal:
        if refusal.errno != EBADFD:
            raise
        return None, refusal


async def _name(caller: Client, address: int) -> bytes:
    """A string of the caller's, up to its zero. EFAULT: it cannot be read. EINVAL: it is longer
    than a page. Ref: v7.3 mm/util.c strndup_user
    """
    found = b""
    while len(found) < PAGE_SIZE:
        at = address + len(found)
        size = min(PAGE_SIZE - at % PAGE_SIZE, PAGE_SIZE - len(found))
        part = await _read(caller, at, size, "the name")
        end = part.find(b"\0")
        if end >= 0:
            return found + part[:end]
        found += part
    raise IoctlError(EINVAL, f"the name is longer than {PAGE_SIZE - 1} bytes")


async def _read(caller: Client, address: int, size: int, what: str) -> bytes:
    if not caller.resident(address, size):
        await caller.settle(address, size)
    data = caller.memory.read(address, size)
    if len(data) < size:
        raise IoctlError(EFAULT, f"{what} cannot be read at {address + len(data):#x}")
    return data


_HANDLERS: Final[dict[int, Callable[[VfioGroup, Client, Outside, int], Awaitable[None]]]] = {
    const("VFIO_GROUP_GET_STATUS"): _get_status,
    const("VFIO_GROUP_SET_CONTAINER"): _set_container,
    const("VFIO_GROUP_UNSET_CONTAINER"): _unset_container,
}
