"""A row of the table of ioctls of a device's file."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ..ops.request import Request
from ..uapi.header import const, offset_end
from ..uapi.layout import Layout, layout
from .device import Bound
from .outside import Outside

Handler = Callable[[Bound, Request, Outside], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """One ioctl. `min_size` (bytes): what is read of its struct, and what argsz must reach; 0: it
    has no struct. `by_group`: files that were opened by a group have it too.
    """

    name: str
    number: int
    handler: Handler
    struct: Layout | None
    min_size: int
    by_group: bool


def op(name: str, handler: Handler, struct: str = "", *, last: str = "", by_group: bool = True) -> Row:
    """A row. `name`: its macro's, VFIO_DEVICE_ left out; `last`: the last field that must be
    there.
    """
    if not struct:
        return Row(name, const(PREFIX + name), handler, None, 0, by_group)
    return Row(name, const(PREFIX + name), handler, layout(struct), offset_end(struct, last), by_group)


PREFIX: Final = "VFIO_DEVICE_"
