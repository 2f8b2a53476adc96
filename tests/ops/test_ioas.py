"""IOAS_ALLOC, and what may be mapped: IOAS_IOVA_RANGES, IOAS_ALLOW_IOVAS. Ref: v7.3 ioas.c"""

from errno import (
    EADDRINUSE,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENOENT,
    ENOMEM,
    EOPNOTSUPP,
)
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.memory.span import U64_MAX
from iommud.ops.ioas import RANGES_AT_ONCE
from iommud.ops.locking import locked
from iommud.selftest.mock_domains import APERTURE_LAST, APERTURE_START, MOCK_PAGE_SIZE

from .client import NO_ID, Client, Fields, R
from .twins import PAGE

MIB = 1 << 20
VA = 0x7000_0000  # where the client's memory begins
ARRAY = 0x2000_0000  # where it has arrays


def ranges(*pairs: tuple[int, int]) -> bytes:
    """struct iommu_iova_range, one behind the other."""
    return b"".join(start.to_bytes(8, "little") + last.to_bytes(8, "little") for start, last in pairs)


def unranged(data: bytes) -> list[tuple[int, int]]:
    numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


# --- IOAS_ALLOC ---


async def test_alloc_gives_the_lowest_free_id(client: Client) -> None:
    assert [await client.new_ioas() for _ in range(3)] == [1, 2, 3]
    await client.send("DESTROY", id=2)
    assert await client.new_ioas() == 2
    assert client.kinds() == ["IOAS"] * 3


async def test_alloc_refused_leaves_nothing(client: Client) -> None:
    await client.send("IOAS_ALLOC", flags=1, expect=EOPNOTSUPP, why="flags 0x1")
    client.faults.arm(1)
    answer = await client.send("IOAS_ALLOC", expect=ENOMEM, why="ID")
    assert answer.out_ioas_id == 0
    await client.send("IOAS_ALLOC", read_only=True, expect=EFAULT, why="the struct cannot be written")
    assert client.kinds() == []
    assert client.mirror.log == [], "nobody was told of what never was"
    assert await client.new_ioas() == 1


# --- IOAS_IOVA_RANGES ---


async def test_iova_ranges_of_an_empty_ioas(client: Client) -> None:
    ioas = await client.new_ioas()
    client.memory.map(ARRAY)
    answer = await client.send("IOAS_IOVA_RANGES", ioas_id=ioas, num_iovas=7, allowed_iovas=ARRAY)
    assert (answer.num_iovas, answer.out_iova_alignment) == (1, 1)
    assert client.memory.read(ARRAY, 32) == ranges((0, U64_MAX)) + bytes(16)


async def test_iova_ranges_with_devices(client: Client) -> None:
    ioas = await client.new_ioas()
    client.device(attach=ioas)
    client.table(ioas).reserve(0x100_0000, 0x1FF_FFFF, "a device")
    client.table(ioas).reserve(0x300_0000, 0x3FF_FFFF, "another")
    client.memory.map(ARRAY)
    answer = await client.send("IOAS_IOVA_RANGES", ioas_id=ioas, num_iovas=2, allowed_iovas=ARRAY)
    assert (answer.num_iovas, answer.out_iova_alignment) == (2, MOCK_PAGE_SIZE)
    assert unranged(client.memory.read(ARRAY, 32)) == [(0x200_0000, 0x2FF_FFFF), (0x400_0000, APERTURE_LAST)]
    assert APERTURE_START == 0x100_0000


async def test_iova_ranges_with_too_little_room_tells_how_many_there_are(client: Client) -> None:
    ioas = await client.new_ioas()
    answer = await client.send(
        "IOAS_IOVA_RANGES", ioas_id=ioas, expect=EMSGSIZE, why="there are 1 ranges, the array has room for 0"
    )
    assert (answer.num_iovas, answer.out_iova_alignment) == (1, 1)
    for start in (0x1000, 0x3000):
        client.table(ioas).reserve(start, start + 0xFFF, ioas)
    client.memory.map(ARRAY, b"\xee" * 64)
    answer = await client.send("IOAS_IOVA_RANGES", ioas_id=ioas, num_iovas=2, allowed_iovas=ARRAY, expect=EMSGSIZE)
    assert answer.num_iovas == 3
    assert client.memory.read(ARRAY, 40) == ranges((0, 0xFFF), (0x2000, 0x2FFF)) + b"\xee" * 8


