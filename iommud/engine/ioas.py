"""The IO address space: the object that a client maps into. Ref: v7.3 ioas.c"""

from typing import TYPE_CHECKING

from .host import Host
from .io_pagetable import IoPagetable
from .objects import Object

if TYPE_CHECKING:
    from .hwpt import HwptPaging


class Ioas(Object):
    """An IO page table with an ID, and the hardware page tables that show it. Users: those, and the accesses that stand on it."""

    kind = "IOAS"
    __slots__ = ("hwpts", "iopt")

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.iopt = IoPagetable(host)
        self.hwpts: list[HwptPaging] = []

    def destroy(self) -> None:
        self.iopt.destroy()
