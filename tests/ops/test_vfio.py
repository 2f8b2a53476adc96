"""VFIO's container on the device: what a program does that knows type1. Ref: v7.3 vfio_compat.c"""

import struct
from collections.abc import Callable
from errno import (
    EADDRINUSE,
    EBUSY,
    EDEADLK,
    EEXIST,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
)
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.memory.origin import AccountMode
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError
from iommud.ops.ioas import CAP_IPC_LOCK, UNMAP_AT_ONCE
from iommud.ops.locking import locked
from iommud.ops.vfio import API_VERSION, DMA_CC, NOIOMMU, TYPE1, TYPE1V2, U32_MAX, UNMAP_ALL
from iommud.selftest.mock_domains import APERTURE_LAST, APERTURE_START, HUGE_PAGE_SIZES, MOCK_PAGE_SIZES
from iommud.uapi.header import const, struct_size
from tests.engine.fakes import FakeUser, map_
from tests.engine.world import stand

from .client import NO_ID, Client, Fields
from .made import alloc, data
from .twins import PAGE

MIB = 1 << 20
VA = 0x7000_0000
BUFFER = 0x3000_0000  # where GET_INFO's answer goes
READ, WRITE = const("VFIO_DMA_MAP_FLAG_READ"), const("VFIO_DMA_MAP_FLAG_WRITE")
ALL = const("VFIO_DMA_UNMAP_FLAG_ALL")
GET, SET, CLEAR = (const(f"IOMMU_VFIO_IOAS_{name}") for name in ("GET", "SET", "CLEAR"))


@pytest.fixture
async def ioas(client: Client) -> int:
    """The compat IOAS."""
    ioas = await client.new_ioas()
    await client.send("VFIO_IOAS", op=SET, ioas_id=ioas)
    return ioas


async def plain(client: Client, name: str, argument: int = 0, *, expect: int = 0, why: str = "") -> int:
    """An ioctl that takes a number; its result."""
    if not expect:
        return await client.call(const(name), argument)
    with pytest.raises(IoctlError) as refused:
        await client.call(const(name), argument)
    assert refused.value.errno == expect
    assert why in refused.value.why
    return -expect


# --- which IOAS ---


async def test_the_compat_ioas_is_set_told_and_forgotten(client: Client) -> None:
    first, second = await client.new_ioas(), await client.new_ioas()
    await client.send("VFIO_IOAS", op=GET, expect=ENODEV, why="there is no compat IOAS")
    for ioas in (first, second):
        await client.send("VFIO_IOAS", op=SET, ioas_id=ioas, read_only=True)
        assert (await client.send("VFIO_IOAS", op=GET)).ioas_id == ioas
    await client.send("VFIO_IOAS", op=CLEAR, ioas_id=NO_ID, read_only=True)
    await client.send("VFIO_IOAS", op=CLEAR)
    await client.send("VFIO_IOAS", op=GET, expect=ENODEV)
    await client.send("VFIO_IOAS", op=SET, ioas_id=first)
    await client.send("DESTROY", id=first)
    answer = await client.send("VFIO_IOAS", op=GET, ioas_id=7, expect=ENODEV)
    assert answer.ioas_id == 7


async def test_vfio_ioas_in_the_kernels_order(client: Client) -> None:
    ioas, device = await client.new_ioas(), client.device()
    await client.refuse_in_order(
        "VFIO_IOAS",
        {"ioas_id": NO_ID, "op": 3, "__reserved": 1},
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (EOPNOTSUPP, "op 3 is neither GET, SET nor CLEAR", {"op": SET}),
        (ENOENT, f"there is no object {NO_ID}; wanted: IOAS", {"ioas_id": device.id}),
        (ENOENT, "is of kind device; wanted: IOAS", {"ioas_id": ioas}),
    )
    await client.send("VFIO_IOAS", op=GET, read_only=True, expect=EFAULT, why="the struct cannot be written")


# --- those that take a number ---


async def test_what_there_is(client: Client) -> None:
    assert await plain(client, "VFIO_GET_API_VERSION", U64_MAX) == API_VERSION
    there = {TYPE1, TYPE1V2, UNMAP_ALL, NOIOMMU}
    for extension in {*range(12), U64_MAX, 1 << 32 | TYPE1} - {DMA_CC}:
        assert await plain(client, "VFIO_CHECK_EXTENSION", extension) == (extension in there)
    await plain(client, "VFIO_CHECK_EXTENSION", DMA_CC, expect=ENODEV, why="there is no compat IOAS")


