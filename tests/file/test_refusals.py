"""System calls that FUSE would answer by itself. Ref: v7.3 main.c iommufd_fops_mmap, eventq.c;
mm/mmap.c do_mmap
"""

import os
from errno import EBADF, EINVAL, ENODEV, ENXIO, EPERM, ESPIPE
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE
from typing import Any

import pytest

from cuse_glue.system.seccomp import MAP_FIXED, MAP_GROWSDOWN, MAP_HUGETLB, MAP_SHARED_VALIDATE
from cuse_glue.watch.questions import Call
from iommud.engine.device.context import Context
from iommud.engine.device.fault import FaultGroup, FaultQueue, PageFault
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.veventq import Veventq
from iommud.engine.device.viommu import Viommu
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.dma_buf import MemoryBuf
from iommud.engine.memory.host import Host
from iommud.file.descriptors import GivenFile
from iommud.file.device_file import IommuFile
from iommud.file.refusals import ADDRESS_SPACE, USER_END, Refusals
from iommud.iommus.plain import PlainIommu
from iommud.ops.dma_buf import GivenDmaBuf
from iommud.ops.fault import FaultFile
from iommud.ops.veventq import VeventqFile
from iommud.ops.why import Why

PAGE = 4096
ME = os.getpid()


class Bare:
    """Something behind a descriptor that does nothing."""

    def release(self) -> None:
        pass


