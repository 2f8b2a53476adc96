"""FaultQueue queues: every group is answered once, whoever answers it."""

from collections import Counter
from collections.abc import Callable
from errno import EINVAL
from random import Random

import pytest

from iommud.engine.device.device import Device
from iommud.engine.device.fault import INVALID, SUCCESS, FaultQueue, PageFault
from iommud.engine.device.hwpt import Hwpt
from iommud.engine.device.nested import alloc_nested
from iommud.engine.mapping.domain import NEST_PARENT, PASID
from iommud.engine.mapping.user_data import UserData

from .fakes import attach, errno_of, new_hwpt, replace
from .world import World


class Answers:
    """What devices were told. `to(name)` is what is reported with a fault."""

    def __init__(self) -> None:
        self.got: list[tuple[object, int]] = []

    def to(self, name: object) -> Callable[[int], None]:
        return lambda code: self.got.append((name, code))


@pytest.fixture
def answers() -> Answers:
    return Answers()


def new_queue(world: World) -> FaultQueue:
    fault = FaultQueue()
    world.context.objects.reserve(fault)
    world.context.objects.publish(fault)
    return fault


def listening(world: World, queue: FaultQueue | None = None, device: Device | None = None) -> tuple[Device, FaultQueue]:
    """A device on a page table whose faults go to a queue."""
    queue, device = queue or new_queue(world), device or world.device()
    hwpt = new_hwpt(device, world.ioas())
    hwpt.set_fault(queue)
    attach(device, hwpt)
    return device, queue


def cookies(queue: FaultQueue, room: int = 1000) -> list[int]:
    return [group.cookie for group in queue.read(room)]


def test_a_fault_is_read_and_answered(world: World, answers: Answers) -> None:
    device, queue = listening(world)
    fault = PageFault(0x1000, perm=2, pasid=0, group=5)
    assert queue.read(1) == []
    device.report_fault(fault, answers.to("a"))
    assert queue.pending
    (group,) = queue.read(1)
    assert (group.faults, group.attachment.device, group.cookie) == ([fault], device, 1)
    assert queue.read(1) == []
    assert answers.got == []
    assert errno_of(lambda: queue.respond(2, SUCCESS)) == EINVAL
    assert errno_of(lambda: queue.respond(1, 2)) == EINVAL
    queue.respond(1, SUCCESS)
    assert answers.got == [("a", SUCCESS)]
    assert errno_of(lambda: queue.respond(1, SUCCESS)) == EINVAL


def test_a_group_is_read_whole_and_in_its_order(world: World, answers: Answers) -> None:
    device, queue = listening(world)
    for address, group, last in ((1, 7, False), (2, 8, False), (3, 7, False), (4, 7, True), (5, 8, True), (6, 7, True)):
        device.report_fault(PageFault(address, 1, group=group, last=last), answers.to(address))
    assert errno_of(lambda: queue.read(0)) == EINVAL
    assert errno_of(lambda: queue.read(2)) == EINVAL
    first = queue.read(4)
    assert [[fault.address for fault in group.faults] for group in first] == [[1, 3, 4]], "the next one needs two more"
    rest = queue.read(3)
    assert [[fault.address for fault in group.faults] for group in rest] == [[2, 5], [6]]
    for cookie in (2, 1, 3):
        queue.respond(cookie, INVALID)
    assert answers.got == [(5, INVALID), (4, INVALID), (6, INVALID)], "only the last of a group is answered"


def test_the_lowest_cookie_comes_again(world: World, answers: Answers) -> None:
    device, queue = listening(world)
    for n in range(4):
        device.report_fault(PageFault(n, 1), answers.to(n))
    assert cookies(queue, 3) == [1, 2, 3]
    queue.respond(2, SUCCESS)
    queue.respond(1, SUCCESS)
    assert cookies(queue) == [1]


def test_a_reader_is_woken_once(world: World, answers: Answers) -> None:
    device, queue = listening(world)
    woken: list[int] = []
    queue.wake = lambda: woken.append(1)
    device.report_fault(PageFault(0, 1), answers.to(0))
    device.report_fault(PageFault(0, 1), answers.to(1))
    assert woken == [1]


def test_nobody_handles_it(world: World, answers: Answers) -> None:
    device = world.device()
    assert errno_of(lambda: device.report_fault(PageFault(0, 1), answers.to("detached"))) == EINVAL
    attach(device, world.ioas())
    assert errno_of(lambda: device.report_fault(PageFault(0, 1), answers.to("no queue"))) == EINVAL
    assert answers.got == [("detached", INVALID), ("no queue", INVALID)]


