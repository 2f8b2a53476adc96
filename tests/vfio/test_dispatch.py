"""The order of checks that all ioctls of a device's file have in common. Ref: v7.3 vfio_main.c
vfio_device_fops_unl_ioctl
"""

from errno import EFAULT, EINVAL, ENOTTY

import pytest

from iommud.uapi.header import const, ioctls
from iommud.vfio.row import PREFIX, Row
from iommud.vfio.table import ROWS
from tests.ops.client import AT
from tests.ops.twins import PAGE

from .kit import NUMBERS, Machine

rows = pytest.mark.parametrize("row", [row for row in ROWS if row.struct is not None], ids=lambda row: row.name)


def test_the_table_is_in_order_and_whole() -> None:
    names = [row.name for row in ROWS]
    assert names == sorted(names)
    assert {PREFIX + name for name in NUMBERS} == {name for name in ioctls() if name.startswith(PREFIX)}


async def test_before_the_bind_all_is_refused_alike(machine: Machine) -> None:
    file = machine.open(machine.device())
    for number in range(0x3B64, 0x3B7C):
        if number != const("VFIO_DEVICE_BIND_IOMMUFD"):
            assert await machine.errno(file, number) == EINVAL
    assert await machine.errno(file, 0x5401) == EINVAL
    for call in (lambda: file.read(0, 1), lambda: file.write(0, b"x"), lambda: file.read(7 << 40, 0)):
        with pytest.raises(Exception, match="not bound"):
            call()


async def test_other_numbers_are_nothing(machine: Machine) -> None:
    file = await machine.bound(machine.device())
    for number in (*range(0x3B64, 0x3B6B), 0x3B72, 0x3B73, 0x3B79, 0x5401, 0x40083B6B):
        assert await machine.errno(file, number) == ENOTTY


@rows
async def test_the_struct_is_read_before_argsz_is_looked_at(machine: Machine, row: Row) -> None:
    file = await machine.bound(machine.device())
    memory = machine.client.memory
    for size in range(row.min_size):
        at = AT + PAGE - size
        memory.map(AT)
        memory.write(at, (row.min_size - 1).to_bytes(4, "little")[:size])
        assert await machine.errno(file, row.number, at) == EFAULT


@rows
async def test_argsz_must_reach_the_oldest_struct(machine: Machine, row: Row) -> None:
    file = await machine.bound(machine.device())
    memory = machine.client.memory
    memory.map(AT)
    for argsz in (0, 4, row.min_size - 1):
        memory.write(AT, argsz.to_bytes(4, "little") + b"\xff" * 64)
        assert await machine.errno(file, row.number, AT) == EINVAL


@rows
async def test_slow_memory_is_waited_for(machine: Machine, row: Row) -> None:
    """TwinMemory fails when it is read before."""
    file = await machine.bound(machine.device())
    machine.client.memory.map(AT)
    machine.client.memory.make_slow(AT)
    await machine.errno(file, row.number, AT)
    assert machine.client.caller.waits == [(AT, row.min_size)]
