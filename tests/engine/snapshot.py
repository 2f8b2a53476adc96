"""All that the engine knows, as a value that can be compared; and what must hold of it at
any time.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from iommud.engine.device.access import Access
from iommud.engine.device.context import Context
from iommud.engine.device.device import Device
from iommud.engine.device.hwpt import NO_PASID, Hwpt, HwptPaging
from iommud.engine.device.nested import HwptNested
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.objects import Object, ObjectTable
from iommud.engine.memory.area import Area
from iommud.engine.memory.host import Host
from iommud.engine.memory.origin import PAGE_SIZE, AccountMode, Identity
from iommud.engine.memory.pages import Pages
from iommud.engine.memory.span import U64_MAX

from .fakes import FakeDevice, FakeOrigin, FakeUser


def objects_of(context: Context, kind: type[Object] = Object) -> list[Any]:
    return [obj for obj in context.objects if isinstance(obj, kind)]


def pages_of(contexts: Iterable[Context]) -> dict[Pages, list[tuple[Ioas, Area]]]:
    """Every Pages that an area shows, and those areas."""
    found: dict[Pages, list[tuple[Ioas, Area]]] = {}
    for context in contexts:
        for ioas in objects_of(context, Ioas):
            for area in ioas.iopt.areas:
                if area.pages is not None:
                    found.setdefault(area.pages, []).append((ioas, area))
    return found


def _sorted(things: Iterable[Any]) -> list[Any]:
    return sorted(things, key=id)


def snapshot(host: Host, contexts: list[Context], origins: list[FakeOrigin], fakes: list[FakeDevice]) -> dict[str, Any]:
    """Compares equal to another one exactly when nothing has changed that anybody could notice.
    Objects stand for themselves.
    """
    return {
        "contexts": [_context(context) for context in contexts],
        "pages": {
            pages: (pages.refs, pages.npinned, sorted((s.start, s.last) for s in pages.pins), _sorted(areas_of))
            for pages, areas in pages_of(contexts).items()
            for areas_of in [[area for _, area in areas]]
        },
        "charges": (dict(host.user_pages), dict(host.process_pages)),
        "holding": _sorted(host.all_pinned()),
        "origins": [(origin.refs, origin.open_pins()) for origin in origins],
        "devices": [(fake.current, dict(fake.pasids)) for fake in fakes],
    }


def _context(context: Context) -> dict[str, Any]:
    probe = Object()
    # How many IDs are taken, and which comes next, says more than the free list, whose order nobody
    # can see.
    taken = len(context.objects)
    ObjectTable.reserve(context.objects, probe)
    context.objects.abort(probe)
    return {
        "ids": (taken, probe.id),
        "objects": {obj.id: (obj, _sorted(obj.users), _sorted(obj.shortterm_users)) for obj in context.objects},
        "ioas": {obj.id: _ioas(obj) for obj in objects_of(context, Ioas)},
        "hwpts": {obj.id: (obj.ioas, obj.domain, obj.auto, obj.linked) for obj in objects_of(context, HwptPaging)},
        "accesses": {obj.id: (obj.ioas, obj.ioas_unpin, obj.iova_alignment) for obj in objects_of(context, Access)},
        "groups": {
            key: (
                _sorted(group.bound),
                {pasid: (at.hwpt, _sorted(at.devices)) for pasid, at in group.attachments.items()},
            )
            for key, group in context.groups.items()
        },
    }


def _ioas(ioas: Ioas) -> tuple[Any, ...]:
    iopt = ioas.iopt
    iopt.areas.check()
    areas = [
        (
            area,
            (area.iova, area.last, area.start_byte, area.prot, area.pages),
            (area.accesses.num_accesses, area.accesses.num_locks, area.accesses.prevent_access)
            if area.accesses is not None
            else None,
        )
        for area in iopt.areas
    ]
    reserved = sorted(((s.start, s.last, s.owner) for s in iopt.reserved), key=lambda r: (r[0], r[1], id(r[2])))
    allowed = sorted((s.start, s.last) for s in iopt.allowed)
    return (
        areas,
        reserved,
        allowed,
        iopt.iova_alignment,
        iopt.large_pages,
        _sorted(iopt.domains),
        _sorted(iopt.accesses),
        _sorted(ioas.hwpts),
    )


def check(host: Host, contexts: list[Context], users: list[FakeUser]) -> None:
    """The invariants. Nothing is on its way when this is asked."""
    for context in contexts:
        _check_graph(context)
        for ioas in objects_of(context, Ioas):
            _check_table(ioas)
    _check_pages(host, contexts, users)
    areas = sum(len(ioas.iopt.areas) for context in contexts for ioas in context.objects if isinstance(ioas, Ioas))
    assert host.standing == sum(1 + len(context.objects) for context in contexts) + areas


def _check_graph(context: Context) -> None:
    for obj in context.objects:
        assert obj.shortterm_users == []
        assert context.objects.get(obj.id, Object) is obj
    attached = [
        (device, pasid, at.hwpt)
        for group in context.groups.values()
        for pasid, at in group.attachments.items()
        for device in at.devices
    ]
    for ioas in objects_of(context, Ioas):
        hwpts = [hwpt for hwpt in objects_of(context, HwptPaging) if hwpt.ioas is ioas]
        accesses = [access for access in objects_of(context, Access) if access.ioas is ioas]
        assert _sorted(ioas.users) == _sorted([*hwpts, *accesses])
        assert _sorted(ioas.hwpts) == _sorted(hwpts)
        assert _sorted(ioas.iopt.domains) == _sorted(hwpt.domain for hwpt in hwpts)
        assert _sorted(ioas.iopt.accesses) == _sorted(accesses)
    nested = objects_of(context, HwptNested)
    for hwpt in objects_of(context, Hwpt):
        above = [other for other in nested if other.parent is hwpt]
        assert _sorted(hwpt.users) == _sorted([*(device for device, _, of in attached if of is hwpt), *above])
        assert hwpt.users or not hwpt.auto, "an automatic page table goes with its last user"
        assert hwpt.paging.linked
    for device in objects_of(context, Device):
        assert device in device.group.bound
        mine = {pasid: hwpt for of, pasid, hwpt in attached if of is device}
        assert _sorted(device.users) == _sorted([device.model, *mine.values()])
        own = mine.pop(NO_PASID, None)
        assert device.model.current is (own.domain if own is not None else None)
        assert device.model.pasids == {pasid: hwpt.domain for pasid, hwpt in mine.items()}
        assert not mine or own is None or own.pasid_compat
        assert all(hwpt.pasid_compat for hwpt in mine.values())
    for key, group in context.groups.items():
        assert group.key == key
        assert group.bound
        assert set(group.attached) <= set(group.bound)
        assert all(at.devices for at in group.attachments.values())
    for access in objects_of(context, Access):
        assert access.ioas is access.ioas_unpin
        assert access.users == [access.user]


def _check_table(ioas: Ioas) -> None:
    iopt = ioas.iopt
    iopt.areas.check()
    sizes = [domain.smallest_page for domain in iopt.domains] + [access.iova_alignment for access in iopt.accesses]
    assert iopt.iova_alignment == max([1 if iopt.large_pages else PAGE_SIZE, *sizes])
    owed: list[tuple[int, int, object]] = []
    for hwpt in ioas.hwpts:
        assert isinstance(hwpt, HwptPaging)
        if hwpt.domain.aperture_start:
            owed.append((0, hwpt.domain.aperture_start - 1, hwpt.domain))
        if hwpt.domain.aperture_last != U64_MAX:
            owed.append((hwpt.domain.aperture_last + 1, U64_MAX, hwpt.domain))
        # Whose own DMA goes through it, or through one that is nested in it.
        above = [device for user in hwpt.users if isinstance(user, HwptNested) for device in user.users]
        for device in {user for user in (*hwpt.users, *above) if isinstance(user, Device)}:
            own = device.group.hwpt
            if own is None or own.paging is not hwpt or device not in device.group.attached:
                continue
            owed += [(region.start, region.last, device) for region in device.model.reserved_regions()]
    assert Counter((s, e, id(o)) for s, e, o in iopt.reserved) == Counter((s, e, id(o)) for s, e, o in owed)
    for area in iopt.areas:
        assert area.pages is not None
        assert not (area.iova | area.length | area.page_offset) & (iopt.iova_alignment - 1)
        assert iopt.reserved.first(area.iova, area.last) is None
        shown = iopt.translate(area.last)
        assert (shown is not None) == (bool(iopt.domains) and not area.pages.revoked)


def _check_pages(host: Host, contexts: list[Context], users: list[FakeUser]) -> None:
    needed: dict[Pages, Counter[tuple[int, int]]] = {}
    pins: Counter[Area] = Counter()
    all_pages = pages_of(contexts)
    for pages, areas in all_pages.items():
        assert pages.refs == len(areas)
        needed[pages] = Counter((a.first_index, a.last_index) for ioas, a in areas if ioas.iopt.domains)
    for user in users:
        for iova, length in user.items:
            assert user.access.ioas is not None
            for area, start, end in user.access.ioas.iopt.contiguous(iova, iova + length - 1):
                assert area.pages is not None
                base = area.start_byte - area.iova
                needed[area.pages][(base + start) // PAGE_SIZE, (base + end) // PAGE_SIZE] += 1
                pins[area] += 1
    held: Counter[Identity] = Counter()  # real page -> Pages that hold it
    by_user: Counter[int] = Counter()
    by_process: Counter[Hashable] = Counter()
    for pages, areas in all_pages.items():
        assert Counter((s.start, s.last) for s in pages.pins) == needed[pages]
        covered = {index for first, last in needed[pages] for index in range(first, last + 1)}
        assert pages.npinned == len(covered)
        if pages.origin.alive():
            held.update(pages.identity(index) for index in covered)
        if pages.account_mode == AccountMode.USER and covered:
            by_user[pages.origin.uid] += len(covered)
        elif pages.account_mode == AccountMode.MM and covered:
            by_process[pages.origin.mm] += len(covered)
        for _, area in areas:
            assert (area.accesses.num_accesses if area.accesses is not None else 0) == pins[area]
    assert host.user_pages == by_user
    assert host.process_pages == by_process
    assert _sorted(host.all_pinned()) == _sorted(pages for pages in all_pages if needed[pages])
    for identity, count in held.items():
        assert host.pins(identity) == count


def check_gone(host: Host, origins: list[FakeOrigin]) -> None:
    """The last context was released: nothing is left anywhere."""
    assert host.empty()
    assert host.standing == 0
    for origin in origins:
        assert origin.refs == 0
        assert origin.pins == []
