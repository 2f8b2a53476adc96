"""What an observer is told, in order; that a failed request tells nothing; and that engines whom
nobody watches tell nobody.

That what is told is what there is, is asked after every test of the engine (mirror.py).
"""

from errno import EINVAL, ENOENT, EPERM

from iommud.engine.device.fault import FaultQueue, PageFault
from iommud.engine.device.veventq import alloc_veventq
from iommud.engine.device.viommu import Viommu
from iommud.engine.events import Observer
from iommud.engine.mapping.domain import FAULT_ID_VALID, NEST_PARENT
from iommud.engine.mapping.io_pagetable import PROT_READ
from iommud.engine.mapping.split import cut

from .fakes import RW, P, attach, errno_of, map_, new_hwpt, replace, unmap
from .world import World


def told(world: World) -> list[tuple[object, ...]]:
    log, world.mirror.log = world.mirror.log, []
    return log


def test_a_client_and_its_device(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device()
    assert told(world) == [("created", "IOAS", 1), ("created", "device", 2)]
    map_(ioas, origin, 0, 2 * P, 0x10000)
    map_(ioas, origin, 4 * P, P, 0x20000, prot=PROT_READ)
    assert told(world) == [("mapped", 0x10000, 0x11FFF, RW), ("mapped", 0x20000, 0x20FFF, PROT_READ)]
    automatic = attach(device, ioas)
    other = new_hwpt(device, ioas)
    replace(device, other)
    assert told(world) == [
        ("created", "HWPT", automatic),
        ("attached", 2, 0, None, automatic),
        ("created", "HWPT", other.id),
        ("attached", 2, 0, automatic, other.id),
        ("gone", "HWPT", automatic),
    ]
    device.dma_write(0x10FFE, memoryview(b"four"))
    assert errno_of(lambda: device.dma_write(0x20000, memoryview(b"four"))) == EPERM
    assert errno_of(lambda: device.dma_read(0x30000, memoryview(bytearray(8)))) == ENOENT
    assert told(world) == [
        ("dma", "device", 0x10FFE, 4, True, None),
        ("dma", "device", 0x20000, 4, True, EPERM),
        ("dma", "device", 0x30000, 8, False, ENOENT),
    ]
    unmap(ioas, 0x10000, 2 * P)
    device.detach()
    assert told(world) == [("unmapped", 0x10000, 0x11FFF), ("attached", 2, 0, other.id, None)]
    world.context.objects.remove(other.id)
    world.context.objects.remove(ioas.id)
    assert told(world) == [("gone", "HWPT", other.id), ("gone", "IOAS", 1), ("unmapped", 0x20000, 0x20FFF)]


def test_all_of_a_group_are_moved(world: World) -> None:
    ioas, elsewhere = world.ioas(), world.ioas()
    one, two = world.device(group="g"), world.device(group="g")
    old = attach(one, ioas)
    attach(two, ioas)
    told(world)
    new = replace(two, elsewhere)
    assert told(world)[1:] == [
        ("attached", one.id, 0, old, new),
        ("attached", two.id, 0, old, new),
        ("gone", "HWPT", old),
    ]


def test_a_split(world: World) -> None:
    ioas = world.ioas()
    map_(ioas, world.origin(), 0, 4 * P, 0)
    ioas.iopt.disable_large_pages()
    attach(world.device(), ioas)
    told(world)
    cut(ioas.iopt, [P - 1])
    assert told(world) == [("split", 0, P - 1, 4 * P - 1)]
    world.check()


def test_copies_of_an_access(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    map_(ioas, origin, 0, P, 0, prot=PROT_READ)
    user = world.user(ioas)
    told(world)
    user.read(8, 8)
    assert errno_of(lambda: user.write(8, b"8")) == EPERM
    assert errno_of(lambda: user.read(0, 0)) == EINVAL
    assert told(world) == [("dma", "access", 8, 8, False, None), ("dma", "access", 8, 1, True, EPERM)]


def test_what_is_queued(world: World) -> None:
    ioas, device, queue = world.ioas(), world.device(), FaultQueue()
    objects = world.context.objects
    objects.reserve(queue)
    objects.publish(queue)
    hwpt = new_hwpt(device, ioas, FAULT_ID_VALID)
    hwpt.set_fault(queue)
    attach(device, hwpt)
    parent = new_hwpt(device, ioas, NEST_PARENT)
    viommu = Viommu(world.context, parent, device.iommu)
    objects.reserve(viommu)
    objects.publish(viommu)
    events = alloc_veventq(objects, viommu, 7, 1)
    objects.publish(events)
    told(world)
    device.report_fault(PageFault(0x1000, 1, last=False), lambda code: None)
    last = PageFault(0x2000, 1)
    device.report_fault(last, lambda code: None)
    viommu.report_event(7, b"event")
    assert told(world) == [("queued", "fault queue", last), ("queued", "event queue", b"event")]
    device.detach()
    for obj in (events, viommu, parent, hwpt, queue):
        objects.remove(obj.id)


def test_what_fails_tells_nothing(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device()
    map_(ioas, origin, 0, P, 0)
    origin.absent = {0, 1, 2}
    told(world)
    pins = +world.mirror.pins
    assert errno_of(lambda: map_(ioas, origin, P, P, 0)) != 0
    assert errno_of(lambda: attach(device, ioas)) != 0
    assert errno_of(lambda: new_hwpt(device, ioas)) != 0
    assert errno_of(lambda: world.context.objects.remove(77)) == ENOENT
    assert errno_of(lambda: unmap(ioas, 0, 1)) == ENOENT
    assert told(world) == []
    assert +world.mirror.pins == pins


def test_who_listens_to_nothing_and_nobody(world: World) -> None:
    for observer in (Observer(), None):
        world.host.observer = observer
        ioas, device = world.ioas(), world.device()
        attach(device, ioas)
        map_(ioas, world.origin(), 0, P, 0)
        device.dma_write(0, memoryview(b"?"))
        assert world.mirror.log == []
        world.unbind(device)
        world.context.objects.remove(ioas.id)
    world.host.observer = world.mirror
