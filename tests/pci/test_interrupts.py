"""SET_IRQS. tests/clients/vfio/interrupts.c asks a real vfio-pci the same."""

from errno import EBADF, EBUSY, EINVAL, ENOTTY, ERANGE

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommud.errors import IoctlError
from iommud.pci import registers as r
from iommud.pci.interrupts import IrqSet
from tests.engine.fakes import errno_of

from .kit import Modern, Plain, Rig

INTX, MSI, MSIX, ERR, REQ = range(5)
NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = (1 << bit for bit in range(6))
FIRE, OFF = NONE | TRIGGER, NONE | TRIGGER


@pytest.fixture
def rig() -> Rig:
    made = Rig(Plain)
    made.master()
    return made


@pytest.fixture
def modern() -> Rig:
    made = Rig(Modern)
    made.master()
    return made


def refused(rig: Rig, flags: int, index: int, start: int, count: int, data: bytes = b"") -> int:
    return errno_of(lambda: rig.set_irqs(flags, index, start, count, data))


def status(rig: Rig) -> int:
    """Whether the function wants attention, and whether the host has disabled its INTx."""
    return bool(rig.config_read(6, 2) & 8) << 1 | bool(rig.function.command & r.PCI_COMMAND_INTX_DISABLE)


def test_what_there_is(rig: Rig, modern: Rig) -> None:
    assert [rig.opened.irqs.info(index) for index in range(5)] == [(7, 1), (9, 4), (9, 0), (9, 1), (9, 1)]
    assert [modern.opened.irqs.info(index)[1] for index in range(5)] == [1, 1, 5, 1, 1]
    assert modern.opened.irqs.info(MSIX)[0] == 1  # vectors can be added
    modern.host.dynamic_msix = False
    assert modern.opened.irqs.info(MSIX)[0] == 9
    assert errno_of(lambda: rig.opened.irqs.info(5)) == EINVAL


@pytest.mark.parametrize(
    ("argsz", "flags", "index", "start", "count"),
    [
        (19, FIRE, INTX, 0, 1),
        (20, FIRE, 5, 0, 1),
        (20, FIRE, INTX, 1, 0xFFFFFFFE),
        (20, FIRE, INTX, 0, 0xFFFFFFFF),
        (20, FIRE | 64, INTX, 0, 1),
        (20, FIRE, INTX, 1, 0),
        (20, FIRE, INTX, 0, 2),
        (20, FIRE, MSIX, 0, 0),  # it has none
        (20, TRIGGER, INTX, 0, 1),
        (20, FIRE | BOOL, INTX, 0, 1),
        (20, BOOL | TRIGGER, INTX, 0, 1),  # no room for the data
        (23, EVENTFD | TRIGGER, INTX, 0, 1),
    ],
)
def test_what_makes_no_sense(rig: Rig, argsz: int, flags: int, index: int, start: int, count: int) -> None:
    assert errno_of(lambda: rig.opened.irqs.check(IrqSet(argsz, flags, index, start, count))) == EINVAL


@pytest.mark.parametrize(
    ("flags", "count", "length"), [(FIRE, 4, 0), (BOOL | TRIGGER, 3, 3), (EVENTFD | TRIGGER, 3, 12)]
)
def test_how_much_data_follows(rig: Rig, flags: int, count: int, length: int) -> None:
    assert rig.opened.irqs.check(IrqSet(100, flags, MSI, 0, count)) == length


@pytest.mark.parametrize(
    ("index", "action"),
    [(MSI, MASK), (MSI, UNMASK), (ERR, MASK), (REQ, UNMASK), (INTX, 0), (INTX, MASK | UNMASK), (MSI, MASK | TRIGGER)],
)
def test_actions_that_there_are_not(rig: Rig, index: int, action: int) -> None:
    assert refused(rig, NONE | action, index, 0, 1) == ENOTTY


def test_one_kind_at_a_time(rig: Rig) -> None:
    rig.eventfds(INTX, 0, 10)
    assert refused(rig, EVENTFD | TRIGGER, MSI, 0, 1, b"\x0b\0\0\0") == EINVAL
    rig.set_irqs(OFF, INTX, 0, 0)
    rig.eventfds(MSI, 0, 11)
    assert refused(rig, EVENTFD | TRIGGER, INTX, 0, 1, b"\x0a\0\0\0") == EINVAL
    assert rig.table.users() == 1
    rig.set_irqs(OFF, MSI, 0, 0)
    assert rig.table.users() == 0