class Desk:
    """Files of each kind, and a range of two pages that the device offers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.host = Host()
        self.host.shown.announce = lambda offset, content: None
        device: Any = self
        self.hooks: list[Any] = []
        self.device = IommuFile(device)
        self.other = IommuFile(device)
        shown = self.host.shown.show(self.device.context, bytearray(2 * PAGE))
        assert shown is not None
        self.offset = shown[0]
        self.fault = FaultFile(self.context, self._new(FaultQueue()))
        ioas = self._new(Ioas(self.host))
        viommu = self._new(Viommu(self.context, self._new(HwptPaging(ioas, PlainIommu(), 0)), PlainIommu()))
        self.events = VeventqFile(self.context, self._new(Veventq(viommu, 1, 1)))
        self.access = GivenFile(Bare(), lambda: None)
        self.dma_buf = GivenFile(GivenDmaBuf(MemoryBuf(PAGE)), lambda: None)
        self.refusals = Refusals(7, self.host, Why(self.lines.append))

    @property
    def context(self) -> Context:
        return self.device.context

    def closed(self) -> None:
        """A device file was."""

    def _new(self, made: Any) -> Any:
        self.context.objects.reserve(made)
        return made

    def mmap(
        self,
        file: Any = None,
        *,
        address: int = 0,
        length: int = 2 * PAGE,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = MAP_SHARED,
        offset: int | None = None,
        mode: int = os.O_RDWR,
    ) -> int:
        arguments = (address, length, prot, flags, 3, self.offset if offset is None else offset)
        return self.refusals.refusal(file or self.device, Call("mmap", ME, mode, arguments))

    def empty(
        self, name: str, file: Any, *, address: int = 0, position: int = 0, mode: int = os.O_RDWR, count: int = 0
    ) -> int:
        return self.refusals.refusal(file, Call(name, ME, mode, (3, address, count, position, 0, 0)))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_the_watcher_is_known(desk: Desk) -> None:
    assert desk.refusals.watcher == 7


# --- mmap ---


def test_a_range_that_was_offered_can_be_mapped(desk: Desk) -> None:
    for how in (
        {},
        {"prot": PROT_READ},
        {"prot": 0},
        {"length": 2 * PAGE - 1},
        {"length": PAGE + 1},
        {"flags": MAP_SHARED_VALIDATE},
        {"flags": MAP_SHARED | MAP_FIXED, "address": 5 * PAGE},
        {"mode": os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK},
    ):
        assert desk.mmap(**how) == 0, how
    assert desk.lines == []


def test_only_exactly_that_range_of_that_file(desk: Desk) -> None:
    for how in (
        {"length": PAGE},
        {"length": 3 * PAGE},
        {"offset": desk.offset + PAGE, "length": PAGE},
        {"offset": 0},
        {"file": desk.other},
    ):
        assert desk.mmap(**how) == ENXIO, how
    assert len(desk.lines) == 5
    assert all("is not exactly a range that VIOMMU_ALLOC offered" in line for line in desk.lines)
    assert "mmap: ENXIO" in desk.lines[0]


def test_in_the_kernels_order(desk: Desk) -> None:
    """Each is wrong in its own way and in all that come after it."""
    how: dict[str, Any] = {"flags": MAP_PRIVATE, "mode": os.O_RDONLY, "prot": PROT_EXEC, "offset": 0}
    for errno, why, mended in (
        (EINVAL, "cannot be mapped MAP_PRIVATE", {"flags": MAP_SHARED}),
        (EINVAL, "must be open for reading and writing", {"mode": os.O_RDWR}),
        (EPERM, "cannot be mapped PROT_EXEC", {"prot": PROT_READ}),
        (ENXIO, "is not exactly a range", {"offset": desk.offset}),
    ):
        assert desk.mmap(**how) == errno
        assert why in desk.lines[-1]
        how |= mended
    assert desk.mmap(**how) == 0


@pytest.mark.parametrize("kind", ["fault", "events", "access", "dma_buf"])
def test_other_files_cannot_be_mapped(desk: Desk, kind: str) -> None:
    file = getattr(desk, kind)
    expected = EINVAL if kind == "dma_buf" else ENODEV
    for flags in (MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE):
        assert desk.mmap(file, flags=flags) == expected
        assert desk.mmap(file, flags=flags, prot=PROT_READ, mode=os.O_RDONLY) == expected
        assert desk.mmap(file, flags=flags, prot=PROT_EXEC) == EPERM
    assert "cannot be mapped" in desk.lines[0]
    assert "no file without a name can be mapped to run it" in desk.lines[-1]


REFUSED_FOR_ANY_FILE: list[dict[str, Any]] = [
    {"offset": PAGE + 1},
    {"length": 0},
    {"length": ADDRESS_SPACE + 1},
    {"offset": (1 << 64) - PAGE, "length": PAGE},
    {"offset": (1 << 64) - 2 * PAGE, "length": PAGE + 1},
    {"flags": MAP_SHARED | MAP_HUGETLB},
    {"flags": MAP_SHARED | MAP_FIXED, "address": 1},
    {"flags": 0},
    {"flags": 4},
    {"flags": MAP_SHARED_VALIDATE | 0x8_0000},  # MAP_SYNC
    {"flags": MAP_SHARED_VALIDATE | 0x200},
    {"mode": os.O_WRONLY},
    {"mode": os.O_WRONLY | os.O_RDWR},
    {"mode": os.O_RDONLY, "prot": PROT_WRITE},
    {"mode": os.O_RDONLY, "prot": PROT_WRITE, "flags": MAP_SHARED_VALIDATE},
]


@pytest.mark.parametrize("how", REFUSED_FOR_ANY_FILE, ids=str)
def test_what_the_kernel_refuses_for_any_file_it_refuses_itself(desk: Desk, how: dict[str, Any]) -> None:
    """So we are silent, whatever file it is, and whatever else is wrong."""
    for file in (desk.device, desk.fault, desk.dma_buf):
        assert desk.mmap(file, **({"prot": PROT_EXEC} | how)) == 0
    assert desk.lines == []


def test_what_the_kernel_does_not_refuse_for_any_file(desk: Desk) -> None:
    """Just within those limits: it is up to the file."""
    for how in (
        {"length": ADDRESS_SPACE},
        {"offset": (1 << 64) - 2 * PAGE, "length": PAGE},
        {"flags": MAP_SHARED, "address": 1},
        {"flags": MAP_SHARED | MAP_FIXED, "address": 5 * PAGE},
        {"flags": MAP_SHARED | 1 << 30},
        {"flags": MAP_SHARED_VALIDATE | MAP_ANONYMOUS},
        {"flags": MAP_PRIVATE, "mode": os.O_RDONLY, "prot": PROT_WRITE},
    ):
        assert desk.mmap(desk.fault, **how) == ENODEV, how


def test_a_stack_is_not_ours_to_refuse(desk: Desk) -> None:
    assert desk.mmap(flags=MAP_SHARED | MAP_GROWSDOWN, offset=0) == 0
    assert desk.mmap(desk.fault, flags=MAP_SHARED | MAP_GROWSDOWN) == ENODEV


def test_nobody_need_be_told_why(desk: Desk) -> None:
    desk.refusals = Refusals(7, desk.host)
    assert desk.mmap(offset=0) == ENXIO


# --- reads and writes of nothing ---


@pytest.mark.parametrize("name", ["read", "readv", "pread64"])
def test_the_device_cannot_be_read(desk: Desk, name: str) -> None:
    assert desk.empty(name, desk.device) == EINVAL
    assert desk.empty(name, desk.device, mode=os.O_RDONLY) == EINVAL
    assert desk.empty(name, desk.device, mode=os.O_WRONLY) == EBADF


@pytest.mark.parametrize("name", ["write", "writev", "pwrite64"])
def test_the_device_cannot_be_written(desk: Desk, name: str) -> None:
    assert desk.empty(name, desk.device) == EINVAL
    assert desk.empty(name, desk.device, mode=os.O_WRONLY) == EINVAL
    assert desk.empty(name, desk.device, mode=os.O_RDONLY) == EBADF


def test_files_without_positions(desk: Desk) -> None:
    """A position of less than 0 is refused by the kernel, before it asks."""
    for name in ("pread64", "pwrite64"):
        for file in (desk.fault, desk.events, desk.access, desk.dma_buf):
            assert desk.empty(name, file) == ESPIPE
            assert desk.empty(name, file, position=1 << 63) == 0
            assert desk.empty(name, file, mode=os.O_RDONLY if name == "pwrite64" else os.O_WRONLY) == ESPIPE
        assert desk.empty(name, desk.device, position=1 << 63) == 0
    assert desk.lines == [], "there is nothing to say about it"


@pytest.mark.parametrize("kind", ["access", "dma_buf"])
def test_given_descriptors_take_and_give_nothing(desk: Desk, kind: str) -> None:
    for name in ("read", "readv", "write", "writev"):
        assert desk.empty(name, getattr(desk, kind)) == EINVAL
        assert desk.empty(name, getattr(desk, kind), address=USER_END) == EINVAL


def test_queues(desk: Desk) -> None:
    """Nothing is a whole number of records, and of answers; but less than an event's header. Where
    the kernel looks at the buffer first, or there is a list, it is up to that.
    """
    assert desk.empty("read", desk.fault) == 0
    assert desk.empty("read", desk.events) == EINVAL
    assert desk.empty("write", desk.fault) == 0
    assert desk.empty("write", desk.events) == EINVAL
    assert desk.empty("writev", desk.events) == EINVAL
    assert desk.empty("write", desk.events, address=USER_END) == EINVAL
    for file in (desk.fault, desk.events):
        assert desk.empty("readv", file) == 0
        assert desk.empty("read", file, address=USER_END) == 0
        assert desk.empty("read", file, mode=os.O_WRONLY) == EBADF
    assert desk.empty("writev", desk.fault) == 0
    assert desk.empty("write", desk.fault, address=USER_END) == 0


def test_an_event_queue_asks_for_a_header_unless_the_buffer_is_no_users(desk: Desk) -> None:
    assert desk.empty("read", desk.events, address=USER_END - 1) == EINVAL


def test_a_queue_with_a_fault_has_more_than_nothing(desk: Desk) -> None:
    """So a read of nothing is too short for it; a write of nothing is not."""
    attachment: Any = object()
    desk.fault.fault.deliver(FaultGroup([PageFault(0, 0)], attachment, lambda code: None))
    assert desk.empty("read", desk.fault) == EINVAL
    assert desk.empty("write", desk.fault) == 0
    assert desk.lines == []
