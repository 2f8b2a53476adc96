"""An observer that keeps what it is told, and finds whether that is what there is. Every World has
one.
"""

from collections import Counter

from iommud.engine.device.context import Context
from iommud.engine.device.device import Device
from iommud.engine.events import Named, Observer, Shown
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.host import Host
from iommud.engine.memory.pages import Pages
from iommud.errors import IoctlError


class Mirror(Observer):
    """`log`: one entry for each event, but for pins."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.objects: set[Named] = set()
        self.areas: dict[object, set[Shown]] = {}
        self.pins: Counter[tuple[object, int, int]] = Counter()
        self.tables: dict[tuple[Named, int], Named] = {}

    def mapped(self, table: object, area: Shown) -> None:
        self.log.append(("mapped", area.iova, area.last, area.prot))
        assert area not in self.areas.setdefault(table, set())
        self.areas[table].add(area)

    def unmapped(self, table: object, area: Shown) -> None:
        self.log.append(("unmapped", area.iova, area.last))
        self.areas[table].remove(area)

    def split(self, table: object, area: Shown, lower: Shown, upper: Shown) -> None:
        self.log.append(("split", area.iova, lower.last, upper.last))
        self.areas[table].remove(area)
        self.areas[table] |= {lower, upper}
        for (pages, first, last), count in list(self.pins.items()):
            if (
                count
                and isinstance(pages, Pages)
                and pages is getattr(lower, "pages", None)
                and (first, last) == _whole(lower, upper)
            ):
                self.pins[pages, first, last] -= 1
                self.pins[pages, *_whole(lower, lower)] += 1
                self.pins[pages, *_whole(upper, upper)] += 1

    def pinned(self, pages: object, first: int, last: int) -> None:
        self.pins[pages, first, last] += 1

    def unpinned(self, pages: object, first: int, last: int) -> None:
        assert self.pins[pages, first, last]
        self.pins[pages, first, last] -= 1

    def attached(self, device: Named, pasid: int, old: Named | None, new: Named | None) -> None:
        self.log.append(("attached", device.id, pasid, old and old.id, new and new.id))
        assert self.tables.pop((device, pasid), None) is old
        if new is not None:
            self.tables[device, pasid] = new

    def dma(self, by: Named, iova: int, length: int, write: bool, refusal: IoctlError | None) -> None:
        self.log.append(("dma", by.kind, iova, length, write, refusal and refusal.errno))

    def created(self, obj: Named) -> None:
        self.log.append(("created", obj.kind, obj.id))
        assert obj not in self.objects
        self.objects.add(obj)

    def gone(self, obj: Named) -> None:
        self.log.append(("gone", obj.kind, obj.id))
        self.objects.remove(obj)

    def queued(self, queue: Named, what: object) -> None:
        self.log.append(("queued", queue.kind, what))

    def check(self, host: Host, contexts: list[Context]) -> None:
        """What was told is what there is."""
        objects = {obj for context in contexts for obj in context.objects}
        assert self.objects == objects
        tables = [obj.iopt for obj in objects if isinstance(obj, Ioas)]
        assert {table: areas for table, areas in self.areas.items() if areas} == {
            t: set(t.areas) for t in tables if len(t.areas)
        }
        pins = Counter(
            (pages, span.start, span.last)
            for pages in host.all_pinned()
            if isinstance(pages, Pages)
            for span in pages.pins
        )
        assert +self.pins == pins
        assert self.tables == {
            (device, pasid): at.hwpt
            for device in objects
            if isinstance(device, Device)
            for pasid, at in device.group.attachments.items()
            if device in at.devices
        }


def _whole(lower: Shown, upper: Shown) -> tuple[int, int]:
    """The page indexes of what two areas that lie side by side show."""
    return getattr(lower, "first_index"), getattr(upper, "last_index")  # noqa: B009  # of areas, which Shown has less of