@pytest.mark.parametrize("index", [INTX, MSI])
def test_nothing_can_be_done_with_what_is_not_in_use(rig: Rig, index: int) -> None:
    for flags, count, data in ((FIRE, 1, b""), (OFF, 0, b""), (BOOL | TRIGGER, 1, b"\1")):
        assert refused(rig, flags, index, 0, count, data) == EINVAL
    assert refused(rig, NONE | MASK, INTX, 0, 1) == EINVAL
    assert refused(rig, NONE | UNMASK, INTX, 0, 1) == EINVAL


def test_intx_is_masked_by_itself_and_comes_again_while_it_is_wanted(rig: Rig) -> None:
    rig.eventfds(INTX, 0, 10)
    rig.function.intx(True)
    assert (rig.table[10].take(), status(rig)) == (1, 3)
    rig.function.intx(False)
    rig.function.intx(True)
    assert (rig.table[10].take(), status(rig)) == (0, 3)
    rig.set_irqs(NONE | UNMASK, INTX, 0, 1)
    assert (rig.table[10].take(), status(rig)) == (1, 3)
    rig.function.intx(False)
    rig.set_irqs(BOOL | UNMASK, INTX, 0, 1, b"\0")
    assert status(rig) == 1
    rig.set_irqs(BOOL | UNMASK, INTX, 0, 1, b"\1")
    assert (rig.table[10].take(), status(rig)) == (0, 0)


def test_intx_can_be_masked(rig: Rig) -> None:
    rig.eventfds(INTX, 0, 10)
    rig.set_irqs(BOOL | MASK, INTX, 0, 1, b"\0")
    assert status(rig) == 0
    rig.set_irqs(NONE | MASK, INTX, 0, 1)
    rig.function.intx(True)
    assert (rig.table[10].take(), status(rig)) == (0, 3)
    rig.set_irqs(NONE | UNMASK, INTX, 0, 1)
    assert rig.table[10].take() == 1
    assert refused(rig, EVENTFD | MASK, INTX, 0, 1, b"\x0a\0\0\0") == ENOTTY


def test_intx_that_was_up_before_is_seen_when_it_rises(rig: Rig) -> None:
    rig.function.intx(True)
    rig.eventfds(INTX, 0, 10)
    assert (rig.table[10].take(), status(rig)) == (0, 2)
    rig.function.intx(False)
    rig.function.intx(True)
    assert (rig.table[10].take(), status(rig)) == (1, 3)


def test_intx_without_an_eventfd_is_in_use_all_the_same(rig: Rig) -> None:
    rig.eventfds(INTX, 0, -1)
    rig.function.intx(True)
    assert status(rig) == 3
    rig.eventfds(INTX, 0, 10)
    rig.set_irqs(FIRE, INTX, 0, 1)
    rig.set_irqs(BOOL | TRIGGER, INTX, 0, 1, b"\0")
    assert rig.table[10].take() == 1
    rig.eventfds(INTX, 0, 11)
    rig.set_irqs(BOOL | TRIGGER, INTX, 0, 1, b"\1")
    assert (rig.table[10].count, rig.table[11].take(), rig.table.users()) == (0, 1, 1)


def test_the_disable_bit_masks_intx_and_what_is_fired(rig: Rig) -> None:
    rig.eventfds(INTX, 0, 10)
    rig.config_write(5, 1, 4)
    rig.function.intx(True)
    rig.set_irqs(FIRE, INTX, 0, 1)
    rig.set_irqs(NONE | UNMASK, INTX, 0, 1)
    assert (rig.table[10].take(), status(rig)) == (0, 3)
    rig.config_write(5, 1, 0)
    assert (rig.table[10].take(), status(rig)) == (1, 3)