async def test_dma_is_coherent_if_all_page_tables_make_it_so(client: Client, ioas: int) -> None:
    assert await plain(client, "VFIO_CHECK_EXTENSION", DMA_CC) == 1
    for enforced in (True, True, False):
        hwpt = await alloc(client, client.device(), ioas)
        hwpt.enforce_coherency = enforced
        assert await plain(client, "VFIO_CHECK_EXTENSION", DMA_CC) == enforced


async def test_set_iommu(client: Client, ioas: int) -> None:
    for kind in (0, 2, NOIOMMU, U64_MAX):
        await plain(client, "VFIO_SET_IOMMU", kind, expect=EINVAL, why="wanted: VFIO_TYPE1_IOMMU or VFIO_TYPE1v2_IOMMU")
    await plain(client, "VFIO_SET_IOMMU", TYPE1V2)
    assert client.table(ioas).large_pages
    await client.map(ioas, 1, 1)
    await plain(client, "VFIO_SET_IOMMU", TYPE1, expect=EADDRINUSE, why="does not conform to an alignment of 0x1000")
    await client.send("IOAS_UNMAP", ioas_id=ioas, length=U64_MAX)
    await client.map(ioas, APERTURE_START)
    device = client.device(attach=ioas)
    await plain(client, "VFIO_SET_IOMMU", TYPE1, expect=EINVAL, why="are mapped in page tables already")
    client.remove(device)
    await plain(client, "VFIO_SET_IOMMU", TYPE1)
    assert (client.table(ioas).large_pages, client.table(ioas).iova_alignment) == (False, PAGE)
    await client.send("VFIO_IOAS", op=CLEAR)
    await plain(client, "VFIO_SET_IOMMU", 0, expect=EINVAL)
    await plain(client, "VFIO_SET_IOMMU", TYPE1, expect=ENODEV)


@pytest.mark.parametrize("number", [0x3B64 + 17, 0x3B64 + 3, 0x3B65 | 0x8_0000])
async def test_a_number_of_vfio_that_is_not_served(client: Client, number: int) -> None:
    """VFIO_IOMMU_DIRTY_PAGES, VFIO_GROUP_GET_STATUS, and more than a number. Nothing is read."""
    assert await client.errno(number, 0) == ENOTTY


# --- the struct ---


@pytest.mark.parametrize("name", ["VFIO_IOMMU_GET_INFO", "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA"])
async def test_the_struct_is_read_before_all_else(client: Client, name: str) -> None:
    """All of it (EFAULT), then its size and flags (EINVAL), then there must be an IOAS (ENODEV).
    What lies beyond is not looked at.
    """
    row = client.rows[name]
    edge = client.memory.map(VA, b"\xff" * PAGE) + PAGE - row.min_size + 1
    with pytest.raises(IoctlError, match=f"the struct cannot be read at {VA + PAGE:#x}") as refused:
        await client.call(row.number, edge)
    assert refused.value.errno == EFAULT
    short = row.min_size - 1
    await client.send(name, argsz=short, expect=EINVAL, why=f"argsz {short} is less than {row.min_size}, which struct")
    await client.send(name, argsz=row.min_size, expect=ENODEV)
    await client.send(name, argsz=U32_MAX, expect=ENODEV)


async def test_the_struct_is_waited_for(client: Client, ioas: int) -> None:
    client.memory.map(VA, struct.pack("<IIQQQ", 32, READ, VA, 0, PAGE))
    client.memory.make_slow(VA)
    assert await client.call(const("VFIO_IOMMU_MAP_DMA"), VA) == 0
    assert client.caller.waits == [(VA, 32)]


# --- MAP_DMA ---


