"""Who imports whom, read from the source: all imports, those inside `if TYPE_CHECKING:` and inside
functions too.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.support import ROOT

Graph = Mapping[str, set[str]]


def module_of(path: Path) -> str:
    """`iommud.engine.memory.span`; of an __init__.py the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(path for package in ("iommud", "cuse_glue") for path in (ROOT / package).rglob("*.py"))
MODULES = {module_of(path): path for path in FILES}


@cache
def imported(path: Path) -> set[str]:
    """The absolute names of all that `path` imports anywhere, module and member alike."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


@cache
def graph() -> dict[str, set[str]]:
    """Each module of the product, and the modules of the product that it imports. A package that is
    only on the way to a module is not counted: what is imported is the module."""
    found = {}
    for module, path in MODULES.items():
        names = imported(path) & set(MODULES)
        found[module] = {name for name in names if not any(other.startswith(f"{name}.") for other in names)} - {module}
    return found


def rings(edges: Graph) -> list[list[str]]:
    """The strongly connected components of more than one module, sorted. (Tarjan's, with a stack of
    its own.)
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for root in edges:
        if root in order:
            continue
        order[root] = low[root] = len(order)
        stack.append(root)
        path: list[tuple[str, Iterator[str]]] = [(root, iter(sorted(edges[root])))]
        while path:
            node, targets = path[-1]
            target = next(targets, None)
            if target is None:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == order[node]:
                    at = stack.index(node)
                    if len(stack) - at > 1:
                        found.append(sorted(stack[at:]))
                    del stack[at:]
            elif target not in order:
                order[target] = low[target] = len(order)
                stack.append(target)
                path.append((target, iter(sorted(edges.get(target, ())))))
            elif target in stack:
                low[node] = min(low[node], order[target])
    return sorted(found)


def inside(room: str, module: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def within(edges: Graph, rooms: tuple[str, ...]) -> dict[str, set[str]]:
    """The part of a graph that lies in some rooms."""
    kept = {module for module in edges if any(inside(room, module) for room in rooms)}
    return {module: edges[module] & kept for module in kept}
