"""The entries of a small file system, as sysfs has them.

Whoever has something to show makes a tree of these. It may change at any moment: each request walks
it anew from its root, and nothing of it is remembered but the numbers of its paths.

Reads and writes raise OSError with the errno that the client is to get. A write returns how many
bytes it has taken; None: all.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

READ_ONLY: Final = 0o444
DIRECTORY_MODE: Final = 0o755
PAGE: Final = 4096  # bytes that a text has at most, and that one write takes at most

Written = Awaitable[int | None] | int | None


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, slots=True)
class Text:
    """A value as text, up to a page. `read` gives all of it, and is called again for whoever reads
    from the beginning. `write` gets what one write(2) wrote, up to a page, whatever its offset.

    If `read` or `write` is None, to open the file for that gives EACCES, also to root.
    """

    read: Callable[[], bytes] | None = None
    write: Callable[[bytes], Written] | None = None
    mode: int = READ_ONLY


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes with positions. `read(offset, size)`, within the file's size, may give less;
    `write(offset, data)` likewise may take less. If one is None, the client gets EIO.

    `size` in bytes, as stat shows it; 0: it is not known, and `read` and `write` know themselves
    where the file ends.
    """

    size: int
    read: Callable[[int, int], bytes] | None = None
    write: Callable[[int, bytes], Written] | None = None
    mode: int = READ_ONLY


@dataclass(frozen=True, slots=True)
class Directory:
    """Entries by name: a mapping, or what makes one at each look.

    `grows`: entries may come and go. `lasting`: the directory itself never changes again, so that
    the kernel need not ask for it (and paths can lead through it when its server is gone).
    """

    entries: "Mapping[str, Entry] | Callable[[], Mapping[str, Entry]]" = field(default_factory=dict)
    mode: int = DIRECTORY_MODE
    grows: bool = False
    lasting: bool = False

    def look(self) -> "Mapping[str, Entry]":
        """What is in it now."""
        return self.entries() if callable(self.entries) else self.entries


@dataclass(frozen=True, slots=True)
class Place:
    """An empty file, on which another one is bound."""

    mode: int = 0


Entry = Directory | Link | Text | Bytes | Place


def constant(text: str, mode: int = READ_ONLY) -> Text:
    """A file that is only read, and always says the same; with a line's end."""
    data = f"{text}\n".encode()
    return Text(lambda: data, mode=mode)


def find(root: Directory, path: tuple[str, ...]) -> Entry | None:
    """The entry at a path (of names) below `root`; None: there is none."""
    found: Entry = root
    for name in path:
        if not isinstance(found, Directory):
            return None
        there = found.look().get(name)
        if there is None:
            return None
        found = there
    return found
