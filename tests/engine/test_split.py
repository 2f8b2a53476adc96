"""Areas cut in two. The state machine cuts those that no page table shows; here are the others."""

from errno import EBUSY, EINVAL, EOPNOTSUPP

import pytest

from iommud.engine.mapping.io_pagetable import PROT_READ
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.split import cut
from iommud.engine.memory.dma_buf import MemoryBuf, dma_buf_slice
from iommud.errors import IoctlError

from .fakes import FakeOrigin, P, attach, errno_of, map_
from .world import World


@pytest.fixture
def ioas(world: World) -> Ioas:
    """Four pages at 0, of single pages only, shown by a device."""
    ioas = world.ioas()
    ioas.iopt.disable_large_pages()
    attach(world.device(), ioas)
    return ioas


@pytest.fixture
def origin(world: World, ioas: Ioas) -> FakeOrigin:
    origin = world.origin()
    map_(ioas, origin, 0, 4 * P, 0)
    return origin


def spans(ioas: Ioas) -> list[tuple[int, int]]:
    return [(area.iova // P, area.last // P) for area in ioas.iopt.areas]


def pinned(ioas: Ioas) -> int:
    return max(area.pages.npinned for area in ioas.iopt.areas if area.pages is not None)


def test_each_half_keeps_its_pages(world: World, ioas: Ioas, origin: FakeOrigin) -> None:
    cut(ioas.iopt, [3 * P - 1, P - 1])
    assert spans(ioas) == [(0, 0), (1, 2), (3, 3)]
    assert [pinned(ioas), origin.open_pins()] == [4, {0: 1, 1: 1, 2: 1, 3: 1}]
    assert ioas.iopt.unmap(P, 3 * P - 1, 10) == (2 * P, None)
    assert pinned(ioas) == 2
    world.check()
    assert ioas.iopt.unmap(0, P - 1, 10) == (P, None)
    assert pinned(ioas) == 1
    assert ioas.iopt.unmap(3 * P, 4 * P - 1, 10) == (P, None)
    assert origin.open_pins() == {}


def test_the_ends_need_no_cut(ioas: Ioas, origin: FakeOrigin) -> None:
    cut(ioas.iopt, [4 * P - 1, 0, 9 * P])
    assert spans(ioas) == [(0, 3)]


def test_off_the_page(ioas: Ioas, origin: FakeOrigin) -> None:
    assert errno_of(lambda: cut(ioas.iopt, [2 * P - 1, P])) == EINVAL
    assert spans(ioas) == [(0, 1), (2, 3)], "what was cut before stays so"


def test_large_pages_are_not_cut(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    attach(world.device(), ioas)
    map_(ioas, origin, 0, 4 * P, 0)
    with pytest.raises(IoctlError, match="large pages") as refused:
        cut(ioas.iopt, [P - 1])
    assert refused.value.errno == EINVAL


def test_pinned_by_an_access(world: World, ioas: Ioas, origin: FakeOrigin) -> None:
    user = world.user(ioas)
    user.pin(0, P)
    assert errno_of(lambda: cut(ioas.iopt, [P - 1])) == EINVAL
    user.unpin(0, P)
    cut(ioas.iopt, [P - 1])
    assert spans(ioas) == [(0, 0), (1, 3)]


def test_while_it_is_being_mapped(ioas: Ioas, origin: FakeOrigin) -> None:
    area = ioas.iopt.areas.first(0, 0)
    assert area is not None
    pages, area.pages = area.pages, None
    assert errno_of(lambda: cut(ioas.iopt, [P - 1])) == EBUSY
    area.pages = pages


def test_of_a_dma_buf(ioas: Ioas) -> None:
    ioas.iopt.map([dma_buf_slice(MemoryBuf(4 * P), 0, 4 * P, writable=False)], 4 * P, 0, PROT_READ)
    assert errno_of(lambda: cut(ioas.iopt, [P - 1])) == EOPNOTSUPP
