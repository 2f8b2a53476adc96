"""VIOMMU_ALLOC, and what stands on one: VDEVICE_ALLOC, HW_QUEUE_ALLOC. Ref: v7.3 viommu.c"""

import struct
from errno import EADDRINUSE, EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW, EPERM, ERANGE
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.device.device import Device
from iommud.engine.device.hw_queue import MOST_PAGES
from iommud.engine.device.viommu import Viommu
from iommud.engine.memory.span import U64_MAX
from iommud.ops.hwpt import LONGEST_STRUCT
from iommud.ops.locking import locked
from iommud.selftest.mock_domains import APERTURE_START
from iommud.selftest.mock_viommu import HW_QUEUE_SELFTEST, VIOMMU_SELFTEST
from tests.engine.fakes import errno_of

from .client import NO_ID, Client, Fields, W
from .made import DATA, PARENT, alloc, new_viommu, with_page
from .twins import PAGE


class Guest:
    """A device, and a vIOMMU of its IOMMU's."""

    def __init__(self, client: Client, device: Device, viommu: Viommu) -> None:
        self.client = client
        self.device = device
        self.viommu = viommu
        self.ioas = viommu.hwpt.ioas.id

    async def vdevice(self, device: Device, virt_id: int, **fields: Any) -> Any:
        sent = await self.client.send(
            "VDEVICE_ALLOC", viommu_id=self.viommu.id, dev_id=device.id, virt_id=virt_id, **fields
        )
        return self.client.object(sent.out_vdevice_id) if not fields.get("expect") else None

    async def queue(self, index: int, iova: int, length: int, **fields: Any) -> Any:
        fields = {"viommu_id": self.viommu.id, "type": HW_QUEUE_SELFTEST} | fields
        sent = await self.client.send("HW_QUEUE_ALLOC", index=index, nesting_parent_iova=iova, length=length, **fields)
        return self.client.object(sent.out_hw_queue_id) if not fields.get("expect") else None


@pytest.fixture
async def guest(client: Client) -> Guest:
    """The mock's."""
    device = client.device()
    return Guest(client, device, await new_viommu(client, device))


# --- VIOMMU_ALLOC ---


async def test_alloc_stands_on_a_nest_parent(client: Client) -> None:
    device = client.device()
    parent = await alloc(client, device, await client.new_ioas(), PARENT)
    viommu = await new_viommu(client, device, parent)
    assert (viommu.hwpt, viommu.iommu, viommu.driver.shown) == (parent, device.iommu, None)
    assert parent.users == [viommu]
    client.remove(device)
    await client.send("DESTROY", id=parent.id, expect=EBUSY, why=f"is in use by {viommu}")
    await client.send("DESTROY", id=viommu.id)
    await client.send("DESTROY", id=parent.id)


async def test_alloc_with_data_answers_in_it(client: Client) -> None:
    """As far as the client knows the data."""
    told: list[tuple[int, bytes]] = []
    client.host.shown.announce = lambda offset, content: told.append((offset, content))
    device = client.device()
    parent = await alloc(client, device, await client.new_ioas(), PARENT)
    viommu = await new_viommu(client, device, parent, **with_page(client, 0x1234))
    ((offset, content),) = told
    assert viommu.driver.shown == (offset, 2 * PAGE)
    assert (content[:4], len(content)) == (struct.pack("<I", 0x1234), 2 * PAGE)
    assert client.memory.read(DATA, 24) == struct.pack("<IIQQ", 0x1234, 0x1234, offset, 2 * PAGE)
    short = with_page(client, 7) | {"data_len": 8}
    await new_viommu(client, device, parent, **short)
    assert client.memory.read(DATA, 24) == struct.pack("<IIQQ", 7, 7, 0, 0)


async def test_alloc_with_data_where_nothing_can_be_mapped(client: Client) -> None:
    viommu = await new_viommu(client, **with_page(client, 9))
    assert viommu.driver.shown is None
    assert client.memory.read(DATA, 24) == struct.pack("<IIQQ", 9, 9, 0, 0)