@pytest.mark.parametrize("flags", [READ, WRITE, READ | WRITE, 0])
async def test_map(client: Client, ioas: int, flags: int) -> None:
    """Also what may neither be read nor written. Nothing is written back."""
    await client.send("VFIO_IOMMU_MAP_DMA", flags=flags, vaddr=VA + 5, iova=0x777, size=0x2000, read_only=True)
    (area,) = client.table(ioas).areas
    (pages,) = client.pages(ioas)
    assert (area.iova, area.length, area.start_byte) == (0x777, 0x2000, 5)
    assert area.prot == (1 if flags & READ else 0) | (2 if flags & WRITE else 0)
    assert (pages.start, pages.writable, pages.account_mode) == (VA, bool(flags & WRITE), AccountMode.USER)


async def test_map_of_who_is_exempt(client: Client, ioas: int) -> None:
    client.caller.capabilities.add(CAP_IPC_LOCK)
    await client.send("VFIO_IOMMU_MAP_DMA", flags=READ, size=PAGE)
    assert [pages.account_mode for pages in client.pages(ioas)] == [AccountMode.NONE]


async def test_map_in_the_kernels_order(client: Client, ioas: int) -> None:
    await client.send("VFIO_IOAS", op=CLEAR)
    await client.map(ioas, U64_MAX - PAGE + 1)

    def set_ioas() -> None:
        client.context.set_compat_ioas(client.object(ioas))

    await client.refuse_in_order(
        "VFIO_IOMMU_MAP_DMA",
        {"argsz": 31, "flags": 4 | READ, "vaddr": U64_MAX, "iova": U64_MAX, "size": U64_MAX},
        (EINVAL, "argsz 31", {"argsz": 32}),
        (EINVAL, "flags 0x5 has the unknown bits 0x4", {"flags": READ}),
        (ENODEV, "there is no compat IOAS", set_ioas),
        (EOVERFLOW, "user_va", {"vaddr": 0}),
        (EINVAL, "within a page of 2^64", {"size": 0}),
        (EINVAL, "length is 0", {"size": 2}),
        (EOVERFLOW, "IOVA 0xffffffffffffffff + length 0x2", {"size": 1}),
        (EEXIST, "overlaps", {"iova": 1}),
    )
    assert client.areas(ioas)[0] == (1, 1)
    assert client.caller.process.refs == 2, "the refused ones hold nothing"


async def test_map_into_a_page_table(client: Client, ioas: int) -> None:
    """Which cannot show what is neither readable nor writeable."""
    client.device(attach=ioas)
    client.memory.map(VA)
    fields: Fields = {"vaddr": VA, "iova": APERTURE_START, "size": PAGE}
    await client.send("VFIO_IOMMU_MAP_DMA", flags=0, expect=EINVAL, why="neither readable nor writeable", **fields)
    assert (client.areas(ioas), client.caller.process.refs) == ([], 0)
    await client.send("VFIO_IOMMU_MAP_DMA", flags=READ, **fields)
    assert client.host.user_pages == {client.caller.process.uid: 1}


# --- UNMAP_DMA ---


async def unmap(client: Client, iova: int, size: int, *, flags: int = 0, **fields: Any) -> int:
    """What it says it unmapped."""
    answer = await client.send("VFIO_IOMMU_UNMAP_DMA", flags=flags, iova=iova, size=size, **fields)
    return int(answer.size)


async def test_unmap_tells_the_bytes(client: Client, ioas: int) -> None:
    """That nothing is there is no error."""
    for iova in (0, PAGE, 5 * PAGE, U64_MAX - PAGE + 1):
        await client.map(ioas, iova)
    assert await unmap(client, 0, 3 * PAGE) == 2 * PAGE
    assert await unmap(client, 0, 3 * PAGE) == 0
    assert await unmap(client, 2, U64_MAX - 1) == 2 * PAGE, "up to the last byte"
    assert await unmap(client, 0, 0, flags=ALL) == 0
    await client.map(ioas, U64_MAX - PAGE + 1)
    await client.map(ioas, 0)
    assert await unmap(client, 0, 0, flags=ALL) == 2 * PAGE


async def test_unmap_refused_half_way_tells_what_is_gone(client: Client, ioas: int) -> None:
    await client.map(ioas, 0)
    await client.map(ioas, PAGE, 2 * PAGE)
    assert await unmap(client, 0, 2 * PAGE, expect=ENOENT, why="areas are not split") == PAGE
    assert client.areas(ioas) == [(PAGE, 2 * PAGE)]
    user = FakeUser(client.context)
    stand(user, client.object(ioas))
    user.pin(PAGE, PAGE)
    user.stubborn = True
    await client.map(ioas, 0)
    assert await unmap(client, 0, 0, flags=ALL, expect=EDEADLK, why="stays pinned") == PAGE
    user.release()


