"""A model of contexts with devices and accesses that is too simple to be wrong: nothing is counted
or kept that can be asked of the graph.

Each operation says why it is refused (`Refuse`) before it changes anything.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from errno import EADDRINUSE, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EPERM

from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.memory.origin import AccountMode, Identity
from iommud.engine.memory.span import U64_MAX

from .fakes import FakeDevice, FakeOrigin, P


class Refuse(Exception):
    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


@dataclass(eq=False)
class MPages:
    origin: FakeOrigin
    first: int  # page of the origin
    mode: AccountMode
    writable: bool
    held: dict[int, bytearray] = field(
        default_factory=dict, repr=False
    )  # index -> the page that was there when it was pinned


Part = tuple[MPages, int, int]  # pages, byte in them, bytes


@dataclass(eq=False)
class MArea:
    iova: int
    length: int
    pages: MPages
    start_byte: int
    prot: int

    @property
    def last(self) -> int:
        return self.iova + self.length - 1

    def indexes(self, start: int, last: int) -> range:
        base = self.start_byte - self.iova
        return range((base + start) // P, (base + last) // P + 1)


@dataclass(eq=False)
class MObject:
    number: int


@dataclass(eq=False)
class MIoas(MObject):
    areas: list[MArea] = field(default_factory=list)
    hwpts: list["MHwpt"] = field(default_factory=list)
    users: list["MUser"] = field(default_factory=list)
    large: bool = True

    def overlapping(self, start: int, last: int) -> list[MArea]:
        return sorted((a for a in self.areas if a.iova <= last and start <= a.last), key=lambda a: a.iova)

    def alignment(self) -> int:
        sizes = [hwpt.fake.iommu.page_sizes & -hwpt.fake.iommu.page_sizes for hwpt in self.hwpts]
        return max([1 if self.large else P, *sizes, *(P if user.pins else 1 for user in self.users)])

    def reserved(self) -> list[tuple[int, int]]:
        found = []
        for hwpt in self.hwpts:
            found += outside(hwpt.fake)
            found += [(r.start, r.last) for device in hwpt.members for r in device.fake.regions]
        return found

    def contiguous(self, iova: int, last: int) -> Iterator[tuple[MArea, int, int]]:
        while True:
            area = next((a for a in self.areas if a.iova <= iova <= a.last), None)
            if area is None:
                raise Refuse(ENOENT)
            yield area, iova, min(last, area.last)
            if area.last >= last:
                return
            iova = area.last + 1


@dataclass(eq=False)
class MHwpt(MObject):
    ioas: MIoas
    fake: FakeDevice  # who made it
    auto: bool
    members: list["MDevice"] = field(default_factory=list)


@dataclass(eq=False)
class MDevice(MObject):
    fake: FakeDevice
    hwpt: MHwpt | None = None


@dataclass(eq=False)
class MUser(MObject):
    pins: bool
    ioas: MIoas | None = None
    items: list[tuple[int, int]] = field(default_factory=list)


def outside(fake: FakeDevice) -> list[tuple[int, int]]:
    """What the page tables of its IOMMU cannot reach."""
    start, last = fake.iommu.aperture
    return ([(0, start - 1)] if start else []) + ([(last + 1, U64_MAX)] if last != U64_MAX else [])


class MContext:
    def __init__(self) -> None:
        self.objects: dict[int, MObject] = {}

    def next_id(self) -> int:
        return next(n for n in range(1, len(self.objects) + 2) if n not in self.objects)

    def add(self, obj: MObject) -> None:
        assert obj.number not in self.objects
        self.objects[obj.number] = obj

    def all(self, kind: type) -> list:  # type: ignore[type-arg]
        return [obj for _, obj in sorted(self.objects.items()) if isinstance(obj, kind)]

    def group(self, device: MDevice) -> list[MDevice]:
        return [d for d in self.all(MDevice) if d.fake.group == device.fake.group and d.hwpt is not None]


Connect = Callable[[MContext, MDevice, MHwpt], None]


class Model:
    """`contexts` share a host."""

    def __init__(self, count: int) -> None:
        self.contexts = [MContext() for _ in range(count)]

    # --- pins ---

    def tables(self) -> list[MIoas]:
        return [ioas for context in self.contexts for ioas in context.all(MIoas)]

    def covered(self) -> dict[MPages, set[int]]:
        """What is pinned, of every Pages there is."""
        found: dict[MPages, set[int]] = {area.pages: set() for ioas in self.tables() for area in ioas.areas}
        for ioas in self.tables():
            for area in ioas.areas if ioas.hwpts else []:
                found[area.pages].update(area.indexes(area.iova, area.last))
            for user in ioas.users:
                for iova, length in user.items:
                    for area, start, end in ioas.contiguous(iova, iova + length - 1):
                        found[area.pages].update(area.indexes(start, end))
        return found

    @staticmethod
    def charges(covered: dict[MPages, set[int]]) -> Counter[Hashable]:
        """uid, or mm -> pages."""
        counts: Counter[Hashable] = Counter()
        for pages, indexes in covered.items():
            if indexes and pages.mode != AccountMode.NONE:
                counts[pages.origin.uid if pages.mode == AccountMode.USER else pages.origin.mm] += len(indexes)
        return counts

    def settle(self) -> None:
        """Something may have been pinned or let go just now."""
        for pages, indexes in self.covered().items():
            for index in set(pages.held) - indexes:
                del pages.held[index]
            for index in indexes - set(pages.held):
                pages.held[index] = pages.origin.memory[pages.first + index]

    def pins(self) -> Counter[Identity]:
        """Real page -> how often it is pinned."""
        return Counter((id(page), 0) for pages in self.covered() for page in pages.held.values())

    def try_pins(self, wanted: list[tuple[MPages, range]]) -> None:
        """EFAULT, ENOMEM: these cannot all be pinned, one after the other."""
        covered = self.covered()
        for pages, indexes in wanted:
            new = set(indexes) - covered.get(pages, set())
            if any(pages.first + index in pages.origin.absent for index in new):
                raise Refuse(EFAULT)
            covered[pages] = covered.get(pages, set()) | new
            by = {AccountMode.USER: pages.origin.uid, AccountMode.MM: pages.origin.mm}.get(pages.mode)
            limit = pages.origin.limit
            if new and by is not None and limit is not None and self.charges(covered)[by] > limit // P:
                raise Refuse(ENOMEM)

    # --- mappings ---

    def map(self, ioas: MIoas, parts: list[Part], iova: int, prot: int) -> None:
        alignment, length = ioas.alignment(), sum(part[2] for part in parts)
        if length % alignment or iova % alignment:
            raise Refuse(EINVAL)
        if any(s <= iova + length - 1 and iova <= e for s, e in ioas.reserved()):
            raise Refuse(EINVAL)
        if ioas.overlapping(iova, iova + length - 1):
            raise Refuse(EEXIST)
        areas = []
        for pages, start_byte, count in parts:
            if prot & PROT_WRITE and not pages.writable:
                raise Refuse(EPERM)
            if start_byte % P % alignment:
                raise Refuse(EINVAL)
            areas.append(MArea(iova, count, pages, start_byte, prot))
            iova += count
        if ioas.hwpts:
            self.try_pins([(area.pages, area.indexes(area.iova, area.last)) for area in areas])
        ioas.areas += areas

    @staticmethod
    def slices(ioas: MIoas, iova: int, length: int) -> list[Part]:
        return [
            (area.pages, area.start_byte + start - area.iova, end - start + 1)
            for area, start, end in ioas.contiguous(iova, iova + length - 1)
        ]

    @staticmethod
    def unmap(ioas: MIoas, start: int, last: int) -> int:
        """The errno; what was unmapped before it stays so."""
        for area in ioas.overlapping(start, last):
            if area.iova < start or area.last > last:
                return ENOENT
            if any(i <= area.last and area.iova <= i + n - 1 for user in ioas.users for i, n in user.items):
                for user in ioas.users:
                    user.items = [(i, n) for i, n in user.items if not (i <= area.last and area.iova <= i + n - 1)]
            ioas.areas.remove(area)
        return 0

    @staticmethod
    def check_alignment(ioas: MIoas, alignment: int) -> None:
        if alignment > ioas.alignment() and any((a.iova | a.length | a.start_byte % P) % alignment for a in ioas.areas):
            raise Refuse(EADDRINUSE)

    # --- devices ---

    def attach(self, context: MContext, device: MDevice, number: int) -> None:
        self._change(context, device, number, self._attach, self._may_attach)

    def replace(self, context: MContext, device: MDevice, number: int) -> None:
        self._change(context, device, number, self._replace, lambda *_: None)

    def _change(self, context: MContext, device: MDevice, number: int, connect: Connect, before: Connect) -> None:
        target = context.objects.get(number)
        if target is None:
            raise Refuse(ENOENT)
        if isinstance(target, MHwpt):
            connect(context, device, target)
            return
        if not isinstance(target, MIoas):
            raise Refuse(EINVAL)
        for hwpt in [h for h in target.hwpts if h.auto]:
            try:
                connect(context, device, hwpt)
            except Refuse as refusal:
                if refusal.errno != EINVAL:
                    raise
            else:
                return
        hwpt = MHwpt(context.next_id(), target, device.fake, auto=True)
        before(context, device, hwpt)
        self._add_domain(target, hwpt)
        context.add(hwpt)
        try:
            connect(context, device, hwpt)
        except Refuse:
            self.remove_hwpt(context, hwpt)
            raise

    def _attach(self, context: MContext, device: MDevice, hwpt: MHwpt) -> None:
        self._may_attach(context, device, hwpt)
        hwpt.members.append(device)
        device.hwpt = hwpt

    def _may_attach(self, context: MContext, device: MDevice, hwpt: MHwpt) -> None:
        group = context.group(device)
        if device in group:
            raise Refuse(EBUSY)
        if group and group[0].hwpt is not hwpt:
            raise Refuse(EINVAL)
        self._may_reserve(device, hwpt.ioas)
        if device.fake.iommu.kind != hwpt.fake.iommu.kind:
            raise Refuse(EINVAL)

    @staticmethod
    def _may_reserve(device: MDevice, ioas: MIoas) -> None:
        if any(ioas.overlapping(region.start, region.last) for region in device.fake.regions):
            raise Refuse(EADDRINUSE)

    def _replace(self, context: MContext, device: MDevice, hwpt: MHwpt) -> None:
        old = device.hwpt
        if old is None:
            raise Refuse(EINVAL)
        if old is hwpt:
            return
        group = context.group(device)
        if hwpt.ioas is not old.ioas:
            for member in group:
                self._may_reserve(member, hwpt.ioas)
        if any(member.fake.iommu.kind != hwpt.fake.iommu.kind for member in group):
            raise Refuse(EINVAL)
        for member in group:
            old.members.remove(member)
            hwpt.members.append(member)
            member.hwpt = hwpt
        self._put(context, old)

    def detach(self, context: MContext, device: MDevice) -> None:
        old, device.hwpt = device.hwpt, None
        if old is not None:
            old.members.remove(device)
            self._put(context, old)

    def _put(self, context: MContext, hwpt: MHwpt) -> None:
        if hwpt.auto and not hwpt.members:
            self.remove_hwpt(context, hwpt)

    @staticmethod
    def remove_hwpt(context: MContext, hwpt: MHwpt) -> None:
        hwpt.ioas.hwpts.remove(hwpt)
        del context.objects[hwpt.number]

    def make_hwpt(self, context: MContext, device: MDevice, ioas: MIoas) -> None:
        hwpt = MHwpt(context.next_id(), ioas, device.fake, auto=False)
        self._add_domain(ioas, hwpt)
        context.add(hwpt)

    def _add_domain(self, ioas: MIoas, hwpt: MHwpt) -> None:
        self.check_alignment(ioas, hwpt.fake.iommu.page_sizes & -hwpt.fake.iommu.page_sizes)
        if any(ioas.overlapping(start, last) for start, last in outside(hwpt.fake)):
            raise Refuse(EADDRINUSE)
        if not ioas.hwpts:
            areas = sorted(ioas.areas, key=lambda a: a.iova)
            self.try_pins([(area.pages, area.indexes(area.iova, area.last)) for area in areas])
        ioas.hwpts.append(hwpt)

    # --- accesses ---

    def move(self, user: MUser, ioas: MIoas | None) -> None:
        if user.ioas is ioas:
            return
        if ioas is not None:
            self.check_alignment(ioas, P if user.pins else 1)
            ioas.users.append(user)
        if user.ioas is not None:
            user.ioas.users.remove(user)
            user.items = []
        user.ioas = ioas

    def pin(self, user: MUser, iova: int, length: int, *, write: bool) -> None:
        if not user.pins or not length:
            raise Refuse(EINVAL)
        if user.ioas is None:
            raise Refuse(ENOENT)
        last = iova + length - 1
        wanted: list[tuple[MPages, range]] = []
        for area, start, end in user.ioas.contiguous(iova, last):
            ends_off = area.last < last and (area.start_byte + area.length) % P
            if (area.start_byte + start - area.iova) % P or ends_off:
                raise Refuse(EINVAL)
            if not area.prot & (PROT_WRITE if write else PROT_READ):
                raise Refuse(EPERM)
            wanted.append((area.pages, area.indexes(start, end)))
            self.try_pins(wanted)
        user.items.append((iova, length))
