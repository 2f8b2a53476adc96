"""TEST_CMD's operations on accesses. Ref: v7.3 selftest.c iommufd_test_create_access"""

from errno import (
    EADDRINUSE,
    EBADE,
    EBADFD,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOENT,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.memory.span import U64_MAX
from iommud.ops.locking import locked
from iommud.selftest.accesses import INLINE_COPY, LARGEST_ACCESS
from iommud.uapi.header import const
from tests.ops.client import NO_ID, Client, Fields, R, W
from tests.ops.twins import PAGE

from .command import do

VA = 0x7000_0000
BUFFER = 0x2000_0000
NEEDS_PIN = const("MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES")
PIN_WRITE, SYZ = const("MOCK_FLAGS_ACCESS_WRITE"), const("MOCK_FLAGS_ACCESS_SYZ")
RW_WRITE, SLOW = const("MOCK_ACCESS_RW_WRITE"), const("MOCK_ACCESS_RW_SLOW_PATH")


async def new_access(client: Client, ioas: int, flags: int = NEEDS_PIN) -> int:
    """Its descriptor."""
    made = await do(client, "CREATE_ACCESS", ioas, flags=flags)
    return int(made.out_access_fd)


@pytest.fixture
async def ioas(client: Client) -> int:
    """With four pages from 0 on."""
    ioas = await client.new_ioas()
    await client.map(ioas, 0, 4 * PAGE)
    return ioas


# --- made and moved ---


async def test_an_access_is_a_descriptor_and_goes_with_it(client: Client, ioas: int) -> None:
    fd = await new_access(client, ioas)
    assert (fd, client.kinds()) == (100, ["IOAS", "access"])
    await client.send("DESTROY", id=ioas, expect=EBUSY, why="IOAS 1 is in use by access 2 (mock access)")
    client.descriptors.close(fd)
    assert client.kinds() == ["IOAS"]
    await client.send("DESTROY", id=ioas)


async def test_an_access_outlives_the_device_file(client: Client, ioas: int) -> None:
    fd = await new_access(client, ioas)
    client.close_device()
    assert client.kinds() == ["IOAS", "access"]
    client.descriptors.close(fd)
    assert client.kinds() == []


async def test_only_one_that_pins_wants_whole_pages(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 1, 1)
    fd = await new_access(client, ioas, 0)
    await do(client, "CREATE_ACCESS", ioas, flags=NEEDS_PIN, expect=EADDRINUSE, why="does not conform")
    pins = await new_access(client, await client.new_ioas())
    await do(client, "ACCESS_REPLACE_IOAS", pins, ioas_id=ioas, expect=EADDRINUSE, why="does not conform")
    assert client.table(ioas).iova_alignment == 1
    client.descriptors.close(fd)


async def test_create_refused_leaves_nothing(client: Client, ioas: int) -> None:
    for flags in (2, NEEDS_PIN | 1 << 31):
        await do(client, "CREATE_ACCESS", NO_ID, flags=flags, expect=EOPNOTSUPP, why="unknown flags")
    await do(client, "CREATE_ACCESS", NO_ID, expect=ENOENT, why=f"there is no object {NO_ID}; wanted: IOAS")
    client.faults.arm(1)
    await do(client, "CREATE_ACCESS", ioas, expect=ENOMEM, why="ID")
    await do(client, "CREATE_ACCESS", ioas, read_only=True, expect=EFAULT, why="the descriptor cannot be written")
    client.descriptors.room = 0
    await do(client, "CREATE_ACCESS", ioas, expect=ENOMEM, why="no descriptor free")
    assert client.kinds() == ["IOAS"]
    assert client.object(ioas).users == []


async def test_replace_moves_it_and_lets_go(client: Client, ioas: int) -> None:
    other = await client.new_ioas()
    fd = await new_access(client, ioas)
    await do(client, "ACCESS_PAGES", fd, length=PAGE)
    await do(client, "ACCESS_REPLACE_IOAS", fd, ioas_id=other)
    assert client.host.user_pages == {}
    assert (client.object(ioas).users, len(client.object(other).users)) == ([], 1)
    await do(client, "ACCESS_REPLACE_IOAS", fd, ioas_id=NO_ID, expect=ENOENT, why=f"there is no object {NO_ID}")
    await do(client, "ACCESS_REPLACE_IOAS", 7, ioas_id=other, expect=EBADFD, why="descriptor 7 is none of ours")


async def test_a_descriptor_of_another_kind_is_no_access(client: Client, ioas: int) -> None:
    await do(client, "DMABUF_GET", length=PAGE)
    for operation, fields in (
        ("ACCESS_REPLACE_IOAS", {"ioas_id": ioas}),
        ("ACCESS_PAGES", {"length": 1}),
        ("ACCESS_RW", {"length": 1}),
        ("DESTROY_ACCESS_PAGES", {}),
    ):
        await do(client, operation, 100, expect=EBADFD, why="descriptor 100 is no access", **fields)


# --- pages ---


async def pin(client: Client, fd: int, iova: int, length: int, **fields: Any) -> int:
    """The number by which they can be let go."""
    pinned = await do(client, "ACCESS_PAGES", fd, iova=iova, length=length, **fields)
    return int(pinned.out_access_pages_id)


async def test_pages_are_pinned_until_they_are_unpinned(client: Client, ioas: int) -> None:
    fd = await new_access(client, ioas)
    assert [await pin(client, fd, 0, 2 * PAGE), await pin(client, fd, PAGE, 1)] == [0, 1]
    assert client.caller.process.asked == [(VA // PAGE, 2, True)], "what is held is not pinned again"
    await do(client, "DESTROY_ACCESS_PAGES", fd, access_pages_id=0)
    assert client.host.user_pages == {client.caller.process.uid: 1}
    await do(client, "DESTROY_ACCESS_PAGES", fd, access_pages_id=0, expect=ENOENT, why="no pinned pages 0")
    assert await pin(client, fd, PAGE, PAGE) == 2, "numbers are not used again"
    client.descriptors.close(fd)
    assert client.host.user_pages == {}


async def test_pages_are_those_that_the_client_sees(client: Client, ioas: int) -> None:
    """Where it says that it has them; 0: it does not say."""
    fd = await new_access(client, ioas)
    await pin(client, fd, PAGE, 2 * PAGE, uptr=VA + PAGE)
    await pin(client, fd, 0, PAGE, uptr=0)
    held = dict(client.host.user_pages)
    await pin(client, fd, 3 * PAGE, PAGE, uptr=VA + 2 * PAGE, expect=EBADE, why="pinned page 0 is")
    await pin(client, fd, 2 * PAGE, 2 * PAGE, uptr=VA + 3 * PAGE, expect=EBADE)
    await pin(client, fd, 3 * PAGE, PAGE, uptr=VA + 4 * PAGE, expect=EFAULT, why="is not mapped")
    client.caller.process.remap(VA // PAGE)
    await pin(client, fd, 0, PAGE, uptr=VA, expect=EBADE)
    assert client.host.user_pages == held, "the refused ones hold nothing"


async def test_unmapping_lets_go(client: Client, ioas: int) -> None:
    fd = await new_access(client, ioas)
    await client.map(ioas, 4 * PAGE, PAGE)
    await pin(client, fd, 3 * PAGE, 2 * PAGE)
    await pin(client, fd, 4 * PAGE, PAGE)
    await client.send("IOAS_UNMAP", ioas_id=ioas, length=4 * PAGE)
    await do(client, "DESTROY_ACCESS_PAGES", fd, access_pages_id=0, expect=ENOENT)
    await do(client, "DESTROY_ACCESS_PAGES", fd, access_pages_id=1)


async def test_pages_in_the_kernels_order(client: Client, ioas: int) -> None:
    lax, fd = await new_access(client, ioas, 0), await new_access(client, ioas)
    await client.map(ioas, 4 * PAGE, PAGE, flags=R)
    op = const("IOMMU_TEST_OP_ACCESS_PAGES")
    wrong = {"length": LARGEST_ACCESS + 1, "flags": 1 << 5 | PIN_WRITE, "iova": U64_MAX, "uptr": 0x123}

    async def refuse(number: int, errno: int, why: str) -> None:
        await client.send("TEST_CMD", op=op, id=number, access_pages=wrong, expect=errno, why=why)

    await refuse(NO_ID, ENOMEM, f"{LARGEST_ACCESS + 1} bytes are more than {LARGEST_ACCESS}")
    wrong["length"] = LARGEST_ACCESS
    await refuse(NO_ID, EOPNOTSUPP, "unknown flags 0x20")
    wrong["flags"] = PIN_WRITE
    await refuse(NO_ID, EBADFD, "is none of ours")
    await refuse(lax, EOPNOTSUPP, "was created without MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES")
    await refuse(fd, EOVERFLOW, "beyond 2^64 - 1")
    wrong["length"] = 0
    await refuse(fd, EINVAL, "length is 0")
    wrong |= {"length": 1, "iova": 4 * PAGE}
    await refuse(fd, EPERM, "mapped without IOMMU_IOAS_MAP_WRITEABLE")
    wrong["flags"] = 0
    await refuse(fd, EFAULT, "is not mapped")
    wrong["uptr"] = VA
    refusal: Fields = {"expect": EFAULT, "why": "the struct cannot be written"}
    await client.send("TEST_CMD", op=op, id=fd, access_pages=wrong, read_only=True, **refusal)
    assert client.host.user_pages == {}
    assert await pin(client, fd, 4 * PAGE, 1, uptr=VA) == 1, "a number was used up"


# --- copies ---


async def copy(client: Client, fd: int, iova: int, length: int, flags: int = 0, **fields: Any) -> None:
    await do(client, "ACCESS_RW", fd, iova=iova, length=length, flags=flags, **({"uptr": BUFFER} | fields))


@pytest.mark.parametrize("slow", [0, SLOW])
async def test_copies_go_both_ways(client: Client, ioas: int, slow: int) -> None:
    """Also off the page, and across."""
    fd = await new_access(client, ioas, 0)
    client.memory.map(BUFFER, b"to the ioas".ljust(2 * PAGE, b"."))
    await copy(client, fd, PAGE - 3, 2 * PAGE, RW_WRITE | slow)
    assert client.memory.read(VA + PAGE - 3, 11) == b"to the ioas"
    client.memory.map(VA + 2 * PAGE, b"from there")
    await copy(client, fd, 2 * PAGE, 10, slow)
    assert client.memory.read(BUFFER, 11) == b"from theres"
    assert client.caller.process.pins == []


@pytest.mark.parametrize("write", [0, RW_WRITE])
@pytest.mark.parametrize("length", [INLINE_COPY, INLINE_COPY + 1])
async def test_a_large_copy_lets_others_have_their_turn(client: Client, write: int, length: int) -> None:
    """And keeps what it works on; nobody may unmap it meanwhile."""
    ioas = await client.new_ioas()
    await client.map(ioas, 0, INLINE_COPY + PAGE)
    fd = await new_access(client, ioas, 0)
    content = bytes(range(256)) * (length // 256) + b"!" * (length % 256)
    client.memory.map(BUFFER if write else VA, content)
    client.memory.map(VA if write else BUFFER, bytes(length))
    left: list[str] = []

    def look() -> None:
        client.cannot_go(ioas)
        assert len(client.object(ioas).shortterm_users) == 1
        left.append("left")

    client.when_left = look
    await copy(client, fd, 0, length, write)
    assert left == (["left"] if length > INLINE_COPY else [])
    assert client.memory.read(VA if write else BUFFER, length) == content


async def test_the_buffer_is_waited_for(client: Client, ioas: int) -> None:
    fd = await new_access(client, ioas, 0)
    client.memory.map(BUFFER)
    client.memory.make_slow(BUFFER)
    await copy(client, fd, 0, 7)
    assert client.caller.waits == [(BUFFER, 7)]


async def test_a_buffer_that_ends_early(client: Client, ioas: int) -> None:
    """A write of which not all can be read changes nothing."""
    fd = await new_access(client, ioas, 0)
    client.memory.map(BUFFER, b"x" * PAGE)
    edge = {"uptr": BUFFER + PAGE - 4}
    await copy(
        client, fd, 0, 8, RW_WRITE, **edge, expect=EFAULT, why=f"the buffer cannot be read at {BUFFER + PAGE:#x}"
    )
    assert client.memory.read(VA, 4) == bytes(4)
    await copy(client, fd, 0, 8, **edge, expect=EFAULT, why=f"the buffer cannot be written at {BUFFER + PAGE:#x}")
    assert client.memory.read(BUFFER + PAGE - 5, 5) == b"x" + bytes(4)


@pytest.mark.parametrize("size", [8, INLINE_COPY + 8])
async def test_copies_in_the_kernels_order(client: Client, size: int) -> None:
    """Whatever their size."""
    ioas = await client.new_ioas()
    await client.map(ioas, 0, INLINE_COPY + PAGE, flags=W)
    fd = await new_access(client, ioas, 0)
    await copy(client, NO_ID, 0, LARGEST_ACCESS + 1, 1 << 9, expect=ENOMEM, why="bytes are more than")
    await copy(client, NO_ID, 0, size, 1 << 9, expect=EOPNOTSUPP, why="unknown flags 0x200")
    await copy(client, NO_ID, 0, size, expect=EBADFD)
    await copy(client, fd, U64_MAX, size, RW_WRITE, expect=EFAULT, why="the buffer cannot be read")
    await copy(client, fd, U64_MAX, size, expect=EOVERFLOW, why="beyond 2^64 - 1")
    await copy(client, fd, 1 << 40, size, RW_WRITE, expect=EFAULT, why="the buffer cannot be read")
    await copy(client, fd, 1 << 40, size, expect=ENOENT, why="is not mapped")
    await copy(client, fd, 0, size, expect=EPERM, why="mapped without IOMMU_IOAS_MAP_READABLE")
    client.memory.map(BUFFER, bytes(size))
    await copy(client, fd, U64_MAX, size, RW_WRITE, expect=EOVERFLOW, why="beyond 2^64 - 1")
    await copy(client, fd, 1 << 40, size, RW_WRITE, expect=ENOENT, why="is not mapped")
    await copy(client, fd, 0, 0, uptr=0, expect=EINVAL, why="length is 0")
    await copy(client, fd, 0, 0, RW_WRITE, uptr=0, expect=EINVAL, why="length is 0")
    await copy(client, fd, 0, size, RW_WRITE)


async def test_memory_that_cannot_be_reached(client: Client, ioas: int) -> None:
    fd = await new_access(client, ioas, 0)
    client.memory.map(BUFFER, bytes(2 * PAGE))
    client.memory.map(VA + PAGE, bytes(PAGE), read_only=True)
    await copy(client, fd, 0, 2 * PAGE, RW_WRITE, expect=EFAULT, why="the memory is read-only")
    client.memory.unmap(VA + PAGE, PAGE)
    await copy(client, fd, PAGE, 1, expect=EFAULT, why="is not mapped")
    client.caller.gone = True
    await copy(client, fd, 0, 1, expect=EFAULT, why="out of reach")
    await copy(client, fd, 0, 1, SLOW)
    client.caller.gone = False


async def test_a_large_copy_waits_for_the_lock(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0, INLINE_COPY + PAGE)
    fd = await new_access(client, ioas, 0)
    client.memory.map(BUFFER, bytes(INLINE_COPY + 1))
    client.memory.map(VA, b"copied")
    async with trio.open_nursery() as nursery, locked(client.object(ioas)):
        nursery.start_soon(copy, client, fd, 0, INLINE_COPY + 1)
        await trio.testing.wait_all_tasks_blocked()
        assert client.memory.read(BUFFER, 6) == bytes(6)
    assert client.memory.read(BUFFER, 6) == b"copied"


# --- IOVAs as the fuzzers name them ---


async def test_an_area_by_its_place(client: Client, ioas: int) -> None:
    """Low half: which; high half: how far into it. One that there is not: IOVA 0."""
    fd = await new_access(client, ioas)
    await client.map(ioas, 8 * PAGE, PAGE, address=VA + 8 * PAGE)
    client.memory.map(VA + 8 * PAGE + 7, b"the second")
    client.memory.map(BUFFER)
    await copy(client, fd, 7 << 32 | 1, 10, SYZ)
    assert client.memory.read(BUFFER, 10) == b"the second"
    client.memory.map(VA, b"the first.")
    await copy(client, fd, 7 << 32 | 2, 10, SYZ)
    assert client.memory.read(BUFFER, 10) == b"the first."
    await pin(client, fd, 1, PAGE, flags=SYZ, uptr=VA + 8 * PAGE)
    await pin(client, fd, 9, PAGE, flags=SYZ, uptr=VA)
