"""The IO address space: the object that a client maps into. Ref: v7.3 ioas.c"""

from .io_pagetable import IoPagetable
from .objects import Object


class Ioas(Object):
    """An IO page table with an ID."""

    kind = "IOAS"
    __slots__ = ("iopt",)

    def __init__(self) -> None:
        super().__init__()
        self.iopt = IoPagetable()

    def destroy(self) -> None:
        self.iopt.destroy()
