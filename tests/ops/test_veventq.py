"""VEVENTQ_ALLOC, and the descriptor that it gives. Ref: v7.3 eventq.c"""

import struct
from errno import EBUSY, EEXIST, EFAULT, EINVAL, EMFILE, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP
from select import POLLIN, POLLRDNORM
from typing import Any

import pytest
import trio
import trio.testing

from iommud.engine.device.device import at_once
from iommud.engine.device.veventq import DEEPEST, Veventq
from iommud.engine.device.viommu import Viommu
from iommud.ops.locking import locked
from iommud.selftest.mock_viommu import VEVENTQ_SELFTEST
from iommud.uapi.header import const

from .client import NO_ID, Client, Fields
from .made import nest, new_viommu
from .twins import PAGE

LOST = const("IOMMU_VEVENTQ_FLAG_LOST_EVENTS")


class Watched:
    """A vIOMMU, and the queue of its events behind a descriptor."""

    def __init__(self, client: Client, viommu: Viommu, queue: Veventq, fd: int) -> None:
        self.client = client
        self.viommu = viommu
        self.queue = queue
        self.fd = fd

    def report(self, *events: bytes) -> None:
        for event in events:
            self.viommu.report_event(VEVENTQ_SELFTEST, event)

    async def read(self, size: int = 1000) -> bytes:
        return await self.client.read(self.fd, size)


def event(number: int, data: bytes = b"", *, flags: int = 0) -> bytes:
    """struct iommufd_vevent_header, and what comes after it."""
    return struct.pack("<II", flags, number) + data


async def new_queue(client: Client, viommu: Viommu, depth: int = 3, kind: int = VEVENTQ_SELFTEST) -> Watched:
    sent = await client.send("VEVENTQ_ALLOC", viommu_id=viommu.id, type=kind, veventq_depth=depth)
    queue = client.object(sent.out_veventq_id)
    assert isinstance(queue, Veventq)
    return Watched(client, viommu, queue, sent.out_veventq_fd)


@pytest.fixture
async def viommu(client: Client) -> Viommu:
    return await new_viommu(client)


@pytest.fixture
async def watched(client: Client, viommu: Viommu) -> Watched:
    return await new_queue(client, viommu)


# --- the ioctl ---


@pytest.mark.parametrize("depth", [1, DEEPEST])
async def test_a_queue_has_an_id_and_a_descriptor(client: Client, viommu: Viommu, depth: int) -> None:
    watched = await new_queue(client, viommu, depth)
    assert (watched.queue.depth, watched.queue.type, watched.fd) == (depth, VEVENTQ_SELFTEST, 100)
    assert viommu.veventqs == {VEVENTQ_SELFTEST: watched.queue}
    number = watched.queue.id
    await client.send("DESTROY", id=number, expect=EBUSY, why=f"event queue {number} is in use by its open descriptor")
    await client.send("DESTROY", id=viommu.id, expect=EBUSY, why=f"is in use by {watched.queue}")
    client.descriptors.close(watched.fd)
    assert client.context.objects.has(watched.queue), "it stays until it is destroyed"
    await client.send("DESTROY", id=number)
    await client.send("DESTROY", id=viommu.id)


async def test_one_queue_for_each_type(client: Client, viommu: Viommu) -> None:
    """Also one that nobody will ever report: the type is not asked about."""
    first = await new_queue(client, viommu)
    await new_queue(client, viommu, kind=99)
    fields: Fields = {"viommu_id": viommu.id, "type": VEVENTQ_SELFTEST, "veventq_depth": 1}
    await client.send("VEVENTQ_ALLOC", expect=EEXIST, why=f"{viommu} has {first.queue} for events of type", **fields)
    client.descriptors.close(first.fd)
    await client.send("VEVENTQ_ALLOC", expect=EEXIST, **fields)
    await client.send("DESTROY", id=first.queue.id)
    await client.send("VEVENTQ_ALLOC", **fields)


async def test_alloc_in_the_kernels_order(client: Client, viommu: Viommu) -> None:
    first = await new_queue(client, viommu, kind=99)
    await client.refuse_in_order(
        "VEVENTQ_ALLOC",
        {"flags": 1, "viommu_id": NO_ID, "type": 0, "veventq_depth": 0, "__reserved": 1},
        (EOPNOTSUPP, "flags 0x1 has the unknown bits", {"flags": 0}),
        (EOPNOTSUPP, "__reserved is not 0", {"__reserved": 0}),
        (EOPNOTSUPP, "type 0x0 is no type of events", {"type": 99}),
        (EINVAL, "a depth of 0", {"veventq_depth": DEEPEST + 1}),
        (EINVAL, f"a depth of {DEEPEST + 1}, wanted: 1 to {DEEPEST}", {"veventq_depth": 1}),
        (ENOENT, f"there is no object {NO_ID}; wanted: vIOMMU", {"viommu_id": viommu.hwpt.id}),
        (ENOENT, "is of kind HWPT; wanted: vIOMMU", {"viommu_id": viommu.id}),
        (EEXIST, f"has {first.queue} for events of type 0x63", {"type": 98}),
    )


