"""What the engine asks of the outside, in memory: whose memory is mapped, a device and its IOMMU,
an access's driver. Each of their calls that may fail goes through one `Faults`, which can make the
n-th one fail.
"""

import os
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from errno import EFAULT, ENOENT, ENOMEM
from typing import TypeVar

from iommud.engine.device.access import create
from iommud.engine.device.context import Context
from iommud.engine.device.device import Device, at_once
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.iommu import Iommu, Port
from iommud.engine.device.model import Model, Region
from iommud.engine.device.paging import alloc_paging
from iommud.engine.mapping.dirty import Dirty
from iommud.engine.mapping.domain import DIRTY_TRACKING, AnyDomain, Domain, NestedDomain
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.objects import Object, ObjectTable
from iommud.engine.mapping.user_data import UserData
from iommud.engine.memory.host import Host
from iommud.engine.memory.origin import PAGE_SIZE, AccountMode, Identity, Stretch
from iommud.engine.memory.pages import Slice, file_slice, user_slice
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError
from iommud.ops import ioas as ops

P = PAGE_SIZE
RW = PROT_READ | PROT_WRITE
MOCK_PAGE_SIZES = ((1 << 37) - 1) & ~2047  # 2 KiB and its multiples
T = TypeVar("T")


class Faults:
    """Counts the calls that may fail; the `at`-th (from 1) fails, once. None: none does."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.calls = 0
        self.failed = ""

    def arm(self, at: int | None) -> None:
        self.at, self.calls, self.failed = at, 0, ""

    def may_fail(self, what: str, errno: int) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.failed = what
            raise IoctlError(errno, f"injected: {what}")


class FakePin:
    """The pages that were there when it was made; they stay, whatever is remapped."""

    def __init__(self, origin: "FakeOrigin", first: int, pages: list[bytearray]) -> None:
        self.origin = origin
        self.first = first
        self.pages = pages
        self.closed = False

    def _spans(self, offset: int, length: int) -> list[tuple[int, int, int, int]]:
        """(page, offset in it, offset in the buffer, bytes)."""
        assert not self.closed
        if self.origin.lost:
            raise IoctlError(EFAULT, "lost")
        assert 0 <= offset <= offset + length <= len(self.pages) * P
        spans = []
        done = 0
        while done < length:
            page, at = divmod(offset + done, P)
            count = min(P - at, length - done)
            spans.append((page, at, done, count))
            done += count
        return spans

    def read_into(self, offset: int, buffer: memoryview) -> None:
        for page, at, done, count in self._spans(offset, len(buffer)):
            buffer[done : done + count] = self.pages[page][at : at + count]

    def write_from(self, offset: int, data: memoryview) -> None:
        for page, at, done, count in self._spans(offset, len(data)):
            self.pages[page][at : at + count] = data[done : done + count]

    def place(self, offset: int) -> "tuple[FakeMapped, int, int, bool] | None":
        assert not self.closed
        if not self.origin.mapped:
            return None
        page, at = divmod(offset, P)
        memory = self.origin.here
        return memory, memory.address_of(self.first + page, self.pages[page]) + at, P - at, True

    def identity(self, offset: int) -> Identity:
        assert not self.closed
        assert offset % P == 0
        if self.origin.lost:
            raise IoctlError(EFAULT, "lost")
        return self.origin.named(self.first + offset // P, self.pages[offset // P])

    def stretches(self) -> list[Stretch]:
        assert not self.closed
        if self.origin.lost:
            return []
        if self.origin.block:
            return [Stretch(*self.identity(0), len(self.pages) * P, self.origin.block)]
        return [Stretch(*self.identity(at * P), P, P) for at in range(len(self.pages))]

    def close(self) -> None:
        assert not self.closed, "a pin is closed once"
        self.closed = True
        self.origin.pins.remove(self)


class FakeMapped:
    """The pages of an origin, as if they were mapped here. Pages that nobody holds must not be
    touched.
    """

    def __init__(self, origin: "FakeOrigin") -> None:
        self.file: Hashable = origin
        self.origin = origin
        self.pages: dict[int, bytearray] = {}  # by address / P
        self.data: dict[int, bytes] = {}
        self.copied = 0  # places

    def address_of(self, number: int, page: bytearray) -> int:
        while self.pages.setdefault(number, page) is not page:
            number += 1 << 20
        return number * P

    def _cut(self, address: int, length: int) -> Iterator[tuple[bytearray, int, int]]:
        """(page, from, to) in it."""
        while length:
            page, at = self.pages[address // P], address % P
            assert any(page is each for pin in self.origin.pins for each in pin.pages), "nobody holds it"
            count = min(length, P - at)
            yield page, at, at + count
            address, length = address + count, length - count

    def read(self, address: int, buffer: memoryview) -> int:
        if self.origin.lost:
            return 0
        buffer[:] = b"".join(page[at:to] for page, at, to in self._cut(address, len(buffer)))
        return len(buffer)

    def write(self, address: int, data: memoryview) -> int:
        if self.origin.lost:
            return 0
        done = 0
        for page, at, to in self._cut(address, len(data)):
            page[at:to] = data[done : done + to - at]
            done += to - at
        return done

    def copy(self, to: Sequence[int], of: Sequence[int]) -> int:
        """Places of both are of equal lengths, as all are that were asked for so far."""
        done = 0
        assert 0 < len(to) <= 2048
        for address, length, source, same in zip(to[::2], to[1::2], of[::2], of[1::2], strict=True):
            assert length == same > 0
            buffer = bytearray(length)
            if source in self.data or source >> 40:
                base = source >> 40 << 40
                buffer[:] = self.data[base][source - base :][:length]
            elif self.read(source, memoryview(buffer)) < length:
                break
            if self.write(address, memoryview(buffer)) < length:
                break
            done += length
            self.copied += 1
        return done

    def gather(self, of: Sequence[int], buffer: memoryview) -> int:
        done = 0
        assert 0 < len(of) <= 2048
        for address, length in zip(of[::2], of[1::2], strict=True):
            if self.read(address, buffer[done : done + length]) < length:
                break
            done += length
        return done

    def read_file(self, fd: int, offset: int, places: Sequence[int], flags: int) -> int:
        return self._carry(places, lambda page, at: os.preadv(fd, [memoryview(page)], offset + at, flags))

    def write_file(self, fd: int, offset: int, places: Sequence[int], flags: int) -> int:
        return self._carry(places, lambda page, at: os.pwritev(fd, [memoryview(page)], offset + at, flags))

    def _carry(self, places: Sequence[int], carry: Callable[[memoryview, int], int]) -> int:
        done = 0
        if self.origin.lost:
            return 0
        for address, length in zip(places[::2], places[1::2], strict=True):
            for page, at, to in self._cut(address, length):
                try:
                    done += carry(memoryview(page)[at:to], done)
                except OSError:
                    return done
        return done

    def locate(self, data: bytes) -> int:
        address = len(self.data) + 1 << 40
        self.data[address] = data
        return address


class FakeOrigin:
    """A process's memory, or a file: pages that come into being when they are asked for.

    `absent`: pages (address / P) that are not mapped. `lost`: what was pinned is lost, and nothing
    more can be pinned. `limit`: bytes. `mapped`: what is pinned is mapped here. `block`: it is one
    memory, never remapped, that lies together by so many bytes. 0: each page is a memory of its
    own.
    """

    def __init__(
        self, faults: Faults | None = None, *, uid: int = 1000, mm: Hashable = "mm", is_file: bool = False
    ) -> None:
        self.faults = faults or Faults()
        self.uid = uid
        self.mm = mm
        self.is_file = is_file
        self.memory: dict[int, bytearray] = {}
        self.replaced: list[bytearray] = []  # kept, so that no later page gets the same id()
        self.absent: set[int] = set()
        self.lost = False
        self.mapped = True
        self.here = FakeMapped(self)
        self.limit: int | None = None
        self.block = 0
        self.locked = 0
        self.shown = self.shown_locked = 0  # what `pinned` told
        self.refs = 0
        self.pins: list[FakePin] = []
        # (first page, pages, writable) of each pin made
        self.asked: list[tuple[int, int, bool]] = []

    def __str__(self) -> str:
        return f"origin {self.mm}"

    def get(self) -> None:
        self.refs += 1

    def put(self) -> None:
        self.refs -= 1
        assert self.refs >= 0

    def page(self, number: int) -> bytearray:
        if number in self.absent or self.lost:
            raise IoctlError(EFAULT, f"page {number:#x} is not mapped")
        return self.memory.setdefault(number, bytearray(P))

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> FakePin:
        assert start % P == 0
        assert length % P == 0
        assert length > 0
        self.faults.may_fail("pin", EFAULT)
        pin = FakePin(self, start // P, [self.page(start // P + n) for n in range(length // P)])
        self.pins.append(pin)
        self.asked.append((start // P, length // P, writable))
        return pin

    def alive(self) -> bool:
        return not self.lost

    def read_now(self, address: int, buffer: memoryview, *, itself: bool = True) -> None:
        for n in range(len(buffer)):
            buffer[n] = self.page((address + n) // P)[(address + n) % P]

    def write_now(self, address: int, data: memoryview) -> None:
        for n in range(len(data)):
            self.page((address + n) // P)[(address + n) % P] = data[n]

    def memlock_limit(self) -> int | None:
        self.faults.may_fail("limit", ENOMEM)
        return self.limit

    def locked_pages(self) -> int:
        return self.locked

    def pinned(self, npages: int, locked: bool) -> None:
        self.shown += npages
        self.shown_locked += npages if locked else 0

    # --- what its process does ---

    def remap(self, number: int) -> None:
        """Another page at the same place."""
        self.replaced.append(self.page(number))
        self.memory[number] = bytearray(P)

    def fill(self, address: int, data: bytes) -> None:
        self.write_now(address, memoryview(data))

    def read(self, address: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_now(address, memoryview(buffer))
        return bytes(buffer)

    def identity(self, number: int) -> Identity:
        return self.named(number, self.page(number))

    def named(self, number: int, page: bytearray) -> Identity:
        return (self, number * P) if self.block else (id(page), 0)

    def open_pins(self) -> Counter[int]:
        """Page -> open pins that hold it."""
        return Counter(pin.first + n for pin in self.pins for n in range(len(pin.pages)))


class FakeIommu(Iommu):
    """`make`: its page tables suit devices behind IOMMUs of the same make only."""

    nesting = True
    dirty_tracking = True

    def __init__(self, faults: Faults, make: str, page_sizes: int, aperture: tuple[int, int]) -> None:
        self.faults = faults
        self.kind = make
        self.page_sizes = page_sizes
        self.aperture = aperture

    def port(self, model: Model) -> "FakePort":
        assert isinstance(model, FakeDevice)
        return FakePort(model)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        self.faults.may_fail("domain", ENOMEM)
        dirty = Dirty(self.page_sizes) if flags & DIRTY_TRACKING else None
        return Domain(self.page_sizes, *self.aperture, dirty=dirty)

    def nested_domain(self, parent: Domain, flags: int, data: UserData) -> NestedDomain:
        self.faults.may_fail("nested_domain", ENOMEM)
        return NestedDomain()


class FakeDevice(Model):
    """A device, and what its port was told. `iommu`: what it stands behind; None: one of its own,
    of this make.
    """

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        group: Hashable = None,
        name: str = "fake",
        make: str = "fake",
        page_sizes: int = P,
        aperture: tuple[int, int] = (0, U64_MAX),
        regions: list[Region] | None = None,
        max_pasids: int = 0,
        iommu: FakeIommu | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.group: Hashable = group if group is not None else self
        self.name = name
        self.iommu = iommu or FakeIommu(self.faults, make, page_sizes, aperture)
        self.max_pasids = max_pasids
        self.pasids: dict[int, AnyDomain] = {}
        self.regions = regions or []
        self.current: AnyDomain | None = None
        self.refuses: Callable[[AnyDomain], int] = lambda _: 0  # the errno
        self.log: list[str] = []

    def reserved_regions(self) -> list[Region]:
        self.faults.may_fail("reserved_regions", ENOMEM)
        return self.regions


class FakePort(Port):
    def __init__(self, fake: FakeDevice) -> None:
        super().__init__(fake, dirty_tracking=fake.iommu.dirty_tracking)
        self.fake = fake

    def attach(self, domain: AnyDomain) -> None:
        self.fake.faults.may_fail("attach", ENOMEM)
        if errno := self.fake.refuses(domain):
            raise IoctlError(errno, "the IOMMU does not want it")
        self.fake.current = domain
        self.fake.log.append("attach")

    def detach(self) -> None:
        assert self.fake.current is not None
        self.fake.current = None
        self.fake.log.append("detach")

    def attach_pasid(self, pasid: int, domain: AnyDomain, old: AnyDomain | None) -> None:
        self.fake.faults.may_fail("attach_pasid", ENOMEM)
        assert self.fake.pasids.get(pasid) is old
        if errno := self.fake.refuses(domain):
            raise IoctlError(errno, "the IOMMU does not want it")
        self.fake.pasids[pasid] = domain

    def detach_pasid(self, pasid: int) -> None:
        del self.fake.pasids[pasid]


class FakeUser:
    """The driver of an access: remembers what it pinned, and unpins it when it is asked, unless it
    is `stubborn`.
    """

    def __init__(self, context: Context, *, pins: bool = True, name: str = "user") -> None:
        self.name = name
        self.pins = pins
        self.stubborn = False
        self.during: Callable[[], None] = lambda: None  # called first thing in `unmap`
        self.asked: list[tuple[int, int]] = []
        self.items: list[tuple[int, int]] = []
        self.access = create(context, self)

    def __str__(self) -> str:
        return self.name

    def pin(self, iova: int, length: int, *, write: bool = False) -> list[Identity]:
        """The identities of the pages."""
        pinned = self.access.pin_pages(iova, length, write=write)
        self.items.append((iova, length))
        return [pages.identity(index) for pages, index in pinned]

    def unpin(self, iova: int, length: int) -> None:
        self.items.remove((iova, length))
        self.access.unpin_pages(iova, length)

    def unpin_all(self, start: int = 0, last: int = U64_MAX) -> None:
        for iova, length in [i for i in self.items if i[0] <= last and start <= i[0] + i[1] - 1]:
            self.unpin(iova, length)

    async def unmap(self, iova: int, length: int) -> None:
        self.asked.append((iova, length))
        self.during()
        if not self.stubborn:
            self.unpin_all(iova, min(iova + length - 1, U64_MAX))

    def read(self, iova: int, length: int, near: Hashable = None) -> bytes:
        buffer = bytearray(length)
        self.access.read_into(iova, memoryview(buffer), near)
        return bytes(buffer)

    def write(self, iova: int, data: bytes, near: Hashable = None) -> None:
        self.access.write_from(iova, memoryview(data), near)

    def release(self) -> None:
        self.unpin_all()
        self.access.release()


class FaultyTable(ObjectTable):
    """IDs may run out."""

    def __init__(self, faults: Faults, host: Host) -> None:
        super().__init__(host)
        self.faults = faults

    def reserve(self, obj: Object) -> None:
        self.faults.may_fail("ID", ENOMEM)
        super().reserve(obj)


# --- the engine's operations in few words ---


def errno_of(call: Callable[[], object]) -> int:
    """The errno with which `call` is refused; 0: it is not. A refusal always says why."""
    try:
        call()
    except IoctlError as error:
        refusal = error
    else:
        return 0
    assert refusal.why
    return refusal.errno


def new_ioas(context: Context) -> Ioas:
    ioas = Ioas(context.host)
    context.objects.reserve(ioas)
    context.objects.publish(ioas)
    return ioas


def new_hwpt(device: Device, ioas: Ioas, flags: int = 0) -> HwptPaging:
    """As a client makes one by hand: it is there until it is destroyed by its ID."""
    hwpt = at_once(alloc_paging(device.context.objects, ioas, device, flags))
    device.context.objects.publish(hwpt)
    return hwpt


def slice_of(
    origin: FakeOrigin, address: int, length: int, *, prot: int = RW, account_mode: AccountMode = AccountMode.NONE
) -> Slice:
    make = file_slice if origin.is_file else user_slice
    return make(origin, address, length, writable=bool(prot & PROT_WRITE), account_mode=account_mode)


def place(ioas: Ioas, parts: list[Slice], iova: int | None, prot: int = RW) -> int:
    """Map slices; on failure they are put, as every caller does."""
    try:
        return ioas.iopt.map(parts, sum(part.length for part in parts), iova, prot)
    except IoctlError:
        for part in parts:
            part.pages.put()
        raise


def map_(
    ioas: Ioas,
    origin: FakeOrigin,
    address: int,
    length: int,
    iova: int | None,
    *,
    prot: int = RW,
    account_mode: AccountMode = AccountMode.NONE,
) -> int:
    return place(ioas, [slice_of(origin, address, length, prot=prot, account_mode=account_mode)], iova, prot)


def copy(source: Ioas, iova: int, length: int, target: Ioas, at: int | None, prot: int = RW) -> int:
    return place(target, source.iopt.slices(iova, length), at, prot)


def unmap(ioas: Ioas, iova: int, length: int) -> int:
    """Bytes. Nothing there is pinned by an access."""
    last, position, gone = iova + length - 1, iova, 0
    while True:
        count, following = ioas.iopt.unmap(position, last, 1000)
        gone += count
        if following is None:
            return gone
        assert ioas.iopt.pinned_at(following) is None
        position = following


def attach(device: Device, target: Object | int, pasid: int = 0) -> int:
    return at_once(device.attach(target if isinstance(target, int) else target.id, pasid))


def replace(device: Device, target: Object | int, pasid: int = 0) -> int:
    return at_once(device.replace(target if isinstance(target, int) else target.id, pasid))


def with_pauses(steps: Generator[None, None, T], between: Callable[[], None]) -> T:
    """Run an operation, and something else at each of its pauses."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        between()


def hwpt_of(context: Context, number: int) -> HwptPaging:
    return context.objects.get(number, HwptPaging)


def gone(context: Context, obj: Object) -> bool:
    return errno_of(lambda: context.objects.get(obj.id, type(obj))) == ENOENT


async def unmap_range(ioas: Ioas, start: int, last: int) -> int:
    """How many bytes were unmapped."""
    counted: list[int] = []
    await ops.unmap_range(ioas, start, last, counted.append)
    return sum(counted)
