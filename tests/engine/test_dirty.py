"""What a page table remembers of DMA, against a model that keeps one number for each 2 KiB."""

import time
from collections.abc import Iterator
from errno import EINVAL, EOVERFLOW
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.mapping.dirty import CHUNK_UNITS, Dirty
from iommud.engine.mapping.dirty_bitmap import check_window, read
from iommud.engine.mapping.domain import DIRTY_TRACKING
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.span import U64_MAX
from tests.examples import examples

from .fakes import MOCK_PAGE_SIZES, FakeOrigin, P, attach, errno_of, map_, new_hwpt, unmap
from .world import World

UNIT = 2048  # bytes: the mock's smallest page
SLOTS = 24  # pages that the model's world has
BASE = CHUNK_UNITS * UNIT * 3 - 9 * P  # so that a chunk ends amid them


def bitmap(hwpt: HwptPaging, iova: int, length: int, page_size: int, *, clear: bool, before: int = 0) -> int:
    """The client's bitmap after a read, `before` it had these bits."""
    check_window(hwpt.ioas.iopt, iova, length, page_size)
    assert hwpt.domain.dirty is not None
    previous = 0
    for offset, data in read(hwpt.ioas.iopt, hwpt.domain.dirty, iova, length, page_size, clear=clear):
        assert data
        assert offset >= previous
        previous = offset + len(data)
        before |= int.from_bytes(data, "little") << 8 * offset
    return before


