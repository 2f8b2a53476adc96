"""Registers of a device of `--device`: read by pread, loaded and stored by a mapping, and from a
store to the eventfd that it signals.

The peer is a C server that takes them the same way and does nothing else (registers_peer.c): so a
trapped access is compared with what stopping a thread by ptrace takes in any case. Both are files
of one client, and take turns in batches so short that few meet a moment in which the machine does
something else. Elsewhere than on x86-64 there are no such rows.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from functools import partial

from tests.bench.rig import ONE_CORE, PLACEMENTS, Bench, Effort, Row, Verdict, in_turns
from tests.bench.round_trips import placed

PREAD = "register read by pread"
TRAPPED = {  # the name in the table: the name in registers.c
    "register loaded by a mapping": "load",
    "register stored by a mapping": "store",
    "doorbell to eventfd": "doorbell",
}
WORKLOADS = {PREAD: "pread", **TRAPPED}
REPEAT = 2  # in a batch, of which there are MORE times as many
MORE = 4
IS_KNOWN = platform.machine() == "x86_64"


def registers(bench: Bench) -> Iterator[Row]:
    """Each workload in every placement."""
    if not IS_KNOWN:
        return
    peer = bench.peer("registers_peer")
    client = bench.run("registers", peer, device="edu")

    def once(workload: str, target: int) -> float:
        return client.ask("batch", target, workload, REPEAT) / REPEAT / 1000

    for placement in PLACEMENTS:
        bench.place(placement, client, peer)
        for name, workload in WORKLOADS.items():
            figures = in_turns(bench.effort.batches * MORE, partial(once, workload, 0), partial(once, workload, 1))
            yield Row(placed(name, placement), "us", *figures)


def names(effort: Effort) -> set[str]:
    """The rows, which all have a peer."""
    return {placed(name, placement) for name in WORKLOADS for placement in PLACEMENTS} if IS_KNOWN else set()


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    if not IS_KNOWN:
        return
    yield Verdict(f"{PREAD} on one core, times the C server's", rows[placed(PREAD, ONE_CORE)].ratio or 0.0, 1.5)
    dearest = max(rows[placed(name, ONE_CORE)].ratio or 0.0 for name in TRAPPED)
    yield Verdict("load, store or doorbell of a mapping on one core, times the C server's, the dearest", dearest, 2.0)
