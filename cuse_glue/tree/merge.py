"""A tree of ours, merged with one that is there already, like /sys.

For each directory that both trees have:

- If ours has a name there that the old one does not have, our file system shows the directory. It
  copies the old links. For each old directory and file it has an empty one, and the old one is
  bound on that, so it is the same object as before.
- If all names of ours are there already, the old directory stays as it is. A file of ours is bound
  on the old one of its name; directories are looked into in the same way.

    there               ours                   shown
    class/              class/                 class/         ours, whole
        net/                vfio-dev/              net/       empty, and the old one bound on it
                                                   vfio-dev/

The old tree is looked at once, when the merge is planned.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from .entries import Directory, Entry, Link, Place


class How(Enum):
    """What is bound to a path."""

    SHOW = "show"  # ours
    KEEP = "keep"  # what was there


class Step(NamedTuple):
    """`path`: below the root, without a slash before it; empty: the root itself."""

    how: How
    path: str


@dataclass(frozen=True, slots=True)
class Merged:
    """`root`: what is to be served. `steps`: what is bound then, in this order."""

    root: Directory
    steps: list[Step]


def merge(ours: Directory, there: str) -> Merged:
    """Merge `ours` with what is in the directory `there`. OSError: `there` cannot be looked at."""
    steps: list[Step] = []
    return Merged(_merge(ours, there, "", steps, within_ours=False), steps)


def _merge(ours: Directory, there: str, path: str, steps: list[Step], *, within_ours: bool) -> Directory:
    """`within_ours`: the directory above is ours, and so is this one, if nothing is bound on it."""
    old, entries = _look(os.path.join(there, path)), ours.look()
    shared = {name: entry for name, entry in entries.items() if _is_shared(entry, old.get(name))}
    is_ours = ours.grows or any(name not in shared for name in entries)
    if is_ours != within_ours:
        steps.append(Step(How.SHOW if is_ours else How.KEEP, path))
    merged: dict[str, Entry] = {}
    for name, entry in shared.items():
        below = f"{path}/{name}" if path else name
        if isinstance(entry, Directory):
            merged[name] = _merge(entry, there, below, steps, within_ours=is_ours)
        elif not is_ours:
            steps.append(Step(How.SHOW, below))
    if not is_ours:
        return Directory({**entries, **merged}, ours.mode)
    kept = {name: entry for name, entry in old.items() if name not in entries}
    steps += (
        Step(How.KEEP, f"{path}/{name}" if path else name)
        for name, entry in kept.items()
        if not isinstance(entry, Link)
    )
    return Directory(lambda: {**kept, **ours.look(), **merged}, ours.mode, lasting=not ours.grows)


def _is_shared(entry: Entry, old: Entry | None) -> bool:
    """Whether an entry of ours can be bound on, or merged with, the old entry of its name."""
    if isinstance(entry, Directory):
        return isinstance(old, Directory)
    return isinstance(old, Place) and not isinstance(entry, Link)


def _look(directory: str) -> Mapping[str, Entry]:
    found: dict[str, Entry] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink():
                found[entry.name] = Link(os.readlink(entry.path))
            else:
                found[entry.name] = Directory(lasting=True) if entry.is_dir(follow_symlinks=False) else Place()
    return found
