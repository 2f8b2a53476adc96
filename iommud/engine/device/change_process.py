"""The pages of a context are charged to another process: one that took over its descriptors, before
the process that mapped ends or execs.

Only files can change hands. All mappings of the context move, or none.

Ref: v7.3 ioas.c iommufd_ioas_change_process
"""

from collections import Counter
from collections.abc import Callable
from errno import EBUSY, EINVAL

from ...errors import IoctlError
from ..mapping.ioas import Ioas
from ..memory.origin import AccountMode, Origin
from ..memory.pages import Pages
from .context import Context


def change_process(context: Context, of_caller: Callable[[Origin], Origin]) -> None:
    """Charge everything that is mapped to the caller. `of_caller` returns the same file as an
    origin of the caller's.

    EBUSY: an area is being mapped or unmapped. EINVAL: an area is of memory, or of a dma-buf.
    ENOMEM: more pages are pinned than the caller's RLIMIT_MEMLOCK allows; for this, what stays with
    the same user counts twice. Then nothing has changed.
    """
    moving = _file_pages(context)
    new = {origin: of_caller(origin) for origin in dict.fromkeys(pages.origin for pages in moving)}
    for origin in new.values():
        origin.get()
    try:
        _charge([(pages, new[pages.origin]) for pages in moving], context)
        for pages in moving:
            if pages.payer_differs(new[pages.origin]):
                pages.uncharge(context.host, pages.npinned)
            pages.move(new[pages.origin])
    finally:
        for origin in new.values():
            origin.put()


def _file_pages(context: Context) -> list[Pages]:
    """Every Pages that is mapped, once. EBUSY, EINVAL: as `change_process`."""
    found: dict[Pages, None] = {}
    for obj in context.objects:
        if not isinstance(obj, Ioas):
            continue
        for area in obj.iopt.areas:
            if area.pages is None:
                raise IoctlError(EBUSY, f"{area} of {obj} is being mapped or unmapped by another request")
            if not area.pages.of_file:
                raise IoctlError(EINVAL, f"{area} of {obj} is not of a file; only those can change hands")
            found[area.pages] = None
    return list(found)


def _charge(moving: list[tuple[Pages, Origin]], context: Context) -> None:
    """Charge all of one mode in one step, as the caller's limit is asked for them together. All or
    none.
    """
    counts: Counter[AccountMode] = Counter()
    payers: dict[AccountMode, tuple[Pages, Origin]] = {}
    for pages, origin in moving:
        if pages.npinned and pages.payer_differs(origin):
            counts[pages.account_mode] += pages.npinned
            payers[pages.account_mode] = pages, origin
    charged: list[AccountMode] = []
    try:
        for mode in sorted(counts):
            pages, origin = payers[mode]
            pages.charge(context.host, counts[mode], origin)
            charged.append(mode)
    except IoctlError:
        for mode in charged:
            pages, origin = payers[mode]
            pages.uncharge(context.host, counts[mode], origin)
        raise
