"""What becomes of a tree of ours and a directory that is there, as the binds that are planned."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from cuse_glue.tree.entries import Directory, Entry, Link, Place, Text, constant, find
from cuse_glue.tree.merge import How, Merged, Step, merge

NAMES = st.sampled_from("abcd")
Shape = dict[str, object] | str  # a directory; or "file", "link"
SHAPES = st.recursive(
    st.sampled_from(["file", "link"]), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
TREES = st.dictionaries(NAMES, SHAPES, max_size=4)


def ours(shape: Shape) -> Entry:
    if isinstance(shape, dict):
        return Directory({name: ours(cast(Shape, inner)) for name, inner in shape.items()})
    return constant("ours") if shape == "file" else Link("ours")


def lay(shape: Shape, path: str) -> None:
    if isinstance(shape, dict):
        os.mkdir(path)
        for name, inner in shape.items():
            lay(cast(Shape, inner), f"{path}/{name}")
    elif shape == "file":
        Path(path).write_text("there")
    else:
        os.symlink("there", path)


class View:
    """What is seen at each path once the steps are carried out."""

    def __init__(self, merged: Merged, there: str) -> None:
        self.root, self.there = merged.root, there
        self.bound: dict[str, How] = {}
        for how, path in merged.steps:
            kind = self.kind(path)
            self.bound[path] = how
            assert kind == self.kind(path) != "link", "a directory lies on a directory, a file on a file"

    def source(self, path: str) -> tuple[How, str]:
        """Whose entry is at a path, and where in it."""
        how, source = self.bound.get("", How.KEEP), ""
        walked = ""
        for name in path.split("/") if path else []:
            walked = f"{walked}/{name}" if walked else name
            source = f"{source}/{name}" if source else name
            if walked in self.bound:
                how, source = self.bound[walked], walked
        return how, source

    def kind(self, path: str) -> str:
        how, source = self.source(path)
        if how is How.SHOW:
            entry = find(self.root, tuple(source.split("/")) if source else ())
            return "directory" if isinstance(entry, Directory) else "link" if isinstance(entry, Link) else "file"
        old = Path(self.there, source)
        return "link" if old.is_symlink() else "directory" if old.is_dir() else "file"

    def names(self, path: str) -> set[str]:
        how, source = self.source(path)
        if how is How.KEEP:
            return set(os.listdir(Path(self.there, source)))
        entry = find(self.root, tuple(source.split("/")) if source else ())
        assert isinstance(entry, Directory)
        return set(entry.look())

    def whose(self, path: str) -> str:
        """Of a file or link: who made it."""
        how, source = self.source(path)
        if how is How.KEEP:
            return "there"
        entry = find(self.root, tuple(source.split("/")))
        assert not isinstance(entry, Place), "an empty file shows"
        if isinstance(entry, Link):
            return entry.target
        assert isinstance(entry, Text)
        return "ours"


def check(view: View, path: str, here: Shape | None, there: Shape | None) -> None:
    """Ours, where both have something else than a directory."""
    if not (isinstance(here, dict) and isinstance(there, dict)):
        here, there = (here, None) if here is not None else (None, there)
    if isinstance(here or there or {}, str):
        assert view.whose(path) == ("ours" if here is not None else "there")
        return
    mine, old = cast(dict[str, Shape], here or {}), cast(dict[str, Shape], there or {})
    assert view.names(path) == set(mine) | set(old)
    for name in set(mine) | set(old):
        check(view, f"{path}/{name}" if path else name, mine.get(name), old.get(name))


@given(mine=TREES, old=TREES)
def test_both_are_seen(mine: dict[str, object], old: dict[str, object]) -> None:
    with TemporaryDirectory(prefix="iommud-test-") as name:
        there = f"{name}/there"
        lay(old, there)
        tree = ours(mine)
        assert isinstance(tree, Directory)
        check(View(merge(tree, there), there), "", mine, old)


def test_nothing_more_is_bound_than_has_to_be(tmp_path: Path) -> None:
    """No directory is made anew that gets no new name; no link is bound."""
    lay(
        {"bus": {"pci": {"devices": {"0": "link"}, "rescan": "file"}, "usb": {}}, "fs": {"ext4": {}}}, f"{tmp_path}/sys"
    )
    tree = ours({"bus": {"pci": {"devices": {"1": "link"}, "rescan": "file"}}})
    assert isinstance(tree, Directory)
    steps = merge(tree, f"{tmp_path}/sys").steps
    assert steps == [Step(How.SHOW, "bus/pci/devices"), Step(How.SHOW, "bus/pci/rescan")]


def test_a_directory_that_grows_is_ours_from_the_start(tmp_path: Path) -> None:
    lay({"class": {"vfio-dev": {"9": {}}}}, f"{tmp_path}/sys")
    now: dict[str, Entry] = {}
    tree = Directory({"class": Directory({"vfio-dev": Directory(lambda: now, grows=True)})})
    merged = merge(tree, f"{tmp_path}/sys")
    assert merged.steps == [Step(How.SHOW, "class/vfio-dev"), Step(How.KEEP, "class/vfio-dev/9")]
    now["0"] = Link("there")
    assert find(merged.root, ("class", "vfio-dev", "0")) == Link("there")
