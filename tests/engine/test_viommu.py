"""What stands on a vIOMMU: vDEVICEs and their tombstones, event queues against a model, hardware
queues and what they hold.
"""

import random
from collections.abc import Iterator
from errno import EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, ERANGE

import pytest

from iommud.engine.device.device import Device
from iommud.engine.device.hw_queue import HwQueue, alloc_hw_queue
from iommud.engine.device.vdevice import Vdevice, alloc_vdevice
from iommud.engine.device.veventq import SEQUENCE_LAST, Veventq, alloc_veventq
from iommud.engine.device.viommu import GuestQueue, Viommu, ViommuDriver
from iommud.engine.mapping.domain import NEST_PARENT
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError

from .fakes import P, errno_of, gone, map_, new_hwpt, unmap
from .world import World

HEADER = 8


class FakeViommu(ViommuDriver):
    def __init__(self) -> None:
        self.queues: list[GuestQueue] = []
        self.refuses = 0

    def add_hw_queue(self, queue: GuestQueue) -> None:
        if self.refuses:
            raise IoctlError(self.refuses, "told to refuse")
        self.queues.append(queue)

    def remove_hw_queue(self, queue: GuestQueue) -> None:
        self.queues.remove(queue)


class Guest:
    """A vIOMMU of one device, on a nest parent of an IOAS."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ioas: Ioas = world.ioas()
        self.device: Device = world.device()
        self.driver = FakeViommu()
        self.viommu = Viommu(world.context, new_hwpt(self.device, self.ioas, NEST_PARENT), self.device.iommu)
        self.viommu.driver = self.driver
        world.context.objects.reserve(self.viommu)
        world.context.objects.publish(self.viommu)

    def vdevice(self, virt_id: int, device: Device | None = None) -> Vdevice:
        vdevice = alloc_vdevice(self.world.context.objects, self.viommu, device or self.device, virt_id)
        self.world.context.objects.publish(vdevice)
        return vdevice

    def events(self, depth: int) -> Veventq:
        queue = alloc_veventq(self.world.context.objects, self.viommu, 7, depth)
        self.world.context.objects.publish(queue)
        return queue

    def queue(self, iova: int, length: int, index: int = 0) -> HwQueue:
        queue = HwQueue(self.viommu, 1, index, iova, length)
        alloc_hw_queue(self.world.context, queue)
        self.world.context.objects.publish(queue)
        return queue

    def destroy(self, *objects: Vdevice | Veventq | HwQueue) -> None:
        for obj in objects:
            self.world.context.objects.remove(obj.id)


@pytest.fixture
def guest(world: World) -> Iterator[Guest]:
    guest = Guest(world)
    yield guest
    world.faults.arm(None)
    assert guest.viommu.users == []
    world.context.objects.remove(guest.viommu.id)
    assert guest.viommu not in guest.viommu.hwpt.users


# --- vDEVICEs ---


def test_a_vdevice_is_found_by_both_names(world: World, guest: Guest) -> None:
    vdevice = guest.vdevice(U64_MAX)
    assert guest.viommu.device_of(U64_MAX) is guest.device
    assert guest.viommu.virt_id_of(guest.device.port) == U64_MAX
    assert guest.viommu.device_of(0) is None
    assert guest.viommu.virt_id_of(world.device().port) is None
    assert errno_of(lambda: world.context.objects.remove(guest.viommu.id)) == EBUSY
    guest.destroy(vdevice)
    assert guest.viommu.device_of(U64_MAX) is None
    assert guest.device.vdevice is None


def test_refused_vdevices_leave_nothing(world: World, guest: Guest) -> None:
    vdevice, other = guest.vdevice(1), world.device(iommu=guest.device.iommu)
    foreign, same_kind = world.device(make="other"), world.device()
    before = world.snapshot()
    assert errno_of(lambda: guest.vdevice(2)) == EEXIST
    assert errno_of(lambda: guest.vdevice(1, other)) == EEXIST
    assert errno_of(lambda: guest.vdevice(2, foreign)) == EINVAL
    assert errno_of(lambda: guest.vdevice(2, same_kind)) == EINVAL
    world.faults.arm(1)
    assert errno_of(lambda: guest.vdevice(2, other)) == ENOMEM
    assert world.snapshot() == before
    assert (other.vdevice, list(guest.viommu.vdevices)) == (None, [1])
    guest.destroy(vdevice)


def test_a_device_takes_its_vdevice_and_the_id_stays_taken(world: World, guest: Guest) -> None:
    vdevice = guest.vdevice(1)
    taken = len(world.context.objects)
    world.unbind(guest.device)
    assert gone(world.context, vdevice)
    assert guest.viommu.vdevices == {}
    assert len(world.context.objects) == taken - 1, "the device's ID is free, the vDEVICE's is not"
    assert errno_of(lambda: world.context.objects.remove(vdevice.id)) == ENOENT
    again = guest.vdevice(1, world.device(iommu=guest.device.iommu))
    assert again.id > vdevice.id
    guest.destroy(again)


def test_a_vdevice_that_is_gone_leaves_no_tombstone(world: World, guest: Guest) -> None:
    guest.destroy(guest.vdevice(1))
    taken = len(world.context.objects)
    world.unbind(guest.device)
    assert len(world.context.objects) == taken - 1


# --- events ---


def test_one_queue_for_a_type(world: World, guest: Guest) -> None:
    assert errno_of(lambda: guest.viommu.report_event(7, b"x")) == EOPNOTSUPP
    queue = guest.events(1)
    before = world.snapshot()
    assert errno_of(lambda: guest.events(1)) == EEXIST
    assert world.snapshot() == before
    assert errno_of(lambda: guest.viommu.report_event(8, b"x")) == EOPNOTSUPP
    guest.destroy(queue)
    world.faults.arm(1)
    assert errno_of(lambda: guest.events(1)) == ENOMEM
    assert guest.viommu.veventqs == {}


def test_events_wake_once(guest: Guest) -> None:
    queue, woken = guest.events(1), []
    queue.wake = lambda: woken.append(1)
    for _ in range(3):
        guest.viommu.report_event(7, b"x")
    assert len(woken) == 1
    guest.destroy(queue)


def test_what_does_not_fit_stays(guest: Guest) -> None:
    queue = guest.events(1)
    assert queue.next(100, HEADER) is None
    guest.viommu.report_event(7, b"four")
    assert queue.next(HEADER - 1, HEADER) is None
    assert errno_of(lambda: queue.next(HEADER + 3, HEADER)) == EINVAL
    assert queue.next(HEADER + 4, HEADER) == (0, b"four")
    assert not queue.pending
    guest.destroy(queue)


@pytest.mark.parametrize("seed", range(20))
def test_events_against_a_model(guest: Guest, seed: int) -> None:
    """The model keeps every number, and says which were lost; the mark is there as long as the last
    event of all was lost.
    """
    chance, depth = random.Random(seed), seed % 4 + 1
    queue = guest.events(depth)
    queue._sequence = number = SEQUENCE_LAST - 5
    kept: list[int] = []
    mark: int | None = None
    for _ in range(200):
        if chance.random() < 0.6:
            guest.viommu.report_event(7, number.to_bytes(4, "little"))
            if len(kept) < depth:
                kept.append(number)
                mark = None
            else:
                mark = number
            number = 0 if number == SEQUENCE_LAST else number + 1
        else:
            found = queue.next(HEADER + 4, HEADER)
            if kept:
                first = kept.pop(0)
                assert found == (first, first.to_bytes(4, "little"))
            else:
                assert found == (None if mark is None else (mark, None))
                mark = None
        assert queue.pending == (bool(kept) or mark is not None)
    guest.destroy(queue)


# --- hardware queues ---


def test_a_queue_holds_its_pages(world: World, guest: Guest) -> None:
    origin = world.origin()
    map_(guest.ioas, origin, 16 * P, 2 * P, iova=0)
    map_(guest.ioas, origin, 32 * P, P, iova=2 * P)
    first, second = guest.queue(8, P), guest.queue(P + 1, 1, 1)
    assert guest.driver.queues == [first, second]
    assert errno_of(lambda: unmap(guest.ioas, 0, 2 * P)) == EBUSY
    assert unmap(guest.ioas, 2 * P, P) == P
    guest.destroy(first)
    assert errno_of(lambda: unmap(guest.ioas, 0, 2 * P)) == EBUSY
    guest.destroy(second)
    assert guest.driver.queues == []
    assert unmap(guest.ioas, 0, 2 * P) == 2 * P


def test_who_holds_beside_a_queue_is_asked_to_let_go_when_it_is_gone(world: World, guest: Guest) -> None:
    map_(guest.ioas, world.origin(), 16 * P, P, iova=0)
    access = world.user(guest.ioas).access
    queue = guest.queue(0, P)
    access.pin_pages(0, P, write=False)
    assert errno_of(lambda: guest.ioas.iopt.unmap(0, P - 1, 1)) == EBUSY
    guest.destroy(queue)
    assert guest.ioas.iopt.unmap(0, P - 1, 1) == (0, 0), "it stops at what an access has pinned"
    access.unpin_pages(0, P)
    assert unmap(guest.ioas, 0, P) == P


def test_queues_that_cannot_be(world: World, guest: Guest) -> None:
    origin = world.origin()
    map_(guest.ioas, origin, 16 * P, P, iova=0)
    map_(guest.ioas, origin, 32 * P, P, iova=P)
    before = world.snapshot()
    assert errno_of(lambda: guest.queue(0, 2 * P)) == EFAULT, "two pages that lie apart"
    assert errno_of(lambda: guest.queue(P, P + 1)) == ENOENT
    assert errno_of(lambda: guest.queue(0, U64_MAX)) == ERANGE
    assert errno_of(lambda: guest.queue(0, 1 << 62)) == ENOMEM
    guest.driver.refuses = EEXIST
    assert errno_of(lambda: guest.queue(0, P)) == EEXIST
    guest.driver.refuses = 0
    assert world.snapshot() == before
    assert guest.viommu.users == []


def test_whatever_fails_a_refused_queue_leaves_nothing(world: World, guest: Guest) -> None:
    unmap(guest.ioas, map_(guest.ioas, world.origin(), 16 * P, P, iova=0), P)
    map_(guest.ioas, world.origin(), 16 * P, P, iova=0)
    before = world.snapshot()
    for at in range(1, 100):
        world.faults.arm(at)
        try:
            queue = guest.queue(0, P)
        except IoctlError:
            world.faults.arm(None)
            assert world.snapshot() == before
            assert guest.viommu.users == []
            continue
        world.faults.arm(None)
        guest.destroy(queue)
        assert at > 2, "the two IDs can fail at least"
        return
    raise AssertionError("it never succeeds")


def test_a_context_ends_with_all_of_it(world: World) -> None:
    guest = Guest(world)
    map_(guest.ioas, world.origin(), 16 * P, P, iova=0)
    guest.queue(0, P)
    guest.events(1)
    guest.vdevice(1)
    world.unbind(guest.device)
    world.context.objects.remove_all()
    assert guest.driver.queues == []
    assert guest.viommu.users == []


# --- what it shows ---


def test_ranges_are_of_one_context(world: World, guest: Guest) -> None:
    shown, other = world.host.shown, world.new_context()
    memory = bytearray(b"a" * P + b"b" * P)
    told: list[tuple[int, bytes]] = []
    assert shown.show(world.context, memory) is None, "where the file cannot be mapped"
    shown.announce = lambda offset, data: told.append((offset, data))
    found = shown.show(world.context, memory)
    assert found is not None
    offset = found[0]
    assert found == (offset, len(memory))
    assert told == [(offset, bytes(memory))]
    assert offset > 0
    assert offset % P == 0
    assert shown.read(world.context, offset + P, P) == b"b" * P
    assert shown.read(other, offset, P) is None
    assert shown.read(world.context, offset + P, 2 * P) is None
    shown.write(offset + P, b"c" * P)
    assert memory[P:] == b"c" * P
    shown.write(offset + 2 * P, b"d" * P)
    shown.hide(offset)
    assert shown.read(world.context, offset, P) is None
    assert len(shown) == 0
