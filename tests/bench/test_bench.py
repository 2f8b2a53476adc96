"""The benchmark runs from end to end, writes rows of the promised shape, and leaves nothing behind. Never: how fast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import run as bench

RUN = [sys.executable, bench.__file__, "--quick"]


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
    promised = {bench.placed(name, placement) for name in bench.WORKLOADS for placement in bench.PLACEMENTS}
    promised |= {bench.with_standing(name, areas) for name in bench.ON_STANDING for areas in bench.QUICK.standing}
    assert promised | {bench.BYTES_PER_AREA} <= rows.keys()
    for name, row in rows.items():
        assert list(row) == ["name", "unit", "iommud", "peer", "ratio"]
        assert isinstance(row["unit"], str)
        assert isinstance(row["iommud"], float)
        assert name in printed
        if name in promised:
            assert row["iommud"] > 0
            assert row["ratio"] == row["iommud"] / row["peer"]
        else:
            assert row["peer"] is row["ratio"] is None
    assert [line.rpartition(": ")[2] in ("holds", "DOES NOT HOLD") for line in printed.splitlines()[-3:]] == [True] * 3
    assert left_behind(tmp_path) == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert process.stdout is not None
        while bench.UNPINNED not in process.stdout.readline():  # the first row: both servers and the client run
            assert process.poll() is None
        assert left_behind(tmp_path) != []
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert left_behind(tmp_path) == []
    assert not (tmp_path / "bench.json").exists()
