"""Accesses: what they pin and for how long, and what they copy."""

from errno import EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, EOVERFLOW, EPERM

import pytest

from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.memory.origin import AccountMode
from iommud.engine.memory.span import U64_MAX
from iommud.engine.memory.transfer import Transfer
from iommud.errors import IoctlError

from .fakes import FakeOrigin, P, attach, copy, errno_of, gone, map_, slice_of, unmap
from .world import World, stand


def pins(world: World, origin: FakeOrigin, pages: range) -> list[int]:
    """How often each page of the origin is pinned now."""
    return [world.host.pins(origin.identity(n)) for n in pages]


# --- pins ---


def test_a_page_is_pinned_once_by_each_pages(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user, device = world.user(ioas), world.device()
    map_(ioas, origin, 0, 4 * P, 0x10000)
    copy(ioas, 0x10000, 4 * P, other, 0x20000)
    assert user.pin(0x11000, 2 * P) == [origin.identity(1), origin.identity(2)]
    assert pins(world, origin, range(4)) == [0, 1, 1, 0]
    user.pin(0x11000, 2 * P)  # the same range
    user.pin(0x12000, P)  # a part
    user.pin(0x12000, 2 * P)  # one that reaches out of it
    attach(device, other)  # a page table of another IOAS that shows the same Pages
    assert pins(world, origin, range(4)) == [1, 1, 1, 1]
    assert [asked[:2] for asked in origin.asked] == [(1, 2), (3, 1), (0, 1)]
    map_(ioas, origin, 0, 4 * P, 0x50000)  # the same memory mapped again is another Pages
    user.pin(0x50000, P)
    assert pins(world, origin, range(4)) == [2, 1, 1, 1]
    world.check()
    user.unpin_all()
    assert pins(world, origin, range(4)) == [1, 1, 1, 1]
    device.detach()
    assert pins(world, origin, range(4)) == [0, 0, 0, 0]
    assert origin.pins == []


def test_what_is_unpinned_in_the_middle_is_pinned_anew(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, 4 * P, 0)
    user.pin(0, 4 * P)
    user.pin(P, P)
    user.pin(3 * P, P)
    old = [origin.identity(n) for n in range(4)]
    user.unpin(0, 4 * P)
    for n in range(4):
        origin.remap(n)
    # Pages 0 and 2 are let go, though the first pin still holds them for 1 and 3.
    assert [world.host.pins(page) for page in old] == [0, 1, 0, 1]
    assert user.pin(0, 4 * P) == [origin.identity(0), old[1], origin.identity(2), old[3]]
    origin.fill(0, b"n" * 4 * P)
    user.write(P // 2, b"x" * P)  # from a new page into an old one
    assert origin.read(P // 2, P) == b"x" * (P // 2) + b"n" * (P // 2)
    assert user.read(P // 2, 3 * P) == b"x" * P + bytes(P // 2) + b"n" * P + bytes(P // 2)
    world.check()


def test_pins_across_areas(world: World) -> None:
    ioas, origin, file = world.ioas(), world.origin(), world.origin(mm="file", is_file=True)
    user = world.user(ioas)
    map_(ioas, origin, 0, 2 * P, 0)
    map_(ioas, file, 8 * P, P, 2 * P)
    map_(ioas, origin, 16 * P, P, 3 * P)
    assert user.pin(P, 3 * P - 1) == [origin.identity(1), file.identity(8), origin.identity(16)]
    world.check()
    user.unpin(P, 3 * P - 1)
    assert all(area.accesses is None for area in ioas.iopt.areas)


def test_unaligned_pins(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    map_(ioas, origin, 100, P, 0x1000)  # the alignment is 1 as yet
    user = world.user(pins=True)
    assert errno_of(lambda: stand(user, ioas)) == EADDRINUSE
    unmap(ioas, 0x1000, P)
    stand(user, ioas)
    map_(ioas, origin, 0, 2 * P, 0x1000)
    assert errno_of(lambda: user.pin(0x1800, P)) == EINVAL
    assert user.pin(0x1000, 1) == [origin.identity(0)]
    assert user.pin(0x1000, P + 1) == [origin.identity(0), origin.identity(1)]


def test_each_area_must_end_on_a_page_but_the_last(world: World) -> None:
    # Only an access that came while nothing was mapped off the page can see such areas: by a copy
    # to a smaller IOVA alignment it cannot.
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    assert errno_of(lambda: map_(ioas, origin, 0, P // 2, 0)) == EINVAL
    user.access.iova_alignment = 1  # as if its driver had not asked for it
    ioas.iopt.enable_large_pages()
    map_(ioas, origin, 0, P // 2, 0)
    map_(ioas, origin, P, P, P // 2)
    assert user.pin(0, P // 2) == [origin.identity(0)]
    assert errno_of(lambda: user.pin(0, P)) == EINVAL
    assert user.pin(P // 2, P) == [origin.identity(1)]
    user.unpin_all()
    unmap(ioas, 0, 2 * P)
    user.access.iova_alignment = P
    ioas.iopt.enable_large_pages()


def test_the_order_of_what_can_be_wrong_with_a_pin(world: World) -> None:
    ioas, origin = world.ioas(), world.origin(uid=7)
    free, plain, user = world.user(), world.user(ioas, pins=False), world.user(ioas)
    map_(ioas, origin, 0, P, 0, prot=PROT_READ)
    map_(ioas, origin, P, P, P, prot=PROT_WRITE)
    map_(ioas, origin, 2 * P, P, 2 * P)
    map_(ioas, origin, 3 * P, P, 3 * P)
    origin.absent = {1, 3}
    before = world.snapshot()
    assert errno_of(lambda: plain.pin(0, P)) == EINVAL
    assert errno_of(lambda: free.pin(0, 0)) == EINVAL  # the length comes first
    assert errno_of(lambda: free.pin(U64_MAX, 2)) == EOVERFLOW  # then its end
    assert errno_of(lambda: free.pin(0, P)) == ENOENT  # then whether it stands anywhere
    assert errno_of(lambda: user.pin(9 * P, P)) == ENOENT
    assert errno_of(lambda: user.pin(1, P, write=True)) == EINVAL  # unaligned before forbidden
    assert errno_of(lambda: user.pin(P, P)) == EPERM  # forbidden before absent
    assert errno_of(lambda: user.pin(P, P, write=True)) == EFAULT
    assert errno_of(lambda: user.pin(0, P, write=True)) == EPERM
    assert errno_of(lambda: user.pin(0, 5 * P)) == EPERM  # what is wrong with an earlier area wins
    assert errno_of(lambda: user.pin(2 * P, 5 * P)) == EFAULT
    # and then the areas before it are let go
    assert errno_of(lambda: user.pin(2 * P, 2 * P)) == EFAULT
    origin.absent = set()
    assert errno_of(lambda: user.pin(3 * P, 2 * P)) == ENOENT
    assert world.snapshot() == before


def test_a_pin_asks_for_what_the_map_allowed(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0, prot=PROT_READ)
    map_(ioas, origin, P, P, P)
    user.pin(0, 2 * P)
    assert origin.asked == [(0, 1, False), (1, 1, True)], (
        "writeable memory is pinned for writing, whatever the access wants"
    )


def test_destroy_asks_whether_an_access_is_there(world: World) -> None:
    ioas = world.ioas()
    user = world.user(ioas)
    assert errno_of(lambda: world.context.objects.remove(ioas.id)) == EBUSY
    assert errno_of(lambda: world.context.objects.remove(user.access.id)) == EBUSY
    access = user.access
    world.release(user)
    assert gone(world.context, access)
    world.context.objects.remove(ioas.id)


def test_an_access_keeps_its_context(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0)
    user.pin(0, P)
    world.context.get()  # for World.close
    world.context.put()
    assert user.read(0, 1) == b"\0"
    world.check()


# --- copies ---


def test_copies_at_any_offset(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas, pins=False)
    data = bytes(n * 7 & 0xFF for n in range(6 * P))
    origin.fill(0, data)
    map_(ioas, origin, 100, P, 0x1234)
    map_(ioas, origin, 3 * P - 5, 2 * P, 0x1234 + P)
    shown = data[100 : 100 + P] + data[3 * P - 5 : 5 * P - 5]
    for near in (None, "mm", "another"):
        for start in (0, 1, P - 101, P - 1, P, P + 4, 2 * P):
            for length in (1, 2, 99, P, P + 1):
                part = shown[start : start + length]
                assert user.read(0x1234 + start, len(part), near) == part
        user.write(0x1234 + P - 3, b"123456", near)
        assert (origin.read(100 + P - 3, 3), origin.read(3 * P - 5, 3)) == (b"123", b"456")
        user.write(0x1234 + P - 3, shown[P - 3 : P + 3], near)
    assert origin.pins == []
    assert world.host.empty()


def test_the_order_of_what_can_be_wrong_with_a_copy(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    free, user = world.user(pins=False), world.user(ioas, pins=False)
    map_(ioas, origin, 0, P, 0, prot=PROT_READ)
    map_(ioas, origin, P, P, P, prot=PROT_WRITE)
    map_(ioas, origin, 2 * P, P, 2 * P)
    map_(ioas, origin, 3 * P, P, 3 * P)
    origin.absent = {3}
    assert errno_of(lambda: free.read(0, 0)) == EINVAL
    assert errno_of(lambda: free.read(U64_MAX, 2)) == EOVERFLOW
    assert errno_of(lambda: free.read(0, 1)) == ENOENT
    assert errno_of(lambda: user.read(9 * P, 1)) == ENOENT
    assert errno_of(lambda: user.write(P - 1, b"")) == EINVAL
    assert errno_of(lambda: user.write(P - 1, b"ab")) == EPERM
    assert errno_of(lambda: user.read(P - 1, 2)) == EPERM
    assert errno_of(lambda: user.read(4 * P - 1, 1)) == EFAULT
    # What came before stays copied.
    assert errno_of(lambda: user.write(3 * P - 1, b"ab")) == EFAULT
    assert origin.read(3 * P - 1, 1) == b"a"
    origin.absent = set()
    assert errno_of(lambda: user.write(4 * P - 1, b"cd")) == ENOENT
    assert origin.read(4 * P - 1, 1) == b"c"
    buffer = bytearray(b"....")
    with pytest.raises(IoctlError):
        user.access.read_into(4 * P - 1, memoryview(buffer))
    assert buffer == b"c..."


def test_a_copy_sees_what_the_kernels_would(world: World) -> None:
    """By the process itself: its memory as it is now. By another: one page as it is now, several as
    they were pinned.
    """
    ioas, origin = world.ioas(), world.origin()
    user, device = world.user(ioas), world.device()
    map_(ioas, origin, 0, 4 * P, 0)
    origin.fill(0, b"o" * 4 * P)
    user.pin(P, P)
    for n in range(4):
        origin.remap(n)
    origin.fill(0, b"n" * 4 * P)
    assert user.read(0, 4 * P, "mm") == b"n" * 4 * P
    assert user.read(P, P) == b"n" * P
    assert user.read(0, 4 * P) == b"n" * P + b"o" * P + b"n" * 2 * P
    attach(device, ioas)
    user.unpin(P, P)  # now the page table alone holds it
    assert user.read(0, 4 * P) == b"n" * P + b"o" * P + b"n" * 2 * P
    origin.absent = {1}
    assert errno_of(lambda: user.read(P, P)) == EFAULT
    assert user.read(P - 1, 2) == b"no"
    device.detach()
    assert errno_of(lambda: user.read(P - 1, 2)) == EFAULT


def test_a_file_is_read_as_it_was_pinned(world: World) -> None:
    ioas, file = world.ioas(), world.origin(is_file=True)
    user = world.user(ioas)
    map_(ioas, file, 0, 2 * P, 0)
    user.pin(0, P)
    file.fill(0, b"o")
    file.remap(0)
    assert user.read(0, 1, "mm") == b"o"
    assert user.read(P, 1) == b"\0"


def test_a_lost_origin(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, 2 * P, 0)
    user.pin(0, P)
    origin.lost = True
    before = world.snapshot()
    assert errno_of(lambda: user.read(0, 1)) == EFAULT
    assert errno_of(lambda: user.read(0, P + 1)) == EFAULT
    assert errno_of(lambda: user.pin(P, P)) == EFAULT
    assert errno_of(lambda: user.access.pin_pages(0, 2 * P, write=False)) == EFAULT
    assert world.snapshot() == before
    user.unpin(0, P)  # which needs nobody
    unmap(ioas, 0, 2 * P)


# --- copies in two halves ---


def test_what_a_transfer_goes_to_stays_until_it_is_done(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user, device = world.user(ioas), world.device()
    map_(ioas, origin, 0, 4 * P, 0)
    copy(ioas, 0, 4 * P, other, 0)
    attach(device, other)
    user.pin(P, P)
    origin.fill(0, b"o" * 4 * P)
    transfer = user.access.transfer(0, 4 * P, None, write=False)
    with transfer:
        device.detach()
        user.unpin(P, P)
        for n in range(4):
            origin.remap(n)
        assert pins(world, origin, range(4)) == [0, 0, 0, 0]
        assert len(origin.pins) == 1, "not closed yet"
        buffer = bytearray(4 * P)
        transfer.copy(memoryview(buffer))
        assert buffer == b"o" * 4 * P
    assert origin.pins == []


def test_a_transfer_pins_what_nobody_holds(world: World) -> None:
    ioas, origin = world.ioas(), world.origin(uid=3)
    user = world.user(ioas)
    origin.limit = P
    map_(ioas, origin, 0, 4 * P, 0, account_mode=AccountMode.USER)
    user.pin(P, P)
    held = origin.pins[0]
    with user.access.transfer(10, 3 * P, "another", write=True) as transfer:
        assert [(pin.first, len(pin.pages)) for pin in origin.pins] == [(1, 1), (0, 1), (2, 2)]
        assert world.host.user_pages == {3: 1}, "for the moment, without a charge"
        transfer.copy(memoryview(b"x" * 3 * P))
    assert origin.pins == [held]
    assert origin.read(0, 4 * P) == bytes(10) + b"x" * 3 * P + bytes(P - 10)


def test_a_transfer_that_must_fail_does_what_comes_before(world: World) -> None:
    ioas, origin, file = world.ioas(), world.origin(), world.origin(is_file=True)
    user = world.user(ioas)
    map_(ioas, origin, 0, 2 * P, 0)
    map_(ioas, file, 0, 2 * P, 2 * P)
    file.absent = {1}
    before = world.snapshot()
    with user.access.transfer(0, 4 * P, "mm", write=True) as transfer:
        assert origin.refs == 2, "the process is held as long as it is copied to"
        assert errno_of(lambda: transfer.copy(memoryview(b"y" * 4 * P))) == EFAULT
    assert origin.read(0, 2 * P) == b"y" * 2 * P
    assert world.snapshot() == before
    assert errno_of(lambda: user.access.transfer(0, 0, None, write=True)) == EINVAL
    assert errno_of(lambda: world.user().access.transfer(0, 1, None, write=True)) == ENOENT


def test_pages_mapped_for_reading_are_not_written(world: World) -> None:
    """No area is writeable whose pages are not; the pages say so themselves all the same."""
    part = slice_of(world.origin(), 0, P, prot=PROT_READ)
    with Transfer(write=True) as transfer:
        assert errno_of(lambda: part.pages.transfer(transfer, 0, 0, 1, None)) == EPERM
    part.pages.put()
