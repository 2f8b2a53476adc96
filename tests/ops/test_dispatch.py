"""The size rules, for every row of the table, and the kernel's order of checks around them."""

from errno import E2BIG, EFAULT, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP

import pytest

from iommud.ops import vfio
from iommud.ops.dispatch import SMALL_TAIL
from iommud.ops.request import Request
from iommud.ops.row import Row, op
from iommud.ops.table import ROWS
from iommud.uapi.header import fields, ioctls
from iommud.uapi.names import name_of

from .client import Client
from .twins import PAGE

AT = 16 * PAGE
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def struct(row: Row, size: int, *, length: int | None = None) -> bytes:
    """A struct that says it has `size` bytes: else all zero."""
    return size.to_bytes(4, "little") + bytes((length if length is not None else max(size, row.struct.size)) - 4)


@rows
async def test_below_min_size(row: Row) -> None:
    client = Client()
    client.memory.map(AT, struct(row, row.min_size - 1))
    assert await client.errno(row.number, AT) == EINVAL
    assert len(client.context.objects) == 0


@rows
async def test_min_size_is_read_as_zero_extended(row: Row) -> None:
    """The shortest struct and the whole one of zeros are answered alike: bytes behind the given
    size are not looked at.
    """
    client = Client()
    client.memory.map(AT, struct(row, row.min_size, length=row.min_size) + b"\xff" * 64)
    short = await client.errno(row.number, AT)
    client = Client()
    client.memory.map(AT, struct(row, row.struct.size))
    assert short == await client.errno(row.number, AT)


@rows
@pytest.mark.parametrize("more", [1, 8, PAGE, 3 * SMALL_TAIL + 1])
async def test_beyond_the_struct_must_be_zero(row: Row, more: int) -> None:
    client = Client()
    size = row.struct.size + more
    client.memory.map(AT, struct(row, size))
    zeros = await client.errno(row.number, AT)
    client = Client()
    client.memory.map(AT, struct(row, size)[:-1] + b"\1")
    assert await client.errno(row.number, AT) == E2BIG
    assert zeros != E2BIG


@rows
async def test_a_tail_that_ends_early(row: Row) -> None:
    client = Client()
    address = AT + PAGE - row.struct.size
    client.memory.map(address, struct(row, row.struct.size + 1, length=row.struct.size))
    assert await client.errno(row.number, address) == EFAULT


@rows
async def test_a_struct_that_ends_early(row: Row) -> None:
    client = Client()
    address = AT + PAGE - row.struct.size + 1
    client.memory.map(address, struct(row, row.struct.size)[:-1])
    assert await client.errno(row.number, address) == (EFAULT if row.struct.size > 4 else 0)


@rows
async def test_an_unreadable_size(row: Row) -> None:
    client = Client()
    assert await client.errno(row.number, 0) == EFAULT
    client.memory.map(AT + PAGE - 3, b"\0\0\0")
    assert await client.errno(row.number, AT + PAGE - 3) == EFAULT


@rows
async def test_another_number_with_the_same_low_byte(row: Row) -> None:
    """The size is read first (EFAULT), then the whole number is compared (ENOTTY), then the size is
    judged.
    """
    client = Client()
    client.memory.map(AT, struct(row, 0))
    for other in row.number ^ 0x100, row.number | 0x4000_0000, row.number | 0x8_0000:
        assert await client.errno(other, AT) == ENOTTY
        assert await client.errno(other, 0) == EFAULT


async def test_numbers_outside_the_table_touch_nothing() -> None:
    client = Client()
    for number in range(256):
        if ord(";") << 8 | number not in {*(row.number for row in ROWS), *vfio.ROWS, *vfio.PLAIN}:
            assert await client.errno(ord(";") << 8 | number, 0) == ENOTTY


