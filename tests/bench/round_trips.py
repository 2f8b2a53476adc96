"""Round trips: ioctls that do little, and MAP+UNMAP while more and more areas stand.

`iommud run` stands beside the C server, and `iommud serve`, where a request goes through one more
process, beside `iommud run`. The three are files of one client, and take turns. Where the number of
standing areas grows, the peer is a second `iommud run` where it stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


def compare(bench: Bench, workload: str, *targets: tuple[Client, int]) -> tuple[float, ...]:
    """Microseconds of one repetition on each of these files of these clients."""
    repeat = bench.effort.repeat

    def once(client: Client, target: int) -> float:
        return client.ask("batch", target, workload, repeat) / repeat / 1000

    return in_turns(bench.effort.batches, *(partial(once, *target) for target in targets))


def round_trips(bench: Bench) -> Iterator[Row]:
    """Each workload on an empty IOAS in every placement: `iommud run` beside the C server, and
    `iommud serve` beside that `run`.
    """
    serve, peer = bench.serve(), bench.peer()
    client = bench.run("client", peer, serve)
    client.ask("batch", 2, "alloc_destroy", 1)  # whatever serves it is there
    for placement in PLACEMENTS:
        bench.place(placement, client, peer, serve)
        for name, workload in WORKLOADS.items():
            ours, theirs, served = compare(bench, workload, *((client, target) for target in range(3)))
            yield Row(placed(name, placement), "us", ours, theirs)
            yield Row(served_name(name, placement), "us", served, ours)


def against(bench: Bench, other: Bench) -> Iterator[Row]:
    """Each workload on one core: `iommud run` beside the `run` of another iommud, such as an older
    one.
    """
    ours, theirs = bench.run("client"), other.run("client")
    for client in (ours, theirs):
        bench.place(ONE_CORE, client)
    for name, workload in WORKLOADS.items():
        yield Row(placed(name, ONE_CORE), "us", *compare(bench, workload, (ours, 0), (theirs, 0)))


def standing(bench: Bench) -> Iterator[Row]:
    """MAP+UNMAP while more and more areas stand, beside a second `iommud run` where their number
    stays; on one core.
    """
    grows, stays = bench.run("client"), bench.run("client")
    for client in (grows, stays):
        client.ask("batch", 0, "map_fixed", bench.effort.repeat)
        bench.place(ONE_CORE, client)
    stays.ask("build", 0, bench.effort.reference)
    empty = grows.dirty()
    longest = 0
    for areas in bench.effort.standing:
        longest = max(longest, grows.ask("build", 0, areas))
        for name, workload in ON_STANDING.items():
            yield Row(with_standing(name, areas), "us", *compare(bench, workload, (grows, 0), (stays, 0)))
    areas = bench.effort.standing[-1]
    yield Row(BYTES_PER_AREA, "bytes", (grows.dirty() - empty) / areas)
    yield Row(f"the longest MAP while {short(areas)} areas were built", "ms", longest / 1e6)


def placed(name: str, placement: str) -> str:
    return f"{name}, {placement}"


def served_name(name: str, placement: str) -> str:
    return f"{placed(name, placement)}, serve"


def with_standing(name: str, areas: int) -> str:
    return f"{name}, {short(areas)} standing"


def names(effort: Effort) -> set[str]:
    """The rows that have a peer."""
    every = {
        named(name, placement) for named in (placed, served_name) for name in WORKLOADS for placement in PLACEMENTS
    }
    return every | {with_standing(name, areas) for name in ON_STANDING for areas in effort.standing}


def verdicts_against(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Of `against`."""
    yield Verdict("the dearest, times the other's", max(row.ratio or 0.0 for row in rows), 1.03)


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    most = effort.standing[-1]
    alloc_destroy = rows[placed(ALLOC_DESTROY, ONE_CORE)].ratio or 0.0
    grown = max(rows[with_standing(name, most)].ratio or 0.0 for name in ON_STANDING)
    on = f"{short(most)} areas standing"
    dearest = max(rows[served_name(name, ONE_CORE)].ratio or 0.0 for name in WORKLOADS)
    yield Verdict("serve on one core, times run, the dearest of all", dearest, 1.4)
    yield Verdict(f"{ALLOC_DESTROY} on one core, times the C server's", alloc_destroy, 2.5)
    yield Verdict(f"MAP+UNMAP with {on}, times that with {short(effort.reference)}", grown, 1.5)
    yield Verdict(f"bytes a standing area, with {on}", rows[BYTES_PER_AREA].iommud, 400)
