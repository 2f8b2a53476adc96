"""MAP+UNMAP while a mock device is attached, so that all of the memory is pinned: what it costs must follow mappings, not pages.

The client's memory is one mapping, every page of which was written to. The peer of a larger size is 4 KiB (the first of the same memory,
in the same server, in turns).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from tests.bench.rig import KINDS, ONE_CORE, Bench, Effort, Row, Verdict, in_turns, size

REPEAT = 20  # in a batch


def mapped(bench: Bench) -> Iterator[Row]:
    server = bench.serve("mock", "mock")
    client = bench.client("memory", server)
    bench.place(ONE_CORE, client, server)
    client.ask("attach")
    smallest, *larger = bench.effort.maps

    def once(length: int) -> float:
        return client.ask("map", length, REPEAT) / REPEAT / 1000

    for kind in KINDS:
        client.ask("hold", kind, bench.effort.maps[-1])
        yield Row(name(smallest, kind), "us", *in_turns(bench.effort.batches, partial(once, smallest)))
        for length in larger:
            yield Row(name(length, kind), "us", *in_turns(bench.effort.batches, partial(once, length), partial(once, smallest)))


def name(length: int, kind: str) -> str:
    return f"MAP+UNMAP {size(length)} {kind}, mock device"


def names(effort: Effort) -> set[str]:
    """The rows that have a peer."""
    return {name(length, kind) for length in effort.maps[1:] for kind in KINDS}


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    smallest, largest = effort.maps[0], effort.maps[-1]
    for kind in KINDS:
        what = f"MAP+UNMAP of {size(largest)} {kind} with a mock device, times that of {size(smallest)}"
        yield Verdict(what, rows[name(largest, kind)].ratio or 0.0, 1.5)
