"""FAULT_QUEUE_ALLOC, and the descriptor that it gives. Ref: v7.3 eventq.c"""

import struct
from collections.abc import Iterator
from errno import EBUSY, EFAULT, EINVAL, EMFILE, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP, ESPIPE
from select import POLLIN, POLLOUT, POLLRDNORM
from typing import Any, NamedTuple

import pytest

from iommud.engine.device.device import Device, at_once
from iommud.engine.device.fault import INVALID, SUCCESS, FaultQueue, PageFault
from iommud.engine.device.hwpt import Hwpt
from iommud.selftest.plug import PASIDS
from iommud.uapi.header import const

from .client import Client
from .made import FAULT, PARENT, PASID, alloc, nest
from .twins import PAGE

RECORD = struct.Struct("<IIIIIIQII")
PASID_VALID, LAST_PAGE = const("IOMMU_PGFAULT_FLAGS_PASID_VALID"), const("IOMMU_PGFAULT_FLAGS_LAST_PAGE")
READ, WRITE = const("IOMMU_PGFAULT_PERM_READ"), const("IOMMU_PGFAULT_PERM_WRITE")
READY = POLLIN | POLLRDNORM


class Record(NamedTuple):
    """struct iommu_hwpt_pgfault."""

    flags: int
    dev_id: int
    pasid: int
    grpid: int
    perm: int
    reserved: int
    addr: int
    length: int
    cookie: int


async def read(client: Client, fd: int, size: int = 100 * RECORD.size) -> list[Record]:
    return [Record(*fields) for fields in RECORD.iter_unpack(await client.read(fd, size))]


def answer(*pairs: tuple[int, int]) -> bytes:
    """struct iommu_hwpt_page_response: cookie and code."""
    return b"".join(struct.pack("<II", *pair) for pair in pairs)


class Faulty:
    """A device whose faults go to the queue behind a descriptor; `answers`: what it was told, by
    the address of the fault.
    """

    def __init__(self, client: Client, fd: int, queue: FaultQueue, device: Device, hwpt: Hwpt) -> None:
        self.client = client
        self.fd = fd
        self.queue = queue
        self.device = device
        self.hwpt = hwpt
        self.answers: dict[int, int] = {}

    def fault(self, address: int, **how: Any) -> None:
        def respond(code: int) -> None:
            assert address not in self.answers, "a group is answered once"
            self.answers[address] = code

        self.device.report_fault(PageFault(address, how.pop("perm", READ), **how), respond)


async def new_queue(client: Client) -> tuple[FaultQueue, int]:
    """And its descriptor."""
    sent = await client.send("FAULT_QUEUE_ALLOC")
    queue = client.object(sent.out_fault_id)
    assert isinstance(queue, FaultQueue)
    return queue, sent.out_fault_fd


@pytest.fixture
async def faulty(client: Client) -> Faulty:
    device = client.device(flags=PASIDS)
    queue, fd = await new_queue(client)
    hwpt = await alloc(client, device, await client.new_ioas(), FAULT | PASID, fault_id=queue.id)
    at_once(device.attach(hwpt.id))
    return Faulty(client, fd, queue, device, hwpt)


@pytest.fixture(autouse=True)
def all_are_answered(request: pytest.FixtureRequest, client: Client) -> Iterator[None]:
    """Whatever happened, no queue that is left has a device that waits for ever."""
    yield
    queues = [obj for obj in client.context.objects if isinstance(obj, FaultQueue)]
    for fd in list(client.descriptors.open):
        client.descriptors.close(fd)
    assert [queue.waiting for queue in queues] == [0] * len(queues)


# --- the ioctl ---


async def test_a_queue_has_an_id_and_a_descriptor(client: Client) -> None:
    await client.new_ioas()
    queue, fd = await new_queue(client)
    assert (queue.id, fd) == (2, 100)
    await client.send("DESTROY", id=2, expect=EBUSY, why="fault queue 2 is in use by its open descriptor")
    client.descriptors.close(fd)
    assert client.kinds() == ["IOAS", "fault queue"], "the queue stays until it is destroyed"
    await client.send("DESTROY", id=2)


