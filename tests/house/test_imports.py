"""The rules of the house: who may import whom."""

from pathlib import Path

import pytest

from tests.support import ROOT

from .imports import MODULES, graph, imported, inside, rings, within

# What a part may not import of what is not ours. "cuse_glue.errors", the exceptions, is all that
# the pure parts share with it.
HEAVY = {"trio", "cffi", "socket", "select", "mmap", "ctypes", "subprocess", "threading"}
FORBIDDEN = {
    "cuse_glue": {"iommud"},
    "cuse_glue.errors": HEAVY | {"os"},
    "cuse_glue.tree": HEAVY,
    "cuse_glue.tree.entries": HEAVY | {"os"},
    "cuse_glue.mmio.decoder": HEAVY | {"os"},
    "cuse_glue.mmio.x86_form": HEAVY | {"os"},
    "cuse_glue.mmio.x86_operations": HEAVY | {"os"},
    "cuse_glue.mmio.x86_vectors": HEAVY | {"os"},
    "cuse_glue.mmio.xstate": HEAVY | {"os"},
    "iommud.errors": HEAVY | {"os"},
    "iommud.settings": HEAVY | {"os"},
    "iommud.doors": HEAVY | {"os"},
    "iommud.uapi": HEAVY - {"cffi"} | {"os"},
    "iommud.engine": HEAVY | {"os"},
    "iommud.iommus": HEAVY | {"os"},
    "iommud.pci": HEAVY | {"os"},
    "iommud.models": HEAVY | {"os"},
    "iommud.vfio": HEAVY,
    "iommud.commands.cli": HEAVY,
}
# All rooms, from the ground up, and the only rooms that each may import from, beside itself.
ERRORS = "cuse_glue.errors"
MEMORY, MAPPING, DEVICE = "iommud.engine.memory", "iommud.engine.mapping", "iommud.engine.device"
OF_A_PROCESS = (ERRORS, "cuse_glue.system", "cuse_glue.process")
OF_A_REQUEST = (*OF_A_PROCESS, "cuse_glue.request")
ENGINE = ("iommud.errors", "iommud.engine")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    ERRORS: (),
    "cuse_glue.tree": (),
    "cuse_glue.system": (ERRORS,),
    "cuse_glue.process": (ERRORS, "cuse_glue.system"),
    "cuse_glue.request": OF_A_PROCESS,
    "cuse_glue.watch": OF_A_REQUEST,
    "cuse_glue.mounts": (ERRORS, "cuse_glue.system", "cuse_glue.tree"),
    "cuse_glue.fuse": (*OF_A_REQUEST, "cuse_glue.watch", "cuse_glue.tree"),
    "cuse_glue.tracing": (*OF_A_REQUEST, "cuse_glue.watch"),
    "cuse_glue.pins": (*OF_A_REQUEST, "cuse_glue.tracing"),
    "cuse_glue.mmio": OF_A_PROCESS,
    "cuse_glue.broker": (*OF_A_REQUEST, "cuse_glue.fuse"),
    "iommud.errors": (ERRORS,),
    "iommud.settings": (),
    "iommud.text": (),
    "iommud.tokens": (),
    "iommud.doors": ("iommud.settings", "iommud.iommus", "iommud.models"),
    "iommud.uapi": ("iommud.errors",),
    "iommud.engine.events": ("iommud.errors",),
    MEMORY: ("iommud.errors", "iommud.engine.events"),
    MAPPING: ("iommud.errors", "iommud.engine.events", MEMORY),
    DEVICE: ("iommud.errors", "iommud.engine.events", MEMORY, MAPPING),
    "iommud.iommus": ENGINE,
    "iommud.pci": ("iommud.errors", DEVICE),
    "iommud.models": (*ENGINE, "iommud.pci"),
    "iommud.ops": (*ENGINE, "iommud.uapi", "iommud.tokens", "cuse_glue.request"),
    "iommud.vfio": (*ENGINE, "iommud.pci", "iommud.uapi", "iommud.ops"),
    "iommud.selftest": (
        *ENGINE,
        "iommud.settings",
        "iommud.iommus",
        "iommud.uapi",
        "iommud.ops",
        "cuse_glue.request",
    ),
    "iommud.file": (
        *ENGINE,
        *OF_A_REQUEST,
        "iommud.doors",
        "iommud.settings",
        "iommud.tokens",
        "iommud.uapi",
        "iommud.ops",
        "iommud.selftest",
        "iommud.iommus",
        "iommud.pci",
        "iommud.models",
        "iommud.vfio",
        "cuse_glue.tree",
        "cuse_glue.watch",
        "cuse_glue.tracing",
        "cuse_glue.pins",
        "cuse_glue.mmio",
    ),
    "iommud.commands": ("iommud", "cuse_glue"),
    "iommud.__main__": ("iommud.commands",),
}


def breaches(path: Path, forbidden: set[str]) -> set[str]:
    return {name for name in imported(path) for rule in forbidden if inside(rule, name)}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_nothing_imports_what_it_must_not(part: str) -> None:
    modules = {module: path for module, path in MODULES.items() if inside(part, module)}
    assert modules, "a part that is not there cannot keep a rule"
    found = {module: breaches(path, FORBIDDEN[part]) for module, path in modules.items()}
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_from_below(room: str) -> None:
    modules = [module for module in MODULES if inside(room, module)]
    assert modules, "a room that is not there cannot keep a rule"
    edges, allowed = graph(), (room, *MAY_IMPORT[room])
    found = {module: {t for t in edges[module] if not any(inside(below, t) for below in allowed)} for module in modules}
    assert not {module: targets for module, targets in found.items() if targets}


def test_every_module_has_its_room() -> None:
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    homeless = {module for module in set(MODULES) - packages if not any(inside(room, module) for room in MAY_IMPORT)}
    assert not homeless


def test_only_commands_import_commands() -> None:
    """`iommud.commands` may import all, so it has to be the roof."""
    found = {
        module for module, targets in graph().items() if any(inside("iommud.commands", target) for target in targets)
    }
    assert {module for module in found if not inside("iommud.commands", module)} == {"iommud.__main__"}


def test_there_is_no_ring() -> None:
    """Between no two modules, imports for type checkers and inside functions included; nor between
    rooms.
    """
    edges = graph()
    assert rings(edges) == []
    room_of = {module: next((room for room in MAY_IMPORT if inside(room, module)), module) for module in edges}
    rooms: dict[str, set[str]] = {room: set() for room in room_of.values()}
    for module, targets in edges.items():
        rooms[room_of[module]] |= {room_of[target] for target in targets} - {room_of[module]}
    assert rings(rooms) == []


def test_a_breach_is_found() -> None:
    here = ROOT / "iommud" / "engine" / "memory" / "span.py"
    assert breaches(here, {"os"}) == set()
    serve = imported(ROOT / "iommud" / "commands" / "serve.py")
    assert serve >= {"cuse_glue.broker.broker", "iommud.commands.stderr", "iommud.commands.fuse_place"}
    edges = graph()
    assert edges["iommud.engine.memory.pages"] >= {"iommud.engine.memory.pinned", "iommud.errors"}


def test_a_ring_is_found() -> None:
    edges = {"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d", "f"}, "f": set()}
    assert rings(edges) == [["a", "b", "c"], ["d", "e"]]
    assert rings({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert rings(within({"a.x": {"b.y"}, "b.y": {"a.x"}}, ("a",))) == []
