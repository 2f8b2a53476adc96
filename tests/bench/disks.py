"""Reads and writes of an emulated disk on a file: of NVMe, by a driver that has its doorbells in
memory (disk_nvme.c), and of virtio-blk, by one with event indexes (disk_virtio.c). Both poll.

The peer is the limit: a C program that copies the same blocks from the same file into the driver's
process, one after the other, and does nothing else. All of the file is in the page cache. What a
command takes is measured by those that wait for each (us: less is better), what the device can do
by those that keep many under way (k/s, GB/s: more is better).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from tests.bench.rig import FULL, KIB, MIB, Bench, Effort, Row, Verdict, in_turns
from tests.bench.servers import Client

SIZE = 64 * MIB


@dataclass(frozen=True)
class Case:
    """`count` times `size` bytes, `depth` at a time. `aim`: what this project set itself for
    NVMe.
    """

    workload: str
    size: int
    depth: int
    count: int
    unit: str
    aim: float | None = None

    def name(self, model: str) -> str:
        return f"{model} {self.workload} of {self.size // KIB} KiB, {self.depth} at a time"

    def figure(self, nanoseconds: float) -> float:
        """Of one that took so long."""
        match self.unit:
            case "us":
                return nanoseconds / 1000
            case "k/s":
                return 1e6 / nanoseconds
        return self.size / nanoseconds


MODELS = {"nvme": "disk_nvme", "virtio-blk": "disk_virtio"}  # what drives each
CASES = (
    Case("read", 4 * KIB, 1, 200, "us", 200.0),
    Case("read", 4 * KIB, 32, 2000, "k/s", 40.0),
    Case("read", 128 * KIB, 4, 200, "GB/s", 1.5),
    Case("read", 128 * KIB, 32, 200, "GB/s"),
    Case("write", 4 * KIB, 1, 100, "us"),
    Case("write", 4 * KIB, 32, 1000, "k/s"),
    Case("write", 128 * KIB, 4, 100, "GB/s"),
)


def cases(effort: Effort) -> list[Case]:
    return [case for case in CASES if effort is FULL or case.depth == 32]


def disks(bench: Bench) -> Iterator[Row]:
    for model, program in MODELS.items():
        image = bench.directory(model) / "disk.img"
        image.write_bytes(os.urandom(SIZE))
        client = bench.run(program, device=f"{model},file={image}", more=[image])

        def once(case: Case, target: int, client: Client = client) -> float:
            count = case.count if bench.effort is FULL else 64
            return client.ask("batch", target, case.workload, count, case.depth, case.size) / count

        for case in cases(bench.effort):
            batches = max(3, bench.effort.batches // 4)
            figures = in_turns(batches, partial(once, case, 0), partial(once, case, 1))
            yield Row(case.name(model), case.unit, *map(case.figure, figures))


def names(effort: Effort) -> set[str]:
    """The rows, which all have a peer."""
    return {case.name(model) for model in MODELS for case in cases(effort)}


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    for case in cases(effort):
        if case.aim is not None:
            at_least = case.unit != "us"
            name = case.name("nvme")
            yield Verdict(f"{name}, {case.unit}", rows[name].iommud, case.aim, at_least=at_least)
