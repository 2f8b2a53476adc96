"""Groups: each of their ioctls, what a container is to them, and who excludes whom. Ref: v7.3
drivers/vfio/group.c
"""

import struct
from errno import EBADF, EBADFD, EBUSY, EFAULT, EINVAL, EMFILE, ENODEV, ENOTTY, EPERM

from iommud.engine.device.context import Context
from iommud.ops.noiommu import CAP_SYS_RAWIO
from iommud.pci.address import Address
from iommud.pci.function import Slot
from iommud.uapi.header import const
from iommud.vfio.device import VfioDevice
from iommud.vfio.group import VfioGroup
from tests.engine.fakes import errno_of
from tests.ops.client import AT
from tests.ops.twins import PAGE

from .kit import IOMMUFD, NOT_OURS, OTHER, Machine

NOTHING = 77  # no descriptor
VIABLE, SET = const("VFIO_GROUP_FLAGS_VIABLE"), const("VFIO_GROUP_FLAGS_CONTAINER_SET")


def mates(machine: Machine) -> tuple[VfioDevice, VfioDevice, VfioGroup]:
    """Two devices of one group, which is open."""
    first = machine.device(slot=Slot(Address(device=1), scheduler=machine.clock, group="both"))
    second = machine.device(slot=Slot(Address(device=2), scheduler=machine.clock, group="both"))
    return first, second, machine.group(first)


async def test_a_group_is_opened_once(machine: Machine) -> None:
    first, _, group = mates(machine)
    assert errno_of(group.open) == EBUSY
    group.close()
    assert machine.group(first) is group
    group.close()


async def test_status_in_the_order_of_the_kernel(machine: Machine) -> None:
    _, _, group = mates(machine)
    assert await machine.ask_group(group, "GET_STATUS", AT) == -EFAULT
    machine.client.memory.map(AT, (7).to_bytes(4, "little"))
    assert await machine.ask_group(group, "GET_STATUS", AT) == -EINVAL
    machine.client.memory.map(AT, (8).to_bytes(4, "little"), read_only=True)
    assert await machine.ask_group(group, "GET_STATUS", AT) == -EFAULT
    assert await machine.status(group) == VIABLE
    assert await machine.set_container(group, IOMMUFD) == 0
    assert await machine.status(group) == VIABLE | SET
    group.close()


async def test_a_group_whose_dma_is_the_kernels(machine: Machine) -> None:
    """A native driver has a third device of it."""
    first, second, group = mates(machine)
    host = machine.client.host
    host.claim("both", "the kernel")
    assert await machine.status(group) == 0
    assert await machine.set_container(group, IOMMUFD) == 0
    assert await machine.status(group) == VIABLE | SET
    assert await machine.take(group, first.plugged.name) == -EPERM
    assert (first.bound, first.files, first.plugged.function.device) == (None, 0, None)
    file = machine.open(second)
    assert await machine.errno(file, const("VFIO_DEVICE_BIND_IOMMUFD")) == EFAULT
    machine.client.memory.map(AT, bind_to(IOMMUFD))
    assert await machine.errno(file, const("VFIO_DEVICE_BIND_IOMMUFD"), AT) == EBUSY, "the group is open"
    group.close()
    assert await machine.errno(file, const("VFIO_DEVICE_BIND_IOMMUFD"), AT) == EPERM
    machine.client.memory.map(AT, bind_to(NOTHING))
    assert await machine.errno(file, const("VFIO_DEVICE_BIND_IOMMUFD"), AT) == EBADF, "before the group's owner"
    host.release("both")
    machine.client.memory.map(AT, bind_to(IOMMUFD))
    assert await machine.errno(file, const("VFIO_DEVICE_BIND_IOMMUFD"), AT) == 0


async def test_the_dma_of_a_device_without_an_iommu_is_nobodys(machine: Machine) -> None:
    """Not even if it says that it is in the group of one that stands behind an IOMMU."""
    device = machine.device(slot=Slot(Address(device=1), scheduler=machine.clock, group="both"), iommu="none")
    group = machine.group(device)
    machine.client.host.claim("both", "the kernel")
    assert await machine.status(group) == VIABLE
    machine.client.host.release("both")
    group.close()