async def test_the_descriptor_keeps_the_context(client: Client) -> None:
    _, fd = await new_queue(client)
    client.close_device()
    assert client.kinds() == ["fault queue"]
    client.descriptors.close(fd)
    assert client.kinds() == []


async def test_alloc_refused_leaves_nothing(client: Client) -> None:
    """What can be written is known before the client is made to open anything."""
    await client.send("FAULT_QUEUE_ALLOC", flags=1, expect=EOPNOTSUPP, why="unknown bits 0x1")
    client.faults.arm(1)
    await client.send("FAULT_QUEUE_ALLOC", expect=ENOMEM, why="ID")
    client.descriptors.room = 0
    await client.send("FAULT_QUEUE_ALLOC", read_only=True, expect=EFAULT, why="the struct cannot be written")
    sent = await client.send(
        "FAULT_QUEUE_ALLOC", out_fault_id=7, out_fault_fd=8, expect=EMFILE, why="no descriptor free"
    )
    assert (sent.out_fault_id, sent.out_fault_fd) == (7, 8)
    assert client.kinds() == []
    assert client.mirror.log == []
    assert client.host.standing == 1, "the context alone"


async def test_a_struct_that_becomes_read_only_at_the_last_moment(client: Client) -> None:
    """When the queue is there already."""
    at = 0x10_0000
    client.descriptors.before_write = lambda: client.memory.read_only.add(at // PAGE)
    await client.send("FAULT_QUEUE_ALLOC", at=at, expect=EFAULT, why="the descriptor cannot be written")
    assert (client.kinds(), client.descriptors.open) == ([], {})
    assert client.host.standing == 1
    client.descriptors.before_write = lambda: None
    assert (await new_queue(client))[0].id == 1


async def test_a_queue_that_is_in_use_by_the_last_moment_stays(client: Client) -> None:
    """Somebody else guessed its ID."""
    at = 0x10_0000
    device, ioas = client.device(), await client.new_ioas()

    def meanwhile() -> None:
        client.memory.read_only.add(at // PAGE)
        client.object(3).users.append("a page table")

    client.descriptors.before_write = meanwhile
    await client.send("FAULT_QUEUE_ALLOC", at=at, expect=EFAULT, why="the descriptor cannot be written")
    assert client.kinds() == [device.kind, "IOAS", "fault queue"]
    assert client.object(3).users == ["a page table"]
    client.object(3).users.clear()
    await client.send("DESTROY", id=3)
    assert client.kinds() == [device.kind, "IOAS"], f"IOAS {ioas} is left"


async def test_the_id_can_be_used_before_the_client_knows_it(client: Client) -> None:
    """Who guesses it finds the queue, whose descriptor is there by then."""
    seen: list[list[str]] = []
    client.descriptors.before_write = lambda: seen.append(client.kinds())
    await new_queue(client)
    assert seen == [["fault queue"]]


async def test_the_descriptor_answers_no_ioctl(client: Client, faulty: Faulty) -> None:
    file: Any = client.descriptors.open[faulty.fd]
    assert await file.ioctl(client.caller, client.rows["IOAS_ALLOC"].number, 0) == -ENOTTY


# --- read ---


async def test_read_gives_each_group_a_cookie(client: Client, faulty: Faulty) -> None:
    assert await read(client, faulty.fd) == []
    faulty.fault(0x1000, perm=READ | WRITE, group=7)
    faulty.fault(0x2000, perm=WRITE)
    assert await read(client, faulty.fd) == [
        Record(LAST_PAGE, faulty.device.id, 0, 7, READ | WRITE, 0, 0x1000, 0, 1),
        Record(LAST_PAGE, faulty.device.id, 0, 0, WRITE, 0, 0x2000, 0, 2),
    ]
    assert await read(client, faulty.fd) == []
    assert faulty.answers == {}


async def test_read_of_a_pasid(client: Client, faulty: Faulty) -> None:
    at_once(faulty.device.attach(faulty.hwpt.id, 5))
    faulty.fault(0x1000, pasid=5)
    (record,) = await read(client, faulty.fd)
    assert (record.flags, record.pasid) == (PASID_VALID | LAST_PAGE, 5)


async def test_read_takes_whole_groups(client: Client, faulty: Faulty) -> None:
    """As many as fit. One that is not ended is not there yet."""
    faulty.fault(0x1000, group=3, last=False)
    faulty.fault(0x2000, group=3, last=False)
    assert await read(client, faulty.fd) == []
    faulty.fault(0x9000)
    faulty.fault(0x3000, group=3)
    with pytest.raises(OSError) as refused:
        await client.read(faulty.fd, 0)
    assert refused.value.errno == EINVAL
    assert [record.addr for record in await read(client, faulty.fd, 3 * RECORD.size)] == [0x9000]
    for size in (0, RECORD.size, 2 * RECORD.size):
        with pytest.raises(OSError, match="the next group has 3 faults") as refused:
            await client.read(faulty.fd, size)
        assert refused.value.errno == EINVAL
    records = await read(client, faulty.fd, 3 * RECORD.size)
    assert [(record.addr, record.flags, record.cookie) for record in records] == [
        (0x1000, 0, 2),
        (0x2000, 0, 2),
        (0x3000, LAST_PAGE, 2),
    ]
    assert await client.read(faulty.fd, 0) == b""


@pytest.mark.parametrize("size", [1, RECORD.size - 1, RECORD.size + 8, 10 * RECORD.size + 1])
async def test_read_of_no_multiple_of_a_record(client: Client, faulty: Faulty, size: int) -> None:
    """Before it is looked whether there is any."""
    faulty.fault(0x1000)
    with pytest.raises(OSError) as refused:
        await client.read(faulty.fd, size)
    assert refused.value.errno == ESPIPE
    assert faulty.queue.pending


async def test_read_that_may_be_a_part_of_a_longer_one(client: Client, faulty: Faulty) -> None:
    """Its size is the kernel's choice, not the client's."""
    faulty.fault(0x1000)
    assert 31 * PAGE % RECORD.size
    assert len(await read(client, faulty.fd, 31 * PAGE)) == 1
    with pytest.raises(OSError) as refused:
        await client.read(faulty.fd, 31 * PAGE - 1)
    assert refused.value.errno == ESPIPE


# --- write ---


async def test_write_answers(client: Client, faulty: Faulty) -> None:
    for address in (0x1000, 0x2000, 0x3000):
        faulty.fault(address)
    await read(client, faulty.fd)
    assert await client.write(faulty.fd, answer((2, INVALID), (1, SUCCESS))) == 16
    assert faulty.answers == {0x1000: SUCCESS, 0x2000: INVALID}
    faulty.fault(0x4000)
    (record,) = await read(client, faulty.fd)
    assert record.cookie == 1, "the lowest that is free"
    assert await client.write(faulty.fd, b"") == 0


@pytest.mark.parametrize("wrong", [(1, 2), (3, SUCCESS), (0, SUCCESS), (0xFFFF_FFFF, INVALID)])
async def test_write_of_a_wrong_answer(client: Client, faulty: Faulty, wrong: tuple[int, int]) -> None:
    """What comes before it counts; what comes after is not looked at."""
    faulty.fault(0x1000)
    faulty.fault(0x2000)
    await read(client, faulty.fd)
    with pytest.raises(OSError) as refused:
        await client.write(faulty.fd, answer(wrong, (1, SUCCESS)))
    assert refused.value.errno == EINVAL
    assert faulty.answers == {}
    assert await client.write(faulty.fd, answer((2, SUCCESS), wrong, (1, SUCCESS))) == 8
    assert faulty.answers == {0x2000: SUCCESS}


async def test_write_before_it_was_read(client: Client, faulty: Faulty) -> None:
    faulty.fault(0x1000)
    with pytest.raises(OSError, match="no group of faults with the cookie 1") as refused:
        await client.write(faulty.fd, answer((1, SUCCESS)))
    assert refused.value.errno == EINVAL


@pytest.mark.parametrize("size", [1, 7, 9])
async def test_write_of_no_multiple_of_an_answer(client: Client, faulty: Faulty, size: int) -> None:
    faulty.fault(0x1000)
    await read(client, faulty.fd)
    with pytest.raises(OSError) as refused:
        await client.write(faulty.fd, answer((1, SUCCESS), (1, SUCCESS))[:size])
    assert refused.value.errno == ESPIPE
    assert faulty.answers == {}


async def test_write_that_may_be_a_part_of_a_longer_one(client: Client, faulty: Faulty) -> None:
    faulty.fault(0x1000)
    await read(client, faulty.fd)
    assert await client.write(faulty.fd, answer((1, SUCCESS)).ljust(31 * PAGE + 5, b"\xff")) == 8
    assert faulty.answers == {0x1000: SUCCESS}


# --- poll ---


async def test_poll(client: Client, faulty: Faulty) -> None:
    """It can always be written to."""
    woken: list[str] = []
    assert client.poll(faulty.fd, lambda: woken.append("one")) == POLLOUT
    assert client.poll(faulty.fd) == POLLOUT, "who does not want to be woken changes nothing"
    faulty.fault(0x1000, last=False)
    assert woken == []
    faulty.fault(0x2000)
    faulty.fault(0x3000)
    assert woken == ["one"]
    assert client.poll(faulty.fd, lambda: woken.append("two")) == POLLOUT | READY
    await read(client, faulty.fd, 2 * RECORD.size)
    assert client.poll(faulty.fd) == POLLOUT | READY
    await read(client, faulty.fd)
    assert client.poll(faulty.fd) == POLLOUT
    faulty.fault(0x4000)
    assert woken == ["one"]


# --- the end ---


async def test_who_waits_when_the_descriptor_is_closed_is_told_to_give_up(client: Client, faulty: Faulty) -> None:
    faulty.fault(0x1000)
    await read(client, faulty.fd)
    faulty.fault(0x2000)
    client.poll(faulty.fd, lambda: pytest.fail("nobody is there to be woken"))
    client.descriptors.close(faulty.fd)
    assert faulty.answers == {0x1000: INVALID, 0x2000: INVALID}
    faulty.fault(0x3000)
    assert faulty.answers[0x3000] == INVALID


async def test_who_waits_when_the_device_goes_elsewhere_is_told_to_give_up(client: Client, faulty: Faulty) -> None:
    faulty.fault(0x1000)
    (record,) = await read(client, faulty.fd)
    faulty.device.detach()
    assert faulty.answers == {0x1000: INVALID}
    with pytest.raises(OSError, match="waits for an answer"):
        await client.write(faulty.fd, answer((record.cookie, SUCCESS)))
    await client.send("DESTROY", id=faulty.queue.id, expect=EBUSY, why="in use by its open descriptor, HWPT")


async def test_faults_of_a_nested_page_table(client: Client) -> None:
    device, ioas = client.device(), await client.new_ioas()
    queue, fd = await new_queue(client)
    parent = await alloc(client, device, ioas, PARENT)
    hwpt = await nest(client, device, parent.id, flags=FAULT, fault_id=queue.id)
    at_once(device.attach(hwpt.id))
    op = const("IOMMU_TEST_OP_TRIGGER_IOPF")
    wanted = {"dev_id": device.id, "pasid": 9, "grpid": 3, "perm": WRITE, "addr": 0x7000}
    await client.send("TEST_CMD", op=op, trigger_iopf=wanted)
    (record,) = await read(client, fd)
    assert (record.pasid, record.grpid, record.addr) == (9, 3, 0x7000), "a guest's PASIDs are its own"
    await client.send("TEST_CMD", op=op, trigger_iopf=wanted | {"dev_id": ioas}, expect=ENOENT)
