"""Copies a second by DPDK on the device ioat, unmodified: dpdk-test-dma-perf, which keeps a ring
full and compares what was copied.

The peer is DPDK's dma_skeleton, the same program with a device whose copies are a thread's memcpy:
what an offload costs if nothing is trapped and nothing is translated. Where DPDK cannot be had
there are no such rows, and a sentence says why. A quick run does not fetch it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.bench.rig import FULL, KIB, Bench, Effort, Row, Verdict
from tests.bench.servers import BenchError
from tests.debian import NotHere
from tests.real_clients.dpdk import DPDK, Performance

BDF: Final = "0000:e0:00.0"
LARGE: Final = 65280  # bytes: 64 KiB, less what DPDK's buffers need themselves
SECONDS: Final = 180.0
TIMES: Final = 3
# copies a second that are wanted, by bytes of a copy, 32 at a doorbell
AIMS: Final = {64: 50_000, 4 * KIB: 30_000, LARGE: 15_000}


def cases(effort: Effort) -> list[tuple[int, int]]:
    """(bytes of a copy, copies to a doorbell). All memory is locked, of which an ordinary user may
    have 8 MiB: enough for the small ones.
    """
    if effort is not FULL:
        return [(64, 32)]
    return [(size, kick) for size in AIMS if os.geteuid() == 0 or size == 64 for kick in (1, 32)]


def copied(bench: Bench) -> Iterator[Row]:
    if why := _lacking(bench.effort):
        print(f"dmadev: left out: {why}", flush=True)
        return
    wanted = cases(bench.effort)
    figures: dict[tuple[int, int], tuple[list[float], list[float]]] = {case: ([], []) for case in wanted}
    for time in range(TIMES if bench.effort is FULL else 1):
        for which, device in enumerate((BDF, None)):
            place = bench.directory(f"dpdk-{time}-{which}")
            performance = Performance(place, device, wanted, 64 if os.geteuid() == 0 else 8)
            command = performance.command
            said = _run(bench.device(f"ioat,bdf={BDF}", command) if device else command, place)
            for case, rate in zip(wanted, performance.copies(said), strict=True):
                figures[case][which].append(rate / 1000)
    for case, columns in figures.items():
        yield Row(name(*case), "k/s", *map(statistics.median, columns))


def _lacking(effort: Effort) -> str:
    """Why DPDK cannot be had; empty: it is there."""
    if effort is not FULL and not DPDK.is_here:
        return "DPDK was not fetched yet, and a quick run does not"
    try:
        DPDK.find()
    except (NotHere, OSError, subprocess.CalledProcessError) as error:
        return f"DPDK cannot be had: {error}"
    return ""


def _run(command: list[str], place: Path) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"XDG_RUNTIME_DIR": str(place)},
    )
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
        raise BenchError(f"dpdk-test-dma-perf ended with status {done.returncode}")
    return done.stdout


def name(size: int, kick: int) -> str:
    return f"dmadev copies of {size} B, {kick} to a doorbell"


def names(effort: Effort) -> set[str]:
    """The rows, which all have a peer."""
    return {name(*case) for case in cases(effort)} if not _lacking(effort) else set()


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    for size, aim in AIMS.items():
        row = rows.get(name(size, 32))
        if row is not None:
            yield Verdict(f"{name(size, 32)}, thousands a second", row.iommud, aim / 1000, at_least=True)