async def test_iova_ranges_that_cannot_be_told(client: Client) -> None:
    """The array before the struct, range by range; what was written stays."""
    ioas = await client.new_ioas()
    client.table(ioas).reserve(0x1000, 0x1FFF, ioas)
    edge = client.memory.map(ARRAY) + PAGE - 24
    answer = await client.send(
        "IOAS_IOVA_RANGES", ioas_id=ioas, num_iovas=9, allowed_iovas=edge, expect=EFAULT, why="range 1 cannot"
    )
    assert (answer.num_iovas, answer.out_iova_alignment) == (9, 0)
    assert client.memory.read(edge, 24) == ranges((0, 0xFFF)) + (0x2000).to_bytes(8, "little")
    wrap = client.memory.map(U64_MAX - 15)
    fields: Fields = {"ioas_id": ioas, "expect": EFAULT}
    await client.send(
        "IOAS_IOVA_RANGES", num_iovas=9, allowed_iovas=wrap, why="range 1 cannot be written at 0x0", **fields
    )
    await client.send(
        "IOAS_IOVA_RANGES",
        num_iovas=1,
        allowed_iovas=ARRAY,
        read_only=True,
        why="the struct cannot be written",
        **fields,
    )
    assert client.memory.read(ARRAY, 16) == ranges((0, 0xFFF)), "which comes before EMSGSIZE, and after the array"


async def test_iova_ranges_in_the_kernels_order(client: Client) -> None:
    ioas = await client.new_ioas()
    client.device()
    answer = await client.refuse_in_order(
        "IOAS_IOVA_RANGES",
        {"ioas_id": NO_ID, "num_iovas": 1, "__reserved": 1, "allowed_iovas": 0},
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (ENOENT, f"there is no object {NO_ID}; wanted: IOAS", {"ioas_id": 2}),
        (ENOENT, "object 2 is of kind device", {"ioas_id": ioas}),
        (EFAULT, "range 0 cannot be written at 0x0", {"allowed_iovas": client.memory.map(ARRAY)}),
    )
    assert answer.num_iovas == 1


async def test_iova_ranges_wait_for_as_much_of_the_array_as_there_can_be(client: Client) -> None:
    ioas = await client.new_ioas()
    client.table(ioas).reserve(0x1000, 0x1FFF, ioas)
    client.memory.map(ARRAY)
    client.memory.make_slow(ARRAY)
    client.caller.meanwhile = lambda: client.cannot_go(ioas)
    await client.send("IOAS_IOVA_RANGES", ioas_id=ioas, num_iovas=1000, allowed_iovas=ARRAY)
    client.memory.make_slow(ARRAY)
    await client.send("IOAS_IOVA_RANGES", ioas_id=ioas, num_iovas=1, allowed_iovas=ARRAY, expect=EMSGSIZE)
    assert client.caller.waits == [(ARRAY, 2 * 16), (ARRAY, 16)]


# --- IOAS_ALLOW_IOVAS ---


async def allow(
    client: Client, ioas: int, *pairs: tuple[int, int], expect: int = 0, why: str = "", count: int | None = None
) -> None:
    """`count`: of ranges, if there are to be more than can be read."""
    end = ARRAY + 16 * PAGE
    data = ranges(*pairs)
    if data:
        client.memory.map(end - len(data), data)
    answer = await client.send(
        "IOAS_ALLOW_IOVAS",
        ioas_id=ioas,
        num_iovas=len(pairs) if count is None else count,
        allowed_iovas=end - len(data),
        expect=expect,
        why=why,
    )
    assert answer.num_iovas == (len(pairs) if count is None else count), "nothing is written back"


def allowed(client: Client, ioas: int) -> list[tuple[int, int]]:
    return [(span.start, span.last) for span in client.table(ioas).allowed]


async def test_allow_replaces_the_list(client: Client) -> None:
    ioas = await client.new_ioas()
    await allow(client, ioas, (0x5000, 0x5FFF), (0, 0xFFF), (0x2000, 0x2001))
    assert allowed(client, ioas) == [(0, 0xFFF), (0x2000, 0x2001), (0x5000, 0x5FFF)]
    await allow(client, ioas, (0, U64_MAX))
    assert allowed(client, ioas) == [(0, U64_MAX)]
    await client.send("IOAS_ALLOW_IOVAS", ioas_id=ioas, num_iovas=0, allowed_iovas=1)
    assert allowed(client, ioas) == []


async def test_allow_refuses_a_list_as_a_whole(client: Client) -> None:
    ioas = await client.new_ioas()
    await allow(client, ioas, (0x1000, 0x1FFF))
    await allow(client, ioas, (0x5000, 0x5000), expect=EINVAL, why="range 0: start 0x5000 is not less than last 0x5000")
    await allow(client, ioas, (0, 1), (7, 6), expect=EINVAL, why="range 1")
    await allow(client, ioas, (0, 9), (10, 19), (19, 29), expect=EINVAL, why="the range 0x13..0x1d overlaps another")
    await allow(client, ioas, (10, 19), (0, 10), expect=EINVAL, why="overlaps")
    client.table(ioas).reserve(0x8000, 0x8FFF, "a device")
    await allow(
        client, ioas, (0, 0xFF), (0x8FFF, 0x9000), expect=EADDRINUSE, why="touches the reserved range 0x8000..0x8fff"
    )
    assert allowed(client, ioas) == [(0x1000, 0x1FFF)]


