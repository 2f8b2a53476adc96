"""BIND_IOMMUFD: its checks in their order, and that a bind that fails leaves nothing behind. Ref:
v7.3 device_cdev.c vfio_df_ioctl_bind_iommufd
"""

from errno import E2BIG, EBADF, EBADFD, EBUSY, EFAULT, EINVAL, EPERM
from typing import Any

import pytest

from iommud.engine.device.context import Context
from iommud.errors import IoctlError
from iommud.pci.address import Address
from iommud.pci.function import Slot
from iommud.uapi.header import const
from iommud.vfio.bind import MIN_SIZE, STRUCT
from tests.engine.fakes import errno_of
from tests.ops.client import AT
from tests.ops.twins import PAGE

from .kit import IOMMUFD, NOT_OURS, OTHER, Machine

TOKEN = 1
NOTHING = 77  # no descriptor


async def test_in_the_order_of_the_kernel(machine: Machine) -> None:
    """Wrong in every way; one thing after another is mended."""
    file = machine.open(machine.device())
    rival = await machine.bound(file.device, OTHER)
    wrong: dict[str, Any] = {"argsz": MIN_SIZE - 1, "flags": 2 | TOKEN, "iommufd": -1, "token_uuid_ptr": 8}
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, behind=b"\1", **wrong)
    wrong["argsz"] = STRUCT.size + 1
    await machine.ask(file, "BIND_IOMMUFD", expect=E2BIG, behind=b"\1", **wrong)
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, behind=b"\0", **wrong)
    wrong["flags"] = TOKEN
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, behind=b"\0", **wrong)
    wrong["iommufd"] = NOTHING
    await machine.ask(file, "BIND_IOMMUFD", expect=EFAULT, behind=b"\0", **wrong)
    wrong["token_uuid_ptr"] = AT
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, behind=b"\0", **wrong)
    wrong["flags"] = 0
    await machine.ask(file, "BIND_IOMMUFD", expect=EBADF, behind=b"\0", **wrong)
    wrong["iommufd"] = NOT_OURS
    await machine.ask(file, "BIND_IOMMUFD", expect=EBADFD, behind=b"\0", **wrong)
    wrong["iommufd"] = IOMMUFD
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, behind=b"\0", **wrong)
    rival.release()
    answer = await machine.ask(file, "BIND_IOMMUFD", behind=b"\0", **wrong)
    assert answer.out_devid == machine.bound_of(file).in_context.id
    await machine.ask(file, "BIND_IOMMUFD", expect=EINVAL, iommufd=NOTHING)


@pytest.mark.parametrize("argsz", [MIN_SIZE, MIN_SIZE + 1, STRUCT.size])
async def test_what_argsz_leaves_out_is_zero(machine: Machine, argsz: int) -> None:
    file = machine.open(machine.device())
    await machine.ask(file, "BIND_IOMMUFD", argsz=argsz, iommufd=IOMMUFD, token_uuid_ptr=~AT & 0xFFFF_FFFF_FFFF_FFFF)
    assert file.bound is not None


async def test_who_cannot_be_told_has_nothing(machine: Machine) -> None:
    device = machine.device()
    file = machine.open(device)
    await machine.ask(file, "BIND_IOMMUFD", expect=EFAULT, read_only=True, iommufd=IOMMUFD)
    assert (file.bound, device.bound, device.vfio.opened, device.plugged.function.device) == (None, None, None, None)
    assert machine.client.kinds() == []
    await machine.ask(file, "BIND_IOMMUFD", iommufd=IOMMUFD)


async def test_what_the_engine_refuses_leaves_nothing(machine: Machine) -> None:
    """One group, two contexts: EPERM. Ref: v7.3 device.c iommufd_device_bind"""
    first = machine.device(slot=Slot(scheduler=machine.clock, group="both"))
    second = machine.device(slot=Slot(Address(device=1), scheduler=machine.clock, group="both"))
    beside = machine.outside.contexts[OTHER] = Context(machine.client.host)
    await machine.bound(first)
    file = machine.open(second)
    await machine.ask(file, "BIND_IOMMUFD", expect=EPERM, iommufd=OTHER)
    assert (file.bound, second.bound, second.vfio.opened) == (None, None, None)
    beside.put()


async def test_the_device_cannot_be_destroyed_while_it_is_open(machine: Machine) -> None:
    file = await machine.bound(machine.device())
    number = machine.bound_of(file).in_context.id
    assert errno_of(lambda: machine.client.context.objects.remove(number)) == EBUSY
    file.release()
    assert machine.client.kinds() == []
    with pytest.raises(IoctlError):
        file.read(0, 1)


async def test_the_context_stays_until_the_device_is_closed(machine: Machine) -> None:
    file = await machine.bound(machine.device())
    machine.client.close_device()
    assert machine.client.kinds() == ["device"]
    await machine.ask(file, "GET_INFO")


async def test_what_lies_beyond_the_page_is_not_read(machine: Machine) -> None:
    file = machine.open(machine.device())
    machine.client.memory.map(AT)
    for size in range(STRUCT.size):
        at = AT + PAGE - size
        machine.client.memory.write(at, STRUCT.size.to_bytes(4, "little")[:size])
        assert await machine.errno(file, const("VFIO_DEVICE_BIND_IOMMUFD"), at) == EFAULT