def test_the_disable_bit_before_intx_is_in_use(rig: Rig) -> None:
    rig.config_write(5, 1, 4)
    rig.eventfds(INTX, 0, 10)
    rig.function.intx(True)
    assert (rig.table[10].take(), status(rig)) == (0, 3)
    rig.config_write(5, 1, 0)
    assert rig.table[10].take() == 1


def test_an_eventfd_that_unmasks(rig: Rig) -> None:
    rig.eventfds(INTX, 0, 10)
    assert refused(rig, EVENTFD | UNMASK, INTX, 0, 1, b"\x63\0\0\0") == EINVAL
    assert refused(rig, EVENTFD | UNMASK, INTX, 0, 1, b"\x30\0\0\0") == EBADF
    rig.set_irqs(EVENTFD | UNMASK, INTX, 0, 1, b"\x0b\0\0\0")
    assert refused(rig, EVENTFD | UNMASK, INTX, 0, 1, b"\x0c\0\0\0") == EBUSY
    rig.function.intx(True)
    assert rig.table[10].take() == 1
    rig.table[11].signal()
    assert (rig.table[10].take(), rig.table[11].count) == (1, 0)
    rig.function.intx(False)
    rig.table[11].signal()
    assert status(rig) == 0
    rig.set_irqs(EVENTFD | UNMASK, INTX, 0, 1, b"\xff\xff\xff\xff")
    assert rig.table.users() == 1
    rig.function.intx(True)
    rig.table[11].signal()
    assert (rig.table[10].take(), rig.table[11].take()) == (1, 1)
    rig.set_irqs(EVENTFD | UNMASK, INTX, 0, 1, b"\x0b\0\0\0")
    rig.set_irqs(OFF, INTX, 0, 0)
    assert rig.table.users() == 0


def test_msi(rig: Rig) -> None:
    rig.eventfds(MSI, 0, 10, 11, -1, 12)
    for vector in range(5):  # it may use four, so the fifth comes as the first
        rig.function.interrupt(vector)
    assert [rig.table[fd].take() for fd in (10, 11, 12)] == [2, 1, 1]
    rig.set_irqs(FIRE, MSI, 0, 4)
    rig.set_irqs(BOOL | TRIGGER, MSI, 0, 3, b"\0\1\1")
    assert [rig.table[fd].take() for fd in (10, 11, 12)] == [1, 2, 1]
    assert rig.function.config.read(0x4A, 2) == 0x01A5  # on, two of two bits of vectors
    rig.set_irqs(OFF, MSI, 0, 0)
    rig.function.interrupt(0)
    assert rig.table[10].take() == 0
    assert rig.function.config.read(0x4A, 2) & 1 == 0


def test_fewer_msi_than_there_are(rig: Rig) -> None:
    rig.eventfds(MSI, 0, 10, 11, 12)
    assert rig.function.config.read(0x4A, 2) == 0x01A5  # a power of two is allocated
    assert refused(rig, EVENTFD | TRIGGER, MSI, 2, 2, b"\x0d\0\0\0" * 2) == EINVAL  # and the fourth was not enabled
    assert rig.table.users() == 2  # the third has lost its own
    rig.set_irqs(OFF, MSI, 0, 0)
    rig.config_write(0x4A, 2, 0x70)
    assert rig.config_read(0x4A, 2) & 0x70 == 0x20  # as many as there once were


def test_msi_beyond_what_was_enabled(rig: Rig) -> None:
    rig.eventfds(MSI, 1, 10)
    rig.eventfds(MSI, 0, 11)
    assert refused(rig, EVENTFD | TRIGGER, MSI, 2, 1, b"\x0c\0\0\0") == EINVAL
    assert rig.table.users() == 2


@pytest.mark.parametrize("index", [MSI, MSIX])
def test_no_vectors_at_all(modern: Rig, index: int) -> None:
    assert refused(modern, EVENTFD | TRIGGER, index, 0, 0) == ERANGE
    assert modern.opened.irqs.in_use is None


def test_msi_cannot_be_turned_on_without_power(rig: Rig) -> None:
    rig.config_write(0x44, 2, 1)
    assert refused(rig, EVENTFD | TRIGGER, MSI, 0, 1, b"\x0a\0\0\0") == EINVAL
    assert refused(rig, EVENTFD | TRIGGER, MSI, 0, 0) == EINVAL
    rig.config_write(0x44, 2, 0)
    rig.eventfds(MSI, 0, 10)


