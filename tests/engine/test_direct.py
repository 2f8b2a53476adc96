"""DMA to memory that is mapped here: joined, remembered, and forgotten in time. If somebody touches
what nobody holds, FakeMapped finds it.
"""

from errno import EFAULT

import pytest

from iommud.engine.device.device import Device, Move
from iommud.engine.mapping.direct import BLOCK_SHIFT, Extent
from iommud.engine.mapping.domain import DIRTY_TRACKING
from iommud.engine.mapping.filling import FILL_AT_ONCE
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.split import cut
from iommud.engine.memory.dma_buf import MemoryBuf, dma_buf_slice

from .fakes import FakeOrigin, P, attach, errno_of, map_, new_hwpt, place, unmap, with_pauses
from .world import World

AT = 0x100000
WORDS = b"what stands at first, and is copied from here to there"


@pytest.fixture
def device(world: World) -> Device:
    return world.device()


@pytest.fixture
def ioas(world: World, device: Device) -> Ioas:
    """A device is attached to it, and four pages are mapped at AT, each by itself."""
    ioas = world.ioas()
    attach(device, ioas)
    return ioas


@pytest.fixture
def origin(world: World, ioas: Ioas) -> FakeOrigin:
    origin = world.origin()
    origin.fill(0, WORDS)
    for page in range(4):
        map_(ioas, origin, page * P, P, AT + page * P)
    return origin


def found(ioas: Ioas, iova: int, length: int = 1, prot: int = PROT_READ) -> tuple[int, int] | None:
    extent: Extent | None = ioas.iopt.direct.find(iova, length, prot)
    return (extent.start, extent.last) if extent is not None else None


def test_neighbours_are_joined(ioas: Ioas, origin: FakeOrigin) -> None:
    assert found(ioas, AT + 1, 4 * P - 1) == (AT, AT + 4 * P - 1)
    assert found(ioas, AT, 4 * P + 1) is None
    assert found(ioas, AT - 1) is None
    assert found(ioas, AT + 4 * P) is None
    map_(ioas, origin, 6 * P, P, AT + 4 * P)
    assert found(ioas, AT + 4 * P) == (AT + 4 * P, AT + 5 * P - 1), "it does not follow in memory"
    map_(ioas, origin, 7 * P, P, AT + 5 * P, prot=PROT_READ)
    assert found(ioas, AT + 5 * P) == (AT + 5 * P, AT + 6 * P - 1), "it permits something else"
    assert found(ioas, AT + 5 * P, 1, PROT_WRITE) is None


def test_what_lies_across_two_blocks(world: World, ioas: Ioas) -> None:
    border = 8 << BLOCK_SHIFT
    origin = world.origin()
    map_(ioas, origin, 0, 16 * P, border - 8 * P)
    assert found(ioas, border - 8 * P, 16 * P) == (border - 8 * P, border + 8 * P - 1)
    assert found(ioas, border, 8 * P) == (border, border + 8 * P - 1)


def test_what_is_remembered_goes_with_what_it_is_of(world: World, device: Device, ioas: Ioas) -> None:
    origin = world.origin()
    map_(ioas, origin, 0, 4 * P, AT)
    assert found(ioas, AT, 4 * P)
    unmap(ioas, AT, 4 * P)
    assert found(ioas, AT) is None
    map_(ioas, origin, 0, P, AT)
    assert found(ioas, AT, P)
    device.detach()
    attach(device, ioas)  # and is pinned anew
    device.dma_write(AT, memoryview(b"new"))
    assert origin.read(0, 3) == b"new"


def test_dma_while_a_page_table_is_filled(world: World, device: Device) -> None:
    ioas, origin = world.ioas(), world.origin()
    for page in range(FILL_AT_ONCE + 1):
        map_(ioas, origin, page * P, P, AT + page * P)

    def between() -> None:
        device.dma_write(AT, memoryview(b"early"))

    with_pauses(device.attach(ioas.id), between)
    assert origin.read(0, 5) == b"early"
    assert found(ioas, AT + FILL_AT_ONCE * P)
    assert found(ioas, AT)
    device.detach()
    origin.remap(0)
    origin.absent.add(FILL_AT_ONCE)
    assert errno_of(lambda: with_pauses(device.attach(ioas.id), between)) == EFAULT
    origin.remap(0)
    origin.absent.clear()
    attach(device, ioas)
    device.dma_write(AT, memoryview(b"again"))
    assert origin.read(0, 5) == b"again"


