"""The lines of `--why` when clients want them to be something else, or too many."""

import re
import subprocess
from pathlib import Path

import pytest

from iommud.ops import why
from tests.serve.test_serve import Start, path, start

__all__ = ["path", "start"]  # fixtures

LINE = re.compile(r"[ -~]*\[\d+\]: IOMMU_DESTROY: ENOENT: [ -~]+")


@pytest.mark.usefixtures("root")
def test_a_name_makes_no_line(start: Start, path: str, programs: Path) -> None:
    server = start("--fuse", path, "--why").wait_ready()
    subprocess.run([programs / "flood", path], check=True)
    server.end()
    said = server.said()
    assert said.isascii(), "so it is UTF-8, and shows as what it is"
    first, *lines = said.removesuffix("\n").split("\n")
    assert first.startswith("iommud: serving")
    assert len(lines) == 5
    assert [line for line in lines if not LINE.fullmatch(line)] == []


@pytest.mark.usefixtures("root")
def test_a_flood_is_counted_and_others_are_heard(start: Start, path: str, programs: Path, probe: str) -> None:
    count = 20000
    server = start("--fuse", path, "--why").wait_ready()
    subprocess.run([programs / "flood", path, str(count)], check=True)
    subprocess.run([probe, "once", path], check=True, stdout=subprocess.DEVNULL)
    server.end()
    lines = server.said().splitlines()
    told = [line for line in lines if line.startswith("flood[")]
    left_out = [re.fullmatch(r"iommud: (\d+) lines of flood\[\d+\] were left out", line) for line in lines]
    assert why.BURST <= len(told) < why.BURST + 60 * why.RATE
    assert len(told) + sum(int(found[1]) for found in left_out if found) == count
    assert any(line.startswith("probe[") for line in lines)