async def test_allow_reads_range_by_range(client: Client) -> None:
    """What is wrong with one comes before the next one that cannot be read, and that before a
    reserved one.
    """
    ioas = await client.new_ioas()
    client.table(ioas).reserve(0, 0xFFF, "a device")
    await allow(client, ioas, count=1, expect=EFAULT, why=f"range 0 cannot be read at {ARRAY + 16 * PAGE:#x}")
    await allow(client, ioas, (1, 1), count=2, expect=EINVAL, why="range 0")
    await allow(client, ioas, (1, 5), (3, 9), count=3, expect=EINVAL, why="overlaps")
    await allow(client, ioas, (1, 5), count=2, expect=EFAULT, why=f"range 1 cannot be read at {ARRAY + 16 * PAGE:#x}")
    await allow(client, ioas, (1, 5), expect=EADDRINUSE)
    edge = ARRAY + 16 * PAGE - 24
    await client.send("IOAS_ALLOW_IOVAS", ioas_id=ioas, num_iovas=2, allowed_iovas=edge, expect=EINVAL, why="range 0")
    client.memory.map(edge, ranges((1, 2)))
    await client.send("IOAS_ALLOW_IOVAS", ioas_id=ioas, num_iovas=2, allowed_iovas=edge, expect=EFAULT, why="range 1")


async def test_allow_in_the_kernels_order(client: Client) -> None:
    ioas = await client.new_ioas()
    client.device()
    client.memory.map(ARRAY, ranges((7, 9)))
    await client.refuse_in_order(
        "IOAS_ALLOW_IOVAS",
        {"ioas_id": NO_ID, "num_iovas": 1, "__reserved": 1, "allowed_iovas": 0},
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (ENOENT, f"there is no object {NO_ID}", {"ioas_id": 2}),
        (ENOENT, "object 2 is of kind device", {"ioas_id": ioas}),
        (EFAULT, "range 0 cannot be read at 0x0", {"allowed_iovas": ARRAY}),
    )
    assert allowed(client, ioas) == [(7, 9)]


@pytest.mark.parametrize("step", [1, -1])
async def test_allow_takes_a_long_list_in_parts(client: Client, step: int) -> None:
    """In order or not; each part is waited for, and meanwhile the IOAS is in use."""
    ioas = await client.new_ioas()
    pairs = [(0x1000 * at, 0x1000 * at + 0xFFE) for at in range(RANGES_AT_ONCE + 100)]
    address = client.memory.map(ARRAY, ranges(*pairs[::step]))
    client.memory.make_slow(ARRAY, 16 * len(pairs))
    client.caller.meanwhile = lambda: client.cannot_go(ioas)
    await client.send("IOAS_ALLOW_IOVAS", ioas_id=ioas, num_iovas=len(pairs), allowed_iovas=address)
    assert allowed(client, ioas) == pairs
    assert client.caller.waits == [(ARRAY, RANGES_AT_ONCE * 16), (ARRAY + RANGES_AT_ONCE * 16, 100 * 16)]
    await client.send("IOAS_ALLOW_IOVAS", ioas_id=ioas, num_iovas=len(pairs), allowed_iovas=address)
    sorting = 0 if step > 0 else 2 + 3  # into three heaps, and each of them
    assert client.pauses == 1 + sorting + 5, "between the parts, and for each block of those in order"
    await client.send("IOAS_ALLOW_IOVAS", ioas_id=ioas, num_iovas=1, allowed_iovas=address)
    assert client.pauses == 1, "once for putting them in order"


# --- locks ---


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("IOAS_ALLOW_IOVAS", {"ioas_id": 1}),
        ("IOAS_MAP", {"flags": R, "ioas_id": 1, "user_va": VA, "length": PAGE}),
        ("IOAS_MAP_FILE", {"flags": R, "ioas_id": 1, "fd": 7, "length": PAGE}),
        ("IOAS_COPY", {"flags": R, "src_ioas_id": 2, "dst_ioas_id": 1, "length": PAGE}),
        ("IOAS_UNMAP", {"ioas_id": 1, "length": U64_MAX}),
    ],
)
async def test_who_changes_an_ioas_waits_for_its_lock(client: Client, name: str, fields: dict[str, Any]) -> None:
    """And keeps it from going meanwhile."""
    ioas, other = await client.new_ioas(), await client.new_ioas()
    await client.map(other, 0)
    client.file(7)
    done: list[str] = []

    async def send() -> None:
        await client.send(name, **fields)
        done.append(name)

    async with trio.open_nursery() as nursery:
        async with locked(client.object(ioas)):
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
            assert len(client.object(ioas).shortterm_users) >= 2
        client.cannot_go(ioas)
    assert done == [name]
    assert client.object(ioas).shortterm_users == []
