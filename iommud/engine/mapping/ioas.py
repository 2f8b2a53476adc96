"""The IO address space: the object that a client maps into. Ref: v7.3 ioas.c"""

from typing import Protocol

from ..memory.host import Host
from .domain import Domain
from .io_pagetable import IoPagetable
from .objects import Object


class Showing(Protocol):
    """A page table that shows the IOAS: a HwptPaging."""

    auto: bool
    domain: Domain
    enforce_coherency: bool


class Ioas(Object):
    """An IO page table with an ID, and the hardware page tables that show it. Users: those, and the
    accesses that stand on it.
    """

    kind = "IOAS"
    __slots__ = ("hwpts", "iopt")

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.iopt = IoPagetable(host)
        self.hwpts: list[Showing] = []

    def destroy(self) -> None:
        self.iopt.destroy()
