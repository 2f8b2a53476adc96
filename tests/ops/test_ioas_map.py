"""What is mapped: IOAS_MAP, IOAS_MAP_FILE, IOAS_COPY. dma-bufs are in test_dma_buf.py. Ref: v7.3
ioas.c, io_pagetable.c
"""

from collections.abc import Callable
from errno import (
    EBADF,
    EEXIST,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOMEM,
    ENOSPC,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)

import pytest
import trio
import trio.testing

from iommud.engine.mapping.allowed import allowed_of
from iommud.engine.memory.origin import AccountMode
from iommud.engine.memory.span import U64_MAX
from iommud.ops.ioas import CAP_IPC_LOCK
from iommud.selftest.mock_domains import APERTURE_START

from .client import AT, FIXED, NO_ID, RW, Client, Fields, R, W
from .twins import PAGE

MIB = 1 << 20
VA = 0x7000_0000  # where the client's memory begins
ARRAY = 0x2000_0000  # where it has arrays


# --- IOAS_MAP ---


@pytest.mark.parametrize("flags", [R, W, RW])
async def test_map_remembers_memory(client: Client, flags: int) -> None:
    """Without a page table nothing is looked at: not even whether anything is there."""
    ioas = await client.new_ioas()
    answer = await client.send(
        "IOAS_MAP", flags=FIXED | flags, ioas_id=ioas, user_va=VA + 0x123, length=0x2345, iova=0x777
    )
    assert answer.iova == 0x777
    (area,) = client.table(ioas).areas
    assert (area.iova, area.length, area.start_byte) == (0x777, 0x2345, 0x123)
    assert area.prot == (1 if flags & R else 0) | (2 if flags & W else 0)
    (pages,) = client.pages(ioas)
    assert (pages.origin, pages.start, pages.npages) == (client.caller.process, VA, 3)
    assert pages.writable == bool(flags & W)
    assert client.caller.process.refs == 1
    assert client.caller.process.asked == []
    assert client.caller.process.looked == []


async def test_map_charges_the_user_unless_the_caller_is_exempt(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0)
    client.caller.capabilities.add(CAP_IPC_LOCK)
    await client.map(ioas, PAGE)
    assert [pages.account_mode for pages in client.pages(ioas)] == [AccountMode.USER, AccountMode.NONE]


async def test_map_charges_the_process_if_the_client_said_so(client: Client) -> None:
    client.context.set_rlimit_mode(1)
    ioas = await client.new_ioas()
    await client.map(ioas, 0)
    (pages,) = client.pages(ioas)
    assert pages.account_mode == AccountMode.MM


async def test_map_chooses_an_iova_and_tells_it(client: Client) -> None:
    ioas = await client.new_ioas()
    answer = await client.send("IOAS_MAP", flags=RW, ioas_id=ioas, user_va=4 * MIB + 0x800, length=PAGE, iova=0x5000)
    assert answer.iova == 0x1800, "as far into its page as the memory is"
    answer = await client.send("IOAS_MAP", flags=R, ioas_id=ioas, user_va=4 * MIB, length=2 * MIB, iova=0x5000)
    assert answer.iova == 2 * MIB, "as the memory is aligned"
    client.table(ioas).allow(allowed_of([(0x7000, 0x9FFF)]))
    fields: Fields = {"flags": R, "ioas_id": ioas, "user_va": 4 * MIB, "length": 2 * PAGE}
    answer = await client.send("IOAS_MAP", **fields)
    assert answer.iova == 0x8000, "where it is allowed"
    await client.send("IOAS_MAP", expect=ENOSPC, why="no free range of 0x2000 bytes aligned to 0x2000", **fields)
    await client.send(
        "IOAS_MAP", flags=R, ioas_id=ioas, user_va=0, length=U64_MAX // 2, expect=EOVERFLOW, why="chosen IOVA"
    )