@pytest.mark.parametrize("end", ["detach", "replace"])
def test_the_end_of_an_attachment_answers_its_faults_only(world: World, answers: Answers, end: str) -> None:
    device, queue = listening(world)
    other, _ = listening(world, queue)
    device.report_fault(PageFault(0, 1, group=3, last=False), answers.to("never ended"))
    for n in range(2):
        device.report_fault(PageFault(n, 1), answers.to(("read", n)))
    other.report_fault(PageFault(0, 1), answers.to("other, read"))
    assert cookies(queue) == [1, 2, 3]
    device.report_fault(PageFault(9, 1), answers.to("unread"))
    other.report_fault(PageFault(9, 1), answers.to("other, unread"))
    again = new_hwpt(device, world.ioas())
    again.set_fault(queue)
    if end == "detach":
        device.detach()
        attach(device, again)
    else:
        replace(device, again)
    assert answers.got == [("unread", INVALID), (("read", 0), INVALID), (("read", 1), INVALID)]
    assert errno_of(lambda: queue.respond(1, SUCCESS)) == EINVAL
    queue.respond(3, SUCCESS)
    assert [group.attachment.device for group in queue.read(9)] == [other]
    # What was begun under the old attachment is no part of a group under the new one.
    device.report_fault(PageFault(1, 1, group=3), answers.to("ended"))
    assert [len(group.faults) for group in queue.read(9)] == [1]
    queue.close()
    assert Counter(answers.got).most_common(1)[0][1] == 1
    assert len(answers.got) == 6


def test_a_closed_queue_leaves_nobody_waiting(world: World, answers: Answers) -> None:
    device, queue = listening(world)
    device.report_fault(PageFault(0, 1), answers.to("read"))
    assert cookies(queue) == [1]
    device.report_fault(PageFault(0, 1), answers.to("unread"))
    queue.close()
    device.report_fault(PageFault(0, 1), answers.to("late"))
    assert answers.got == [("unread", INVALID), ("read", INVALID), ("late", INVALID)]
    assert queue.waiting == 0


def test_the_end_of_everything(answers: Answers) -> None:
    """A client dies: its context goes with all in it."""
    world = World()
    device, queue = listening(world)
    device.report_fault(PageFault(0, 1), answers.to("read"))
    assert cookies(queue) == [1]
    device.report_fault(PageFault(0, 1), answers.to("unread"))
    world.close()
    assert answers.got == [("unread", INVALID), ("read", INVALID)]


def test_pasids(world: World, answers: Answers) -> None:
    device = world.device(max_pasids=8)
    own, at_3 = new_queue(world), new_queue(world)
    for queue, pasid in ((own, 0), (at_3, 3)):
        hwpt = new_hwpt(device, world.ioas(), PASID)
        hwpt.set_fault(queue)
        attach(device, hwpt, pasid)
    device.report_fault(PageFault(0, 1), answers.to("own"))
    device.report_fault(PageFault(0, 1, pasid=3), answers.to("3"))
    assert errno_of(lambda: device.report_fault(PageFault(0, 1, pasid=4), answers.to("4"))) == EINVAL
    assert (own.waiting, at_3.waiting) == (1, 1)
    device.detach(3)
    assert answers.got == [("4", INVALID), ("3", INVALID)]


def test_a_guest_with_its_own_table_of_pasids(world: World, answers: Answers) -> None:
    device, queue = world.device(max_pasids=8), new_queue(world)
    parent = new_hwpt(device, world.ioas(), NEST_PARENT)
    nested: Hwpt = alloc_nested(
        world.context.objects, parent, device, 0, UserData(1, 4, lambda offset, length: bytes(length))
    )
    nested.set_fault(queue)
    world.context.objects.publish(nested)
    attach(device, nested)
    device.report_fault(PageFault(0, 1, pasid=5), answers.to(5))
    assert [group.faults[0].pasid for group in queue.read(1)] == [5]


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_faults_of_several_devices_in_any_order(world: World, answers: Answers, seed: int) -> None:
    random = Random(seed)
    queue = new_queue(world)
    devices = [listening(world, queue)[0] for _ in range(5)]
    read: dict[int, int] = {}  # cookie -> the fault's number
    expected: Counter[tuple[object, int]] = Counter()
    reported = 0
    while reported < 10_000 or read or queue.pending:
        act = random.random()
        if act < 0.5 and reported < 10_000:
            for _ in range(random.randint(1, 50)):
                device = random.choice(devices)
                device.report_fault(PageFault(reported, 1, group=random.randint(0, 3)), answers.to(reported))
                reported += 1
        elif act < 0.75:
            for group in queue.read(random.randint(1, 60)):
                assert group.cookie not in read
                read[group.cookie] = group.faults[0].address
        else:
            for cookie in random.sample(sorted(read), random.randint(0, len(read))):
                code = random.choice((SUCCESS, INVALID))
                expected[read.pop(cookie), code] += 1
                queue.respond(cookie, code)
    assert Counter(answers.got) == expected
    assert len({name for name, _ in answers.got}) == len(answers.got) == reported