async def test_with_the_mock_the_table_is_longer() -> None:
    seen = []

    async def handler(request: Request) -> None:
        seen.append(request.cmd.op)

    row = op("TEST_CMD", handler, "iommu_test_cmd", last="last")
    client = Client(row)
    for number in range(max(row.number for row in ROWS) + 1 & 0xFF, row.number & 0xFF):
        assert await client.errno(ord(";") << 8 | number, 0) == EFAULT
        client.memory.map(AT, bytes(8))
        assert await client.errno(ord(";") << 8 | number, AT) == ENOTTY
    client.memory.map(AT, struct(row, row.struct.size))
    assert await client.errno(row.number, AT) == 0
    assert seen == [0]


def test_the_table_is_in_order_and_whole() -> None:
    names = [row.name for row in ROWS]
    assert names == sorted(names)
    wanted = {name for name in ioctls() if name.startswith("IOMMU_")} - {"IOMMU_TEST_CMD"}
    assert {f"IOMMU_{name}" for name in names} == wanted
    assert sorted(row.number & 0xFF for row in ROWS) == list(range(0x80, 0x80 + len(ROWS)))


def test_a_number_has_its_name() -> None:
    assert [name_of(row.number) for row in ROWS] == [f"IOMMU_{row.name}" for row in ROWS]
    assert [name_of(row.number) for row in vfio.ROWS.values()] == [row.name for row in vfio.ROWS.values()]
    assert [name_of(0x3BA0), name_of(0x3B64), name_of(0x5401)] == [
        "IOMMU_TEST_CMD",
        "VFIO_GET_API_VERSION",
        "ioctl 0x5401",
    ]


@rows
async def test_unknown_bits_and_reserved_fields(row: Row) -> None:
    for name, known in ([("flags", row.flags)] if row.flags is not None else []) + [(name, 0) for name, _ in row.zero]:
        client = Client()
        field = fields(row.struct.name)[name]
        for bit in range(8 * field.size):
            if known >> bit & 1:
                continue
            data = bytearray(struct(row, row.struct.size))
            data[field.offset : field.offset + field.size] = (1 << bit).to_bytes(field.size, "little")
            client.memory.map(AT, bytes(data))
            assert await client.errno(row.number, AT) == EOPNOTSUPP


async def test_an_ioas_that_cannot_be_told_of_does_not_exist() -> None:
    client = Client()
    row = next(row for row in ROWS if row.name == "IOAS_ALLOC")
    client.memory.map(AT, struct(row, row.struct.size), read_only=True)
    assert await client.errno(row.number, AT) == EFAULT
    assert len(client.context.objects) == 0
    client.memory.map(AT + PAGE, struct(row, row.struct.size))
    assert await client.errno(row.number, AT + PAGE) == 0
    assert client.memory.read(AT + PAGE, 12)[8:] == b"\1\0\0\0"
    destroy = next(row for row in ROWS if row.name == "DESTROY")
    client.memory.map(AT + PAGE, struct(destroy, 8, length=8)[:4] + b"\2\0\0\0")
    assert await client.errno(destroy.number, AT + PAGE) == ENOENT


@rows
async def test_a_slow_struct_is_waited_for(row: Row) -> None:
    """As much of it as we know; and what lies behind it, if the caller knows more."""
    client = Client()
    size = row.struct.size + 2 * PAGE
    at = AT + PAGE - row.struct.size
    client.memory.map(at, struct(row, size))
    client.memory.make_slow(at, size)
    await client.errno(row.number, at)
    assert client.caller.waits[:2] == [(at, row.struct.size), (AT + PAGE, 2 * PAGE)]


async def test_a_long_tail_is_looked_through_aside() -> None:
    """In a thread: it is as long as the caller says."""
    row = next(row for row in ROWS if row.name == "IOAS_ALLOC")
    for more in (SMALL_TAIL, SMALL_TAIL + 1):
        client = Client()
        client.memory.map(AT, struct(row, row.struct.size + more))
        client.memory.make_slow(AT + PAGE, more)
        assert await client.errno(row.number, AT) == 0
        assert client.caller.aside == ([] if more == SMALL_TAIL else [(AT + row.struct.size, more)])
