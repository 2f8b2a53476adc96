"""The engine against a simple model, driven at random: map, map a file, unmap, copy, allow,
reserve, options, destroy, close.

Invariants after every step: the areas are the model's, disjoint and ordered; the references to
every origin equal what areas need; IDs are the lowest free ones; close leaves nothing.
"""

from collections.abc import Hashable
from errno import EADDRINUSE, EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW, EPERM
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from iommud.engine.device.context import Context
from iommud.engine.mapping.allowed import allowed_of
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.split import cut
from iommud.engine.memory import area as area_module
from iommud.engine.memory.origin import PAGE_SIZE, AccountMode, Origin, Pin
from iommud.engine.memory.pages import file_slice, user_slice
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError
from tests.examples import examples

from .fakes import errno_of
from .model import ModelArea, ModelTable


class CountedOrigin:
    """An origin that only counts who holds it; nothing of it is ever pinned here."""

    uid = 0
    mm: Hashable = None

    def __init__(self, is_file: bool) -> None:
        self.is_file = is_file
        self.refs = 0

    def get(self) -> None:
        self.refs += 1

    def put(self) -> None:
        self.refs -= 1
        assert self.refs >= 0

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> Pin:
        raise AssertionError("there is no page table to pin for")

    def alive(self) -> bool:
        return True

    def read_now(self, address: int, buffer: memoryview, *, itself: bool = True) -> None:
        raise AssertionError("there is no access")

    def write_now(self, address: int, data: memoryview) -> None:
        raise AssertionError("there is no access")

    def memlock_limit(self) -> int | None:
        return None

    def locked_pages(self) -> int:
        return 0

    def pinned(self, npages: int, locked: bool) -> None:
        assert not npages


UNIT = PAGE_SIZE // 2
SMALL = st.integers(0, 48).map(lambda n: n * UNIT)
EDGES = st.sampled_from([0, 1, PAGE_SIZE, 2 << 20, U64_MAX - PAGE_SIZE, U64_MAX - UNIT, U64_MAX - 1, U64_MAX])
IOVAS = st.one_of(SMALL, SMALL, SMALL, EDGES, st.integers(0, 40 * PAGE_SIZE))
LENGTHS = st.one_of(st.integers(1, 12).map(lambda n: n * UNIT), st.integers(0, 6 * PAGE_SIZE), EDGES)
ADDRESSES = st.one_of(SMALL, st.integers(0, 1 << 24), st.just(4 << 20), EDGES)
PROTS = st.sampled_from([PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE])


