"""IOAS_NOIOMMU_GET_PA. Ref: v7.3 ioas.c iommufd_ioas_noiommu_get_pa"""

from errno import EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM

import pytest
import trio
import trio.testing

from iommud.engine.device.device import Device
from iommud.engine.memory.dma_buf import MemoryBuf
from iommud.engine.memory.physical import ORDINARY_BLOCK
from iommud.engine.memory.span import U64_MAX
from iommud.ops.dma_buf import GivenDmaBuf
from iommud.ops.locking import locked
from iommud.ops.noiommu import CAP_SYS_RAWIO

from .client import NO_ID, Client, Fields, R
from .twins import PAGE

VA = 0x7000_0000
MIB = 1 << 20


class Bare:
    """A device without an IOMMU, and an IOAS that it is attached to."""

    def __init__(self, client: Client, device: Device, ioas: int) -> None:
        self.client = client
        self.device = device
        self.ioas = ioas

    async def get_pa(self, iova: int, length: int) -> tuple[int, int]:
        """The physical address, and how many bytes lie together from there on."""
        sent = await self.client.send("IOAS_NOIOMMU_GET_PA", ioas_id=self.ioas, iova=iova, length=length)
        return sent.out_phys, sent.length


@pytest.fixture
async def bare(client: Client) -> Bare:
    client.caller.capabilities.add(CAP_SYS_RAWIO)
    client.caller.process.block = PAGE  # it is one memory
    ioas = await client.new_ioas()
    return Bare(client, client.device(kind="none", attach=ioas), ioas)


async def test_it_is_where_the_devices_dma_goes(client: Client, bare: Bare) -> None:
    await client.map(bare.ioas, MIB, 2 * PAGE)
    address, length = await bare.get_pa(MIB + 0x123, 0x10)
    assert length == 0x10
    client.memory.map(VA + 0x123, b"in memory")
    bare.device.dma_read(address, seen := memoryview(bytearray(9)))
    assert bytes(seen) == b"in memory"


async def test_how_much_lies_together(client: Client, bare: Bare) -> None:
    """Never more than the area has; of ordinary memory, a block of pages."""
    assert ORDINARY_BLOCK == 4 * PAGE
    await client.map(bare.ioas, MIB, 6 * PAGE, address=VA)
    first, length = await bare.get_pa(MIB, U64_MAX)
    assert length == 4 * PAGE
    assert await bare.get_pa(MIB + PAGE + 5, U64_MAX) == (first + PAGE + 5, 3 * PAGE - 5)
    assert await bare.get_pa(MIB + PAGE - 1, 1) == (first + PAGE - 1, 1)
    assert await bare.get_pa(MIB + PAGE - 1, 2) == (first + PAGE - 1, 2)
    second, length = await bare.get_pa(MIB + 4 * PAGE, U64_MAX)
    assert length == 2 * PAGE
    assert second != first + 4 * PAGE


async def test_a_page_has_one_address_wherever_it_is_mapped(client: Client, bare: Bare) -> None:
    await client.map(bare.ioas, MIB, 2 * PAGE)
    fields: Fields = {"src_ioas_id": bare.ioas, "dst_ioas_id": bare.ioas, "length": PAGE}
    await client.send("IOAS_COPY", flags=R | 1, src_iova=MIB + PAGE, dst_iova=0, **fields)
    assert (await bare.get_pa(0, PAGE))[0] == (await bare.get_pa(MIB + PAGE, PAGE))[0]


async def test_in_the_kernels_order(client: Client) -> None:
    ioas, other = await client.new_ioas(), await client.new_ioas()
    behind = client.device(attach=other)
    await client.map(other, 0x100_0000)
    plain = await client.new_ioas()
    await client.map(plain, 0x100_0000)
    buffer = GivenDmaBuf(MemoryBuf(PAGE))
    client.descriptors.open[50] = buffer
    await client.send("IOAS_MAP_FILE", flags=R | 1, ioas_id=plain, fd=50, length=PAGE, iova=0x200_0000)
    buffer.buffer.revoke(True)
    client.device(kind="none", attach=ioas)
    await client.map(ioas, 0x200_0000)
    answer = await client.refuse_in_order(
        "IOAS_NOIOMMU_GET_PA",
        {"flags": 1, "ioas_id": NO_ID, "__reserved": 1, "iova": U64_MAX, "length": 0, "out_phys": 77},
        (EPERM, "CAP_SYS_RAWIO", lambda: client.caller.capabilities.add(CAP_SYS_RAWIO)),
        (EOPNOTSUPP, "flags or __reserved is not 0", {"flags": 0}),
        (EOPNOTSUPP, "flags or __reserved is not 0", {"__reserved": 0}),
        (EINVAL, "length is 0", {"length": 2 * PAGE}),
        (EOVERFLOW, "iova is U64_MAX", {"iova": 0x1FF_FFFF}),
        (ENOENT, f"there is no object {NO_ID}; wanted: IOAS", {"ioas_id": behind.id}),
        (ENOENT, "is of kind device; wanted: IOAS", {"ioas_id": plain}),
        (ENOENT, "IOVA 0x1ffffff is not mapped", {"iova": 0x200_0000}),
        (EINVAL, "is of a dma-buf that was revoked", {"iova": 0x100_0000}),
        (EOPNOTSUPP, "no page table shows it", {"ioas_id": other}),
        (EOPNOTSUPP, "the page table that holds it is of an IOMMU", {"ioas_id": ioas, "iova": 0x200_0000}),
    )
    assert (answer.length, answer.out_phys != 77) == (PAGE, True)


async def test_an_answer_that_cannot_be_written(client: Client, bare: Bare) -> None:
    await client.map(bare.ioas, MIB)
    fields: Fields = {"ioas_id": bare.ioas, "iova": MIB, "length": PAGE}
    for field in ("flags", "__reserved"):
        await client.send("IOAS_NOIOMMU_GET_PA", expect=EOPNOTSUPP, **(fields | {field: 1}))
    await client.send(
        "IOAS_NOIOMMU_GET_PA", read_only=True, expect=EFAULT, why="the struct cannot be written", **fields
    )
    client.caller.process.lost = True
    answer = await client.send("IOAS_NOIOMMU_GET_PA", expect=EFAULT, why="was lost", **fields)
    assert (answer.length, answer.out_phys) == (PAGE, 0)
    client.caller.process.lost = False


async def test_it_waits_for_the_lock(client: Client, bare: Bare) -> None:
    await client.map(bare.ioas, MIB)
    done: list[tuple[int, int]] = []

    async def get() -> None:
        done.append(await bare.get_pa(MIB, 1))

    async with trio.open_nursery() as nursery, locked(client.object(bare.ioas)):
        nursery.start_soon(get)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
    assert len(done) == 1