async def test_unmap_in_the_kernels_order(client: Client, ioas: int) -> None:
    await client.map(ioas, PAGE)
    await client.send("VFIO_IOAS", op=CLEAR)

    def set_ioas() -> None:
        client.context.set_compat_ioas(client.object(ioas))

    wrong: Fields = {"argsz": 23, "flags": 1 | ALL, "iova": 1, "size": 1}
    answer = await client.refuse_in_order(
        "VFIO_IOMMU_UNMAP_DMA",
        wrong,
        (EINVAL, "argsz 23", {"argsz": 24}),
        (EINVAL, "has the unknown bits 0x1", {"flags": ALL}),
        (ENODEV, "there is no compat IOAS", set_ioas),
        (EINVAL, "VFIO_DMA_UNMAP_FLAG_ALL with iova 0x1, size 0x1", {"iova": 0}),
        (EINVAL, "VFIO_DMA_UNMAP_FLAG_ALL with iova 0x0, size 0x1", {"iova": 2, "size": 0}),
        (EINVAL, "VFIO_DMA_UNMAP_FLAG_ALL with iova 0x2, size 0x0", {"flags": 0}),
        (EINVAL, "size is 0", {"size": U64_MAX}),
        (EOVERFLOW, "IOVA 0x2 + size 0xffffffffffffffff is beyond", {"iova": 1}),
    )
    assert answer.size == PAGE
    assert await unmap(client, 0, 0, expect=EINVAL, why="size is 0") == 0, "told on this path, too"
    assert await unmap(client, 2, U64_MAX, expect=EOVERFLOW) == 0
    assert await unmap(client, 2, 1, flags=ALL, expect=EINVAL) == 1, "but not on this one"


async def test_unmap_that_cannot_be_told(client: Client, ioas: int) -> None:
    """Which comes before whatever was refused."""
    await client.map(ioas, 0)
    await unmap(client, 0, PAGE, read_only=True, expect=EFAULT, why="the struct cannot be written")
    assert client.areas(ioas) == []
    await unmap(client, 0, 0, read_only=True, expect=EFAULT, why="the struct cannot be written")


async def test_unmap_of_type1_cuts(client: Client, ioas: int) -> None:
    await plain(client, "VFIO_SET_IOMMU", TYPE1)
    await client.map(ioas, 0, 8 * PAGE)
    assert await unmap(client, 2 * PAGE, 3 * PAGE) == 3 * PAGE
    assert client.areas(ioas) == [(0, 2 * PAGE), (5 * PAGE, 3 * PAGE)]
    assert await unmap(client, 0, PAGE) == PAGE
    assert client.areas(ioas) == [(PAGE, PAGE), (5 * PAGE, 3 * PAGE)]
    assert await unmap(client, 6 * PAGE, U64_MAX - 6 * PAGE + 1) == 2 * PAGE
    before = client.areas(ioas)
    assert await unmap(client, 5 * PAGE, 0x800, expect=EINVAL, why="off the alignment 0x1000") == 0x800
    assert client.areas(ioas) == before, "what the cut refuses leaves the size as it was"
    await client.map(ioas, 0)
    assert await unmap(client, 0, 0, expect=EINVAL, why="size is 0") == 0
    assert await unmap(client, 0, 0, flags=ALL) == 3 * PAGE
    await client.map(ioas, 0, 4 * PAGE)
    assert await unmap(client, 6 * PAGE, U64_MAX - 4 * PAGE + 1, expect=EOVERFLOW) == 0
    assert client.areas(ioas) == [(0, 2 * PAGE), (2 * PAGE, 2 * PAGE)], "where the range wraps to"


async def test_unmap_of_very_many_gives_way(client: Client, ioas: int) -> None:
    for at in range(UNMAP_AT_ONCE + 10):
        map_(client.object(ioas), client.caller.process, VA, 16, 16 * at)
    left: list[int] = []

    def look() -> None:
        client.cannot_go(ioas)
        left.append(len(client.areas(ioas)))

    client.when_left = look
    assert await unmap(client, 0, 0, flags=ALL) == 16 * (UNMAP_AT_ONCE + 10)
    assert left == [10]


