"""TEST_CMD's operations on devices and PASIDs. Ref: v7.3 selftest.c iommufd_test_mock_domain"""

from errno import EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.device.device import Device
from iommud.ops.locking import locked
from iommud.ops.noiommu import CAP_SYS_RAWIO
from iommud.selftest.command import selftest_row
from iommud.selftest.mock import FAILING_PASID, MockDevice
from iommud.selftest.mock_domains import APERTURE_START
from iommud.selftest.plug import NO_DIRTY, PASIDS
from tests.ops.client import NO_ID, Client
from tests.ops.made import PASID, alloc, nest, new_viommu
from tests.ops.twins import PAGE

from .command import do, new_mock


@pytest.fixture
async def ioas(client: Client) -> int:
    return await client.new_ioas()


async def test_an_unknown_operation(client: Client) -> None:
    for number in (0, 24, 0xFFFF_FFFF):
        await client.send("TEST_CMD", op=number, expect=EOPNOTSUPP, why=f"the mock device has no operation {number}")


# --- made, moved, gone ---


async def test_a_device_is_made_bound_and_attached(client: Client, ioas: int) -> None:
    first, second = await new_mock(client, ioas), await new_mock(client, ioas)
    assert client.kinds() == ["IOAS", "mock device", "device", "HWPT", "mock device", "device"]
    assert (first.hwpt, second.hwpt) == (4, 4), "they share a page table"
    assert isinstance(client.object(first.idev), Device)
    assert client.object(first.idev).model.name != client.object(second.idev).model.name
    for idev in (first.idev, second.idev):
        await client.send("DESTROY", id=idev, expect=EBUSY)
    for mock in (first, second):
        await client.send("DESTROY", id=mock.stdev)
    assert client.kinds() == ["IOAS"]


async def test_flags(client: Client, ioas: int) -> None:
    """Of the operation that has some; of the other they are not looked at."""
    plain = await new_mock(client, ioas, NO_DIRTY | PASIDS)
    model = client.object(plain.idev).model
    assert isinstance(model, MockDevice)
    assert (model.tracked, model.max_pasids) == (False, 1 << 20)
    await do(client, "MOCK_DOMAIN_FLAGS", ioas, dev_flags=2, expect=EINVAL, why="knows no device flags 0x2")
    before = client.kinds()
    made = await do(client, "MOCK_DOMAIN", ioas, out_stdev_id=7)
    assert made.out_stdev_id == len(before) + 1
    await client.send("DESTROY", id=made.out_stdev_id)
    await client.send("DESTROY", id=plain.stdev)


async def test_one_that_cannot_be_made_leaves_nothing(client: Client, ioas: int) -> None:
    before = client.kinds()
    await do(client, "MOCK_DOMAIN", NO_ID, expect=ENOENT, why=f"there is no object {NO_ID}")
    await client.map(ioas, 0)
    await do(client, "MOCK_DOMAIN", ioas, expect=EADDRINUSE, why="cannot be reserved")
    await client.send("IOAS_UNMAP", ioas_id=ioas, length=PAGE)
    for at in (1, 2, 3):  # the IDs of the mock device, the device and the page table
        client.faults.arm(at)
        await do(client, "MOCK_DOMAIN", ioas, expect=ENOMEM, why="ID")
    await do(client, "MOCK_DOMAIN", ioas, read_only=True, expect=EFAULT, why="the struct cannot be written")
    assert client.kinds() == before
    assert client.object(ioas).users == []
    assert client.host.empty(), "its group is free"
    mock = await new_mock(client, ioas)
    assert mock.stdev == 2
    await do(client, "MOCK_DOMAIN", mock.idev, expect=EINVAL, why="is neither an IOAS nor a HWPT")
    await client.send("DESTROY", id=mock.stdev)


