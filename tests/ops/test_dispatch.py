"""The size rules, for every row of the table, and the kernel's order of checks around them."""

from errno import E2BIG, EFAULT, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP

import pytest

from iommud.ops.dispatch import HANDLERS, TAIL_CHUNK
from iommud.ops.request import Request
from iommud.uapi.header import fields
from iommud.uapi.table import BY_NUMBER, LAST_NUMBER, ROWS, TEST_NUMBER, TEST_ROW, Row
from iommud.uapi.vfio_table import VFIO_BY_NUMBER, VFIO_WITHOUT_STRUCT

from .twins import PAGE, Bench

AT = 16 * PAGE
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def struct(row: Row, size: int, *, length: int | None = None) -> bytes:
    """A struct that says it has `size` bytes: else all zero."""
    return size.to_bytes(4, "little") + bytes((length if length is not None else max(size, row.size)) - 4)


@rows
async def test_below_min_size(row: Row) -> None:
    bench = Bench()
    bench.caller.memory.map(AT, struct(row, row.min_size - 1))
    assert await bench.errno(row.number, AT) == EINVAL
    assert len(bench.context.objects) == 0


@rows
async def test_min_size_is_read_as_zero_extended(row: Row) -> None:
    """The shortest struct and the whole one of zeros are answered alike: bytes behind the given size are not looked at."""
    bench = Bench()
    bench.caller.memory.map(AT, struct(row, row.min_size, length=row.min_size) + b"\xff" * 64)
    short = await bench.errno(row.number, AT)
    bench = Bench()
    bench.caller.memory.map(AT, struct(row, row.size))
    assert short == await bench.errno(row.number, AT)


@rows
@pytest.mark.parametrize("more", [1, 8, PAGE, 3 * TAIL_CHUNK + 1])
async def test_beyond_the_struct_must_be_zero(row: Row, more: int) -> None:
    bench = Bench()
    size = row.size + more
    bench.caller.memory.map(AT, struct(row, size))
    zeros = await bench.errno(row.number, AT)
    bench = Bench()
    bench.caller.memory.map(AT, struct(row, size)[:-1] + b"\1")
    assert await bench.errno(row.number, AT) == E2BIG
    assert zeros != E2BIG


@rows
async def test_a_tail_that_ends_early(row: Row) -> None:
    bench = Bench()
    address = AT + PAGE - row.size
    bench.caller.memory.map(address, struct(row, row.size + 1, length=row.size))
    assert await bench.errno(row.number, address) == EFAULT


@rows
async def test_a_struct_that_ends_early(row: Row) -> None:
    bench = Bench()
    address = AT + PAGE - row.size + 1
    bench.caller.memory.map(address, struct(row, row.size)[:-1])
    assert await bench.errno(row.number, address) == (EFAULT if row.size > 4 else 0)


@rows
async def test_an_unreadable_size(row: Row) -> None:
    bench = Bench()
    assert await bench.errno(row.number, 0) == EFAULT
    bench.caller.memory.map(AT + PAGE - 3, b"\0\0\0")
    assert await bench.errno(row.number, AT + PAGE - 3) == EFAULT


@rows
async def test_another_number_with_the_same_low_byte(row: Row) -> None:
    """The size is read first (EFAULT), then the whole number is compared (ENOTTY), then the size is judged."""
    bench = Bench()
    bench.caller.memory.map(AT, struct(row, 0))
    for other in row.number ^ 0x100, row.number | 0x4000_0000, row.number | 0x8_0000:
        assert await bench.errno(other, AT) == ENOTTY
        assert await bench.errno(other, 0) == EFAULT


async def test_numbers_outside_the_table_touch_nothing() -> None:
    bench = Bench()
    for number in range(256):
        if number not in BY_NUMBER and ord(";") << 8 | number not in {*VFIO_BY_NUMBER, *VFIO_WITHOUT_STRUCT}:
            assert await bench.errno(ord(";") << 8 | number, 0) == ENOTTY


async def test_with_the_mock_the_table_is_longer() -> None:
    seen = []

    async def handler(request: Request) -> None:
        seen.append(request.cmd.op)

    bench = Bench(handler)
    for number in range(LAST_NUMBER + 1, TEST_NUMBER):
        assert await bench.errno(ord(";") << 8 | number, 0) == EFAULT
        bench.caller.memory.map(AT, bytes(8))
        assert await bench.errno(ord(";") << 8 | number, AT) == ENOTTY
    bench.caller.memory.map(AT, struct(TEST_ROW, TEST_ROW.size))
    assert await bench.errno(TEST_ROW.number, AT) == 0
    assert seen == [0]


@rows
async def test_a_row_without_a_handler_says_so(row: Row) -> None:
    bench = Bench()
    bench.caller.memory.map(AT, struct(row, row.size))
    if row.name not in HANDLERS:
        assert await bench.errno(row.number, AT) == EOPNOTSUPP


def test_no_handler_without_a_row() -> None:
    assert set(HANDLERS) <= {row.name for row in ROWS}


@rows
async def test_unknown_bits_and_reserved_fields(row: Row) -> None:
    for name, known in ([row.flags] if row.flags else []) + [(name, 0) for name in row.zero]:
        bench = Bench()
        field = fields(row.struct)[name]
        for bit in range(8 * field.size):
            if known >> bit & 1:
                continue
            data = bytearray(struct(row, row.size))
            data[field.offset : field.offset + field.size] = (1 << bit).to_bytes(field.size, "little")
            bench.caller.memory.map(AT, bytes(data))
            assert await bench.errno(row.number, AT) == EOPNOTSUPP


async def test_an_ioas_that_cannot_be_told_of_does_not_exist() -> None:
    bench = Bench()
    row = next(row for row in ROWS if row.name == "IOAS_ALLOC")
    bench.caller.memory.map(AT, struct(row, row.size), read_only=True)
    assert await bench.errno(row.number, AT) == EFAULT
    assert len(bench.context.objects) == 0
    bench.caller.memory.map(AT + PAGE, struct(row, row.size))
    assert await bench.errno(row.number, AT + PAGE) == 0
    assert bench.caller.memory.read(AT + PAGE, 12)[8:] == b"\1\0\0\0"
    destroy = next(row for row in ROWS if row.name == "DESTROY")
    bench.caller.memory.map(AT + PAGE, struct(destroy, 8, length=8)[:4] + b"\2\0\0\0")
    assert await bench.errno(destroy.number, AT + PAGE) == ENOENT