async def test_alloc_that_cannot_be_told_leaves_nothing(client: Client) -> None:
    """Neither in its data nor in the struct."""
    client.host.shown.announce = lambda offset, content: None
    device = client.device()
    parent = await alloc(client, device, await client.new_ioas(), PARENT)
    fields = with_page(client) | {"type": VIOMMU_SELFTEST, "dev_id": device.id, "hwpt_id": parent.id}
    before = client.kinds()
    client.memory.read_only.add(DATA // PAGE)
    await client.send("VIOMMU_ALLOC", expect=EFAULT, why=f"the data cannot be written at {DATA:#x}", **fields)
    client.memory.read_only.clear()
    await client.send("VIOMMU_ALLOC", read_only=True, expect=EFAULT, why="the struct cannot be written", **fields)
    client.faults.arm(1)
    await client.send("VIOMMU_ALLOC", expect=ENOMEM, why="ID", **fields)
    client.memory.unmap(DATA)
    await client.send("VIOMMU_ALLOC", expect=EFAULT, why="the data cannot be read", **fields)
    assert client.kinds() == before
    assert (parent.users, len(client.host.shown)) == ([], 0)


async def test_alloc_waits_for_the_data_as_long_as_nothing_is_made(client: Client) -> None:
    device = client.device()
    parent = await alloc(client, device, await client.new_ioas(), PARENT)
    fields = with_page(client)

    def look() -> None:
        client.cannot_go(parent.id)
        assert client.kinds() == ["device", "IOAS", "HWPT"]

    client.caller.meanwhile = look
    client.memory.make_slow(DATA)
    await new_viommu(client, device, parent, **fields)
    client.memory.make_slow(DATA)
    fields |= {"type": VIOMMU_SELFTEST, "dev_id": device.id, "hwpt_id": parent.id, "data_len": LONGEST_STRUCT + 1}
    client.caller.meanwhile = lambda: client.remove(device)
    await client.send("VIOMMU_ALLOC", expect=ENOENT, why="there is no object 1", **fields)
    assert client.caller.waits == [(DATA, 24), (DATA, LONGEST_STRUCT)]


async def test_alloc_in_the_kernels_order(client: Client) -> None:
    ioas, device, other = await client.new_ioas(), client.device(), client.device(kind="vtd")
    parent, plain = await alloc(client, device, ioas, PARENT), await alloc(client, device, ioas)
    client.memory.map(DATA)
    await client.refuse_in_order(
        "VIOMMU_ALLOC",
        {"flags": 1, "type": 0, "dev_id": NO_ID, "hwpt_id": NO_ID, "data_len": 3, "data_uptr": 0},
        (EOPNOTSUPP, "flags 0x1 has the unknown bits 0x1", {"flags": 0}),
        (EOPNOTSUPP, "type 0x0 is no type of vIOMMU", {"type": 99}),
        (ENOENT, f"there is no object {NO_ID}; wanted: device", {"dev_id": ioas}),
        (ENOENT, "object 1 is of kind IOAS; wanted: device", {"dev_id": device.id}),
        (EOPNOTSUPP, "has no vIOMMU of type 0x63", {"dev_id": other.id, "type": VIOMMU_SELFTEST}),
        (EOPNOTSUPP, "has no vIOMMU of type 0xdeadbeef", {"dev_id": device.id}),
        (ENOENT, f"there is no object {NO_ID}; wanted: HWPT", {"hwpt_id": ioas}),
        (ENOENT, "object 1 is of kind IOAS; wanted: HWPT", {"hwpt_id": plain.id}),
        (EINVAL, "was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT", {"hwpt_id": parent.id}),
        (EINVAL, "3 bytes of data, wanted: 8 to 24", {"data_len": 8}),
        (EFAULT, "the data cannot be read", {"data_uptr": DATA}),
    )


# --- VDEVICE_ALLOC ---


async def test_a_vdevice_is_a_device_as_its_guest_knows_it(client: Client, guest: Guest) -> None:
    vdevice = await guest.vdevice(guest.device, U64_MAX)
    assert (vdevice.device, vdevice.viommu, vdevice.virt_id) == (guest.device, guest.viommu, U64_MAX)
    assert guest.viommu.device_of(U64_MAX) is guest.device
    await client.send("DESTROY", id=guest.viommu.id, expect=EBUSY, why=f"is in use by {vdevice}")
    await client.send("DESTROY", id=vdevice.id)
    assert (guest.device.vdevice, guest.viommu.vdevices) == (None, {})
    assert (await guest.vdevice(guest.device, 0)).id == vdevice.id


async def test_a_vdevice_goes_with_its_device_and_leaves_its_id_taken(client: Client, guest: Guest) -> None:
    vdevice = await guest.vdevice(guest.device, 7)
    client.remove(guest.device)
    await client.send("DESTROY", id=vdevice.id, expect=ENOENT)
    assert guest.viommu.users == []
    assert client.device().id == 1, "the device's own is free"
    assert await client.new_ioas() == vdevice.id + 1


async def test_vdevice_in_the_kernels_order(client: Client, guest: Guest) -> None:
    elsewhere, second = client.device(kind="smmuv3"), client.device()
    await guest.vdevice(guest.device, 7)
    await client.refuse_in_order(
        "VDEVICE_ALLOC",
        {"viommu_id": NO_ID, "dev_id": NO_ID, "virt_id": 7},
        (ENOENT, f"there is no object {NO_ID}; wanted: vIOMMU", {"viommu_id": guest.viommu.hwpt.id}),
        (ENOENT, "is of kind HWPT; wanted: vIOMMU", {"viommu_id": guest.viommu.id}),
        (ENOENT, f"there is no object {NO_ID}; wanted: device", {"dev_id": guest.ioas}),
        (ENOENT, "is of kind IOAS; wanted: device", {"dev_id": elsewhere.id}),
        (EINVAL, f"is not behind the IOMMU of {guest.viommu}", {"dev_id": guest.device.id}),
        (EEXIST, "is vDEVICE", {"dev_id": second.id}),
        (EEXIST, f"number 0x7 of {guest.viommu} is vDEVICE", {"virt_id": 8}),
    )
    assert len(guest.viommu.users) == 2


async def test_a_vdevice_that_cannot_be_told_leaves_nothing(client: Client, guest: Guest) -> None:
    before = client.kinds()
    await guest.vdevice(guest.device, 7, read_only=True, expect=EFAULT, why="the struct cannot be written")
    client.faults.arm(1)
    await guest.vdevice(guest.device, 7, expect=ENOMEM, why="ID")
    assert (client.kinds(), guest.viommu.users, guest.device.vdevice) == (before, [], None)
    await guest.vdevice(guest.device, 7)


# --- HW_QUEUE_ALLOC ---


async def test_a_queue_holds_its_pages(client: Client, guest: Guest) -> None:
    """Whole pages; and they cannot be unmapped as long as it is there."""
    await client.map(guest.ioas, APERTURE_START, 3 * PAGE)
    queue = await guest.queue(0, APERTURE_START + PAGE - 8, 16)
    assert (queue.viommu, queue.type, queue.index) == (guest.viommu, HW_QUEUE_SELFTEST, 0)
    (pages,) = client.pages(guest.ioas)
    assert sorted((span.start, span.last) for span in pages.pins) == [(0, 1), (0, 2)], "the parent has all"
    everything: Fields = {"ioas_id": guest.ioas, "length": U64_MAX}
    await client.send("IOAS_UNMAP", expect=EBUSY, why="is locked by an object that stands on it", **everything)
    await client.send("DESTROY", id=guest.viommu.id, expect=EBUSY, why=f"is in use by {queue}")
    await client.send("DESTROY", id=queue.id)
    assert "access" not in client.kinds()
    await client.send("IOAS_UNMAP", **everything)


async def test_queues_that_depend_on_one_another(client: Client, guest: Guest) -> None:
    """What a driver says of an index; then the queue has gone, and holds nothing."""
    await client.map(guest.ioas, APERTURE_START, 2 * PAGE)
    before = client.kinds()
    await guest.queue(2, APERTURE_START, 1, expect=EINVAL, why="queue 2 of 2")
    await guest.queue(1, APERTURE_START, 1, expect=EIO, why="queue 1 depends on the one before it")
    assert (client.kinds(), guest.viommu.users) == (before, [])
    first = await guest.queue(0, APERTURE_START, 1)
    await guest.queue(0, APERTURE_START, 1, expect=EEXIST, why=f"queue 0 is {first}")
    second = await guest.queue(1, APERTURE_START, 1)
    await client.send("DESTROY", id=first.id, expect=EBUSY, why=f"{first} is in use by {second}")
    await client.send("DESTROY", id=second.id)
    await client.send("DESTROY", id=first.id)


async def test_what_cannot_be_a_queue(client: Client, guest: Guest) -> None:
    before = client.kinds()
    await client.map(guest.ioas, APERTURE_START, PAGE)
    await client.map(guest.ioas, APERTURE_START + PAGE, PAGE, address=0x7100_0000)
    await client.map(guest.ioas, APERTURE_START + 4 * PAGE, PAGE, flags=W)
    await guest.queue(0, APERTURE_START, PAGE + 1, expect=EFAULT, why="do not lie one behind the other")
    await guest.queue(0, APERTURE_START + 2 * PAGE - 1, 2, expect=ENOENT, why="is not mapped")
    await guest.queue(0, APERTURE_START + 4 * PAGE, 1, expect=EPERM, why="mapped without IOMMU_IOAS_MAP_READABLE")
    await guest.queue(0, 0, U64_MAX - PAGE + 1, expect=ENOMEM, why=f"pages are more than {MOST_PAGES}")
    await guest.queue(0, 1, U64_MAX - PAGE + 1, expect=ERANGE, why="are too many pages")
    await client.send("IOAS_UNMAP", ioas_id=guest.ioas, length=U64_MAX)
    await client.map(guest.ioas, APERTURE_START, 0x800)
    await guest.queue(0, APERTURE_START, 1, expect=EADDRINUSE, why="does not conform to an alignment of 0x1000")
    assert (client.kinds(), guest.viommu.users) == (before, [])
    assert errno_of(lambda: client.context.objects.remove(guest.viommu.id)) == 0


async def test_queue_in_the_kernels_order(client: Client, guest: Guest) -> None:
    arm = await new_viommu(client, client.device(kind="smmuv3"))
    await client.map(guest.ioas, APERTURE_START)
    await client.refuse_in_order(
        "HW_QUEUE_ALLOC",
        {
            "flags": 1,
            "viommu_id": NO_ID,
            "type": 0,
            "index": 2,
            "nesting_parent_iova": U64_MAX,
            "length": 0,
        },
        (EOPNOTSUPP, "unknown bits 0x1", {"flags": 0}),
        (EOPNOTSUPP, "type 0x0 is no type of queue", {"type": 99}),
        (EINVAL, "length is 0", {"length": 2}),
        (EOVERFLOW, "IOVA 0xffffffffffffffff + length 0x2 is beyond", {"length": 1}),
        (ENOENT, f"there is no object {NO_ID}; wanted: vIOMMU", {"viommu_id": guest.viommu.hwpt.id}),
        (ENOENT, "is of kind HWPT; wanted: vIOMMU", {"viommu_id": arm.id}),
        (EOPNOTSUPP, f"{arm} has no hardware queues of type 0x63", {"viommu_id": guest.viommu.id}),
        (EOPNOTSUPP, "has no hardware queues of type 0x63", {"type": HW_QUEUE_SELFTEST}),
        (ENOENT, "is not mapped", {"nesting_parent_iova": APERTURE_START}),
        (EINVAL, "queue 2 of 2", {"index": 0}),
    )


async def test_a_queue_that_cannot_be_told_leaves_nothing(client: Client, guest: Guest) -> None:
    await client.map(guest.ioas, APERTURE_START)
    before = client.kinds()
    await guest.queue(0, APERTURE_START, 1, read_only=True, expect=EFAULT, why="the struct cannot be written")
    for at in (1, 2):  # its own ID, and its access's
        client.faults.arm(at)
        await guest.queue(0, APERTURE_START, 1, expect=ENOMEM, why="ID")
    assert (client.kinds(), guest.viommu.users) == (before, [])
    await guest.queue(0, APERTURE_START, 1)


async def test_a_queue_waits_for_its_viommu_and_ioas(client: Client, guest: Guest) -> None:
    await client.map(guest.ioas, APERTURE_START)
    done: list[Any] = []

    async def make(index: int) -> None:
        done.append(await guest.queue(index, APERTURE_START, 1))

    for index, lock in enumerate((guest.viommu, guest.viommu.hwpt.ioas)):
        async with trio.open_nursery() as nursery, locked(lock):
            nursery.start_soon(make, index)
            await trio.testing.wait_all_tasks_blocked()
            assert len(done) == index
        assert len(done) == index + 1
