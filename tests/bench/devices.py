"""MAP+UNMAP while a mock device is attached, so that all of the memory is pinned: what it costs
must follow mappings, not pages.

The client's memory is one mapping, every page of which was written to. The peer of a larger size is
4 KiB (the first of the same memory, in the same server, in turns). What a user may not lock
(RLIMIT_MEMLOCK; root may lock all) is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit

from tests.bench.rig import KINDS, ONE_CORE, Bench, Effort, Row, Verdict, in_turns, size

REPEAT = (
    # in a batch, of which there are MORE times as many: a shared machine takes a processor away for
    # milliseconds
    5
)
MORE = 4


def mapped(bench: Bench) -> Iterator[Row]:
    client = bench.run("memory", mock=True)
    client.ask("attach")
    bench.place(ONE_CORE, client)
    lengths = sizes(bench.effort)
    smallest = lengths[0]

    batches = bench.effort.batches * MORE

    def once(length: int) -> float:
        return client.ask("map", length, REPEAT) / REPEAT / 1000

    for kind in KINDS:
        client.ask("hold", kind, lengths[-1])
        yield Row(name(smallest, kind), "us", *in_turns(batches, partial(once, smallest)))
        for length in lengths[1:]:
            yield Row(name(length, kind), "us", *in_turns(batches, partial(once, length), partial(once, smallest)))


def sizes(effort: Effort) -> list[int]:
    """Those of `Effort.maps` that may be pinned here, the first in any case."""
    limit, _ = getrlimit(RLIMIT_MEMLOCK)
    unlimited = os.geteuid() == 0 or limit == RLIM_INFINITY
    return [length for length in effort.maps if unlimited or length <= limit] or list(effort.maps[:1])


def name(length: int, kind: str) -> str:
    return f"MAP+UNMAP {size(length)} {kind}, mock device"


def names(effort: Effort) -> set[str]:
    """The rows that have a peer."""
    return {name(length, kind) for length in sizes(effort)[1:] for kind in KINDS}


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    smallest, *larger = sizes(effort)
    for kind in KINDS if larger else ():
        what = f"MAP+UNMAP of {size(larger[-1])} {kind} with a mock device, times that of {size(smallest)}"
        yield Verdict(what, rows[name(larger[-1], kind)].ratio or 0.0, 1.5)