def test_halves_of_an_area(world: World, device: Device) -> None:
    ioas, origin = world.ioas(), world.origin()
    ioas.iopt.disable_large_pages()
    attach(device, ioas)
    map_(ioas, origin, 0, 2 * P, AT)
    assert found(ioas, AT, 2 * P)
    cut(ioas.iopt, [AT + P - 1])
    unmap(ioas, AT + P, P)
    assert found(ioas, AT, P)
    assert found(ioas, AT + P) is None


def test_a_dma_buf_is_asked_each_time(device: Device, ioas: Ioas) -> None:
    buffer = MemoryBuf(P)
    place(ioas, [dma_buf_slice(buffer, 0, P, writable=True)], AT + 8 * P)
    device.dma_write(AT + 8 * P, memoryview(b"here"))
    assert buffer.memory[:4] == b"here"
    assert found(ioas, AT + 8 * P) is None


def test_moves_are_carried_out_in_order(world: World, device: Device, ioas: Ioas, origin: FakeOrigin) -> None:
    moves: list[Move] = [(AT + P - 2, AT, 10, None), (AT + 2 * P, AT + P - 2, 10, None), (AT + 3 * P, 1, 3, b"data")]
    log = world.mirror.log
    del log[:]
    assert device.dma_moves(moves) == 3
    assert origin.read(2 * P, 10) == WORDS[:10]
    assert origin.read(3 * P, 3) == b"ata"
    assert origin.here.copied == 3
    assert [event[2:5] for event in log] == [
        (AT, 10, False),
        (AT + P - 2, 10, True),
        (AT + P - 2, 10, False),
        (AT + 2 * P, 10, True),
        (AT + 3 * P, 3, True),
    ]
    assert device.dma_moves(moves, 2) == 1


def test_many_stretches_are_read_at_once(world: World, device: Device, ioas: Ioas, origin: FakeOrigin) -> None:
    log = world.mirror.log
    del log[:]
    parts = [(AT + 3, 5), (AT, 2), (AT + P - 1, 2)]
    expect = b"".join(origin.read(iova - AT, length) for iova, length in parts)
    assert device.dma_gather(parts) == expect
    assert [event[2:5] for event in log] == [(iova, length, False) for iova, length in parts]
    assert device.dma_gather([(AT, 2), (AT + 4 * P, 1), (AT, 2)]) == WORDS[:2], "up to one that is not there"
    assert device.dma_gather([(AT + 4 * P, 1)]) == b""
    origin.lost = True
    assert device.dma_gather(parts) == b""
    origin.lost = False


@pytest.mark.parametrize(
    "refused",
    [
        (AT + 4 * P, AT, 1, None),
        (AT, AT + 4 * P, 1, None),
        (AT + 5, AT, 10, None),
        (AT, AT + 5, 10, None),
        (AT + 4 * P - 1, 0, 2, b"ab"),
    ],
)
def test_a_move_that_is_not_for_here(device: Device, ioas: Ioas, origin: FakeOrigin, refused: Move) -> None:
    """None after it is begun."""
    assert device.dma_moves([(AT + P, AT, 4, None), refused, (AT + 2 * P, AT, 4, None)]) == 1
    assert origin.read(P, 4) == WORDS[:4]
    assert origin.read(2 * P, 4) == bytes(4)
    assert device.dma_moves([refused]) == 0


def test_a_move_to_memory_that_may_be_the_same(world: World, device: Device, ioas: Ioas, origin: FakeOrigin) -> None:
    """The same file, at another address."""
    other = world.origin()
    other.here.file = origin
    map_(ioas, other, 0, P, AT + 8 * P)
    assert device.dma_moves([(AT + 8 * P, AT, 4, None)]) == 0


def test_nothing_is_moved_without_a_page_table_or_by_one_that_keeps_a_record(world: World, device: Device) -> None:
    ioas, origin = world.ioas(), world.origin()
    moves: list[Move] = [(AT, 0, 1, b"a")]
    assert device.dma_moves(moves) == 0
    hwpt = new_hwpt(device, ioas, DIRTY_TRACKING)
    attach(device, hwpt)
    map_(ioas, origin, 0, P, AT)
    assert device.dma_moves(moves) == 1
    dirty = hwpt.domain.dirty
    assert dirty is not None
    dirty.enable(True)
    assert device.dma_moves(moves) == 0
    device.dma_write(AT, memoryview(b"b"))
    assert not dirty.clean


def test_memory_that_is_lost_on_the_way(device: Device, ioas: Ioas, origin: FakeOrigin) -> None:
    assert found(ioas, AT)
    origin.lost = True
    assert device.dma_moves([(AT + P, AT, 4, None)]) == 0
    origin.lost = False
