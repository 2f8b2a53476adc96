"""The lines about DMA that went wrong."""

from errno import ENOENT

import pytest

from iommud.engine.device.context import Context
from iommud.engine.device.device import bind
from iommud.errors import IoctlError
from iommud.file import dma_why
from iommud.file.dma_why import DmaWhy
from tests.engine.fakes import FakeDevice, FakeOrigin, P, attach, map_, new_ioas


class Machine:
    """A device that is attached to an IOAS, and the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.context = Context()
        self.context.host.observer = DmaWhy(self.lines.append)
        self.ioas = new_ioas(self.context)
        model = FakeDevice(name="disk")
        self.device = bind(self.context, model, model.iommu)
        self.device_name = str(self.device)

    def attach(self) -> None:
        attach(self.device, self.ioas)

    def map(self, iova: int) -> None:
        map_(self.ioas, FakeOrigin(), 0x10000, P, iova)

    def fails(self, iova: int) -> None:
        with pytest.raises(IoctlError) as refusal:
            self.device.dma_read(iova, memoryview(bytearray(4)))
        assert refusal.value.errno == ENOENT


@pytest.fixture
def machine() -> Machine:
    return Machine()


def ending(machine: Machine) -> str:
    (line,) = machine.lines
    machine.lines.clear()
    assert line.startswith(f"{machine.device_name}: DMA read of ")
    return line.rpartition("; ")[2]


def test_what_is_mapped_next_below_and_above(machine: Machine) -> None:
    machine.attach()
    machine.map(0x10000)
    machine.map(0x12000)
    machine.map(0x20000)
    machine.fails(0x15000)
    assert ending(machine) == f"{machine.ioas} maps 0x12000..0x12fff and 0x20000..0x20fff"
    machine.fails(0)
    assert ending(machine) == f"{machine.ioas} maps 0x10000..0x10fff"
    machine.fails(0x21000)
    assert ending(machine) == f"{machine.ioas} maps 0x20000..0x20fff"


def test_the_next_area_among_many(machine: Machine) -> None:
    machine.attach()
    for number in range(200):
        machine.map(number * 2 * P)
    for number in 0, 1, 57, 198:
        machine.fails((2 * number + 1) * P)
        below, above = 2 * number * P, 2 * (number + 1) * P
        assert (
            ending(machine) == f"{machine.ioas} maps {below:#x}..{below + P - 1:#x} and {above:#x}..{above + P - 1:#x}"
        )


def test_nothing_is_mapped_or_nothing_is_attached(machine: Machine) -> None:
    machine.fails(0x1000)
    assert machine.lines.pop() == (
        f"{machine.device_name}: DMA read of 0x1000, 4 bytes: ENOENT: {machine.device_name} is not attached: "
        "its DMA is blocked"
    )
    machine.attach()
    machine.fails(0x1000)
    assert ending(machine) == f"{machine.ioas} maps nothing"


def test_what_is_done_is_not_told(machine: Machine) -> None:
    machine.attach()
    machine.map(0x10000)
    machine.device.dma_write(0x10000, memoryview(b"abcd"))
    assert machine.lines == []
    with pytest.raises(IoctlError):
        machine.device.dma_write(0x11000, memoryview(b"abcd"))
    assert "DMA write to 0x11000, 4 bytes: ENOENT" in machine.lines[0]


def test_no_more_lines_than_somebody_reads(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("iommud.tokens.time.monotonic", lambda: now)
    machine.context.host.observer = DmaWhy(machine.lines.append)
    for _ in range(dma_why.BURST + 7):
        machine.fails(0x1000)
    assert len(machine.lines) == dma_why.BURST
    now += 1.5 / dma_why.RATE
    machine.fails(0x2000)
    assert machine.lines[dma_why.BURST] == "iommud: 7 lines about DMA were left out"
    assert "0x2000" in machine.lines[dma_why.BURST + 1]
    machine.fails(0x3000)
    assert len(machine.lines) == dma_why.BURST + 2
