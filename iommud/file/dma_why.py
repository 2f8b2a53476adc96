"""The lines of `--why` for devices: one for each DMA that went wrong, with what is mapped near.

Ordinary hardware tells of this in the kernel's log (`DMAR: [DMA Read] ...`), and tells no client. A
device that goes wrong may do so in a loop: some lines are then left out, and a line tells how many.
"""

from collections.abc import Callable
from typing import Final

from ..engine.device.device import Device
from ..engine.device.hwpt import NO_PASID
from ..engine.events import Named, Observer
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..tokens import Tokens

RATE: Final = 20.0  # lines a second
BURST: Final = 100  # lines at once


class DmaWhy(Observer):
    """Writes the lines by `say`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say: Final = say
        self._tokens: Final = Tokens(RATE, BURST)
        self._left_out = 0

    def dma(self, by: Named, iova: int, length: int, write: bool, refusal: IoctlError | None) -> None:
        if refusal is None or not isinstance(by, Device):
            return
        if not self._tokens.take():
            self._left_out += 1
            return
        if self._left_out:
            self._say(f"iommud: {self._left_out} lines about DMA were left out")
            self._left_out = 0
        way = "write to" if write else "read of"
        self._say(f"{by}: DMA {way} {iova:#x}, {length} bytes: {refusal}{_near(by, iova)}")


def _near(device: Device, iova: int) -> str:
    """What the device's page table shows below and above an IOVA; empty if it is attached to
    none.
    """
    attached = device.group.attached_at(device, NO_PASID)
    if attached is None:
        return ""
    ioas = attached.hwpt.paging.ioas
    areas = ioas.iopt.areas
    found = [area for area in (areas.before(iova), areas.first(iova, U64_MAX)) if area is not None]
    if not found:
        return f"; {ioas} maps nothing"
    return f"; {ioas} maps {' and '.join(f'{area.iova:#x}..{area.last:#x}' for area in found)}"