def bind_to(iommufd: int) -> bytes:
    """A struct vfio_device_bind_iommufd."""
    return struct.pack("=4IQ", 24, 0, iommufd, 0, 0)


async def test_a_container_in_the_order_of_the_kernel(machine: Machine) -> None:
    first, second, group = mates(machine)
    assert await machine.ask_group(group, "SET_CONTAINER", AT + PAGE) == -EFAULT
    assert await machine.set_container(group, NOTHING) == -EBADF
    assert await machine.set_container(group, NOT_OURS) == -EBADFD
    assert await machine.ask_group(group, "UNSET_CONTAINER") == -EINVAL
    assert await machine.set_container(group, IOMMUFD) == 0
    assert machine.client.kinds() == ["IOAS"]
    assert await machine.set_container(group, NOT_OURS) == -EINVAL, "what it has comes first"
    assert await machine.set_container(group, NOTHING) == -EBADF
    assert await machine.ask_group(group, "UNSET_CONTAINER") == 0
    for device in (first, second):
        machine.groups.remove(device)
    assert await machine.set_container(group, NOT_OURS) == -ENODEV
    assert await machine.set_container(group, NOTHING) == -EBADF
    assert await machine.status(group) == -ENODEV
    assert await machine.take(group, first.plugged.name) == -ENODEV
    group.close()


async def test_the_container_stays_as_long_as_the_group_has_it(machine: Machine) -> None:
    first, _, group = mates(machine)
    assert await machine.set_container(group, IOMMUFD) == 0
    machine.client.close_device()
    assert await machine.take(group, first.plugged.name) == 0
    group.close()
    assert machine.files[0].read(7 << 40, 2) == first.plugged.function.identity.vendor.to_bytes(2, "little")


async def test_a_device_in_the_order_of_the_kernel(machine: Machine) -> None:
    first, _, group = mates(machine)
    name = first.plugged.name
    assert await machine.ask_group(group, "GET_DEVICE_FD", AT + PAGE) == -EFAULT
    assert await machine.take(group, "x" * PAGE) == -EINVAL
    assert await machine.take(group, "nothing") == -ENODEV
    assert await machine.take(group, f"{name} vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3") == -EINVAL
    assert await machine.take(group, f"{name}x") == -ENODEV
    assert await machine.take(group, name) == -EINVAL, "it has no container"
    assert await machine.set_container(group, IOMMUFD) == 0
    machine.client.context.set_compat_ioas(None)
    assert await machine.take(group, name) == -ENODEV
    assert (first.bound, first.files, first.plugged.function.device) == (None, 0, None)
    assert await machine.ask_group(group, "UNSET_CONTAINER") == 0
    assert await machine.set_container(group, IOMMUFD) == 0
    assert await machine.take(group, name, fails=True) == -EMFILE
    assert (first.bound, first.files, machine.client.kinds()) == (None, 0, ["IOAS", "IOAS"])
    assert await machine.take(group, f"{name}  ") == 0
    assert machine.client.kinds() == ["IOAS", "IOAS", "device", "HWPT"]
    group.close()


async def test_a_name_that_ends_with_memory(machine: Machine) -> None:
    first, _, group = mates(machine)
    name = first.plugged.name.encode() + b"\0"
    assert await machine.set_container(group, IOMMUFD) == 0
    machine.client.memory.map(AT)
    machine.client.memory.write(AT + PAGE - len(name), name)
    assert await machine.ask_group(group, "GET_DEVICE_FD", AT + PAGE - len(name)) == 0
    machine.client.memory.write(AT + PAGE - len(name), b" " + name[:-1])
    assert await machine.ask_group(group, "GET_DEVICE_FD", AT + PAGE - len(name)) == -EFAULT
    group.close()


async def test_files_of_one_device_share_it(machine: Machine) -> None:
    first, _, group = mates(machine)
    assert await machine.set_container(group, IOMMUFD) == 0
    one, two = [machine.files[await machine.take(group, first.plugged.name)] for _ in range(2)]
    assert one.bound is two.bound is first.bound
    one.release()
    assert machine.client.kinds() == ["IOAS", "device", "HWPT"]
    two.release()
    assert machine.client.kinds() == ["IOAS"]
    group.close()