def test_a_bad_descriptor_takes_those_before_it_along(modern: Rig) -> None:
    data = b"".join(fd.to_bytes(4, "little") for fd in (10, 11, 99, 12))
    assert refused(modern, EVENTFD | TRIGGER, MSIX, 0, 4, data) == EINVAL
    assert (modern.opened.irqs.in_use, modern.table.users()) == (None, 0)
    modern.eventfds(MSIX, 0, 10, 11, 12, 13)
    data = b"".join(fd.to_bytes(4, "little") for fd in (14, 48, 15))
    assert refused(modern, EVENTFD | TRIGGER, MSIX, 1, 3, data) == EBADF
    assert modern.opened.irqs.in_use == MSIX
    assert [modern.table[fd].users for fd in range(10, 16)] == [1, 0, 0, 1, 0, 0]


def test_msix_vectors_can_be_added(modern: Rig) -> None:
    modern.eventfds(MSIX, 1, 10)
    modern.eventfds(MSIX, 4, 14)
    for vector in (0, 1, 4, 7):
        modern.function.interrupt(vector)
    assert [modern.table[fd].take() for fd in (10, 14)] == [1, 1]
    assert modern.config_read(0x56, 2) == 0x8004  # the client sees that it is on
    modern.set_irqs(OFF, MSIX, 0, 0)
    assert modern.config_read(0x56, 2) == 0x0004
    modern.host.dynamic_msix = False
    modern.eventfds(MSIX, 0, 10)
    assert refused(modern, EVENTFD | TRIGGER, MSIX, 4, 1, b"\x0e\0\0\0") == EINVAL


def test_a_masked_msix_vector_is_pending_until_somebody_wants_it(modern: Rig) -> None:
    modern.eventfds(MSIX, 0, 10, -1)
    modern.function.interrupt(1)
    modern.function.interrupt(1)
    assert modern.opened.regions.load(0, 0x3000, 8) == 0b10
    modern.eventfds(MSIX, 1, 11)
    assert (modern.table[11].take(), modern.opened.regions.load(0, 0x3000, 8)) == (1, 0)
    modern.eventfds(MSIX, 1, -1)
    modern.function.interrupt(1)
    modern.eventfds(MSIX, 1, 12)
    assert (modern.table[11].count, modern.table[12].take()) == (0, 1)


def test_the_table_is_in_the_bar_and_a_client_that_maps_it_can_mask(modern: Rig) -> None:
    regions = modern.opened.regions
    modern.eventfds(MSIX, 0, 10)
    assert (regions.load(0, 0x2000, 8), regions.load(0, 0x2008, 8)) == (0xFEE00000, 0)
    assert regions.load(0, 0x201C, 4) == 1  # nobody has the second
    regions.store(0, 0x200C, 4, 1)
    modern.function.interrupt(0)
    assert modern.table[10].take() == 0
    regions.store(0, 0x200C, 4, 0)
    assert modern.table[10].take() == 1
    regions.store(0, 0x3000, 8, 0xFF)  # the pending bits are the function's
    assert regions.load(0, 0x3000, 8) == 0
    assert modern.function.accesses == []  # type: ignore[attr-defined]  # none of it was the model's business


def test_all_of_msix_can_be_masked_by_one_bit(modern: Rig) -> None:
    modern.eventfds(MSIX, 0, 10, 11)
    modern.function.config.write(0x56, 2, 0xC000)
    modern.function.interrupt(0)
    modern.function.interrupt(1)
    assert (modern.table[10].take(), modern.opened.regions.load(0, 0x3000, 8)) == (0, 0b11)
    modern.function.config.write(0x56, 2, 0x8000)
    assert [modern.table[fd].take() for fd in (10, 11)] == [1, 1]


def test_msi_without_mask_bits_comes_late_once_and_then_is_lost(modern: Rig) -> None:
    modern.eventfds(MSI, 0, -1)
    for _ in range(3):
        modern.function.interrupt()
    modern.eventfds(MSI, 0, 10)
    assert modern.table[10].take() == 1
    modern.eventfds(MSI, 0, -1)
    modern.function.interrupt()
    modern.eventfds(MSI, 0, 10)
    assert modern.table[10].take() == 0


