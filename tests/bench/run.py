#!/usr/bin/env python3
"""The benchmark: what an ioctl through iommud costs, and a copy of memory, beside what one would
ordinarily write in C.

Two columns are always measured in the same run, in short batches that take turns, so that whatever
the machine does meanwhile hits both alike; a figure is the median of its batches, a ratio the ratio
of the medians. Clients in C (client.c, registers.c, memory.c, tables.c) do the work; this file
starts the parts, and writes the table and build/bench.json, a list of
{"name", "unit", "iommud", "peer", "ratio"}.
`peer` is, part by part:

- round_trips.py: a C server that only copies the struct both ways (peer.c); of the rows of `serve`,
  `iommud run`; where the number of standing areas grows, a second iommud that keeps the same number
  all the time;
- registers.py: a C server that takes registers the same way, and does nothing else
  (registers_peer.c);
- devices.py: iommud with a smaller mapping;
- dmadev.py: DPDK's dma_skeleton, whose device is a thread with memcpy (copies a second: more is
  better);
- disks.py: a C program that copies from the same file into the client (times, and commands or bytes
  a second);
- copies.py: memcpy (bandwidths: more is better);

and null where none makes sense.

All but the rows that say "serve" are of `iommud run`, where one process serves and nothing but the
work itself is measured: what grows with the number of areas or pages would look smaller beside the
constant price of `serve`'s second process.

To add a row: a workload in a client and a line where its part names it, or a function that returns
rows and its name in PARTS. Speed is shown, not tested: the exit status is 0 whatever the figures,
and 1 only when they could not be had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.bench import copies, devices, disks, dmadev, registers, round_trips, tables
from tests.bench.rig import FULL, QUICK, ROOT, Bench, Effort, Row
from tests.bench.servers import BenchError, Stop

PARTS = (
    round_trips.round_trips,
    round_trips.standing,
    registers.registers,
    devices.mapped,
    dmadev.copied,
    disks.disks,
    tables.tracked,
    tables.changed,
    copies.by_engine,
    copies.by_ioctl,
)
VERDICTS = (
    round_trips.verdicts,
    registers.verdicts,
    devices.verdicts,
    dmadev.verdicts,
    disks.verdicts,
    copies.verdicts,
)


def need_packages() -> None:
    """Install what a build and a mount need, or say what is missing; fusermount3 is only for those
    who are not root.
    """
    packages = ["gcc", "libc6-dev", "pkg-config", "libfuse3-dev", *(["fuse3"] if os.geteuid() else [])]
    if subprocess.run([ROOT / "scripts" / "need", *packages], check=False).returncode:
        raise BenchError("packages are missing")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise BenchError("/dev/fuse cannot be opened here, and both servers need it")


def show(row: Row) -> None:
    digits = 2 if row.unit == "GB/s" else 1
    peer = "-" if row.peer is None else f"{row.peer:.{digits}f}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    print(f"{row.name:52} {row.unit:>5} {row.iommud:>9.{digits}f} {peer:>9} {ratio:>6}", flush=True)


def measure(iommud: Sequence[str], effort: Effort, stop: Stop) -> list[Row]:
    """Every row, shown as it comes."""
    rows = []
    for part in PARTS:
        with ExitStack() as stack:
            for row in part(Bench(iommud, effort, stop, stack)):
                show(row)
                rows.append(row)
    return rows


def measure_against(iommud: Sequence[str], other: Sequence[str], effort: Effort, stop: Stop) -> list[Row]:
    """The round trips of two iommuds, shown as they come."""
    rows = []
    with ExitStack() as stack:
        benches = [Bench(command, effort, stop, stack) for command in (iommud, other)]
        for row in round_trips.against(*benches):
            show(row)
            rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure iommud beside what one would ordinarily write in C.")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean little")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench.json", help="where the rows go as JSON")
    parser.add_argument("--iommud", default=str(ROOT / ".venv" / "bin" / "iommud"), help="the command iommud")
    parser.add_argument(
        "--against",
        metavar="IOMMUD",
        help="only the round trips of `run`, beside those of another iommud (that of an older commit's .venv)",
    )
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL
    stop = Stop()
    try:
        need_packages()
        cpus = len(os.sched_getaffinity(0))
        print(f"Linux {platform.release()}, {cpus} cores, Python {platform.python_version()}")
        print(f"{'':52} {'unit':>5} {'iommud':>9} {'peer':>9} {'ratio':>6}", flush=True)
        iommud = shlex.split(args.iommud)
        if args.against:
            rows = measure_against(iommud, shlex.split(args.against), effort, stop)
            print("peer: the other iommud")
            print(*round_trips.verdicts_against(rows), sep="\n")
            return 0
        rows = measure(iommud, effort, stop)
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    print(
        "peer: the C server; of serve, iommud run; with areas standing, an iommud that keeps their number; with a mock device,"
    )
    print("the smallest mapping; of a copy, memcpy; of dmadev, a thread with memcpy; none for page tables")
    by_name = {row.name: row for row in rows}
    for judge in VERDICTS:
        for verdict in judge(by_name, effort):
            print(verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