async def test_unmap_of_what_is_on_its_way(client: Client, ioas: int) -> None:
    await client.map(ioas, 0)
    (area,) = client.table(ioas).areas
    pages, area.pages = area.pages, None
    await unmap(client, 0, PAGE, expect=EBUSY, why="is being mapped or unmapped")
    area.pages = pages


@pytest.mark.parametrize("how", ["map", "unmap", "cut"])
async def test_who_changes_the_ioas_waits_for_its_lock(client: Client, ioas: int, how: str) -> None:
    await client.map(ioas, 0, 4 * PAGE)
    if how == "cut":
        await plain(client, "VFIO_SET_IOMMU", TYPE1)
    calls: dict[str, Callable[[], Any]] = {
        "map": lambda: client.send("VFIO_IOMMU_MAP_DMA", flags=READ, iova=MIB, size=PAGE),
        "unmap": lambda: unmap(client, 0, 4 * PAGE),
        "cut": lambda: unmap(client, PAGE, PAGE),
    }
    before = client.areas(ioas)
    async with trio.open_nursery() as nursery, locked(client.object(ioas)):
        nursery.start_soon(calls[how])
        await trio.testing.wait_all_tasks_blocked()
        assert client.areas(ioas) == before
        client.cannot_go(ioas)
    assert client.areas(ioas) != before


# --- GET_INFO ---


async def get_info(client: Client, room: int) -> tuple[Any, bytes]:
    """The struct, and all that is written of `room` bytes; what is not is 0xee."""
    client.memory.map(BUFFER, b"\xee" * PAGE)
    answer = await client.send("VFIO_IOMMU_GET_INFO", argsz=room, at=BUFFER, flags=7, cap_offset=0x99)
    return answer, client.memory.read(BUFFER, PAGE)


INFO = struct_size("vfio_iommu_type1_info")
AVAIL = struct.pack("<HHI", const("VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL"), 1, 0) + struct.pack("<I", U32_MAX)


def iova_cap(*ranges: tuple[int, int]) -> bytes:
    head = struct.pack("<HHIII", const("VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE"), 1, 0, len(ranges), 0)
    return head + b"".join(struct.pack("<QQ", *pair) for pair in ranges)


async def test_info_with_room_for_all(client: Client, ioas: int) -> None:
    client.table(ioas).reserve(PAGE, 2 * PAGE - 1, "a device")
    cap = iova_cap((0, PAGE - 1), (2 * PAGE, U64_MAX))
    whole = INFO + 16 + len(cap)
    for room in (whole, whole + 100):
        info, found = await get_info(client, room)
        assert (info.argsz, info.cap_offset) == (whole, INFO)
        assert info.flags == const("VFIO_IOMMU_INFO_PGSIZES") | const("VFIO_IOMMU_INFO_CAPS")
        assert info.iova_pgsizes == U64_MAX & ~(PAGE - 1)
        avail = AVAIL[:4] + (INFO + 16).to_bytes(4, "little") + AVAIL[8:]
        assert found[INFO : INFO + 12] == avail, "which says where the next one is"
        assert found[INFO + 12 : INFO + 16] == b"\xee" * 4, "what aligns is left alone"
        assert found[INFO + 16 : whole] == cap
        assert found[whole:] == b"\xee" * (PAGE - whole)


@pytest.mark.parametrize(
    "room", [16, 20, INFO, INFO + 11, INFO + 12, INFO + 15, INFO + 16, INFO + 31, INFO + 32, INFO + 47]
)
async def test_info_with_room_for_some(client: Client, ioas: int, room: int) -> None:
    """What does not fit is left out, and argsz says how much it takes."""
    info, found = await get_info(client, room)
    assert info.argsz == INFO + 16 + 16 + 16
    assert info.cap_offset == (0 if room >= INFO - 4 else 0x99), "as far as the client knows the struct"
    avail = bytearray(AVAIL if room >= INFO + 12 else b"\xee" * 12)
    if room >= INFO + 16:
        avail[4:8] = (INFO + 16).to_bytes(4, "little")
    assert found[INFO : INFO + 12] == bytes(avail)
    assert found[INFO + 16 : INFO + 48] == b"\xee" * 32