async def test_a_file_of_a_group_attaches_nothing(machine: Machine) -> None:
    first, _, group = mates(machine)
    assert await machine.set_container(group, IOMMUFD) == 0
    file = machine.files[await machine.take(group, first.plugged.name)]
    await machine.ask(file, "ATTACH_IOMMUFD_PT", expect=ENOTTY)
    await machine.ask(file, "DETACH_IOMMUFD_PT", expect=ENOTTY)
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, iommufd=IOMMUFD)
    await machine.ask(file, "PCI_HOT_RESET", expect=EINVAL)
    await machine.ask(file, "PCI_HOT_RESET", expect=ENODEV, count=1)
    group.close()


async def test_a_group_and_its_devices_own_files_exclude_each_other(machine: Machine) -> None:
    first, second, group = mates(machine)
    own = machine.open(first)
    await machine.ask(own, "BIND_IOMMUFD", expect=EINVAL, iommufd=-1)
    await machine.ask(own, "BIND_IOMMUFD", expect=EBUSY, iommufd=NOTHING)
    group.close()
    await machine.ask(own, "BIND_IOMMUFD", expect=EBADF, iommufd=NOTHING)
    await machine.ask(own, "BIND_IOMMUFD", iommufd=IOMMUFD)
    mate = await machine.bound(second)
    assert errno_of(group.open) == EBUSY
    own.release()
    assert errno_of(group.open) == EBUSY
    mate.release()
    group.open()
    group.close()


async def test_devices_that_outlive_the_group_keep_it(machine: Machine) -> None:
    """Its DMA is theirs, so it is not viable, and another container gets none of its devices."""
    first, second, group = mates(machine)
    assert await machine.set_container(group, IOMMUFD) == 0
    assert await machine.take(group, first.plugged.name) == 0
    group.close()
    beside = machine.outside.contexts[OTHER] = Context(machine.client.host)
    group.open()
    assert await machine.status(group) == 0
    assert await machine.set_container(group, OTHER) == 0
    assert await machine.take(group, second.plugged.name) == -EPERM
    assert await machine.take(group, first.plugged.name) == 1, "it is where it was"
    assert machine.bound_of(machine.files[1]).context is machine.client.context
    group.close()
    beside.put()


async def test_a_device_that_is_about_to_go_cannot_be_had(machine: Machine) -> None:
    first, second, group = mates(machine)
    assert await machine.set_container(group, IOMMUFD) == 0
    machine.groups.hide(first)
    assert await machine.take(group, first.plugged.name) == -ENODEV
    assert await machine.take(group, second.plugged.name) == 0
    machine.groups.show(first)
    assert await machine.take(group, first.plugged.name) == 1
    group.close()


async def test_a_device_without_an_iommu(machine: Machine) -> None:
    device = machine.device(iommu="none")
    group = machine.group(device)
    assert await machine.status(group) == VIABLE
    assert await machine.set_container(group, IOMMUFD) == 0
    assert (machine.client.kinds(), machine.client.context.no_iommu) == ([], True)
    assert await machine.take(group, device.plugged.name) == -EPERM
    machine.client.caller.capabilities.add(CAP_SYS_RAWIO)
    assert await machine.take(group, device.plugged.name) == 0
    assert machine.client.kinds() == [], "it is bound to nothing that a client could see"
    machine.files[0].release()
    ioas = await machine.client.new_ioas()
    machine.client.context.set_compat_ioas(machine.client.context.ioas(ioas))
    assert await machine.take(group, device.plugged.name) == -EPERM
    group.close()


async def test_both_kinds_of_devices_share_no_container(machine: Machine) -> None:
    without = machine.group(machine.device(iommu="none"))
    _, _, group = mates(machine)
    assert await machine.set_container(group, IOMMUFD) == 0
    assert await machine.set_container(without, IOMMUFD) == -EINVAL
    assert await machine.set_container(without, OTHER) == 0
    assert await machine.ask_group(group, "UNSET_CONTAINER") == 0
    assert await machine.set_container(group, OTHER) == -EINVAL
    group.close()
    without.close()
