"""IOAS_MAP_FILE of a dma-buf, which is a descriptor that the client was given here. Ref: v7.3
pages.c iopt_alloc_dmabuf_pages
"""

import os
from errno import EBADF, EEXIST, EINVAL, EMFILE, ENODEV, ENOENT, EPERM

import pytest
import trio
import trio.testing

from iommud.engine.memory.dma_buf import MemoryBuf
from iommud.engine.memory.origin import AccountMode
from iommud.engine.memory.span import U64_MAX
from iommud.ops.dma_buf import GivenDmaBuf
from iommud.ops.locking import locked
from iommud.selftest.mock_domains import APERTURE_START
from iommud.uapi.header import const
from tests.engine.fakes import FakeUser, errno_of
from tests.engine.world import stand

from .client import FIXED, RW, Client, Fields, R, W
from .twins import PAGE

GET, REVOKE = const("IOMMU_TEST_OP_DMABUF_GET"), const("IOMMU_TEST_OP_DMABUF_REVOKE")


async def new(client: Client, length: int = 4 * PAGE) -> tuple[int, MemoryBuf]:
    """A descriptor of a dma-buf, and that."""
    await client.send("TEST_CMD", op=GET, dmabuf_get={"length": length, "open_flags": os.O_RDWR | os.O_CLOEXEC})
    given = client.descriptors.open[client.descriptors.result]
    assert isinstance(given, GivenDmaBuf)
    assert isinstance(given.buffer, MemoryBuf)
    return client.descriptors.result, given.buffer


async def test_a_dma_buf_is_a_descriptor(client: Client) -> None:
    fd, buffer = await new(client, 2 * PAGE + 1)
    assert (fd, buffer.size, client.descriptors.flags[fd]) == (100, 3 * PAGE, os.O_RDWR | os.O_CLOEXEC)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_APPEND):
        await client.send("TEST_CMD", op=GET, dmabuf_get={"length": 1, "open_flags": flags})
        assert client.descriptors.flags[client.descriptors.result] == flags & os.O_ACCMODE
    for length in (0, 512 * PAGE + 1, (1 << 32) - 1):
        await client.send("TEST_CMD", op=GET, dmabuf_get={"length": length}, expect=EINVAL, why="is 0 or more than")
    client.descriptors.room = 0
    await client.send("TEST_CMD", op=GET, dmabuf_get={"length": 1}, expect=EMFILE)


@pytest.mark.parametrize(("flags", "writable"), [(R, False), (W, True), (RW, True)])
async def test_map_shows_it_and_charges_nobody(client: Client, flags: int, writable: bool) -> None:
    ioas = await client.new_ioas()
    device = client.device(attach=ioas)
    fd, buffer = await new(client)
    buffer.memory[PAGE + 1 : PAGE + 4] = b"buf"
    fields: Fields = {"flags": FIXED | flags, "ioas_id": ioas, "fd": fd, "length": 2 * PAGE}
    answer = await client.send("IOAS_MAP_FILE", start=PAGE, iova=APERTURE_START, **fields)
    assert answer.iova == APERTURE_START
    client.descriptors.close(fd)
    (pages,) = client.pages(ioas)
    assert (pages.start, pages.npages, pages.writable, pages.account_mode) == (PAGE, 2, writable, AccountMode.NONE)
    assert client.host.user_pages == {}
    seen = memoryview(bytearray(3))
    if flags & R:
        device.dma_read(APERTURE_START + 1, seen)
        assert bytes(seen) == b"buf"
    assert errno_of(lambda: device.dma_write(APERTURE_START, memoryview(b"d"))) == (0 if writable else EPERM)
    assert buffer.memory[PAGE] == (ord("d") if writable else 0)
    await client.send("IOAS_UNMAP", ioas_id=ioas, iova=APERTURE_START, length=2 * PAGE)
    assert buffer.attached == []


async def test_map_chooses_by_the_offset(client: Client) -> None:
    ioas = await client.new_ioas()
    fd, _ = await new(client)
    answer = await client.send("IOAS_MAP_FILE", flags=R, ioas_id=ioas, fd=fd, start=PAGE + 7, length=9)
    assert answer.iova == PAGE + 7