async def test_one_without_an_iommu_takes_a_capability() -> None:
    client = Client(selftest_row("none"))
    ioas = await client.new_ioas()
    await do(client, "MOCK_DOMAIN", ioas, expect=EPERM, why="does DMA to all memory")
    assert client.kinds() == ["IOAS"]
    client.caller.capabilities.add(CAP_SYS_RAWIO)
    await client.send("DESTROY", id=(await new_mock(client, ioas)).stdev)
    client.close()


async def test_replace(client: Client, ioas: int) -> None:
    other = await client.new_ioas()
    mock = await new_mock(client, ioas)
    moved = await do(client, "MOCK_DOMAIN_REPLACE", mock.stdev, pt_id=other)
    assert client.object(moved.pt_id).ioas.id == other
    assert client.object(ioas).users == []
    await do(client, "MOCK_DOMAIN_REPLACE", NO_ID, pt_id=other, expect=ENOENT, why="wanted: mock device")
    await do(client, "MOCK_DOMAIN_REPLACE", mock.idev, pt_id=other, expect=ENOENT, why="wanted: mock device")
    await do(client, "MOCK_DOMAIN_REPLACE", mock.stdev, pt_id=NO_ID, expect=ENOENT, why=f"there is no object {NO_ID}")
    await do(client, "MOCK_DOMAIN_REPLACE", mock.stdev, pt_id=mock.idev, expect=EINVAL, why="is neither")
    await do(client, "MOCK_DOMAIN_REPLACE", mock.stdev, pt_id=ioas, read_only=True, expect=EFAULT)
    assert client.object(other).users == [], "it was moved, and only cannot be told"
    await client.send("DESTROY", id=mock.stdev)


@pytest.mark.parametrize("how", ["MOCK_DOMAIN", "MOCK_DOMAIN_REPLACE"])
async def test_an_attachment_waits_for_ioas_and_page_tables(client: Client, ioas: int, how: str) -> None:
    """Also those that are below a nested one."""
    device = client.device()
    viommu = await new_viommu(client, device)
    await client.send("VDEVICE_ALLOC", viommu_id=viommu.id, dev_id=device.id, virt_id=1)
    hwpt = await alloc(client, device, ioas)
    mock = await new_mock(client, ioas)
    done: list[Any] = []

    async def attach(pt: int) -> None:
        fields = {} if how == "MOCK_DOMAIN" else {"pt_id": pt}
        done.append(await do(client, how, pt if how == "MOCK_DOMAIN" else mock.stdev, **fields))

    for target, locks in ((ioas, [client.object(ioas)]), (hwpt.id, [hwpt, hwpt.ioas])):
        for lock in locks:
            async with trio.open_nursery() as nursery, locked(lock):
                nursery.start_soon(attach, target)
                await trio.testing.wait_all_tasks_blocked()
                assert done == []
            made = done.pop()
            if how == "MOCK_DOMAIN":
                await client.send("DESTROY", id=made.out_stdev_id)
    await client.send("DESTROY", id=mock.stdev)


async def test_a_page_table_for_much_is_filled_in_steps(client: Client, ioas: int) -> None:
    for at in range(300):
        await client.map(ioas, APERTURE_START + at * PAGE)
    left: list[str] = []

    def look() -> None:
        client.cannot_go(ioas)
        left.append("left")

    client.when_left = look
    mock = await new_mock(client, ioas)
    assert (left, client.pauses) == (["left"], 1)
    await client.send("DESTROY", id=mock.stdev)


# --- PASIDs ---


