"""Contexts with devices and accesses against the model, driven at random, with failures injected.

After every step: the engine's areas, IDs, attachments, pins and charges are the model's, and the
invariants hold (snapshot.check). What failed has changed nothing. Closing the contexts leaves
nothing anywhere.
"""

from collections.abc import Callable
from errno import EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from iommud.engine.device.access import Access
from iommud.engine.device.context import Context
from iommud.engine.device.device import Device
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.model import Region
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.origin import AccountMode
from iommud.engine.memory.span import U64_MAX
from tests.examples import examples

from .device_model import MContext, MDevice, MHwpt, MIoas, MObject, Model, MPages, MUser, Refuse
from .fakes import MOCK_PAGE_SIZES, RW, P, attach, copy, errno_of, map_, new_hwpt, replace, unmap_range
from .world import World, at_rest

CONTEXTS = 2
PICK = st.integers(0, 5)
CONTEXT = st.sampled_from([0, 0, 0, 1])
SELDOM = st.integers(0, 5).map(lambda n: n == 5)
# In half pages, which are off the alignment for some.
WHERE = st.sampled_from([2 * n for n in range(14)] * 3 + [1, 3, 9]).map(lambda n: n * P // 2)
LENGTH = st.sampled_from([P, 2 * P, 3 * P, P, 2 * P, 5 * P, P // 2, 100])
ADDRESS = st.sampled_from([0, P, 2 * P, 3 * P, 4 * P, 7 * P, P // 2, 100])
# Near an area: which one, and how many half pages from its start.
SPOT = st.tuples(PICK, st.sampled_from([0, 0, 0, 2, 4, -2, 1]))
PROT = st.sampled_from([RW, RW, RW, PROT_READ, PROT_WRITE])
MODE = st.sampled_from(list(AccountMode))
FAULT = st.one_of(st.none(), st.none(), st.integers(1, 6))  # which call that may fail does


def expected(call: Callable[[], object]) -> int:
    """The errno with which the model refuses; 0: it does not."""
    try:
        call()
    except Refuse as refusal:
        return refusal.errno
    return 0


class DeviceMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        for _ in range(CONTEXTS - 1):
            self.world.new_context()
        self.model = Model(CONTEXTS)
        one, two, file = (
            self.world.origin(mm="one"),
            self.world.origin(mm="two"),
            self.world.origin(mm="file", is_file=True),
        )
        one.limit, two.limit, file.limit = 12 * P, 8 * P, 9 * P
        world = self.world
        world.fake(group="g", regions=[Region(P, 2 * P - 1)])
        world.fake(group="g", page_sizes=MOCK_PAGE_SIZES)
        world.fake(make="other", aperture=(P, 40 * P - 1))
        world.fake(
            page_sizes=MOCK_PAGE_SIZES,
            aperture=(0, (1 << 31) - 1),
            regions=[Region(8 * P, 9 * P - 1), Region(11 * P, 11 * P)],
        )
        world.fake(make="other")
        world.fake(group="g", make="other")
        self.furnish()

    def furnish(self) -> None:
        """Most of what can happen needs all of this."""
        for which in (0, 0, 1):
            self.create(which, MIoas, False)
        for fake in range(4):
            self.bind(0, fake, None)
        for ioas in range(2):
            self.map(0, ioas, 0, 0, 3 * P, 2 * P, RW, AccountMode.USER, None)
            self.map(0, ioas, ioas + 1, 2 * P, 2 * P, 5 * P, RW, AccountMode.MM, None)
            self.create(0, MUser, True)
            self.move(0, ioas, ioas)
            self.attach(0, ioas, ioas, None, False)
        self.bind(1, 4, None)
        self.map(1, 0, 1, P, 4 * P, 4 * P, PROT_READ, AccountMode.USER, None)
        self.create(1, MUser, False)

    # --- how a step is taken ---

    def pick(self, which: int, kind: type, at: int) -> Any:
        """(context, its twin in the model, object, its twin), or None when there is no object of
        that kind.
        """
        context, twin = self.world.contexts[which], self.model.contexts[which]
        found = sorted(
            twin.all(kind), key=lambda obj: isinstance(obj, MDevice) and obj.hwpt is None
        )  # attached ones first
        if not found:
            return None
        chosen = found[at % len(found)]
        return context, twin, context.objects.get(chosen.number, REAL[kind]), chosen

    def act(self, call: Callable[[], object], expect: Callable[[], object], fault: int | None = None) -> bool:
        """Do it here and in the model; whether it was done. A fault that struck explains the
        refusal.
        """
        before = self.world.snapshot()
        self.world.faults.arm(fault)
        refused = errno_of(call)
        struck = self.world.faults.failed
        self.world.faults.arm(None)
        if struck:
            assert refused in (ENOMEM, EFAULT)
        else:
            assert refused == expected(expect)
        if refused:
            assert self.world.snapshot() == before
        self.model.settle()
        return not refused

    @staticmethod
    def near(ioas: MIoas | None, spot: tuple[int, int]) -> int:
        """An IOVA."""
        areas = ioas.areas if ioas is not None else []
        return max((areas[spot[0] % len(areas)].iova if areas else 0) + spot[1] * P // 2, 0)

    def user_of(self, access: Access) -> Any:
        return next(user for user in self.world.users if user.access is access)

    # --- objects ---

    @rule(which=CONTEXT, kind=st.sampled_from([MIoas, MUser]), pins=st.booleans())
    def create(self, which: int, kind: type, pins: bool) -> None:
        context, twin = self.world.contexts[which], self.model.contexts[which]
        if len(twin.all(kind)) < 3 and kind is MIoas:
            twin.add(MIoas(self.world.ioas(context).id))
        elif len(twin.all(kind)) < 3:
            twin.add(MUser(self.world.user(context=context, pins=pins).access.id, pins))

    @rule(which=CONTEXT, at=PICK, really=SELDOM)
    def destroy(self, which: int, at: int, really: bool) -> None:
        found = self.pick(which, MObject, at)
        if found is None or not (really or isinstance(found[3], MHwpt)):
            return
        context, twin, obj, chosen = found

        def expect() -> None:
            used = (isinstance(chosen, MIoas) and (chosen.hwpts or chosen.users)) or (
                isinstance(chosen, MHwpt) and chosen.members
            )
            if used or isinstance(chosen, MDevice | MUser):
                raise Refuse(EBUSY)
            if isinstance(chosen, MHwpt):
                self.model.remove_hwpt(twin, chosen)
            else:
                del twin.objects[chosen.number]

        self.act(lambda: context.objects.remove(obj.id), expect)

    @rule(which=CONTEXT, at=PICK, what=st.sampled_from([MDevice, MUser, MContext, None, None, None, None]))
    def leave(self, which: int, at: int, what: type | None) -> None:
        """A device is unbound, or an access released; or a file is closed: all leave, then the
        context goes.
        """
        context, twin = self.world.contexts[which], self.model.contexts[which]
        if what is MContext:
            for number in [n for n, obj in twin.objects.items() if isinstance(obj, MDevice | MUser)]:
                self.end(context, twin, number)
            context.put()
            assert len(context.objects) == 0
            self.world.contexts[which] = self.world.new_context()
            self.world.contexts.pop()
            self.model.contexts[which] = MContext()
        elif what is not None and (found := self.pick(which, what, at)):
            self.end(context, twin, found[3].number)
        self.model.settle()

    def end(self, context: Context, twin: MContext, number: int) -> None:
        chosen = twin.objects.pop(number)
        if isinstance(chosen, MDevice):
            self.world.unbind(context.objects.get(number, Device))
            self.model.detach(twin, chosen)
        elif isinstance(chosen, MUser):
            self.world.release(self.user_of(context.objects.get(number, Access)))
            self.model.move(chosen, None)

    # --- devices ---

    @rule(which=CONTEXT, at=PICK, fault=FAULT)
    def bind(self, which: int, at: int, fault: int | None) -> None:
        context, twin = self.world.contexts[which], self.model.contexts[which]
        fake = self.world.fakes[at % len(self.world.fakes)]
        bound = [(c, d) for c in self.model.contexts for d in c.all(MDevice)]
        if any(d.fake is fake for _, d in bound):
            return

        def expect() -> None:
            if any(c is not twin and d.fake.group == fake.group for c, d in bound):
                raise Refuse(EPERM)
            twin.add(MDevice(twin.next_id(), fake))

        self.act(lambda: self.world.bind(fake, context), expect, fault)

    @rule(which=CONTEXT, at=PICK, to=st.sampled_from([0, 1, 3, 4, 2, 5, 0, 1, 9]), fault=FAULT, odd=SELDOM)
    def attach(self, which: int, at: int, to: int, fault: int | None, odd: bool) -> None:
        found = self.pick(which, MDevice, at)
        if found is None:
            return
        _, twin, device, chosen = found
        numbers = sorted(twin.objects, key=lambda n: (not isinstance(twin.objects[n], MIoas), n))
        number = numbers[to] if to < len(numbers) else 99
        ours, theirs = (
            (replace, self.model.replace) if (chosen.hwpt is not None) != odd else (attach, self.model.attach)
        )
        result: list[int] = []
        if self.act(lambda: result.append(ours(device, number)), lambda: theirs(twin, chosen, number), fault):
            assert chosen.hwpt is not None
            assert result == [chosen.hwpt.number]

    @rule(which=CONTEXT, at=PICK, really=SELDOM)
    def detach(self, which: int, at: int, really: bool) -> None:
        found = self.pick(which, MDevice, at)
        if found is not None and really:
            self.act(found[2].detach, lambda: self.model.detach(found[1], found[3]))

    @rule(which=CONTEXT, at=PICK, table=PICK, fault=FAULT)
    def make_hwpt(self, which: int, at: int, table: int, fault: int | None) -> None:
        found, ioas = self.pick(which, MDevice, at), self.pick(which, MIoas, table)
        if found is not None and ioas is not None and len(found[1].all(MHwpt)) < 4:
            self.act(
                lambda: new_hwpt(found[2], ioas[2]), lambda: self.model.make_hwpt(found[1], found[3], ioas[3]), fault
            )

    @rule(which=CONTEXT, at=PICK, spot=SPOT, length=LENGTH, write=st.booleans())
    def dma(self, which: int, at: int, spot: tuple[int, int], length: int, write: bool) -> None:
        found = self.pick(which, MDevice, at)
        if found is None:
            return
        device, chosen = found[2], found[3]
        iova = self.near(chosen.hwpt.ioas if chosen.hwpt is not None else None, spot)
        buffer = bytearray(b"w" * length)

        def expect() -> None:
            seen, shown = bytearray(buffer), bytearray()
            if chosen.hwpt is None:
                raise Refuse(ENOENT)
            for area, start, end in chosen.hwpt.ioas.contiguous(iova, iova + length - 1):
                if not area.prot & (PROT_WRITE if write else PROT_READ):
                    raise Refuse(EPERM)
                base = area.start_byte - area.iova
                shown += bytes(area.pages.held[(base + n) // P][(base + n) % P] for n in range(start, end + 1))
            assert shown == seen

        self.act(lambda: (device.dma_write if write else device.dma_read)(iova, memoryview(buffer)), expect)

    # --- mappings ---

    @rule(
        which=CONTEXT,
        at=PICK,
        origin=st.integers(0, 2),
        address=ADDRESS,
        length=LENGTH,
        iova=WHERE,
        prot=PROT,
        mode=MODE,
        fault=FAULT,
    )
    def map(
        self,
        which: int,
        at: int,
        origin: int,
        address: int,
        length: int,
        iova: int,
        prot: int,
        mode: AccountMode,
        fault: int | None,
    ) -> None:
        found = self.pick(which, MIoas, at)
        if found is not None:
            source = self.world.origins[origin]
            pages = MPages(source, address // P, mode, bool(prot & PROT_WRITE))
            self.act(
                lambda: map_(found[2], source, address, length, iova, prot=prot, account_mode=mode),
                lambda: self.model.map(found[3], [(pages, address % P, length)], iova, prot),
                fault,
            )

    @rule(which=CONTEXT, at=PICK, to=PICK, spot=SPOT, length=LENGTH, iova=WHERE, prot=PROT, fault=FAULT)
    def copy(
        self, which: int, at: int, to: int, spot: tuple[int, int], length: int, iova: int, prot: int, fault: int | None
    ) -> None:
        found, target = self.pick(which, MIoas, at), self.pick(which, MIoas, to)
        if found is not None:
            source = self.near(found[3], spot)
            self.act(
                lambda: copy(found[2], source, length, target[2], iova, prot),
                lambda: self.model.map(target[3], self.model.slices(found[3], source, length), iova, prot),
                fault,
            )

    @rule(which=CONTEXT, at=PICK, spot=SPOT, length=st.one_of(LENGTH, st.just(20 * P)))
    def unmap(self, which: int, at: int, spot: tuple[int, int], length: int) -> None:
        found = self.pick(which, MIoas, at)
        if found is not None:
            iova = self.near(found[3], spot)
            last = iova + length - 1
            refused = errno_of(lambda: at_rest(unmap_range(found[2], iova, last)))
            assert refused == self.model.unmap(found[3], iova, last)
            self.model.settle()

    @rule(which=CONTEXT, at=PICK, large=st.booleans())
    def huge_pages(self, which: int, at: int, large: bool) -> None:
        found = self.pick(which, MIoas, at)
        if found is None:
            return
        ioas, chosen = found[2].iopt, found[3]

        def expect() -> None:
            if chosen.large and not large:
                if chosen.hwpts and chosen.areas:
                    raise Refuse(EINVAL)
                self.model.check_alignment(chosen, P)
            chosen.large = large

        self.act(ioas.enable_large_pages if large else ioas.disable_large_pages, expect)

    # --- accesses ---

    @rule(which=CONTEXT, at=PICK, table=st.one_of(st.none(), PICK))
    def move(self, which: int, at: int, table: int | None) -> None:
        found, ioas = self.pick(which, MUser, at), self.pick(which, MIoas, table or 0)
        if found is None:
            return
        access, chosen = found[2], found[3]
        if table is None or ioas is None:
            self.act(lambda: at_rest(access.detach()), lambda: self.model.move(chosen, None))
        else:
            change = access.attach if access.ioas is None else access.replace
            self.act(lambda: at_rest(change(ioas[2].id)), lambda: self.model.move(chosen, ioas[3]))

    @rule(which=CONTEXT, at=PICK, spot=SPOT, length=LENGTH, write=st.booleans(), fault=FAULT)
    def pin(self, which: int, at: int, spot: tuple[int, int], length: int, write: bool, fault: int | None) -> None:
        found = self.pick(which, MUser, at)
        if found is not None:
            user, iova = self.user_of(found[2]), self.near(found[3].ioas, spot)
            self.act(
                lambda: user.pin(iova, length, write=write),
                lambda: self.model.pin(found[3], iova, length, write=write),
                fault,
            )

    @rule(which=CONTEXT, at=PICK, item=PICK)
    def unpin(self, which: int, at: int, item: int) -> None:
        found = self.pick(which, MUser, at)
        if found is not None and found[3].items:
            iova, length = found[3].items.pop(item % len(found[3].items))
            self.user_of(found[2]).unpin(iova, length)
            self.model.settle()

    # --- what the processes do ---

    @rule(
        origin=st.integers(0, 2),
        page=st.integers(0, 9),
        what=st.sampled_from(["write", "remap", "lose", "find", "find"]),
    )
    def process(self, origin: int, page: int, what: str) -> None:
        source = self.world.origins[origin]
        if what == "lose":
            source.absent = {page}
        elif what == "find":
            source.absent = set()
        elif page not in source.absent and what == "remap":
            source.remap(page)
        elif page not in source.absent:
            source.fill(page * P + origin, b"some data")

    # --- invariants ---

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    @invariant()
    def as_the_model_has_it(self) -> None:
        for context, twin in zip(self.world.contexts, self.model.contexts, strict=True):
            assert {obj.id: type(obj) for obj in context.objects} == {n: REAL[type(o)] for n, o in twin.objects.items()}
            for chosen in twin.all(MIoas):
                self.same_table(context, chosen)
            for device in twin.all(MDevice):
                hwpt = context.objects.get(device.number, Device).group.hwpt if device.hwpt is not None else None
                assert (hwpt.id if hwpt is not None else None) == (
                    device.hwpt.number if device.hwpt is not None else None
                )

    @staticmethod
    def same_table(context: Context, chosen: MIoas) -> None:
        iopt = context.ioas(chosen.number).iopt
        assert iopt.iova_alignment == chosen.alignment()
        assert [(a.iova, a.last, a.start_byte, a.prot) for a in iopt.areas] == [
            (a.iova, a.last, a.start_byte, a.prot) for a in chosen.overlapping(0, U64_MAX)
        ]
        assert sorted((s.start, s.last) for s in iopt.reserved) == sorted(chosen.reserved())
        for area in chosen.areas:
            page = area.pages.held.get((area.start_byte + area.length - 1) // P)
            shown = iopt.translate(area.last)
            assert shown == (((id(page), 0), (area.start_byte + area.length - 1) % P) if chosen.hwpts else None)

    @invariant()
    def pins_and_charges_as_the_model_has_them(self) -> None:
        pins, host = self.model.pins(), self.world.host
        for origin in self.world.origins:
            for page in [*origin.memory.values(), *origin.replaced]:
                assert host.pins((id(page), 0)) == pins[id(page), 0]
        charged = dict(host.process_pages) | dict(host.user_pages.items())
        assert charged == self.model.charges(self.model.covered())

    def teardown(self) -> None:
        self.world.close()


REAL: dict[type, Any] = {MIoas: Ioas, MHwpt: HwptPaging, MDevice: Device, MUser: Access, MObject: object}

DeviceMachine.TestCase.settings = examples(250, steps=60)
TestDevices = DeviceMachine.TestCase