async def test_map_in_the_kernels_order(client: Client) -> None:
    ioas = await client.new_ioas()
    await client.map(ioas, 0)
    fd, buffer = await new(client)
    buffer.revoke(True)
    await client.refuse_in_order(
        "IOAS_MAP_FILE",
        {"flags": FIXED | RW, "ioas_id": ioas, "fd": 99, "start": 3 * PAGE, "length": PAGE + 1},
        (EBADF, "descriptor 99 of the caller", {"fd": fd}),
        (EINVAL, "reach beyond the dma-buf's end at 0x4000", {"start": 4 * PAGE, "length": U64_MAX - 5 * PAGE}),
        (EINVAL, "reach beyond the dma-buf's end", {"start": 3 * PAGE, "length": PAGE}),
        (ENODEV, "the dma-buf is revoked", lambda: buffer.revoke(False)),
        (EEXIST, "overlaps", {"iova": PAGE}),
    )
    assert client.areas(ioas) == [(0, PAGE), (PAGE, PAGE)]
    assert len(buffer.attached) == 1, "the refused ones let go"


async def test_map_waits_for_the_lock(client: Client) -> None:
    ioas = await client.new_ioas()
    fd, _ = await new(client)
    async with trio.open_nursery() as nursery, locked(client.object(ioas)):
        nursery.start_soon(lambda: client.send("IOAS_MAP_FILE", flags=R, ioas_id=ioas, fd=fd, length=1))
        await trio.testing.wait_all_tasks_blocked()
        assert client.areas(ioas) == []
    assert len(client.areas(ioas)) == 1


async def test_a_descriptor_that_is_something_else_is_a_file(client: Client) -> None:
    """Also one that was given here."""
    ioas = await client.new_ioas()
    await client.send("FAULT_QUEUE_ALLOC")
    await client.send("IOAS_MAP_FILE", flags=R, ioas_id=ioas, fd=100, length=1, expect=EBADF)
    file = client.file(100)
    await client.send("IOAS_MAP_FILE", flags=R, ioas_id=ioas, fd=100, length=1)
    assert file.refs == 1


async def test_revoked_is_lost_for_ever_where_it_is_mapped(client: Client) -> None:
    ioas = await client.new_ioas()
    device = client.device(attach=ioas)
    fd, _ = await new(client)
    fields: Fields = {"flags": FIXED | RW, "ioas_id": ioas, "fd": fd, "length": PAGE}
    await client.send("IOAS_MAP_FILE", iova=APERTURE_START, **fields)
    await client.send("TEST_CMD", op=REVOKE, dmabuf_revoke={"dmabuf_fd": fd, "revoked": 1})
    assert errno_of(lambda: device.dma_read(APERTURE_START, memoryview(bytearray(1)))) == ENOENT
    assert client.table(ioas).translate(APERTURE_START) is None
    await client.send("IOAS_MAP_FILE", iova=APERTURE_START + PAGE, expect=ENODEV, why="revoked", **fields)
    await client.send("TEST_CMD", op=REVOKE, dmabuf_revoke={"dmabuf_fd": fd, "revoked": 0})
    assert errno_of(lambda: device.dma_read(APERTURE_START, memoryview(bytearray(1)))) == ENOENT
    await client.send("IOAS_MAP_FILE", iova=APERTURE_START + PAGE, **fields)
    device.dma_read(APERTURE_START + PAGE, memoryview(bytearray(1)))
    await client.send("IOAS_UNMAP", ioas_id=ioas, iova=0, length=U64_MAX)


async def test_accesses_cannot_reach_it(client: Client) -> None:
    ioas = await client.new_ioas()
    fd, _ = await new(client)
    await client.send("IOAS_MAP_FILE", flags=FIXED | RW, ioas_id=ioas, fd=fd, length=PAGE)
    user = FakeUser(client.context)
    stand(user, client.object(ioas))
    assert errno_of(lambda: user.pin(0, PAGE)) == EINVAL
    assert errno_of(lambda: user.read(0, 1)) == EINVAL
    user.release()


async def test_revoke_of_what_is_none(client: Client) -> None:
    await client.send(
        "TEST_CMD", op=REVOKE, dmabuf_revoke={"dmabuf_fd": 7}, expect=EBADF, why="descriptor 7 of the caller: Bad file"
    )
    file = client.file(7)
    await client.send(
        "TEST_CMD", op=REVOKE, dmabuf_revoke={"dmabuf_fd": 7}, expect=EINVAL, why="descriptor 7 is no dma-buf"
    )
    assert file.refs == 0