async def test_info_of_page_tables(client: Client, ioas: int) -> None:
    """Sizes that all of them can map; those below a page count as a page."""
    device = client.device(attach=ioas)
    info, found = await get_info(client, PAGE)
    assert info.iova_pgsizes == MOCK_PAGE_SIZES & ~(PAGE - 1) | PAGE
    assert found[INFO + 16 :].startswith(iova_cap((APERTURE_START, APERTURE_LAST)))
    (domain,) = client.table(ioas).domains
    domain.page_sizes = 1 << 11
    assert (await get_info(client, PAGE))[0].iova_pgsizes == PAGE
    domain.page_sizes = MOCK_PAGE_SIZES
    huge = await alloc(client, device, ioas, **data(client, struct.pack("<II", 0, 1)))
    assert (await get_info(client, PAGE))[0].iova_pgsizes == HUGE_PAGE_SIZES
    huge.domain.page_sizes = 1 << 11
    assert (await get_info(client, PAGE))[0].iova_pgsizes == PAGE
    client.table(ioas).domains[0].page_sizes = huge.domain.page_sizes = 1 << 13
    assert (await get_info(client, PAGE))[0].iova_pgsizes == 1 << 13
    huge.domain.page_sizes = 1 << 14
    assert (await get_info(client, PAGE))[0].iova_pgsizes == client.table(ioas).iova_alignment
    client.table(ioas).domains[0].page_sizes = huge.domain.page_sizes = MOCK_PAGE_SIZES


async def test_info_in_the_kernels_order(client: Client, ioas: int) -> None:
    await client.send("VFIO_IOAS", op=CLEAR)
    await client.send("VFIO_IOMMU_GET_INFO", argsz=15, flags=99, expect=EINVAL, why="argsz 15 is less than 16")
    answer = await client.send("VFIO_IOMMU_GET_INFO", argsz=16, flags=99, expect=ENODEV)
    assert (answer.argsz, answer.flags) == (16, 99)


@pytest.mark.parametrize(
    ("end", "what"),
    [(INFO + 11, "a capability"), (INFO + 16 + 16 + 15, "a range")],
)
async def test_info_that_ends_early(client: Client, ioas: int, end: int, what: str) -> None:
    """What comes before it stays; the struct is as it was, as it is written last."""
    at = BUFFER + PAGE - end
    client.memory.map(BUFFER, b"\xee" * PAGE)
    client.memory.map(at, struct.pack("<IIQII", 200, 0, 0, 0, 0))
    with pytest.raises(IoctlError, match=f"{what} cannot be written at {BUFFER + PAGE:#x}") as refused:
        await client.call(const("VFIO_IOMMU_GET_INFO"), at)
    assert refused.value.errno == EFAULT
    assert client.memory.read(at, 8) == struct.pack("<II", 200, 0)
    assert client.memory.read(at + INFO, 12)[: end - INFO] == AVAIL[: end - INFO]


async def test_info_that_cannot_be_written(client: Client, ioas: int) -> None:
    await client.send(
        "VFIO_IOMMU_GET_INFO", argsz=16, read_only=True, expect=EFAULT, why="the struct cannot be written"
    )
    await client.send("VFIO_IOMMU_GET_INFO", argsz=99, read_only=True, expect=EFAULT, why="a capability cannot")


async def test_info_waits_for_as_much_as_there_can_be(client: Client, ioas: int) -> None:
    most = INFO + 16 + 16 + 16
    at = BUFFER + PAGE - INFO
    client.memory.map(BUFFER, bytes(2 * PAGE))
    client.memory.make_slow(BUFFER + PAGE)
    client.caller.meanwhile = lambda: client.cannot_go(ioas)
    for room, waited in ((U32_MAX, most), (INFO + 12, INFO + 12)):
        client.memory.make_slow(BUFFER + PAGE)
        client.memory.map(at, struct.pack("<IIQII", room, 0, 0, 0, 0))
        assert await client.call(const("VFIO_IOMMU_GET_INFO"), at) == 0
        assert client.caller.waits.pop() == (at, waited)