class Model:
    """Which units are mapped, and how, and which of them are dirty."""

    def __init__(self) -> None:
        self.enabled = False
        self.areas: dict[int, tuple[int, int]] = {}  # iova -> (bytes, address)
        self.dirty: set[int] = set()

    def area(self, iova: int) -> tuple[int, int, int] | None:
        for start, (length, address) in self.areas.items():
            if start <= iova < start + length:
                return start, length, address
        return None

    def wrote(self, iova: int, length: int) -> None:
        for unit in range(iova // UNIT, (iova + length - 1) // UNIT + 1):
            found = self.area(max(unit * UNIT, iova))
            assert found is not None
            start, size, address = found
            page = unit * UNIT // P * P
            if (start - address) % P == 0 and start <= page and page + P <= start + size:
                self.dirty |= {page // UNIT, page // UNIT + 1}
            else:
                self.dirty.add(unit)

    def read(self, iova: int, length: int, page_size: int, *, clear: bool) -> int:
        bits = 0
        position = iova
        while position < iova + length and self.area(position) is not None:
            unit = position // UNIT
            if unit in self.dirty:
                for byte in range(position, position + UNIT, min(page_size, UNIT)):
                    bits |= 1 << (byte - iova) // page_size
                if clear:
                    self.dirty.discard(unit)
            position += UNIT
        return bits

    def unmap(self, start: int) -> None:
        length, _ = self.areas.pop(start)
        self.dirty -= set(range(start // UNIT, (start + length) // UNIT))


def script(random: Random) -> Iterator[tuple[str, list[int]]]:
    """What is done, and with which numbers: mostly writes and reads. From a seed, as lists that
    hypothesis draws are seldom so busy.
    """
    yield "map", [1, 27, 3]
    yield "map", [28, 14, 1]
    for _ in range(120):
        unit = random.randrange(2 * SLOTS)
        name = random.choices(("write", "read", "map", "unmap", "enable"), (8, 8, 3, 1, 1))[0]
        if name == "write":
            yield name, [random.randrange(SLOTS * P), random.choice((1, 100, UNIT, P, 9 * P)) * random.randint(1, 3)]
        elif name == "read":
            order = random.choice((-11, -3, -1, 0, 0, 0, 1, 1, 2, 3, 6))
            yield name, [unit, random.randint(1, 2 * SLOTS), order, random.random() < 0.5, random.getrandbits(64)]
        elif name == "map":
            yield name, [unit, random.randint(1, 16), random.randrange(2)]
        else:
            yield name, [random.random() < 0.8] if name == "enable" else [unit]


@examples(100)
@given(st.integers(0, 2**32))
def test_dma_marks_what_the_model_marks(seed: int) -> None:
    world = World()
    ioas, origin, device = world.ioas(), world.origin(), world.device(page_sizes=MOCK_PAGE_SIZES)
    hwpt = new_hwpt(device, ioas, DIRTY_TRACKING)
    attach(device, hwpt)
    assert hwpt.domain.dirty is not None
    hwpt.domain.dirty.enable(True)
    model = Model()
    model.enabled = True
    for name, numbers in script(Random(seed)):
        play(world, hwpt, origin, model, name, numbers)
    world.close()


def play(world: World, hwpt: HwptPaging, origin: FakeOrigin, model: Model, name: str, numbers: list[int]) -> None:
    if name == "map":
        start, length, address = BASE + numbers[0] * UNIT, numbers[1] * UNIT, P + numbers[2] * UNIT
        if not any(model.area(start + n) for n in range(0, length, UNIT)):
            map_(hwpt.ioas, origin, address, length, start)
            model.areas[start] = length, address
    elif name == "unmap":
        found = model.area(BASE + numbers[0] * UNIT)
        if found is not None:
            unmap(hwpt.ioas, found[0], found[1])
            model.unmap(found[0])
    elif name == "write":
        iova, length = BASE + numbers[0], numbers[1]
        while length and not all(model.area(at) for at in {*range(iova, iova + length, UNIT), iova + length - 1}):
            length //= 2
        if length:
            world.devices[0].dma_write(iova, memoryview(bytes(length)))
            if model.enabled:
                model.wrote(iova, length)
    elif name == "read":
        page_size = UNIT << numbers[2] if numbers[2] >= 0 else UNIT >> -numbers[2]
        step = max(page_size, UNIT)
        iova = (BASE + numbers[0] * UNIT) // step * step
        length = -(-numbers[1] * UNIT // step) * step
        got = bitmap(hwpt, iova, length, page_size, clear=bool(numbers[3]), before=numbers[4])
        assert got == model.read(iova, length, page_size, clear=bool(numbers[3])) | numbers[4]
    else:
        assert hwpt.domain.dirty is not None
        hwpt.domain.dirty.enable(bool(numbers[0]))
        model.enabled = bool(numbers[0])
        if model.enabled:
            model.dirty.clear()


def tracked(world: World, **how: object) -> tuple[Ioas, HwptPaging]:
    ioas, device = world.ioas(), world.device(**how)
    hwpt = new_hwpt(device, ioas, DIRTY_TRACKING)
    attach(device, hwpt)
    assert hwpt.domain.dirty is not None
    hwpt.domain.dirty.enable(True)
    return ioas, hwpt


def test_each_page_table_has_its_own_marks(world: World) -> None:
    ioas, hwpt = tracked(world)
    other = world.device()
    second = new_hwpt(other, ioas, DIRTY_TRACKING)
    attach(other, second)
    assert second.domain.dirty is not None
    second.domain.dirty.enable(True)
    map_(ioas, world.origin(), 0, 8 * P, 0)
    world.devices[0].dma_write(P, memoryview(b"x"))
    other.dma_write(3 * P - 1, memoryview(b"xy"))
    assert bitmap(hwpt, 0, 8 * P, P, clear=False) == 0b10
    assert bitmap(second, 0, 8 * P, P, clear=False) == 0b1100
    unmap(ioas, 0, 8 * P)
    assert hwpt.domain.dirty is not None
    assert hwpt.domain.dirty.clean
    assert second.domain.dirty.clean


def test_only_writes_that_the_page_table_lets_through_leave_marks(world: World) -> None:
    ioas, hwpt = tracked(world)
    map_(ioas, world.origin(), 0, 2 * P, 0)
    device = world.devices[0]
    buffer = memoryview(bytearray(P))
    device.dma_read(0, buffer)
    assert errno_of(lambda: device.dma_write(2 * P, buffer))
    assert bitmap(hwpt, 0, 4 * P, P, clear=False) == 0


def test_a_large_entry_is_dirty_as_a_whole(world: World) -> None:
    huge = 1 << 20
    record = Dirty(huge | P, huge)
    record.enable(True)
    ioas, _ = tracked(world)
    map_(ioas, world.origin(), 3 * huge - P, 3 * huge, huge - P)
    area = ioas.iopt.areas.first(0, U64_MAX)
    assert area is not None
    record.wrote(area, 2 * huge + 5, 2 * huge + 5)
    assert dict(record.scan(0, 4 * huge - 1, huge, clear=False)) == {0: b"\x04"}
    assert sum(data.count(0xFF) for _, data in record.scan(2 * huge, 3 * huge - 1, P, clear=True)) == huge // P // 8
    assert record.clean
    # At the ends of the area, and where large pages are switched off, entries are small.
    record.wrote(area, huge - 1, huge - 1)
    record.wrote(area, 2 * huge, 2 * huge, large_pages=False)
    assert dict(record.scan(huge - P, 2 * huge + P - 1, P, clear=True)) == {0: b"\x01" + bytes(31) + b"\x02"}


def test_windows_that_are_refused(world: World) -> None:
    ioas, _ = tracked(world, page_sizes=MOCK_PAGE_SIZES)
    for iova, length, page_size, errno in (
        (0, 0, P, EINVAL),
        (U64_MAX, 2, 0, EOVERFLOW),
        (1024, P, 1024, EINVAL),
        (0, 1024, 1024, EINVAL),
        (0, P, 0, EINVAL),
        (P, 2 * P, 2 * P, EINVAL),
        (0, 3 * P, 2 * P, EINVAL),
        (0, U64_MAX, 1, EINVAL),
        (P, U64_MAX - P + 1, P, 0),
        (UNIT, UNIT, 1, 0),
    ):
        assert errno_of(lambda i=iova, n=length, p=page_size: check_window(ioas.iopt, i, n, p)) == errno  # type: ignore[misc]


@pytest.mark.parametrize("page_size", [P, 1 << 30])
def test_what_is_clean_costs_nothing(world: World, page_size: int) -> None:
    """1 TiB with 1,000 dirty pages: a loop over its pages would take minutes."""
    ioas, hwpt = tracked(world)
    origin, device = world.origin(), world.devices[0]
    for n in range(1000):
        map_(ioas, origin, 0, P, (n << 30) + n * P)
    began = time.perf_counter()
    for n in range(1000):
        device.dma_write((n << 30) + n * P, memoryview(b"x"))
    assert hwpt.domain.dirty is not None
    pieces = list(hwpt.domain.dirty.scan(0, (1 << 40) - 1, page_size, clear=True))
    bits = [offset * 8 + at for offset, data in pieces for at in range(len(data) * 8) if data[at // 8] >> at % 8 & 1]
    assert bits == [((n << 30) + n * P) // page_size for n in range(1000)]
    assert hwpt.domain.dirty.clean
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("ahead", [0, 3, 8 * 5])
def test_a_long_bitmap_comes_in_pieces_that_fit_together(world: World, ahead: int) -> None:
    """`ahead`: pages by which the window begins before what is dirty; a chunk's bits then begin
    amid a byte.
    """
    _, hwpt = tracked(world)
    ioas, origin = hwpt.ioas, world.origin()
    npages = 200 * CHUNK_UNITS
    first = 3 * CHUNK_UNITS - ahead
    map_(ioas, origin, 0, P, first * P)
    record = hwpt.domain.dirty
    assert record is not None
    area = ioas.iopt.areas.first(0, U64_MAX)
    assert area is not None
    area.last = (first + npages) * P - 1  # as if there were memory for it
    record.wrote(area, (first + ahead) * P, area.last)
    area.last = (first + 1) * P - 1
    position, found = 0, bytearray()
    for offset, data in record.scan(first * P, (first + npages) * P - 1, P, clear=True):
        assert offset >= position
        found += bytes(offset - position) + data
        position = offset + len(data)
    assert int.from_bytes(found, "little") == (1 << npages) - (1 << ahead)
    assert record.clean