def test_maskable_msi_is_pending(rig: Rig) -> None:
    rig.eventfds(MSI, 0, 10, 11)
    rig.config_write(0x48 + 16, 4, 0b10)
    rig.function.interrupt(1)
    assert (rig.table[11].take(), rig.config_read(0x48 + 20, 4)) == (0, 0b10)
    rig.config_write(0x48 + 16, 4, 0)
    assert (rig.table[11].take(), rig.config_read(0x48 + 20, 4)) == (1, 0)


def test_messages_need_a_bus_master_and_power(rig: Rig) -> None:
    rig.eventfds(MSI, 0, 10)
    rig.config_write(4, 1, 2)
    rig.function.interrupt()
    rig.master()
    rig.config_write(0x44, 2, 3)
    rig.function.interrupt()
    assert rig.table[10].take() == 0


def test_msi_lowers_intx(rig: Rig) -> None:
    rig.function.intx(True)
    assert status(rig) == 2
    rig.eventfds(MSI, 0, 10)
    assert status(rig) == 1
    rig.set_irqs(OFF, MSI, 0, 0)
    assert status(rig) == 0


def test_a_client_can_turn_msi_off_in_the_function(rig: Rig) -> None:
    rig.eventfds(MSI, 0, 10, 11)
    for flags, on in ((0x0010, False), (0x0071, True)):
        rig.config_write(0x4A, 2, flags)
        assert rig.function.sends_messages == on
    assert rig.config_read(0x4A, 2) == 0x0111  # no more vectors than are in use


@pytest.mark.parametrize("index", [ERR, REQ])
def test_err_and_req(rig: Rig, index: int) -> None:
    tell = rig.opened.irqs.tell_error if index == ERR else rig.opened.irqs.tell_request
    for flags, count, data in (
        (FIRE, 1, b""),
        (OFF, 0, b""),
        (BOOL | TRIGGER, 0, b""),
        (EVENTFD | TRIGGER, 0, b""),
        (EVENTFD | TRIGGER, 1, b"\xfe\xff\xff\xff"),
    ):
        assert refused(rig, flags, index, 0, count, data) == EINVAL
    assert refused(rig, EVENTFD | TRIGGER, index, 0, 1, b"\x30\0\0\0") == EBADF
    rig.set_irqs(BOOL | TRIGGER, index, 0, 1, b"\1")  # nobody is told, and that is well
    assert not tell()
    rig.eventfds(index, 0, 10)
    assert tell()
    rig.set_irqs(FIRE, index, 0, 1)
    rig.set_irqs(BOOL | TRIGGER, index, 0, 1, b"\1")
    rig.set_irqs(BOOL | TRIGGER, index, 0, 1, b"\0")
    assert rig.table[10].take() == 3
    rig.eventfds(index, 0, 11)
    rig.eventfds(INTX, 0, 12)  # beside the others
    assert (rig.table[10].users, rig.table[11].users) == (0, 1)
    rig.set_irqs(OFF, index, 0, 0)
    assert refused(rig, OFF, index, 0, 0) == EINVAL
    rig.eventfds(index, 0, 11)
    rig.eventfds(index, 0, -1)
    assert rig.table.users() == 1


@pytest.mark.parametrize("index", [INTX, MSI, ERR, REQ])
def test_descriptor_0_is_one(rig: Rig, index: int) -> None:
    rig.eventfds(index, 0, 0)
    rig.set_irqs(FIRE, index, 0, 1)
    assert rig.table[0].take() == 1
    if index == INTX:
        rig.set_irqs(EVENTFD | UNMASK, INTX, 0, 1, bytes(4))
        assert rig.table.users() == 2


def test_closing_lets_go_of_all(rig: Rig) -> None:
    for index, fds in ((INTX, (10,)), (MSI, (10, 11))):
        rig.eventfds(index, 0, *fds)
        rig.eventfds(ERR, 0, 12)
        rig.eventfds(REQ, 0, 12)
        rig.config_write(5, 1, 4)
        rig.vfio.close()
        assert rig.table.users() == 0
        assert not rig.function.command & (r.PCI_COMMAND_INTX_DISABLE | r.PCI_COMMAND_MASTER)
        rig.opened = rig.vfio.open()
    rig.eventfds(INTX, 0, 10)
    rig.function.intx(True)
    assert rig.table[10].take() == 1


