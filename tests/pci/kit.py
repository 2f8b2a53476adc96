"""What the tests of a PCI function stand on: a clock that the test turns, eventfds that are
counters, and functions of every shape.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from errno import EBADF, EINVAL
from typing import TypeVar

from iommud.engine.device.device import at_once
from iommud.engine.mapping.ioas import Ioas
from iommud.errors import IoctlError
from iommud.file.disk import Disks
from iommud.iommus.plain import PlainIommu
from iommud.pci import registers as r
from iommud.pci import vfio_names as v
from iommud.pci.bars import Bar
from iommud.pci.capabilities import (
    AdvancedFeatures,
    Capability,
    Express,
    Extended,
    Msi,
    Msix,
    Pm,
    Vendor,
    Vpd,
    errors,
    serial_number,
)
from iommud.pci.function import Identity, PciFunction, Slot
from iommud.pci.host import Host
from iommud.pci.interrupts import IrqSet
from iommud.pci.scheduler import Cancel
from iommud.pci.storage import Storage
from iommud.pci.vfio_pci import Opened, VfioPci
from tests.engine.fakes import FakeOrigin
from tests.engine.world import World

T = TypeVar("T")


class Clock:
    """Time passes when `pass_` is called. Work begins, and goes on after its sleeps, when it is due
    by then.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[_Call] = []

    def now(self) -> float:
        return self._now

    def after(self, seconds: float, call: Callable[[], None]) -> Cancel:
        due = _Call(self._now + seconds, call)
        self._due.append(due)
        return due

    def start(self, work: Callable[[], Awaitable[None]]) -> Cancel:
        begun: list[Generator[float, None, None]] = []

        def step() -> None:
            if not begun:
                begun.append(work().__await__())
            try:
                due.at = self._now + next(begun[0])
            except StopIteration:
                return
            self._due.append(due)

        due = _Call(self._now, step)
        self._due.append(due)
        return due

    async def sleep(self, seconds: float) -> None:
        await _Turn(seconds)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """The thread gets a processor before it is its turn again."""
        result = call()
        await _Turn(0)
        return result

    def pass_(self, seconds: float = 0.0) -> None:
        """So much time goes by, and what is due happens, in order."""
        end = self._now + seconds
        while due := [call for call in self._due if call.at <= end + 1e-9 and not call.off]:
            first = min(due, key=lambda call: call.at)
            self._due.remove(first)
            self._now = max(self._now, first.at)
            first.call()
        self._now = end

    def step(self) -> None:
        """The next thing that is due happens."""
        first = min((call for call in self._due if not call.off), key=lambda call: call.at)
        self._due.remove(first)
        self._now = max(self._now, first.at)
        first.call()

    @property
    def waiting(self) -> int:
        return sum(not call.off for call in self._due)


class _Call:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.off = at, call, False

    def cancel(self) -> None:
        self.off = True


class _Turn:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self._seconds


class Eventfd:
    """A client's: a counter; whoever listens hears it at once."""

    def __init__(self) -> None:
        self.count = 0
        self.users = 0
        self.ears: list[Callable[[], None]] = []

    def signal(self) -> None:
        self.count += 1
        if self.ears:  # who hears it takes the count
            self.count = 0
        for heard in list(self.ears):
            heard()

    def close(self) -> None:
        self.users -= 1

    def take(self) -> int:
        """read(2): the count, and it is 0."""
        count, self.count = self.count, 0
        return count


class _Ear:
    def __init__(self, of: Eventfd, heard: Callable[[], None]) -> None:
        self._of, self._heard = of, heard
        of.ears.append(heard)
        of.users += 1

    def close(self) -> None:
        self._of.ears.remove(self._heard)
        self._of.users -= 1


class Table:
    """A client's descriptors: eventfds by number; 99 is something else; others are not open."""

    def __init__(self, *numbers: int) -> None:
        self.eventfds = {number: Eventfd() for number in numbers}

    def __getitem__(self, number: int) -> Eventfd:
        return self.eventfds[number]

    def _get(self, fd: int) -> Eventfd:
        if fd == 99:
            raise IoctlError(EINVAL, "99 is no eventfd")
        if fd not in self.eventfds:
            raise IoctlError(EBADF, f"{fd} is not open")
        return self.eventfds[fd]

    def trigger(self, fd: int) -> Eventfd:
        found = self._get(fd)
        found.users += 1
        return found

    def listen(self, fd: int, heard: Callable[[], None]) -> _Ear:
        found = self._get(fd)
        ear = _Ear(found, heard)
        if found.take():
            heard()
        return ear

    def users(self) -> int:
        return sum(eventfd.users for eventfd in self.eventfds.values())


