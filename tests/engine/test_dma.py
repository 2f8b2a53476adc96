"""What a page table shows to its devices, and how it is filled."""

from collections.abc import Callable, Generator
from errno import EFAULT, ENOENT, EPERM

import pytest

from iommud.engine.device.device import Device
from iommud.engine.mapping.filling import FILL_AT_ONCE
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.memory.span import U64_MAX

from .fakes import (
    MOCK_PAGE_SIZES,
    P,
    attach,
    errno_of,
    map_,
    with_pauses,
)
from .world import World

Change = Callable[[Device, int], Generator[None, None, int]]


# --- what a page table shows ---


def test_dma_goes_to_the_pages_that_were_there_at_the_map(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device()
    origin.fill(0, bytes(range(256)) * 48)
    attach(device, ioas)
    map_(ioas, origin, P, P, 0x10000)
    map_(ioas, origin, 0, P, 0x11000)
    buffer = bytearray(600)
    device.dma_read(0x11000 - 300, memoryview(buffer))
    assert buffer == (bytes(range(256)) * 48)[2 * P - 300 : 2 * P] + (bytes(range(256)) * 48)[:300]
    device.dma_write(0x11000 - 2, memoryview(b"abcd"))
    assert origin.read(2 * P - 2, 2) + origin.read(0, 2) == b"abcd"
    origin.remap(0)
    device.dma_write(0x11000, memoryview(b"old"))
    assert origin.read(0, 3) == bytes(3), "the device writes to the pinned page, not to the one that is there now"
    device.dma_read(0x11000, memoryview(buffer)[:3])
    assert buffer[:3] == b"old"
    device.dma_read(0x50000, memoryview(b""))


def test_dma_that_faults(world: World) -> None:
    ioas, origin, device, other = world.ioas(), world.origin(), world.device(group="g"), world.device(group="g")
    one = memoryview(bytearray(1))
    assert errno_of(lambda: device.dma_read(0x1000, one)) == ENOENT
    attach(device, ioas)
    map_(ioas, origin, 0, P, 0x1000, prot=PROT_READ)
    map_(ioas, origin, P, P, 0x2000, prot=PROT_WRITE)
    device.dma_read(0x1FFF, one)
    device.dma_write(0x2000, one)
    assert errno_of(lambda: device.dma_write(0x1FFF, one)) == EPERM
    assert errno_of(lambda: device.dma_read(0x2000, one)) == EPERM
    assert errno_of(lambda: device.dma_read(0xFFF, one)) == ENOENT
    assert errno_of(lambda: device.dma_write(0x2FFF, memoryview(b"ab"))) == ENOENT
    assert origin.read(2 * P - 1, 1) == b"a", "what came before the fault was written"
    assert errno_of(lambda: device.dma_write(U64_MAX, memoryview(b"ab"))) == ENOENT
    assert errno_of(lambda: other.dma_read(0x1000, one)) == ENOENT  # of the group, but not attached
    origin.lost = True
    assert errno_of(lambda: device.dma_read(0x1000, one)) == EFAULT
    origin.lost = False
    device.detach()
    assert errno_of(lambda: device.dma_read(0x1000, one)) == ENOENT


def test_translate(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device(page_sizes=MOCK_PAGE_SIZES)
    map_(ioas, origin, 2048, P, 0x10000)
    assert ioas.iopt.translate(0x10000) is None
    attach(device, ioas)
    assert ioas.iopt.translate(0x10000) == (origin.identity(0), 2048)
    assert ioas.iopt.translate(0x10000 + 2047) == (origin.identity(0), 4095)
    assert ioas.iopt.translate(0x10000 + 2048) == (origin.identity(1), 0)
    assert ioas.iopt.translate(0x10000 + P) is None


# --- filling takes long ---


def test_a_long_fill_pauses_and_an_access_may_come_meanwhile(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device(page_sizes=MOCK_PAGE_SIZES)
    for n in range(FILL_AT_ONCE + 1):
        map_(ioas, origin, n * P, P, n * P)

    def come() -> None:
        world.user(ioas)

    assert with_pauses(device.attach(ioas.id), come)
    assert len(world.users) == 1
    assert ioas.iopt.iova_alignment == P
    world.release(world.users[0])
    assert ioas.iopt.iova_alignment == 2048


@pytest.mark.parametrize("change", [Device.attach, Device.replace])
@pytest.mark.parametrize("pauses", [1, 2])
def test_a_fill_that_is_given_up_leaves_nothing(world: World, change: Change, pauses: int) -> None:
    ioas, other, origin, device = world.ioas(), world.ioas(), world.origin(), world.device()
    for n in range(2 * FILL_AT_ONCE):
        map_(ioas, origin, n * P, P, n * P)
    if change is Device.replace:
        attach(device, other)
    before = world.snapshot()
    steps = change(device, ioas.id)
    for _ in range(pauses):
        next(steps)
    assert len(origin.pins) == pauses * FILL_AT_ONCE
    with pytest.raises(KeyboardInterrupt):
        steps.throw(KeyboardInterrupt())
    assert world.snapshot() == before
