"""What the devices are in /sys (iommud.pci.sysfs_tree), as a tree that can be served and merged
(cuse_glue.tree).

When something has changed, the tree is made anew at the next look.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from cuse_glue.tree import entries

from ..errors import IoctlError
from ..pci.bus import Bus
from ..pci.sysfs import Directory, Entry, File, Link
from ..pci.sysfs_tree import SysfsTree

# Directories that are there even when they are empty, and in which devices come and go. Those of
# the drivers are such ones, too.
GROW: Final = frozenset(
    (
        "bus/pci/devices",
        "class/iommu",
        "class/pci_bus",
        "class/vfio",
        "class/vfio-dev",
        "dev/char",
        "devices/virtual/iommu",
        "devices/virtual/vfio",
        "kernel/iommu_groups",
    )
)


class SysDirectory:
    """The tree; `root` is below /sys. `say`: told a sentence for each write that is refused."""

    def __init__(self, bus: Bus, tree: SysfsTree, say: Callable[[str], None] | None) -> None:
        self._bus: Final = bus
        self._tree: Final = tree
        self._say: Final = say
        self._below: dict[str, dict[str, entries.Entry]] = {}
        self._made: dict[str, tuple[Entry, entries.Entry]] = {}  # by path: source and entry
        self._seen: object = None
        self._stale = True
        self._grow: Final = GROW | {f"bus/pci/drivers/{driver.name}" for driver in bus.drivers}
        bus.changed = self._change
        self.root: Final = entries.Directory(partial(self._look, ""))

    def _change(self) -> None:
        self._stale = True

    def _look(self, path: str) -> Mapping[str, entries.Entry]:
        # nobody tells us of interrupts, so we compare
        seen = [(plugged.host.mode, sorted(plugged.host.allocated)) for plugged in self._bus]
        if self._stale or seen != self._seen:
            self._stale, self._seen = False, seen
            self._tree.refresh()
            self._arrange()
        return self._below.get(path, {})

    def _arrange(self) -> None:
        below: dict[str, dict[str, entries.Entry]] = {}
        made: dict[str, tuple[Entry, entries.Entry]] = {}
        for path, entry in (*((path, Directory()) for path in sorted(self._grow)), *self._tree.entries.items()):
            for above in _above(path):
                self._put(below, made, above, Directory())
            self._put(below, made, path, entry)
        self._below, self._made = below, made

    def _put(
        self,
        below: dict[str, dict[str, entries.Entry]],
        made: dict[str, tuple[Entry, entries.Entry]],
        path: str,
        entry: Entry,
    ) -> None:
        if path in made:
            return
        old = self._made.get(path)
        made[path] = old if old is not None and old[0] == entry else (entry, self._make(path, entry))
        directory, _, name = path.rpartition("/")
        below.setdefault(directory, {})[name] = made[path][1]

    def _make(self, path: str, entry: Entry) -> entries.Entry:
        if isinstance(entry, Directory):
            return entries.Directory(partial(self._look, path), grows=path in self._grow)
        if isinstance(entry, Link):
            return entries.Link(entry.target)
        read, write = self._reader(entry), self._writer(path, entry)
        if not entry.is_text:
            return entries.Bytes(entry.size, read, write, entry.mode)
        whole = None if read is None else partial(read, 0, entries.PAGE)
        return entries.Text(whole, None if write is None else partial(write, 0), entry.mode)

    def _reader(self, file: File) -> Callable[[int, int], bytes] | None:
        read = file.read
        if read is None:
            return None

        def checked(offset: int, size: int) -> bytes:
            try:
                return read(offset, size)
            except IoctlError as refusal:
                raise _os_error(refusal) from None

        return checked

    def _writer(self, path: str, file: File) -> Callable[[int, bytes], Awaitable[int]] | None:
        write = file.write
        if write is None:
            return None

        async def checked(offset: int, data: bytes) -> int:
            try:
                return await write(offset, data)
            except IoctlError as refusal:
                if self._say is not None:
                    self._say(f"/sys/{path}: {refusal}")
                raise _os_error(refusal) from None

        return checked


def _os_error(refusal: IoctlError) -> OSError:
    return OSError(refusal.errno, os.strerror(refusal.errno))


def _above(path: str) -> list[str]:
    """The directories that lead to it, the outermost first."""
    names = path.split("/")[:-1]
    return ["/".join(names[: count + 1]) for count in range(len(names))]
