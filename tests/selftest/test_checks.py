"""TEST_CMD's looks behind the scenes, and what stands for DMA.
Ref: v7.3 selftest.c iommufd_test_md_check_pa, iommufd_test_dirty
"""

from errno import EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.device.device import Device, at_once
from iommud.engine.device.fault import FaultQueue
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.mapping import dirty_bitmap
from iommud.engine.memory.span import U64_MAX
from iommud.ops.locking import locked
from iommud.selftest.checks import AT_ONCE
from iommud.selftest.dma import DMA, LARGEST_DMA, MOST_BITS
from iommud.selftest.mock_domains import APERTURE_START, IOTLB_ENTRIES, MOCK_PAGE_SIZE
from iommud.selftest.mock_viommu import CACHE_DEFAULT, CACHE_ENTRIES
from iommud.uapi.header import const
from tests.ops.client import NO_ID, Client, Fields, R, W
from tests.ops.made import DIRTY, FAULT, PARENT, alloc, nest
from tests.ops.twins import PAGE

from .command import do

VA = 0x7000_0000
BUFFER = 0x2000_0000
HALF = MOCK_PAGE_SIZE
START = APERTURE_START


@pytest.fixture
async def ioas(client: Client) -> int:
    return await client.new_ioas()


@pytest.fixture
def device(client: Client, ioas: int) -> Device:
    """The mock's, attached."""
    return client.device(attach=ioas)


def table_of(device: Device) -> HwptPaging:
    assert isinstance(device.group.hwpt, HwptPaging)
    return device.group.hwpt


# --- what a page table shows ---