async def test_pasids(client: Client, ioas: int) -> None:
    device = client.device(flags=PASIDS)
    one, two = [await alloc(client, device, ioas, PASID) for _ in range(2)]
    mock = await new_mock(client, one.id, PASIDS)
    for pasid, hwpt in ((1, one.id), (2, two.id)):
        attached = await do(client, "PASID_ATTACH", mock.stdev, pasid=pasid, pt_id=hwpt)
        assert attached.pt_id == hwpt
    replaced = await do(client, "PASID_REPLACE", mock.stdev, pasid=1, pt_id=two.id)
    assert replaced.pt_id == two.id
    for pasid, hwpt in ((0, one.id), (1, two.id), (2, two.id), (3, 0)):
        await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=pasid, hwpt_id=hwpt)
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=1, hwpt_id=one.id, expect=EINVAL, why="at PASID 1, not HWPT")
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=1, hwpt_id=0, expect=EINVAL, why="has HWPT")
    await do(
        client, "PASID_CHECK_HWPT", mock.stdev, pasid=3, hwpt_id=one.id, expect=EINVAL, why="has nothing at PASID 3"
    )
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=3, hwpt_id=ioas, expect=EINVAL, why="IOAS 1 is no HWPT")
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=3, hwpt_id=NO_ID, expect=ENOENT)
    for pasid in (1, 1, 9):
        await do(client, "PASID_DETACH", mock.stdev, pasid=pasid)
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=1, hwpt_id=0)
    await client.send("DESTROY", id=mock.stdev)
    assert (one.users, two.users) == ([], [])


async def test_pasids_refused(client: Client, ioas: int) -> None:
    device = client.device(flags=PASIDS)
    hwpt, plain = await alloc(client, device, ioas, PASID), await alloc(client, device, ioas)
    mock = await new_mock(client, hwpt.id, PASIDS)
    for operation in ("PASID_ATTACH", "PASID_REPLACE"):
        await do(client, operation, NO_ID, pasid=1, pt_id=hwpt.id, expect=ENOENT, why="wanted: mock device")
        await do(client, operation, mock.idev, pasid=1, pt_id=hwpt.id, expect=ENOENT, why="wanted: mock device")
        await do(client, operation, mock.stdev, pasid=1, pt_id=NO_ID, expect=ENOENT, why=f"there is no object {NO_ID}")
    for operation in ("PASID_DETACH", "PASID_CHECK_HWPT"):
        await do(client, operation, NO_ID, pasid=1, expect=ENOENT, why="wanted: mock device")
    await do(
        client, "PASID_REPLACE", mock.stdev, pasid=1, pt_id=hwpt.id, expect=EINVAL, why="is not attached at PASID 1"
    )
    await do(client, "PASID_ATTACH", mock.stdev, pasid=1, pt_id=plain.id, expect=EINVAL, why="HWPT_ALLOC_PASID")
    await do(client, "PASID_ATTACH", mock.stdev, pasid=1 << 20, pt_id=hwpt.id, expect=EINVAL, why="PASIDs up to")
    await do(client, "PASID_ATTACH", mock.stdev, pasid=0, pt_id=hwpt.id, expect=EBUSY, why="is attached already")
    await do(client, "PASID_ATTACH", mock.stdev, pasid=1, pt_id=hwpt.id, read_only=True, expect=EFAULT)
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=1, hwpt_id=0)
    await do(client, "PASID_ATTACH", mock.stdev, pasid=1, pt_id=hwpt.id)
    other = await alloc(client, device, ioas, PASID)
    await do(client, "PASID_REPLACE", mock.stdev, pasid=1, pt_id=other.id, read_only=True, expect=EFAULT)
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=1, hwpt_id=other.id)
    await client.send("DESTROY", id=mock.stdev)


async def test_the_pasid_that_fails_every_other_time(client: Client, ioas: int) -> None:
    device = client.device(flags=PASIDS)
    hwpt = await alloc(client, device, ioas, PASID)
    mock = await new_mock(client, hwpt.id, PASIDS)
    await do(client, "PASID_ATTACH", mock.stdev, pasid=FAILING_PASID, pt_id=hwpt.id)
    other = await alloc(client, device, ioas, PASID)
    fields = {"pasid": FAILING_PASID, "pt_id": other.id}
    await do(client, "PASID_REPLACE", mock.stdev, **fields, expect=ENOMEM, why="fails every other time")
    await do(client, "PASID_CHECK_HWPT", mock.stdev, pasid=FAILING_PASID, hwpt_id=hwpt.id)
    await do(client, "PASID_REPLACE", mock.stdev, **fields)
    await client.send("DESTROY", id=mock.stdev)


