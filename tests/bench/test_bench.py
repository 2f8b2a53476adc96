"""The benchmark runs from end to end, writes rows of the promised shape, and leaves nothing behind.
Never: how fast.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import copies, devices, disks, dmadev, registers, rig, round_trips, run, tables

RUN = [sys.executable, run.__file__, "--quick"]


@contextmanager
def started(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    command = [*RUN, "--out", str(tmp_path / "bench.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        yield process


def left_behind(tmp_path: Path) -> list[str]:
    """Mounts, files and processes of a run in `tmp_path`."""
    left = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]
    left += map(str, tmp_path.glob("iommud-bench-*"))
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = cmdline.read_bytes().decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(tmp_path / "iommud-bench-") in text:
            left.append(text)
    return left


def test_a_quick_run_writes_every_row(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench.json").read_text())}
    parts = round_trips, registers, devices, dmadev, disks, copies
    compared = {name for part in parts for name in part.names(rig.QUICK)}
    smallest = {devices.name(rig.QUICK.maps[0], kind) for kind in rig.KINDS}
    assert compared | smallest | tables.names(rig.QUICK) | {round_trips.BYTES_PER_AREA} <= rows.keys()
    for name, row in rows.items():
        assert list(row) == ["name", "unit", "iommud", "peer", "ratio"]
        assert isinstance(row["unit"], str)
        assert isinstance(row["iommud"], float)
        assert name in printed
        if name in compared:
            assert row["iommud"] > 0
            assert row["ratio"] == row["iommud"] / row["peer"]
        else:
            assert row["peer"] is row["ratio"] is None
    figures = {name: rig.Row(name, row["unit"], row["iommud"], row["peer"]) for name, row in rows.items()}
    verdicts = [verdict for judge in run.VERDICTS for verdict in judge(figures, rig.QUICK)]
    assert printed.splitlines()[-len(verdicts) :] == list(map(str, verdicts))
    assert left_behind(tmp_path) == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout is not None
        # the first row: both servers and the client run
        while rig.UNPINNED not in process.stdout.readline():
            assert process.poll() is None
        assert left_behind(tmp_path) != []
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "bench.json").exists()


def test_a_verdict_says_on_which_side_of_its_limit_a_figure_is() -> None:
    assert str(rig.Verdict("cost", 1.5, 1.5)) == "cost: 1.50, at most 1.5: holds"
    assert str(rig.Verdict("cost", 1.6, 1.5)).endswith(": DOES NOT HOLD")
    assert str(rig.Verdict("bandwidth", 0.5, 0.5, at_least=True)) == "bandwidth: 0.50, at least 0.5: holds"
    assert str(rig.Verdict("bandwidth", 0.4, 0.5, at_least=True)).endswith(": DOES NOT HOLD")


def test_figures_are_compared_in_turns() -> None:
    calls: list[str] = []

    def measure(name: str, figures: list[float]) -> float:
        calls.append(name)
        return figures.pop()

    first, second = [9.0, 1.0, 2.0], [7.0, 8.0, 5.0]
    assert rig.in_turns(3, lambda: measure("a", first), lambda: measure("b", second)) == (2.0, 7.0)
    assert "".join(calls) == "ababab"