class EngineMachine(RuleBasedStateMachine):
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.context = Context()
        self.model: dict[int, ModelTable] = {}
        self.origins = [CountedOrigin(False), CountedOrigin(True)]
        self.serial = 0
        self.owners = ["a", "b"]
        # Small blocks, so that a few areas already make many blocks and groups.
        self.limits = area_module.BLOCK_LIMIT, area_module.GROUP
        area_module.BLOCK_LIMIT, area_module.GROUP = 3, 2  # type: ignore[misc]

    # --- objects ---

    @rule(target=ids)
    def alloc(self) -> int:
        ioas = Ioas(self.context.host)
        self.context.objects.reserve(ioas)
        lowest = next(n for n in range(1, len(self.model) + 2) if n not in self.model)
        assert ioas.id == lowest
        self.context.objects.publish(ioas)
        self.model[ioas.id] = ModelTable()
        return ioas.id

    @rule()
    def alloc_and_abort(self) -> None:
        before = set(self.model)
        ioas = Ioas(self.context.host)
        self.context.objects.reserve(ioas)
        assert ioas.id not in before
        self.expect(ENOENT, lambda: self.context.ioas(ioas.id))
        self.context.objects.abort(ioas)

    @rule(number=ids)
    def destroy(self, number: int) -> None:
        if number not in self.model:
            self.expect(ENOENT, lambda: self.context.objects.remove(number))
            return
        self.context.objects.remove(number)
        del self.model[number]

    @rule(number=ids)
    def destroy_in_use(self, number: int) -> None:
        if number in self.model:
            ioas = self.context.ioas(number)
            with self.context.objects.using(ioas, "a request"):
                self.expect(EBUSY, lambda: self.context.objects.remove(number))

    # --- mappings ---

    @rule(
        number=ids, address=ADDRESSES, length=LENGTHS, iova=IOVAS, fixed=st.booleans(), prot=PROTS, file=st.booleans()
    )
    def map(self, number: int, address: int, length: int, iova: int, fixed: bool, prot: int, file: bool) -> None:
        table = self.model.get(number)
        if table is None:
            self.expect(ENOENT, lambda: self.context.ioas(number))
            return
        origin = self.origins[file]
        writable = bool(prot & PROT_WRITE)
        make = file_slice if file else user_slice
        try:
            part = make(origin, address, length, writable=writable, account_mode=AccountMode.USER)
        except IoctlError as error:
            refused = error.errno
        else:
            refused = 0
        if not file and address + length > U64_MAX:
            assert refused == EOVERFLOW
            return
        if length == 0 or length > U64_MAX - PAGE_SIZE:
            assert refused == EINVAL
            return
        assert not refused
        self.serial += 1
        source = (f"{self.serial}", address % PAGE_SIZE)
        self.place(number, [(part, source, address, writable)], length, iova if fixed else None, prot)

    @rule(source=ids, target_id=ids, src=IOVAS, length=LENGTHS, iova=IOVAS, fixed=st.booleans(), prot=PROTS)
    def copy(self, source: int, target_id: int, src: int, length: int, iova: int, fixed: bool, prot: int) -> None:
        if source not in self.model or target_id not in self.model:
            return
        iopt = self.context.ioas(source).iopt
        last = src + length - 1
        covering = self.model[source].overlapping(src, last) if length and last <= U64_MAX else []
        whole = (
            bool(covering)
            and covering[0].iova <= src
            and covering[-1].last >= last
            and all(a.last + 1 == b.iova for a, b in pairwise(covering))
        )
        if not whole:
            wanted = EINVAL if not length else EOVERFLOW if last > U64_MAX else ENOENT
            self.expect(wanted, lambda: iopt.slices(src, length))
            return
        parts = []
        for area, part in zip(covering, iopt.slices(src, length), strict=True):
            skip = max(src - area.iova, 0)
            assert part.address == area.address + skip
            assert part.length == min(area.last, last) - (area.iova + skip) + 1
            parts.append((part, (area.source[0], area.source[1] + skip), area.address + skip, area.writable_pages))
        self.place(target_id, parts, length, iova if fixed else None, prot)

    def place(self, number: int, parts: list, length: int, iova: int | None, prot: int) -> None:  # type: ignore[type-arg]
        table, iopt = self.model[number], self.context.ioas(number).iopt
        wanted, chosen = self.outcome(table, parts, length, iova, prot)
        slices = [part for part, *_ in parts]
        if wanted:
            self.expect(wanted, lambda: iopt.map(slices, length, iova, prot))
            for part in slices:
                part.pages.put()
            return
        assert iopt.map(slices, length, iova, prot) == chosen
        assert chosen is not None
        for part, source, address, writable in parts:
            table.areas.append(ModelArea(chosen, part.length, source, address, writable, prot))
            chosen += part.length

    @staticmethod
    def outcome(
        table: ModelTable,
        parts: list[Any],
        length: int,
        iova: int | None,
        prot: int,
    ) -> tuple[int, int | None]:
        if length % table.alignment or not length:
            return EINVAL, None
        if iova is None:
            if length >= U64_MAX // 2:
                return EOVERFLOW, None
            address = parts[0][2]
            if table.alignment > 1 and address % table.alignment:
                return EINVAL, None
            iova = table.choose(address, length)
            if iova is None:
                return ENOSPC, None
        else:
            if iova % table.alignment:
                return EINVAL, None
            if iova + length - 1 > U64_MAX:
                return EOVERFLOW, None
            if any(s <= iova + length - 1 and iova <= e for s, e, _ in table.reserved):
                return EINVAL, None
            if table.overlapping(iova, iova + length - 1):
                return EEXIST, None
        for part, source, _, writable in parts:
            if prot & PROT_WRITE and not writable:
                return EPERM, None
            if source[1] % PAGE_SIZE % table.alignment:
                return EINVAL, None
            if part.length + source[1] % PAGE_SIZE + PAGE_SIZE - 1 > U64_MAX:
                return EOVERFLOW, None
        return 0, iova

    @rule(number=ids, start=IOVAS, length=LENGTHS, limit=st.sampled_from([1, 3, 1000]))
    def unmap(self, number: int, start: int, length: int, limit: int) -> None:
        last = min(start + max(length, 1) - 1, U64_MAX)
        self.unmap_range(number, start, last, limit)

    @rule(number=ids)
    def unmap_all(self, number: int) -> None:
        self.unmap_range(number, 0, U64_MAX, 1000)

    def unmap_range(self, number: int, start: int, last: int, limit: int) -> None:
        table = self.model.get(number)
        if table is None:
            return
        iopt = self.context.ioas(number).iopt
        gone, error = 0, 0
        for area in table.overlapping(start, last):
            if area.iova < start or area.last > last:
                error = ENOENT
                break
            table.areas.remove(area)
            gone += area.length
        unmapped, position, refused = 0, start, 0
        try:
            while True:
                count, following = iopt.unmap(position, last, limit)
                unmapped += count
                if following is None:
                    break
                position = following
        except IoctlError as refusal:
            refused = refusal.errno
        assert refused == error
        assert unmapped == gone

    @rule(number=ids, lasts=st.lists(IOVAS, min_size=1, max_size=2))
    def cut(self, number: int, lasts: list[int]) -> None:
        table = self.model.get(number)
        if table is None:
            return
        error = 0
        for last in lasts:
            error = table.cut(last)
            if error:
                break
        assert errno_of(lambda: cut(self.context.ioas(number).iopt, lasts)) == error

    # --- what may be mapped ---

    @rule(number=ids, ranges=st.lists(st.tuples(IOVAS, st.integers(1, 20 * PAGE_SIZE)), max_size=3))
    def allow(self, number: int, ranges: list[tuple[int, int]]) -> None:
        table = self.model.get(number)
        if table is None:
            return
        wanted: list[tuple[int, int]] = []
        for start, size in ranges:
            last = min(start + size, U64_MAX)
            if start < last and not any(s <= last and start <= e for s, e in wanted):
                wanted.append((start, last))
        iopt = self.context.ioas(number).iopt
        if any(s <= last and start <= e for start, last in wanted for s, e, _ in table.reserved):
            self.expect(EADDRINUSE, lambda: iopt.allow(allowed_of(wanted)))
            return
        iopt.allow(allowed_of(wanted))
        table.allowed = wanted

    @rule(number=ids, start=IOVAS, size=st.integers(0, 20 * PAGE_SIZE), owner=st.integers(0, 1))
    def reserve(self, number: int, start: int, size: int, owner: int) -> None:
        table = self.model.get(number)
        if table is None:
            return
        last = min(start + size, U64_MAX)
        iopt = self.context.ioas(number).iopt
        if table.overlapping(start, last) or any(s <= last and start <= e for s, e in table.allowed):
            self.expect(EADDRINUSE, lambda: iopt.reserve(start, last, self.owners[owner]))
            return
        iopt.reserve(start, last, self.owners[owner])
        table.reserved.append((start, last, self.owners[owner]))

    @rule(number=ids, owner=st.integers(0, 1))
    def unreserve(self, number: int, owner: int) -> None:
        if number in self.model:
            self.context.ioas(number).iopt.unreserve(self.owners[owner])
            table = self.model[number]
            table.reserved = [r for r in table.reserved if r[2] is not self.owners[owner]]

    @rule(number=ids, large=st.booleans())
    def huge_pages(self, number: int, large: bool) -> None:
        table = self.model.get(number)
        if table is None:
            return
        iopt = self.context.ioas(number).iopt
        if large:
            iopt.enable_large_pages()
            table.alignment = 1
            return
        if table.alignment == 1 and any(
            a.iova % PAGE_SIZE or a.length % PAGE_SIZE or a.source[1] % PAGE_SIZE for a in table.areas
        ):
            self.expect(EADDRINUSE, iopt.disable_large_pages)
            return
        iopt.disable_large_pages()
        table.alignment = PAGE_SIZE

    @rule(mode=st.integers(0, 2))
    def rlimit_mode(self, mode: int) -> None:
        if self.model:
            self.expect(EBUSY, lambda: self.context.set_rlimit_mode(mode))
        elif mode == 2:
            self.expect(EINVAL, lambda: self.context.set_rlimit_mode(mode))
        else:
            self.context.set_rlimit_mode(mode)
            assert self.context.rlimit_mode() == mode

    @precondition(lambda self: len(self.model) > 2)
    @rule(target=ids)
    def close(self):  # type: ignore[no-untyped-def]
        self.context.put()
        assert len(self.context.objects) == 0
        assert [origin.refs for origin in self.origins] == [0, 0]
        self.context, self.model = Context(), {}
        return multiple()

    # --- invariants ---

    @staticmethod
    def expect(errno: int, call) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(IoctlError) as refused:
            call()
        assert refused.value.errno == errno
        assert refused.value.why

    @invariant()
    def same_areas(self) -> None:
        assert [o.id for o in self.context.objects] == sorted(self.model)
        for number, table in self.model.items():
            iopt = self.context.ioas(number).iopt
            iopt.areas.check()
            assert iopt.iova_alignment == table.alignment
            real = [(a.iova, a.length, a.pages.start + a.start_byte if a.pages else None, a.prot) for a in iopt.areas]
            model = sorted((a.iova, a.length, a.address, a.prot) for a in table.areas)
            assert real == model
            holes, position = [], 0
            for start, last, _ in sorted(table.reserved, key=lambda r: r[0]):
                if start > position:
                    holes.append((position, start - 1))
                position = max(position, last + 1)
            if position <= U64_MAX:
                holes.append((position, U64_MAX))
            assert list(iopt.usable()) == holes

    @invariant()
    def references_equal_the_graph(self) -> None:
        pages = {}
        refs: dict[int, int] = {}
        for number in self.model:
            for area in self.context.ioas(number).iopt.areas:
                assert area.pages is not None
                pages[id(area.pages)] = area.pages
                refs[id(area.pages)] = refs.get(id(area.pages), 0) + 1
        assert all(found.refs == refs[key] for key, found in pages.items())
        for origin in self.origins:
            same: Origin = origin
            assert origin.refs == sum(1 for found in pages.values() if found.origin is same)

    @invariant()
    def users_equal_the_graph(self) -> None:
        for obj in self.context.objects:
            assert obj.users == []
            assert obj.shortterm_users == []

    def teardown(self) -> None:
        area_module.BLOCK_LIMIT, area_module.GROUP = self.limits  # type: ignore[misc]
        self.context.put()
        assert [origin.refs for origin in self.origins] == [0, 0]


EngineMachine.TestCase.settings = examples(120, steps=40)
TestEngine = EngineMachine.TestCase