class Plain(PciFunction):
    """A conventional function with BARs of each kind, INTx, MSI, power management and a vendor's
    capability. It remembers all.
    """

    name = "plain"
    identity = Identity(0x1234, 0xABCD, 0x088000, revision=7, subsystem_vendor=0x5678, subsystem_device=0x9ABC)
    bars: Sequence[Bar] = (
        Bar(0, 256),
        Bar(1, 1 << 16, prefetchable=True),
        Bar(2, 32, io=True),
        Bar(4, 1 << 33, wide=True, prefetchable=True),
    )
    interrupt_pin = 2
    capabilities: Sequence[Capability] = (
        Pm(d1=True, keeps_state=False, pme=0x1F),
        Msi(vectors=4, maskable=True),
        Vendor(b"abc\0", write=b"\0\xff"),
        AdvancedFeatures(),
        Vpd(),
    )
    vpd = bytes(range(64))

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot)
        self.memory: dict[tuple[int, int], int] = {}
        self.accesses: list[tuple[str, int, int, int]] = []
        self.resets = 0

    def load(self, bar: int, offset: int, size: int) -> int:
        self.accesses.append(("load", bar, offset, size))
        return sum(self.memory.get((bar, offset + i), 0) << 8 * i for i in range(size))

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        self.accesses.append(("store", bar, offset, size))
        for i, byte in enumerate(value.to_bytes(size, "little")):
            self.memory[bar, offset + i] = byte

    def reset(self) -> None:
        self.resets += 1
        self.memory.clear()


class Modern(Plain):
    """An Express function with MSI-X in a BAR of its own registers, an expansion ROM, and extended
    capabilities.
    """

    name = "modern"
    bars = (Bar(0, 1 << 14, wide=True),)
    capabilities: Sequence[Capability] = (
        Pm(),
        Msi(vectors=1, wide=False),
        Msix(vectors=5, table=(0, 0x2000), pba=(0, 0x3000)),
        Express(),
    )
    extended: Sequence[Extended] = (errors(), serial_number(0x0123456789ABCDEF))
    vpd = b""


def rom(size: int = 1024) -> bytes:
    """An image of an expansion ROM."""
    image = bytearray(range(256)) * (size // 256)
    image[0:2] = b"\x55\xaa"
    image[0x18:0x1A] = (0x40).to_bytes(2, "little")
    image[0x40:0x58] = (
        b"PCIR" + bytes(6) + b"\x18\0" + bytes(4) + (size // 512).to_bytes(2, "little") + bytes(3) + b"\x80\0\0"
    )
    return bytes(image)


class Rig:
    """A function that is bound to vfio-pci and open, in a context with an IOAS to which it is
    attached.
    """

    def __init__(self, kind: type[PciFunction] = Plain, *, storage: Storage | None = None, **options: object) -> None:
        self.clock = Clock()
        self.function = kind(Slot(scheduler=self.clock, storage=storage or Disks().of("device")), **options)
        self.host = Host(self.function)
        self.vfio = VfioPci(self.host)
        self.opened: Opened = self.vfio.open()
        self.table = Table(0, *range(10, 20))
        self.world: World | None = None

    def attach(self) -> tuple[Ioas, FakeOrigin]:
        """To an IOAS; its memory."""
        self.world = World()
        ioas, origin = self.world.ioas(), self.world.origin()
        at_once(self.function.bind(self.world.context, PlainIommu()).attach(ioas.id))
        return ioas, origin

    def master(self) -> None:
        """DMA and messages may leave the function."""
        self.config_write(r.PCI_COMMAND, 2, self.config_read(r.PCI_COMMAND, 2) | r.PCI_COMMAND_MASTER)

    def config_read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.opened.regions.read(v.VFIO_PCI_CONFIG_REGION_INDEX << 40 | offset, size), "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        assert (
            self.opened.regions.write(v.VFIO_PCI_CONFIG_REGION_INDEX << 40 | offset, value.to_bytes(size, "little"))
            == size
        )

    def load(self, bar: int, offset: int, size: int) -> int:
        return int.from_bytes(self.opened.regions.read(bar << 40 | offset, size), "little")

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        assert self.opened.regions.write(bar << 40 | offset, value.to_bytes(size, "little")) == size

    def set_irqs(self, flags: int, index: int, start: int, count: int, data: bytes = b"") -> None:
        """SET_IRQS as an ioctl does it: the check, then the rest."""
        request = IrqSet(v.VFIO_IRQ_SET_SIZE + len(data), flags, index, start, count)
        self.opened.irqs.set(request, data[: self.opened.irqs.check(request)], self.table)

    def eventfds(self, index: int, start: int, *fds: int) -> None:
        """Give vectors their triggers."""
        data = b"".join(fd.to_bytes(4, "little", signed=True) for fd in fds)
        self.set_irqs(v.VFIO_IRQ_SET_DATA_EVENTFD | v.VFIO_IRQ_SET_ACTION_TRIGGER, index, start, len(fds), data)