async def test_alloc_refused_leaves_nothing(client: Client, viommu: Viommu) -> None:
    before = client.kinds()
    fields: Fields = {"viommu_id": viommu.id, "type": 7, "veventq_depth": 1}
    client.faults.arm(1)
    await client.send("VEVENTQ_ALLOC", expect=ENOMEM, why="ID", **fields)
    await client.send("VEVENTQ_ALLOC", read_only=True, expect=EFAULT, why="the struct cannot be written", **fields)
    client.descriptors.room = 0
    await client.send("VEVENTQ_ALLOC", expect=EMFILE, why="no descriptor free", **fields)
    client.descriptors.room = 1
    at = 0x10_0000
    client.descriptors.before_write = lambda: client.memory.read_only.add(at // PAGE)
    await client.send("VEVENTQ_ALLOC", at=at, expect=EFAULT, why="the descriptor cannot be written", **fields)
    assert (client.kinds(), viommu.users, viommu.veventqs) == (before, [], {})


async def test_the_viommu_is_locked_until_the_client_knows(client: Client, viommu: Viommu) -> None:
    """So two at once do not get in each other's way; but who has the answer can destroy it all."""
    made: list[Watched] = []

    async def make() -> None:
        made.append(await new_queue(client, viommu))

    def look() -> None:
        assert viommu.shortterm_users == [], "the client may know the ID by now"

    client.descriptors.before_write = look
    async with trio.open_nursery() as nursery, locked(viommu):
        nursery.start_soon(make)
        await trio.testing.wait_all_tasks_blocked()
        assert made == []
        client.cannot_go(viommu.id)
    client.descriptors.close(made[0].fd)
    await client.send("DESTROY", id=made[0].queue.id)


async def test_the_descriptor_answers_no_ioctl_and_takes_nothing(client: Client, watched: Watched) -> None:
    file: Any = client.descriptors.open[watched.fd]
    assert await file.ioctl(client.caller, client.rows["IOAS_ALLOC"].number, 0) == -ENOTTY
    for data in (b"", b"12345678"):
        with pytest.raises(OSError) as refused:
            await client.write(watched.fd, data)
        assert refused.value.errno == EINVAL


# --- read ---


async def test_read_gives_headers_with_their_events(watched: Watched) -> None:
    assert await watched.read() == b""
    watched.report(b"first", b"", b"third")
    assert await watched.read() == event(0, b"first") + event(1) + event(2, b"third")
    assert await watched.read() == b""
    watched.report(b"next")
    assert await watched.read() == event(3, b"next")


async def test_read_takes_as_many_as_fit(watched: Watched) -> None:
    watched.report(b"12345678", b"abcd", b"")
    assert await watched.read(16) == event(0, b"12345678")
    assert await watched.read(19) == event(1, b"abcd"), "not even a header"
    watched.report(b"x")
    assert await watched.read(16) == event(2), "not the next one's event"
    assert await watched.read(9) == event(3, b"x")


async def test_read_that_is_too_short(watched: Watched) -> None:
    """For a header, whatever there is; or for the first event."""
    for size in (0, 7):
        with pytest.raises(OSError) as refused:
            await watched.read(size)
        assert refused.value.errno == EINVAL
    assert await watched.read(8) == b""
    watched.report(b"1234")
    with pytest.raises(OSError, match="the next event has 4 bytes and a header") as refused:
        await watched.read(11)
    assert refused.value.errno == EINVAL
    assert await watched.read(12) == event(0, b"1234"), "it is still there"


async def test_what_finds_no_room_is_told_of(watched: Watched) -> None:
    """By a header that says so, with the number of the last one; or by the gap in the numbers."""
    watched.report(b"a", b"b", b"c", b"lost", b"lost")
    assert await watched.read(18) == event(0, b"a") + event(1, b"b")
    assert await watched.read() == event(2, b"c") + event(4, flags=LOST)
    assert await watched.read() == b""
    watched.report(b"d", b"e", b"f", b"lost")
    await watched.read(9)
    watched.report(b"g")
    assert await watched.read() == event(6, b"e") + event(7, b"f") + event(9, b"g")


# --- poll ---


async def test_poll(client: Client, watched: Watched) -> None:
    """It can never be written to."""
    woken: list[str] = []
    assert client.poll(watched.fd, lambda: woken.append("one")) == 0
    assert client.poll(watched.fd) == 0, "who does not want to be woken changes nothing"
    watched.report(b"a", b"b")
    assert woken == ["one"]
    assert client.poll(watched.fd, lambda: woken.append("two")) == POLLIN | POLLRDNORM
    await watched.read(9)
    assert client.poll(watched.fd) == POLLIN | POLLRDNORM
    await watched.read()
    assert client.poll(watched.fd) == 0
    watched.report(b"c")
    assert woken == ["one"]


async def test_nobody_is_woken_when_the_descriptor_is_closed(client: Client, watched: Watched) -> None:
    client.poll(watched.fd, lambda: pytest.fail("nobody is there to be woken"))
    client.descriptors.close(watched.fd)
    watched.report(b"a")
    assert watched.queue.pending


# --- where events come from ---


async def test_an_event_of_a_device(client: Client) -> None:
    """It has the guest's number of the device."""
    device = client.device()
    viommu = await new_viommu(client, device)
    op = const("IOMMU_TEST_OP_TRIGGER_VEVENT")
    trigger: Fields = {"op": op, "trigger_vevent": {"dev_id": device.id}}
    await client.send("TEST_CMD", expect=ENOENT, why="is attached to no page table of a vIOMMU", **trigger)
    await client.send("VDEVICE_ALLOC", viommu_id=viommu.id, dev_id=device.id, virt_id=0x99)
    hwpt = await nest(client, device, viommu.id)
    at_once(device.attach(hwpt.id))
    await client.send("TEST_CMD", expect=EOPNOTSUPP, why="has no queue for events", **trigger)
    watched = await new_queue(client, viommu)
    await client.send("TEST_CMD", **trigger)
    assert await watched.read() == event(0, struct.pack("<I", 0x99))
