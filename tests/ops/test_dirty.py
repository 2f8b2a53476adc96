"""HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP. Ref: v7.3 hw_pagetable.c, io_pagetable.c,
iova_bitmap.c
"""

from errno import EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.device.device import Device, at_once
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.memory.span import U64_MAX
from iommud.ops.dirty import AT_ONCE, BYTES_AT_ONCE
from iommud.ops.locking import locked
from iommud.uapi.header import const

from .client import NO_ID, Client, Fields
from .made import DIRTY, alloc
from .twins import PAGE

ENABLE, NO_CLEAR = const("IOMMU_HWPT_DIRTY_TRACKING_ENABLE"), const("IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR")
BITMAP = 0x2000_0000  # where the client has one
START = 0x1_0000_0000  # an IOVA that everything here can reach


class Tracked:
    """A device on a page table that records what its DMA writes, with so many pages mapped from
    START on.
    """

    def __init__(self, client: Client, device: Device, hwpt: HwptPaging) -> None:
        self.client = client
        self.device = device
        self.hwpt = hwpt

    @property
    def ioas(self) -> int:
        return self.hwpt.ioas.id

    async def track(self, flags: int = ENABLE) -> None:
        await self.client.send("HWPT_SET_DIRTY_TRACKING", hwpt_id=self.hwpt.id, flags=flags)

    def write(self, *pages: int, length: int = 1) -> None:
        for page in pages:
            self.device.dma_write(START + page * PAGE, memoryview(bytes(length)))

    async def get(
        self, pages: int, page_size: int = PAGE, *, start: int = START, data: int = BITMAP, **fields: Any
    ) -> int:
        """The bits of so many pages, as the client's bitmap has them afterwards."""
        await self.client.send(
            "HWPT_GET_DIRTY_BITMAP", **self.wanted(pages, page_size, start=start, data=data), **fields
        )
        return int.from_bytes(self.client.memory.read(data, -(-pages * PAGE // page_size // 8)), "little")

    def wanted(self, pages: int, page_size: int = PAGE, *, start: int = START, data: int = BITMAP) -> Fields:
        return {"hwpt_id": self.hwpt.id, "iova": start, "length": pages * PAGE, "page_size": page_size, "data": data}


@pytest.fixture
async def tracked(client: Client) -> Tracked:
    device = client.device(kind="vtd")
    hwpt = await alloc(client, device, await client.new_ioas(), DIRTY)
    await client.map(hwpt.ioas.id, START, 64 * PAGE)
    at_once(device.attach(hwpt.id))
    client.memory.map(BITMAP)
    return Tracked(client, device, hwpt)


async def test_what_is_written_while_it_is_on(client: Client, tracked: Tracked) -> None:
    tracked.write(0)
    await tracked.track()
    tracked.write(1)
    tracked.write(8, length=2 * PAGE)
    tracked.device.dma_read(START + 3 * PAGE, memoryview(bytearray(PAGE)))
    await tracked.track(0)
    tracked.write(5)
    assert await tracked.get(64) == 0b11_0000_0010, "what was there stays until it is read"
    client.memory.map(BITMAP, bytes(8))
    assert await tracked.get(64) == 0


async def test_switching_on_makes_a_clean_slate(client: Client, tracked: Tracked) -> None:
    await tracked.track()
    tracked.write(1)
    await tracked.track()
    assert await tracked.get(64) == 0


async def test_reading_clears_unless_told_not_to(client: Client, tracked: Tracked) -> None:
    await tracked.track()
    tracked.write(2, 9)
    assert await tracked.get(64, flags=NO_CLEAR) == 1 << 2 | 1 << 9
    client.memory.map(BITMAP, bytes(8))
    assert await tracked.get(8) == 1 << 2
    client.memory.map(BITMAP, bytes(8))
    assert await tracked.get(64) == 1 << 9, "what was outside is left"


async def test_bits_are_added_to_what_is_there(client: Client, tracked: Tracked) -> None:
    await tracked.track()
    tracked.write(1, 40)
    client.memory.map(BITMAP, b"\x80\xff" + bytes(6) + b"\x5a")
    assert await tracked.get(64) == 1 << 40 | 0xFF82
    assert client.memory.read(BITMAP + 8, 1) == b"\x5a"


@pytest.mark.parametrize(
    ("page_size", "bits"), [(PAGE, 0b1_0010), (2 * PAGE, 0b101), (8 * PAGE, 1), (64 * PAGE, 1), (PAGE // 2, 0x30C)]
)
async def test_bits_of_any_size(client: Client, tracked: Tracked, page_size: int, bits: int) -> None:
    await tracked.track()
    tracked.write(1, 4)
    assert await tracked.get(64, page_size) == bits


async def test_bits_that_lie_far_apart(client: Client, tracked: Tracked) -> None:
    """What lies between them is not touched."""
    await client.map(tracked.ioas, START + 64 * PAGE, 1000 * PAGE, address=0x1_0000_0000)
    await tracked.track()
    tracked.write(0, 8 * 75 + 1, 8 * 76)
    client.memory.map(BITMAP, bytes(134))
    client.memory.make_slow(BITMAP + PAGE)
    await client.send("HWPT_GET_DIRTY_BITMAP", **tracked.wanted(1064))
    found = client.memory.read(BITMAP, 133)
    assert {at: byte for at, byte in enumerate(found) if byte} == {0: 1, 75: 2, 76: 1}


async def test_it_ends_at_the_first_hole(client: Client, tracked: Tracked) -> None:
    await client.map(tracked.ioas, START + 65 * PAGE)
    await tracked.track()
    tracked.write(63, 65)
    assert await tracked.get(72) == 1 << 63
    client.memory.map(BITMAP, bytes(16))
    assert await tracked.get(8, start=START + 64 * PAGE) == 0
    assert await tracked.get(1, start=START + 65 * PAGE) == 1


async def test_unmapped_is_clean(client: Client, tracked: Tracked) -> None:
    await tracked.track()
    tracked.write(3)
    await client.send("IOAS_UNMAP", ioas_id=tracked.ioas, length=U64_MAX)
    await client.map(tracked.ioas, START, 64 * PAGE)
    assert await tracked.get(64) == 0


# --- the client's bitmap ---


async def test_a_bitmap_that_is_not_there_is_no_error(client: Client, tracked: Tracked) -> None:
    """The marks are lost."""
    await tracked.track()
    tracked.write(1)
    assert await tracked.get(64, data=0) == 0
    assert await tracked.get(64) == 0


@pytest.mark.parametrize("how", ["absent", "read-only"])
async def test_a_bitmap_with_a_page_that_cannot_be_written(client: Client, tracked: Tracked, how: str) -> None:
    """What of it can be written is, on either side of what cannot. Of bits for bytes a page of the
    bitmap tells of eight pages.
    """
    await tracked.track()
    tracked.write(3, 4, 11, 12, 63)
    client.memory.map(BITMAP, bytes(9 * PAGE))
    if how == "absent":
        client.memory.unmap(BITMAP + PAGE)
    else:
        client.memory.map(BITMAP + PAGE, b"\x11" * PAGE, read_only=True)
    data = BITMAP + PAGE // 2
    await tracked.get(64, 1, data=data)
    ones = b"\xff" * (PAGE // 8)
    assert client.memory.read(BITMAP, PAGE) == (bytes(PAGE // 8 * 7) + ones)
    assert client.memory.read(BITMAP + PAGE, PAGE) == (b"" if how == "absent" else b"\x11" * PAGE)
    assert client.memory.read(BITMAP + 2 * PAGE, PAGE // 4) == ones + bytes(PAGE // 8)
    assert client.memory.read(data + 63 * PAGE // 8, PAGE // 8) == ones
    client.memory.map(BITMAP, bytes(9 * PAGE))
    assert await tracked.get(64, 1) == 0, "what could not be written is lost"


async def test_bits_across_a_page_of_the_bitmap(client: Client, tracked: Tracked) -> None:
    """Together in one stretch, of which only one page is there."""
    await tracked.track()
    tracked.write(7, 8)
    data = client.memory.map(BITMAP + PAGE - 1)
    assert await tracked.get(64, data=data, flags=NO_CLEAR) == 0x80
    client.memory.map(BITMAP + PAGE, b"\x40")
    client.memory.map(data, b"\x01")
    assert await tracked.get(64, data=data) == 0x4181


async def test_the_bitmap_is_waited_for_page_by_page(client: Client, tracked: Tracked) -> None:
    """Only where there is something to write; meanwhile neither page table nor IOAS can go."""
    await tracked.track()
    tracked.write(0, 5, 17, 19, 48, 55, 56)
    tracked.device.detach()
    client.memory.map(BITMAP, bytes(8 * PAGE))
    client.memory.make_slow(BITMAP, 8 * PAGE)

    def look() -> None:
        client.cannot_go(tracked.hwpt.id)
        assert len(tracked.hwpt.ioas.shortterm_users) == 1

    client.caller.meanwhile = look
    await client.send("HWPT_GET_DIRTY_BITMAP", **tracked.wanted(64, 1))
    assert client.caller.waits == [(BITMAP + at * PAGE, PAGE) for at in (0, 2, 6, 7)]
    assert client.memory.slow == {BITMAP // PAGE + at for at in (1, 3, 4, 5)}, "nobody looked there"
    assert client.memory.read(BITMAP + 2 * PAGE, PAGE).count(0xFF) == 2 * PAGE // 8


async def test_many_stretches_are_written_in_parts(client: Client, tracked: Tracked) -> None:
    """Others have their turn after each; all bits arrive. Zeros within a stretch are 64 bytes at
    most.
    """
    await client.map(tracked.ioas, START + 64 * PAGE, (2 * AT_ONCE + 16) * PAGE, address=0x1_0000_0000)
    await tracked.track()
    tracked.write(*range(0, 2 * AT_ONCE + 80, 2))
    size = (2 * AT_ONCE + 80) * 128
    client.memory.map(BITMAP, bytes(size))
    left: list[int] = []
    client.when_left = lambda: left.append(client.memory.read(BITMAP, size).count(0xFF))
    await client.send("HWPT_GET_DIRTY_BITMAP", **tracked.wanted(2 * AT_ONCE + 80, PAGE // 1024))
    assert (left, client.pauses) == ([128 * AT_ONCE], 2)
    assert client.memory.read(BITMAP, size) == (b"\xff" * 128 + bytes(128)) * (AT_ONCE + 40)


async def test_a_long_stretch_is_written_in_parts(client: Client, tracked: Tracked) -> None:
    """By its bytes."""
    run = BYTES_AT_ONCE // (PAGE // 8)  # pages
    await client.map(tracked.ioas, START + 64 * PAGE, (2 * run + 1 - 64) * PAGE, address=0x1_0000_0000)
    await tracked.track()
    for first in (0, run + 1):
        tracked.write(first, length=run * PAGE)
    client.memory.map(BITMAP, bytes(3 * BYTES_AT_ONCE))
    left: list[int] = []
    client.when_left = lambda: left.append(client.memory.read(BITMAP, 3 * BYTES_AT_ONCE).count(0xFF))
    await client.send("HWPT_GET_DIRTY_BITMAP", **tracked.wanted(2 * run + 1, 1))
    ones = b"\xff" * BYTES_AT_ONCE
    assert client.memory.read(BITMAP, 2 * BYTES_AT_ONCE + PAGE // 8) == ones + bytes(PAGE // 8) + ones
    assert (left, client.pauses) == ([BYTES_AT_ONCE], 2)


async def test_nobody_maps_meanwhile(client: Client, tracked: Tracked) -> None:
    done: list[int] = []

    async def get() -> None:
        done.append(await tracked.get(64))

    await tracked.track()
    async with trio.open_nursery() as nursery, locked(tracked.hwpt.ioas):
        nursery.start_soon(get)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        client.cannot_go(tracked.hwpt.id)
        tracked.write(2)
    assert done == [4]


# --- what is refused ---


async def test_set_in_the_kernels_order(client: Client, tracked: Tracked) -> None:
    """`__reserved` is not looked at, and nothing is written back."""
    plain = await alloc(client, tracked.device, tracked.ioas)
    assert tracked.hwpt.domain.dirty is not None
    await client.refuse_in_order(
        "HWPT_SET_DIRTY_TRACKING",
        {"flags": 2 | ENABLE, "hwpt_id": NO_ID, "__reserved": 1},
        (EOPNOTSUPP, "unknown bits 0x2", {"flags": ENABLE}),
        (ENOENT, f"there is no object {NO_ID}; wanted: HWPT", {"hwpt_id": tracked.ioas}),
        (ENOENT, "is of kind IOAS; wanted: HWPT", {"hwpt_id": plain.id}),
        (EOPNOTSUPP, f"{plain} was not allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING", {"hwpt_id": tracked.hwpt.id}),
    )
    assert tracked.hwpt.domain.dirty.enabled
    await client.send("HWPT_SET_DIRTY_TRACKING", hwpt_id=plain.id, flags=0, expect=EOPNOTSUPP)
    await client.send("HWPT_SET_DIRTY_TRACKING", hwpt_id=tracked.hwpt.id, flags=0, read_only=True)
    assert not tracked.hwpt.domain.dirty.enabled


async def test_get_in_the_kernels_order(client: Client, tracked: Tracked) -> None:
    plain = await alloc(client, tracked.device, tracked.ioas)
    wrong: Fields = {
        "flags": 2,
        "hwpt_id": NO_ID,
        "__reserved": 1,
        "iova": U64_MAX,
        "length": 0,
        "page_size": 0,
        "data": BITMAP,
    }
    await client.refuse_in_order(
        "HWPT_GET_DIRTY_BITMAP",
        wrong,
        (EOPNOTSUPP, "unknown bits 0x2", {"flags": 0}),
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (ENOENT, f"there is no object {NO_ID}; wanted: HWPT", {"hwpt_id": tracked.ioas}),
        (ENOENT, "is of kind IOAS", {"hwpt_id": plain.id}),
        (EINVAL, "length is 0", {"length": 2}),
        (EOVERFLOW, "beyond 2^64 - 1", {"iova": START + 1, "length": PAGE}),
        (EINVAL, "off the alignment 0x1000", {"iova": START, "length": PAGE + 1}),
        (EINVAL, "off the alignment 0x1000", {"length": 3 * PAGE}),
        (EINVAL, "page_size is 0", {"page_size": 2 * PAGE}),
        (EINVAL, "is not a multiple of page_size 0x2000", {"length": 2 * PAGE, "iova": START + PAGE}),
        (EINVAL, "is not a multiple of page_size 0x2000", {"iova": START}),
        (EOPNOTSUPP, "was not allocated with IOMMU_HWPT_ALLOC_DIRTY_TRACKING", {"hwpt_id": tracked.hwpt.id}),
    )


async def test_get_writes_nothing_back(client: Client, tracked: Tracked) -> None:
    await tracked.track()
    tracked.write(0)
    fields: Fields = {"hwpt_id": tracked.hwpt.id, "iova": START, "length": PAGE, "page_size": PAGE, "data": BITMAP}
    await client.send("HWPT_GET_DIRTY_BITMAP", read_only=True, **fields)
    assert client.memory.read(BITMAP, 1) == b"\1"
    await client.send("HWPT_GET_DIRTY_BITMAP", read_only=True, **(fields | {"iova": U64_MAX - PAGE + 1}))