async def test_map_pins_for_page_tables(client: Client) -> None:
    ioas = await client.new_ioas()
    device = client.device(attach=ioas)
    await client.map(ioas, APERTURE_START, 2 * PAGE, address=VA + PAGE)
    client.memory.map(VA, bytes(PAGE) + b"of the client")
    assert client.caller.process.asked == [(VA // PAGE + 1, 2, True)]
    assert client.host.user_pages == {client.caller.process.uid: 2}
    assert client.caller.process.looked == [(VA + PAGE, 2 * PAGE)]
    device.dma_read(APERTURE_START, seen := memoryview(bytearray(13)))
    assert bytes(seen) == b"of the client"
    device.dma_write(APERTURE_START + PAGE, memoryview(b"of a device"))
    assert client.memory.read(VA + 2 * PAGE, 11) == b"of a device"
    await client.map(ioas, APERTURE_START + 2 * PAGE + 0x800, 0x800, address=VA + 0x800, flags=R)
    assert client.caller.process.looked[1] == (VA, PAGE), "whole pages are looked at"
    assert client.caller.process.asked[1] == (VA // PAGE, 1, False)


async def test_map_looks_ahead_in_a_thread(client: Client) -> None:
    ioas = await client.new_ioas()
    client.device(attach=ioas)
    threads: list[bool] = []
    loop = trio.lowlevel.current_trio_token()

    def look() -> None:
        with pytest.raises(RuntimeError):
            trio.lowlevel.current_trio_token()
        threads.append(trio.from_thread.run_sync(trio.lowlevel.current_trio_token) is loop)

    client.caller.process.to_look = look
    await client.map(ioas, APERTURE_START)
    assert threads == [True]
    assert client.caller.process.looking == 0


@pytest.mark.parametrize(
    ("prepare", "errno", "why"),
    [
        (lambda client: client.memory.unmap(VA + PAGE), EFAULT, "page 0x70001 is not mapped"),
        (lambda client: client.memory.map(VA + PAGE, read_only=True), EFAULT, "the memory is read-only"),
        (lambda client: setattr(client.caller.process, "limit", 2 * PAGE - 1), ENOMEM, "RLIMIT_MEMLOCK allows 1"),
    ],
    ids=["not there", "read-only", "too much"],
)
async def test_map_that_cannot_be_pinned_leaves_no_area(
    client: Client, prepare: Callable[[Client], object], errno: int, why: str
) -> None:
    ioas = await client.new_ioas()
    client.device(attach=ioas)
    client.memory.map(VA, bytes(2 * PAGE))
    prepare(client)
    fields: Fields = {"ioas_id": ioas, "user_va": VA, "length": 2 * PAGE, "iova": APERTURE_START}
    answer = await client.send("IOAS_MAP", flags=RW, expect=errno, why=why, **fields)
    assert answer.iova == APERTURE_START, "as it was"
    assert client.areas(ioas) == []
    assert client.host.user_pages == {}
    assert (client.caller.process.refs, client.caller.process.looking) == (0, 0)


async def test_map_of_a_caller_that_died(client: Client) -> None:
    ioas = await client.new_ioas()
    client.caller.gone = True
    fields: Fields = {"flags": RW, "ioas_id": ioas, "user_va": U64_MAX}
    await client.send(
        "IOAS_MAP", length=1, expect=EFAULT, why="the caller's memory is out of reach: No such process", **fields
    )
    client.caller.gone = False
    await client.send("IOAS_MAP", length=1, expect=EOVERFLOW, why="user_va", **fields)


async def test_map_that_cannot_be_told_stays(client: Client) -> None:
    ioas = await client.new_ioas()
    fields: Fields = {"flags": FIXED | R, "ioas_id": ioas, "user_va": VA, "length": PAGE, "iova": PAGE}
    await client.send(
        "IOAS_MAP", read_only=True, expect=EFAULT, why=f"the struct cannot be written at {AT:#x}", **fields
    )
    assert client.areas(ioas) == [(PAGE, PAGE)]
    await client.send("IOAS_MAP", expect=EEXIST, why="IOVA 0x1000..0x1fff overlaps the area 0x1000..0x1fff", **fields)


async def test_map_in_the_kernels_order(client: Client) -> None:
    ioas = await client.new_ioas()
    table = client.table(ioas)
    table.reserve(0, PAGE - 1, "a device")
    await client.map(ioas, U64_MAX - PAGE + 1)
    answer = await client.refuse_in_order(
        "IOAS_MAP",
        {"flags": 8, "ioas_id": NO_ID, "__reserved": 1, "user_va": U64_MAX, "length": U64_MAX, "iova": U64_MAX},
        (EOPNOTSUPP, "flags 0x8 has the unknown bits 0x8", {"flags": 0}),
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (EOVERFLOW, "iova is U64_MAX", {"iova": U64_MAX - 1}),
        (EOVERFLOW, "length is U64_MAX", {"length": U64_MAX - 1}),
        (EINVAL, "neither IOMMU_IOAS_MAP_READABLE nor", {"flags": FIXED | RW}),
        (ENOENT, f"there is no object {NO_ID}", {"ioas_id": ioas}),
        (EOVERFLOW, "user_va", {"user_va": 0}),
        (EINVAL, "within a page of 2^64", {"length": 0}),
        (EINVAL, "length is 0", {"length": 3}),
        (EOVERFLOW, "IOVA 0xfffffffffffffffe + length 0x3", table.disable_large_pages),
        (EINVAL, "length 0x3 is 0 or not a multiple of the alignment 0x1000", {"length": 2 * PAGE}),
        (EINVAL, "IOVA 0xfffffffffffffffe is not a multiple", {"iova": U64_MAX - PAGE + 1}),
        (EOVERFLOW, "is beyond 2^64 - 1", {"length": PAGE, "user_va": 1}),
        (EEXIST, "overlaps the area", {"iova": 0}),
        (EINVAL, "touches the reserved range", {"iova": PAGE}),
        (EINVAL, "the memory begins 0x1 into a page", {"user_va": 0}),
    )
    assert answer.iova == PAGE
    assert client.areas(ioas) == [(PAGE, PAGE), (U64_MAX - PAGE + 1, PAGE)]


# --- IOAS_MAP_FILE ---


async def test_map_file_remembers_the_file(client: Client) -> None:
    """Not the descriptor: that can be closed."""
    ioas = await client.new_ioas()
    file = client.file(7)
    answer = await client.send("IOAS_MAP_FILE", flags=W, ioas_id=ioas, fd=7, start=0x1803, length=0x1000)
    assert answer.iova == 0x1803, "as far into its page as in the file"
    del client.caller.files[7]
    (area,) = client.table(ioas).areas
    (pages,) = client.pages(ioas)
    assert (pages.origin, pages.start, area.start_byte, pages.npages) == (file, PAGE, 0x803, 2)
    assert (area.prot, pages.writable, pages.account_mode) == (2, True, AccountMode.USER)
    assert file.refs == 1
    assert file.asked == []
    await client.send("IOAS_UNMAP", ioas_id=ioas, iova=0x1803, length=PAGE)
    assert file.refs == 0


async def test_map_file_shows_the_file_to_devices(client: Client) -> None:
    ioas = await client.new_ioas()
    device = client.device(attach=ioas)
    file = client.file(7)
    file.fill(PAGE, b"in a file")
    client.caller.capabilities.add(CAP_IPC_LOCK)
    await client.send(
        "IOAS_MAP_FILE", flags=R | FIXED, ioas_id=ioas, fd=7, start=PAGE, length=PAGE, iova=APERTURE_START
    )
    device.dma_read(APERTURE_START, seen := memoryview(bytearray(9)))
    assert bytes(seen) == b"in a file"
    assert file.asked == [(1, 1, False)]
    assert client.host.user_pages == {}


async def test_map_file_refused_forgets_the_file(client: Client) -> None:
    ioas = await client.new_ioas()
    client.device(attach=ioas)
    file = client.file(7)
    file.absent.add(0)
    fields: Fields = {"flags": FIXED | R, "ioas_id": ioas, "fd": 7, "length": PAGE}
    await client.send("IOAS_MAP_FILE", iova=APERTURE_START, expect=EFAULT, why="page 0x0 is not mapped", **fields)
    await client.send("IOAS_MAP_FILE", iova=0, expect=EINVAL, why="touches the reserved range", **fields)
    assert (file.refs, client.areas(ioas)) == (0, [])
    fields["start"] = PAGE
    await client.send(
        "IOAS_MAP_FILE",
        iova=APERTURE_START,
        read_only=True,
        expect=EFAULT,
        why="the struct cannot be written",
        **fields,
    )
    assert (file.refs, client.areas(ioas)) == (1, [(APERTURE_START, PAGE)]), "it is mapped, and only cannot be told"


async def test_map_file_in_the_kernels_order(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0)
    file = client.file(7)
    answer = await client.refuse_in_order(
        "IOAS_MAP_FILE",
        {"flags": 8, "ioas_id": NO_ID, "fd": -1, "start": U64_MAX, "length": U64_MAX, "iova": U64_MAX},
        (EOPNOTSUPP, "unknown bits 0x8", {"flags": 0}),
        (EOVERFLOW, "iova is U64_MAX", {"iova": 0}),
        (EOVERFLOW, "length is U64_MAX", {"length": 0}),
        (EINVAL, "neither", {"flags": FIXED | R}),
        (ENOENT, f"there is no object {NO_ID}", {"ioas_id": ioas}),
        (EINVAL, "length is 0", {"length": U64_MAX - 1}),
        (EOVERFLOW, "start 0xffffffffffffffff + length", {"start": 0}),
        (EBADF, "descriptor -1 of the caller: Bad file descriptor", {"fd": 7}),
        (EINVAL, "within a page of 2^64", {"length": 1}),
        (EEXIST, "overlaps", {"iova": PAGE}),
    )
    assert answer.iova == PAGE
    assert file.refs == 1


# --- IOAS_COPY ---


async def test_copy_shares_the_pages(client: Client) -> None:
    source, target = await client.new_ioas(), await client.new_ioas()
    await client.map(source, MIB, 4 * PAGE)
    device = client.device(attach=target)
    fields: Fields = {"src_ioas_id": source, "src_iova": MIB + PAGE, "dst_ioas_id": target, "length": 2 * PAGE}
    answer = await client.send("IOAS_COPY", flags=FIXED | R, dst_iova=APERTURE_START, **fields)
    assert answer.dst_iova == APERTURE_START
    (area,) = client.table(target).areas
    (pages,) = client.pages(source)
    assert area.pages is pages
    assert (area.start_byte, area.prot, pages.refs) == (PAGE, 1, 2)
    assert client.caller.process.asked == [(VA // PAGE + 1, 2, True)], "as writable as they were mapped"
    client.memory.map(VA + 2 * PAGE, b"copied")
    device.dma_read(APERTURE_START + PAGE, seen := memoryview(bytearray(6)))
    assert bytes(seen) == b"copied"
    answer = await client.send("IOAS_COPY", flags=W, dst_iova=123, **fields)
    assert answer.dst_iova == APERTURE_START + 2 * PAGE, "the first that is free"
    await client.send("IOAS_UNMAP", ioas_id=source, iova=0, length=U64_MAX)
    assert pages.refs == 2


async def test_copy_of_areas_that_touch(client: Client) -> None:
    source = await client.new_ioas()
    await client.map(source, 0, PAGE)
    await client.map(source, PAGE, 2 * PAGE, address=VA + 8 * PAGE)
    await client.map(source, 3 * PAGE, PAGE, address=VA)
    fields: Fields = {"flags": RW | FIXED, "src_ioas_id": source, "dst_ioas_id": source}
    await client.send("IOAS_COPY", src_iova=0x800, length=3 * PAGE, dst_iova=MIB, **fields)
    assert client.areas(source)[3:] == [(MIB, 0x800), (MIB + 0x800, 2 * PAGE), (MIB + 0x800 + 2 * PAGE, 0x800)]
    await client.send(
        "IOAS_COPY",
        src_iova=0,
        length=4 * PAGE + 1,
        expect=ENOENT,
        why="IOVA 0x4000 of 0x0..0x4000 is not mapped",
        **fields,
    )
    refs = [pages.refs for pages in client.pages(source)]
    assert refs == [2, 2, 2, 2, 2, 2], "what was found before the gap was put"


async def test_copy_writeable_of_what_is_not(client: Client) -> None:
    source = await client.new_ioas()
    await client.map(source, 0, PAGE)
    await client.map(source, PAGE, PAGE, flags=R)
    fields: Fields = {"flags": RW, "src_ioas_id": source, "dst_ioas_id": source, "src_iova": 0}
    await client.send(
        "IOAS_COPY", length=2 * PAGE, expect=EPERM, why="mapped without IOMMU_IOAS_MAP_WRITEABLE", **fields
    )
    assert client.areas(source) == [(0, PAGE), (PAGE, PAGE)], "nor is the one before it"
    assert [pages.refs for pages in client.pages(source)] == [1, 1]
    await client.send("IOAS_COPY", length=PAGE, **fields)
    await client.send("IOAS_COPY", length=2 * PAGE, **(fields | {"flags": R}))
    assert len(client.areas(source)) == 5


async def test_copy_that_cannot_be_told_stays(client: Client) -> None:
    source = await client.new_ioas()
    await client.map(source, 0)
    fields: Fields = {
        "flags": R | FIXED,
        "src_ioas_id": source,
        "dst_ioas_id": source,
        "dst_iova": PAGE,
        "length": PAGE,
    }
    await client.send("IOAS_COPY", read_only=True, expect=EFAULT, why="the struct cannot be written", **fields)
    assert client.areas(source) == [(0, PAGE), (PAGE, PAGE)]


async def test_copy_in_the_kernels_order(client: Client) -> None:
    source, target = await client.new_ioas(), await client.new_ioas()
    await client.map(source, MIB, 2 * PAGE)
    (pages,) = client.pages(source)
    await client.map(target, PAGE)
    answer = await client.refuse_in_order(
        "IOAS_COPY",
        {
            "flags": 8,
            "src_ioas_id": NO_ID,
            "dst_ioas_id": NO_ID,
            "length": U64_MAX,
            "src_iova": U64_MAX,
            "dst_iova": U64_MAX,
        },
        (EOPNOTSUPP, "unknown bits 0x8", {"flags": 0}),
        (EOVERFLOW, "length is U64_MAX", {"length": 0}),
        (EOVERFLOW, "src_iova is U64_MAX", {"src_iova": U64_MAX - 1}),
        (EOVERFLOW, "dst_iova is U64_MAX", {"dst_iova": PAGE}),
        (EINVAL, "neither", {"flags": FIXED | RW}),
        (ENOENT, f"there is no object {NO_ID}", {"src_ioas_id": source}),
        (EINVAL, "length is 0", {"length": 3}),
        (EOVERFLOW, "beyond 2^64 - 1", {"src_iova": MIB}),
        (ENOENT, f"there is no object {NO_ID}", {"dst_ioas_id": target, "dst_iova": U64_MAX - 1}),
        (EOVERFLOW, "beyond 2^64 - 1", client.table(target).disable_large_pages),
        (EINVAL, "length 0x3 is 0 or not a multiple", {"length": PAGE}),
        (EINVAL, "IOVA 0xfffffffffffffffe is not a multiple", {"dst_iova": PAGE, "src_iova": MIB + 1}),
        (EEXIST, "overlaps", {"dst_iova": 0}),
        (EINVAL, "the memory begins 0x1 into a page", {"flags": RW}),
        (EINVAL, "cannot meet the alignment", {"flags": RW | FIXED, "src_iova": MIB}),
    )
    assert answer.dst_iova == 0
    assert pages.refs == 2, "the refused ones hold nothing"