@pytest.mark.parametrize("operation", ["PASID_ATTACH", "PASID_REPLACE", "PASID_DETACH"])
async def test_a_pasid_waits_for_the_locks(client: Client, ioas: int, operation: str) -> None:
    device = client.device(flags=PASIDS)
    hwpt = await alloc(client, device, ioas, PASID)
    mock = await new_mock(client, hwpt.id, PASIDS)
    if operation != "PASID_ATTACH":
        await do(client, "PASID_ATTACH", mock.stdev, pasid=1, pt_id=hwpt.id)
    done: list[Any] = []

    async def change() -> None:
        fields = {"pasid": 1} | ({} if operation == "PASID_DETACH" else {"pt_id": hwpt.id})
        done.append(await do(client, operation, mock.stdev, **fields))

    async with trio.open_nursery() as nursery, locked(client.object(mock.stdev)):
        nursery.start_soon(change)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
    assert len(done) == 1
    await client.send("DESTROY", id=mock.stdev)


# --- the rest ---


async def test_reserved_ranges(client: Client, ioas: int) -> None:
    await do(client, "ADD_RESERVED", ioas, start=PAGE, length=PAGE)
    await do(client, "ADD_RESERVED", ioas, start=PAGE, length=1)
    reserved = sorted((span.start, span.last) for span in client.table(ioas).reserved)
    assert reserved == [(PAGE, PAGE), (PAGE, 2 * PAGE - 1)]
    await client.map(ioas, 2 * PAGE)
    await do(client, "ADD_RESERVED", ioas, start=0, length=3 * PAGE, expect=EADDRINUSE, why="is there")
    await do(client, "ADD_RESERVED", NO_ID, start=1, length=0, expect=EINVAL, why="length is 0")
    await do(client, "ADD_RESERVED", NO_ID, start=2, length=(1 << 64) - 1, expect=EOVERFLOW, why="start 0x2 + length")
    await do(client, "ADD_RESERVED", NO_ID, start=2, length=1, expect=ENOENT)
    async with trio.open_nursery() as nursery, locked(client.object(ioas)):
        nursery.start_soon(lambda: do(client, "ADD_RESERVED", ioas, start=9 * PAGE, length=1))
        await trio.testing.wait_all_tasks_blocked()
        assert len(client.table(ioas).reserved) == 2
    assert len(client.table(ioas).reserved) == 3


async def test_memory_limit(client: Client) -> None:
    await do(client, "SET_TEMP_MEMORY_LIMIT", limit=11, expect=EINVAL, why="limit 11 is less than 12")
    await do(client, "SET_TEMP_MEMORY_LIMIT", limit=12)


async def test_a_vevent_of_a_mock(client: Client, ioas: int) -> None:
    mock = await new_mock(client, ioas)
    device = client.object(mock.idev)
    viommu = await new_viommu(client, device)
    await client.send("VDEVICE_ALLOC", viommu_id=viommu.id, dev_id=mock.idev, virt_id=0x99)
    hwpt = await nest(client, device, viommu.id)
    await do(client, "MOCK_DOMAIN_REPLACE", mock.stdev, pt_id=hwpt.id)
    await do(client, "TRIGGER_VEVENT", dev_id=mock.idev, expect=EOPNOTSUPP, why="has no queue for events")
    await do(client, "TRIGGER_VEVENT", dev_id=NO_ID, expect=ENOENT)
    other = client.device(kind="vtd")
    await do(client, "TRIGGER_VEVENT", dev_id=other.id, expect=EINVAL, why="is of a kind without events")
    await client.send("DESTROY", id=mock.stdev)