async def test_a_page_table_shows_what_the_client_sees(client: Client, ioas: int, device: Device) -> None:
    hwpt = table_of(device).id
    await client.map(ioas, START, 3 * PAGE)
    await client.map(ioas, START + 4 * PAGE, PAGE, address=VA + HALF)
    for iova, address, length in (
        (START, VA, 3 * PAGE),
        (START + HALF, VA + HALF, HALF),
        (START + 4 * PAGE, VA + HALF, PAGE),
    ):
        await do(client, "MD_CHECK_MAP", hwpt, iova=iova, length=length, uptr=address)
    await do(client, "MD_CHECK_MAP", hwpt, iova=START, length=0, uptr=0)
    for iova, address in ((START, VA + PAGE), (START, VA + HALF), (START + 3 * PAGE, VA)):
        await do(
            client, "MD_CHECK_MAP", hwpt, iova=iova, length=HALF, uptr=address, expect=EINVAL, why="the client sees"
        )
    client.caller.process.remap(VA // PAGE + 2)
    await do(client, "MD_CHECK_MAP", hwpt, iova=START, length=2 * PAGE, uptr=VA)
    await do(client, "MD_CHECK_MAP", hwpt, iova=START, length=3 * PAGE, uptr=VA, expect=EINVAL)


async def test_check_map_in_the_kernels_order(client: Client, ioas: int, device: Device) -> None:
    other = client.device(kind="vtd", attach=ioas)
    hwpt = table_of(device).id
    wrong = {"iova": HALF + 1, "length": HALF, "uptr": HALF}
    await do(client, "MD_CHECK_MAP", NO_ID, **wrong, expect=ENOENT, why="wanted: HWPT")
    await do(client, "MD_CHECK_MAP", table_of(other).id, **wrong, expect=EINVAL, why="is no mock device's")
    for field in wrong:
        aligned = dict.fromkeys(wrong, HALF) | {field: HALF + 1}
        await do(client, "MD_CHECK_MAP", hwpt, **aligned, expect=EINVAL, why=f"is not a multiple of {HALF}")
    beyond = {"iova": 0, "length": HALF, "uptr": U64_MAX - HALF + 1}
    await do(client, "MD_CHECK_MAP", hwpt, **beyond, expect=EINVAL)
    await do(client, "MD_CHECK_MAP", hwpt, iova=0, length=HALF, uptr=HALF, expect=EFAULT, why="is not mapped")


async def test_much_is_checked_in_parts(client: Client, ioas: int, device: Device) -> None:
    """The page table stays meanwhile."""
    hwpt = table_of(device).id
    pages = AT_ONCE // 2 + 1
    await client.map(ioas, START, pages * PAGE)
    client.when_left = lambda: client.cannot_go(hwpt)
    await do(client, "MD_CHECK_MAP", hwpt, iova=START, length=pages * PAGE, uptr=VA)
    assert client.pauses == 1


# --- how often a page is pinned ---


async def test_pins_are_counted_by_page(client: Client, ioas: int, device: Device) -> None:
    """Wherever they come from; also in other IOASes."""
    client.memory.map(VA, bytes(3 * PAGE))
    await do(client, "MD_CHECK_REFS", length=3 * PAGE, uptr=VA, refs=0)
    await client.map(ioas, START, 2 * PAGE)
    await do(client, "MD_CHECK_REFS", length=2 * PAGE, uptr=VA, refs=1)
    await do(client, "MD_CHECK_REFS", length=3 * PAGE, uptr=VA, refs=1, expect=EIO, why="is pinned 0 times, expected 1")
    await client.map(ioas, START + 4 * PAGE, PAGE)
    await do(client, "MD_CHECK_REFS", length=PAGE, uptr=VA, refs=2)
    assert client.pauses == 1, "for each page"
    for fields in (
        {"length": 1, "uptr": VA},
        {"length": PAGE, "uptr": 1},
        {"length": PAGE, "uptr": U64_MAX - PAGE + 1},
    ):
        await do(client, "MD_CHECK_REFS", **fields, expect=EINVAL, why="not page aligned")
    await do(client, "MD_CHECK_REFS", length=PAGE, uptr=0, expect=EFAULT, why="is not mapped")
    await do(client, "MD_CHECK_REFS", uptr=0)


# --- caches ---


async def test_what_a_nested_page_table_has_cached(client: Client, ioas: int, device: Device) -> None:
    nested = await nest(client, device, (await alloc(client, device, ioas, PARENT)).id, 0x1234)
    for number in range(IOTLB_ENTRIES):
        await do(client, "MD_CHECK_IOTLB", nested.id, id=number, iotlb=0x1234)
    await do(client, "MD_CHECK_IOTLB", nested.id, id=0, iotlb=0x1235, expect=EINVAL, why="is not 0x1235")
    await do(client, "MD_CHECK_IOTLB", nested.id, id=IOTLB_ENTRIES, iotlb=0x1234, expect=EINVAL)
    await do(client, "MD_CHECK_IOTLB", nested.parent.id, id=0, iotlb=0x1234, expect=ENOENT, why="wanted: HWPT")
    vtd = client.device(kind="vtd")
    stage = bytes(16) + (48).to_bytes(8, "little")
    client.memory.map(BUFFER, stage)
    fields: Fields = {"data_type": const("IOMMU_HWPT_DATA_VTD_S1"), "data_len": 24, "data_uptr": BUFFER}
    other = await alloc(client, vtd, (await alloc(client, vtd, ioas, PARENT)).id, **fields)
    await do(client, "MD_CHECK_IOTLB", other.id, id=0, iotlb=0, expect=EINVAL, why="is no mock device's")


async def test_what_a_device_has_cached(client: Client, device: Device) -> None:
    for number in range(CACHE_ENTRIES):
        await do(client, "DEV_CHECK_CACHE", device.id, id=number, cache=CACHE_DEFAULT)
    await do(client, "DEV_CHECK_CACHE", device.id, id=0, cache=0, expect=EINVAL, why="cache entry 0 is not 0x0")
    await do(client, "DEV_CHECK_CACHE", device.id, id=CACHE_ENTRIES, cache=CACHE_DEFAULT, expect=EINVAL)
    await do(client, "DEV_CHECK_CACHE", NO_ID, id=0, cache=0, expect=ENOENT, why="wanted: device")
    other = client.device(kind="vtd")
    await do(client, "DEV_CHECK_CACHE", other.id, id=0, cache=0, expect=EINVAL, why="is no mock device")


# --- marks of DMA ---


@pytest.fixture
async def tracked(client: Client, ioas: int, device: Device) -> HwptPaging:
    """With sixteen pages from START on; tracking is on."""
    hwpt = await alloc(client, device, ioas, DIRTY)
    assert isinstance(hwpt, HwptPaging)
    await client.map(ioas, START, 16 * PAGE)
    await client.send("HWPT_SET_DIRTY_TRACKING", hwpt_id=hwpt.id, flags=1)
    return hwpt


def bits_of(hwpt: HwptPaging, pages: int) -> int:
    """By pages of 4 KiB."""
    assert hwpt.domain.dirty is not None
    found = 0
    for offset, part in dirty_bitmap.read(hwpt.ioas.iopt, hwpt.domain.dirty, START, pages * PAGE, PAGE, clear=True):
        found |= int.from_bytes(part, "little") << 8 * offset
    return found


async def mark(client: Client, hwpt: HwptPaging, bits: int, length: int, page_size: int, **fields: Any) -> int:
    """How many it says that it marked."""
    size = -(-length // page_size // 8)
    client.memory.map(BUFFER, bits.to_bytes(size, "little"))
    fields = {"iova": START, "length": length, "page_size": page_size, "uptr": BUFFER} | fields
    return int((await do(client, "DIRTY", hwpt.id, **fields)).out_nr_dirty)


async def test_marks(client: Client, tracked: HwptPaging) -> None:
    """By bits of any size: the byte at the beginning of each is written."""
    assert await mark(client, tracked, 0b1000_0000_0010_0110, 16 * PAGE, PAGE) == 4
    assert bits_of(tracked, 16) == 0b1000_0000_0010_0110
    assert await mark(client, tracked, 0b11, 16 * PAGE, 8 * PAGE) == 2
    assert bits_of(tracked, 16) == 1 << 8 | 1
    assert await mark(client, tracked, 0xFF, 2 * PAGE, 1024) == 8
    assert bits_of(tracked, 16) == 0b11
    assert await mark(client, tracked, 0xFFFF_FFFF, 32 * PAGE, PAGE) == 32, "what is not mapped is counted"
    assert bits_of(tracked, 16) == 0xFFFF


async def test_bits_behind_the_last_are_not_looked_at(client: Client, tracked: HwptPaging) -> None:
    assert await mark(client, tracked, 0xFF, 3 * PAGE, PAGE) == 3
    assert bits_of(tracked, 16) == 0b111
    assert await mark(client, tracked, 0xFF, 8 * PAGE, PAGE) == 8


async def test_a_long_bitmap_of_marks(client: Client, tracked: HwptPaging) -> None:
    """Runs go on where the next part of it begins."""
    assert await mark(client, tracked, (1 << 16 * 1024) - 1, 16 * PAGE, 4) == 16 * 1024
    assert bits_of(tracked, 16) == 0xFFFF


async def test_the_bitmap_of_marks_is_waited_for(client: Client, tracked: HwptPaging) -> None:
    client.memory.map(BUFFER, b"\1")
    client.memory.make_slow(BUFFER)

    def look() -> None:
        client.cannot_go(tracked.id)
        assert len(tracked.ioas.shortterm_users) == 1

    client.caller.meanwhile = look
    await do(client, "DIRTY", tracked.id, iova=START, length=PAGE, page_size=PAGE, uptr=BUFFER)
    assert client.caller.waits == [(BUFFER, 1)]
    async with trio.open_nursery() as nursery, locked(tracked.ioas):
        nursery.start_soon(mark, client, tracked, 2, 2 * PAGE, PAGE)
        await trio.testing.wait_all_tasks_blocked()
        assert bits_of(tracked, 16) == 1
    assert bits_of(tracked, 16) == 2


async def test_marks_in_the_kernels_order(client: Client, ioas: int, tracked: HwptPaging) -> None:
    plain = await alloc(client, client.device(), ioas)
    fields = {"iova": PAGE, "length": MOST_BITS * PAGE + PAGE, "page_size": PAGE, "uptr": BUFFER}
    for wrong in ({"page_size": 0}, {"length": 0}, {"uptr": 0}, {"iova": PAGE + 1}, {"length": PAGE + 1}):
        await do(client, "DIRTY", NO_ID, **(fields | wrong), expect=EINVAL, why="is no multiple of page_size")
    await do(client, "DIRTY", NO_ID, **fields, expect=EOVERFLOW, why=f"{MOST_BITS + 1} bits are more than {MOST_BITS}")
    fields["length"] = PAGE
    await do(client, "DIRTY", NO_ID, **fields, expect=ENOENT, why="wanted: HWPT")
    await do(client, "DIRTY", plain.id, **fields, expect=EINVAL, why="dirty tracking is off")
    await do(client, "DIRTY", tracked.id, **fields, expect=EFAULT, why="the bitmap cannot be read")
    client.memory.map(BUFFER, b"\1")
    await do(client, "DIRTY", tracked.id, **fields, read_only=True, expect=EFAULT, why="the struct cannot be written")
    await client.send("HWPT_SET_DIRTY_TRACKING", hwpt_id=tracked.id)
    await do(client, "DIRTY", tracked.id, **fields, expect=EINVAL, why="dirty tracking is off")


# --- faults, and DMA that moves bytes ---


async def test_a_fault_without_a_queue_is_nobodys(client: Client, ioas: int, device: Device) -> None:
    await do(client, "TRIGGER_IOPF", dev_id=device.id, addr=PAGE)
    await do(client, "TRIGGER_IOPF", dev_id=NO_ID, expect=ENOENT, why="wanted: device")
    other = client.device(kind="vtd")
    await do(client, "TRIGGER_IOPF", dev_id=other.id, expect=EINVAL, why="is no mock device")
    await client.send("FAULT_QUEUE_ALLOC")
    (queue,) = [obj for obj in client.context.objects if isinstance(obj, FaultQueue)]
    at_once(device.replace((await alloc(client, device, ioas, FAULT, fault_id=queue.id)).id))
    await do(client, "TRIGGER_IOPF", dev_id=device.id, addr=PAGE, grpid=7)
    ((fault,),) = [group.faults for group in queue.read(1)]
    assert (fault.address, fault.group, fault.last) == (PAGE, 7, True)


async def dma(client: Client, device: int, iova: int, length: int, flags: int = 0, **about: Any) -> None:
    fields = {"iova": iova, "length": length, "flags": flags, "uptr": BUFFER}
    await client.send("TEST_CMD", op=DMA, id=device, access_rw=fields, **about)


async def test_dma(client: Client, ioas: int, device: Device) -> None:
    write = const("MOCK_ACCESS_RW_WRITE")
    await client.map(ioas, START, 2 * PAGE)
    await client.map(ioas, START + 2 * PAGE, PAGE, flags=R)
    await client.map(ioas, START + 3 * PAGE, PAGE, flags=W)
    client.memory.map(BUFFER, b"by a device")
    await dma(client, device.id, START + PAGE - 3, 11, write)
    assert client.memory.read(VA + PAGE - 3, 11) == b"by a device"
    client.memory.map(BUFFER, bytes(PAGE))
    client.memory.make_slow(BUFFER)
    await dma(client, device.id, START + PAGE, 8)
    assert client.memory.read(BUFFER, 8) == b"a device"
    assert client.caller.waits == [(BUFFER, 8)]
    await dma(client, NO_ID, 0, LARGEST_DMA + 1, 8, expect=EOPNOTSUPP, why="unknown flags 0x8")
    await dma(client, NO_ID, 0, LARGEST_DMA + 1, expect=ENOMEM, why=f"bytes are more than {LARGEST_DMA}")
    await dma(client, NO_ID, 0, 1, expect=ENOENT, why="wanted: device")
    await dma(client, device.id, START + 4 * PAGE, 1, expect=ENOENT, why="is not mapped")
    await dma(client, device.id, START + 2 * PAGE, 1, write, expect=EPERM, why="without IOMMU_IOAS_MAP_WRITEABLE")
    await dma(client, device.id, START + 3 * PAGE, 1, expect=EPERM, why="without IOMMU_IOAS_MAP_READABLE")
    await dma(client, device.id, START + PAGE, PAGE + 1, write, expect=EFAULT, why="the buffer cannot be read")
    client.memory.unmap(BUFFER)
    await dma(client, device.id, START, 1, expect=EFAULT, why="the buffer cannot be written")
