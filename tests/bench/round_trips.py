"""Round trips: ioctls that do little, beside the C server, and MAP+UNMAP while more and more areas stand.

Where the number of standing areas grows, the peer is a second iommud that keeps the same number all the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from tests.bench.rig import ONE_CORE, PLACEMENTS, Bench, Effort, Row, Verdict, in_turns, short
from tests.bench.servers import Client

ALLOC_DESTROY = "IOAS_ALLOC+DESTROY"
WORKLOADS = {  # the name in the table: the name in client.c
    ALLOC_DESTROY: "alloc_destroy",
    "MAP+UNMAP 4 KiB, fixed IOVA": "map_fixed",
    "MAP+UNMAP 4 KiB, chosen IOVA": "map_chosen",
    "IOVA_RANGES": "iova_ranges",
    "VFIO's MAP_DMA+UNMAP_DMA 4 KiB": "vfio_map",
}
ON_STANDING = {name: workload for name, workload in WORKLOADS.items() if workload.startswith("map_")}
BYTES_PER_AREA = "memory of a standing area"


def compare(bench: Bench, client: Client, workload: str) -> tuple[float, ...]:
    """Microseconds of one repetition on the client's targets 0 and 1."""
    repeat = bench.effort.repeat

    def once(target: int) -> float:
        return client.ask("batch", target, workload, repeat) / repeat / 1000

    return in_turns(bench.effort.batches, partial(once, 0), partial(once, 1))


def round_trips(bench: Bench) -> Iterator[Row]:
    """Each workload on an empty IOAS beside the C server, in every placement."""
    iommud, peer = bench.serve("iommud", "iommud"), bench.serve("peer", "peer")
    client = bench.client("client", iommud, peer)
    for placement in PLACEMENTS:
        bench.place(placement, client, iommud, peer)
        for name, workload in WORKLOADS.items():
            yield Row(placed(name, placement), "us", *compare(bench, client, workload))


def standing(bench: Bench) -> Iterator[Row]:
    """MAP+UNMAP while more and more areas stand, beside a second iommud where their number stays; on one core."""
    grows, stays = bench.serve("iommud", "grows"), bench.serve("iommud", "stays")
    client = bench.client("client", grows, stays)
    bench.place(ONE_CORE, client, grows, stays)
    client.ask("build", 1, bench.effort.reference)
    client.ask("batch", 0, "map_fixed", bench.effort.repeat)
    empty = grows.dirty()
    longest = 0
    for areas in bench.effort.standing:
        longest = max(longest, client.ask("build", 0, areas))
        for name, workload in ON_STANDING.items():
            yield Row(with_standing(name, areas), "us", *compare(bench, client, workload))
    areas = bench.effort.standing[-1]
    yield Row(BYTES_PER_AREA, "bytes", (grows.dirty() - empty) / areas)
    yield Row(f"the longest MAP while {short(areas)} areas were built", "ms", longest / 1e6)


def placed(name: str, placement: str) -> str:
    return f"{name}, {placement}"


def with_standing(name: str, areas: int) -> str:
    return f"{name}, {short(areas)} standing"


def names(effort: Effort) -> set[str]:
    """The rows that have a peer."""
    every = {placed(name, placement) for name in WORKLOADS for placement in PLACEMENTS}
    return every | {with_standing(name, areas) for name in ON_STANDING for areas in effort.standing}


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    most = effort.standing[-1]
    alloc_destroy = rows[placed(ALLOC_DESTROY, ONE_CORE)].ratio or 0.0
    grown = max(rows[with_standing(name, most)].ratio or 0.0 for name in ON_STANDING)
    on = f"{short(most)} areas standing"
    yield Verdict(f"{ALLOC_DESTROY} on one core, times the C server's", alloc_destroy, 2.5)
    yield Verdict(f"MAP+UNMAP with {on}, times that with {short(effort.reference)}", grown, 1.5)
    yield Verdict(f"bytes a standing area, with {on}", rows[BYTES_PER_AREA].iommud, 400)
