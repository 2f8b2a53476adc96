"""A row of a table of ioctls: everything that must be known about one before its handler runs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..uapi.header import CONST, const, fields, offset_end
from ..uapi.layout import Layout, layout
from .request import Request

Handler = Callable[[Request], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Row:
    """One ioctl. `min_size` (bytes): what a caller of the oldest version supplies. `flags`: the
    known bits of the field with that name; None: the handler checks them. `zero`: fields that must
    be 0, each with its place in the struct (bytes).
    """

    name: str
    number: int
    handler: Handler
    struct: Layout
    min_size: int
    flags: int | None
    zero: tuple[tuple[str, slice], ...]


def op(
    name: str, handler: Handler, struct: str, *, last: str, flags: int | None = None, zero: tuple[str, ...] = ()
) -> Row:
    """A row. `name`: that of the macro; IOMMU_ may be left out. `last`: the last field of the
    oldest version of the struct. Number and sizes come from the header, so if a struct grows
    nothing changes here. `flags` and `zero`: what the kernel checks before all else (EOPNOTSUPP).
    If it looks at something else first, the handler does these checks.
    """
    places = fields(struct)
    return Row(
        name=name,
        number=CONST[name] if name in CONST else const(f"IOMMU_{name}"),
        handler=handler,
        struct=layout(struct),
        min_size=offset_end(struct, last),
        flags=flags,
        zero=tuple((field, slice(places[field].offset, places[field].offset + places[field].size)) for field in zero),
    )