CALLS = st.tuples(
    st.sampled_from([NONE, BOOL, EVENTFD]),
    st.sampled_from([MASK, UNMASK, TRIGGER, TRIGGER, TRIGGER]),
    st.sampled_from([INTX, MSI, MSIX, ERR]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.lists(st.sampled_from([-1, 10, 11, 12, 99, 48]), min_size=3, max_size=3),
)


class Kinds:
    """Which kind is in use, and which vector signals what: all that SET_IRQS is about, but for
    INTx's mask.
    """

    def __init__(self) -> None:
        self.kind: int | None = None
        self.known: set[int] = set()
        self.fds: dict[int, int] = {}
        self.err = -1

    def call(self, data: int, action: int, index: int, start: int, count: int, fds: list[int]) -> str | None:
        limit = {INTX: 1, MSI: 1, MSIX: 5, ERR: 1}[index]
        if start >= limit or start + count > limit:
            return "EINVAL"
        if action != TRIGGER and index != INTX:
            return "ENOTTY"
        if index == ERR:
            return self._single(data, count, fds)
        in_use = self.kind == index
        if action != TRIGGER:
            if not in_use or count != 1:
                return "EINVAL"
            return "ENOTTY" if (data, action) == (EVENTFD, MASK) else self._bad(fds[0]) if data == EVENTFD else None
        if in_use and not count and data == NONE:
            self.kind, self.fds = None, {}
            return None
        if self.kind not in (None, index) or (index == INTX and count != 1):
            return "EINVAL"
        if data != EVENTFD:
            return None if in_use else "EINVAL"
        if index == INTX:
            if bad := self._bad(fds[0]):
                return bad
            self.kind, self.fds = INTX, {0: fds[0]} if fds[0] >= 0 else {}
            return None
        if not in_use and not start + count:
            return "ERANGE"
        self.kind = index
        for i in range(count):
            self.fds.pop(start + i, None)
            if bad := self._bad(fds[i]):
                for done in range(i):
                    self.fds.pop(start + done, None)
                if not in_use:
                    self.kind, self.fds = None, {}
                return bad
            if fds[i] >= 0:
                self.fds[start + i] = fds[i]
        return None

    def _single(self, data: int, count: int, fds: list[int]) -> str | None:
        if data == NONE:
            if self.err < 0:
                return "EINVAL"
            if not count:
                self.err = -1
            return None
        if not count:
            return "EINVAL"
        if data == EVENTFD:
            if bad := self._bad(fds[0]):
                return bad
            self.err = fds[0]
        return None

    def _bad(self, fd: int) -> str | None:
        return {99: "EINVAL", 48: "EBADF"}.get(fd)


@given(st.lists(CALLS, max_size=30))
@settings(max_examples=50, deadline=None)
def test_against_a_model(calls: list[tuple[int, int, int, int, int, list[int]]]) -> None:
    rig, model = Rig(Modern), Kinds()
    rig.master()
    for data, action, index, start, count, fds in calls:
        if (data, action) == (EVENTFD, UNMASK):
            continue
        body = {NONE: b"", BOOL: b"\0\0\0"}.get(data, b"".join(fd.to_bytes(4, "little", signed=True) for fd in fds))
        try:
            rig.set_irqs(data | action, index, start, count, body)
            found = None
        except IoctlError as error:
            found = str(error).split(":")[0]
        assert found == model.call(data, action, index, start, count, fds)
        assert rig.opened.irqs.in_use == model.kind
        in_use = list(model.fds.values()) + [fd for fd in [model.err] if fd >= 0]
        assert {fd: rig.table[fd].users for fd in (10, 11, 12)} == {fd: in_use.count(fd) for fd in (10, 11, 12)}
        assert rig.function.messages.msi_on == (model.kind == MSI)
        assert rig.function.messages.msix_on == (model.kind == MSIX)
