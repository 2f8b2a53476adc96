"""Directed cases of the IO page table: the edges that random driving seldom meets."""

from errno import EINVAL, ENOENT, ENOSPC

import pytest

from iommud.engine.mapping.allowed import allowed_of
from iommud.engine.mapping.io_pagetable import PROT_READ, IoPagetable
from iommud.engine.mapping.iova import HUGE_PAGE_SIZE
from iommud.engine.memory.area import Area, AreaMap
from iommud.engine.memory.origin import PAGE_SIZE, AccountMode
from iommud.engine.memory.pages import user_slice
from iommud.engine.memory.span import U64_MAX, Span, Spans
from iommud.errors import IoctlError

from .test_state_machine import CountedOrigin


def place(iopt: IoPagetable, address: int, length: int, iova: int | None = None) -> int:
    part = user_slice(CountedOrigin(False), address, length, writable=False, account_mode=AccountMode.NONE)
    return iopt.map([part], length, iova, PROT_READ)


@pytest.mark.parametrize(
    ("address", "length", "expect"),
    [
        (0x7000_0000, 4096, 0x1000),  # aligned to its length
        (0x7000_0000, 8192, 0x2000),
        (0x7000_1000, 8192, 0x1000),  # as aligned as the memory is
        (0x7000_0123, 1, 0x1123),  # the offset into the page stays
        (0, 3 * 4096, 0x4000),  # memory at 0: the length decides
        (0x4000_0000, HUGE_PAGE_SIZE, HUGE_PAGE_SIZE),
        (0x4000_0000, 8 * HUGE_PAGE_SIZE, HUGE_PAGE_SIZE),  # never aligned to more than a huge page
    ],
)
def test_chosen_iova(address: int, length: int, expect: int) -> None:
    assert place(IoPagetable(), address, length) == expect


def test_a_hole_of_one_byte_is_never_chosen() -> None:
    iopt = IoPagetable()
    place(iopt, 0, PAGE_SIZE, PAGE_SIZE)
    place(iopt, 0, PAGE_SIZE, 2 * PAGE_SIZE + 1)
    assert place(iopt, 1, 1) != 2 * PAGE_SIZE
    iopt.allow(allowed_of([(0x10_0000, 0x10_0001)]))
    assert place(iopt, 0x10_0000, 1) == 0x10_0000
    with pytest.raises(IoctlError) as refused:
        place(iopt, 0x10_0000, 1)
    assert refused.value.errno == ENOSPC


def test_holes_of_spans_reach_to_the_last_number() -> None:
    spans = Spans()
    for start, last in (0, 4), (5, 9), (20, U64_MAX - 1):
        spans.add(Span(start, last))
    assert list(spans.holes(0, U64_MAX)) == [(10, 19), (U64_MAX, U64_MAX)]
    assert list(spans.holes(10, 10)) == [(10, 10)]
    assert list(Spans().holes(3, 3)) == [(3, 3)]


def test_a_long_span_is_found_behind_short_ones() -> None:
    spans = Spans()
    spans.add(Span(0, 1000, "long"))
    spans.add(Span(10, 20, "short"))
    found = spans.first(500, 500)
    assert found is not None
    assert found.owner == "long"
    spans.remove_owner("long")
    assert spans.first(500, 500) is None


def test_area_map_with_many_blocks_agrees_with_a_list() -> None:
    areas, table = AreaMap(), []
    step = 7 * PAGE_SIZE
    order = [i * 379 % 5000 for i in range(5000)]
    for i in order:
        area = Area(i * step, i * step + PAGE_SIZE - 1, 0, PROT_READ)
        areas.add(area)
        table.append(area)
    table.sort(key=lambda area: area.iova)
    areas.check()
    assert list(areas) == table
    assert list(areas.holes(0, 5000 * step, 6 * PAGE_SIZE))[:2] == [
        (PAGE_SIZE, step - 1),
        (step + PAGE_SIZE, 2 * step - 1),
    ]
    assert list(areas.holes(0, 4999 * step, step)) == []
    for area in table[1000:4000]:
        areas.remove(area)
    areas.check()
    assert list(areas.holes(0, 4999 * step, step)) == [(999 * step + PAGE_SIZE, 4000 * step - 1)]
    assert areas.first(1000 * step, 3999 * step) is None
    assert areas.first(0, U64_MAX) is table[0]
    assert areas.after(table[999]) is table[4000]
    with pytest.raises(KeyError):
        areas.remove(Area(0, 1, 0, PROT_READ))


def test_an_area_at_the_very_end() -> None:
    iopt = IoPagetable()
    assert place(iopt, 1, 1, U64_MAX) == U64_MAX
    assert iopt.unmap(U64_MAX, U64_MAX, 10) == (1, None)


def test_unmap_keeps_what_it_took_before_a_rule_was_broken() -> None:
    iopt = IoPagetable()
    place(iopt, 0, PAGE_SIZE, 0)
    place(iopt, 0, 2 * PAGE_SIZE, PAGE_SIZE)
    assert iopt.unmap(0, 2 * PAGE_SIZE - 1, 10) == (PAGE_SIZE, PAGE_SIZE)
    with pytest.raises(IoctlError) as refused:
        iopt.unmap(PAGE_SIZE, 2 * PAGE_SIZE - 1, 10)
    assert refused.value.errno == ENOENT
    assert [area.iova for area in iopt.areas] == [PAGE_SIZE]


def test_single_pages_ask_for_aligned_memory() -> None:
    iopt = IoPagetable()
    iopt.disable_large_pages()
    assert iopt.iova_alignment == PAGE_SIZE
    with pytest.raises(IoctlError) as refused:
        place(iopt, 0x10_0100, PAGE_SIZE, 0)
    assert refused.value.errno == EINVAL
    assert "into a page" in refused.value.why
    assert len(iopt.areas) == 0
