"""Runs nvme_stream, and holds what it printed against what is kept in expected/."""

import difflib
import subprocess
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.clients.build import SOURCES, build
from tests.clients.nvme import answers
from tests.support import IOMMUD

EXPECTED: Final = SOURCES / "nvme" / "expected"
DEVICE, IOMMU = "/dev/vfio/devices/vfio0", "/dev/iommu"
BLOCKS: Final = (512, 4096)
MOST_SECONDS: Final = 600.0  # of one stream


class Stream(NamedTuple):
    """`block`: bytes of one."""

    block: int
    seed: int
    commands: int

    @property
    def name(self) -> str:
        return f"stream-{self.block}-{self.seed}"


# A hundred thousand commands in all, which `make nvme` runs; by block.
LONG: Final = {
    512: [Stream(512, seed, 5000) for seed in range(101, 111)],
    4096: [Stream(4096, seed, 5000) for seed in range(201, 211)],
}


def model(block: int, *options: str) -> str:
    """What --device is given: the namespaces that expected/ is about."""
    return ",".join(("nvme", "size=48M", "ns=3", f"lba={block}", *options))


def run(block: int, *options: str) -> list[str]:
    """The beginning of a command line."""
    return [IOMMUD, "run", "--device", model(block, *options), "--"]


def answered(stream: Stream, prefix: Sequence[str], device: str = DEVICE, iommu: str = IOMMU) -> list[answers.Line]:
    """What it prints, when it is started by `prefix`. AssertionError: it does not end well."""
    command = [*prefix, build("nvme/nvme_stream"), device, iommu, str(stream.seed), str(stream.commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-1000:]
    return [answers.ours(line) for line in done.stdout.splitlines()]


def compare(stream: Stream, found: Sequence[answers.Line]) -> None:
    """With a stream that is kept whole."""
    kept = (EXPECTED / f"{stream.name}.txt").read_text().splitlines()
    assert len(kept) >= stream.commands
    assert different([answers.expected(line) for line in kept], found) == ""


def compare_digest(name: str, found: Sequence[answers.Line]) -> None:
    """AssertionError: with the kinds of command that were answered otherwise."""
    wanted, got = answers.read((EXPECTED / f"{name}.digest").read_text()), answers.digest(found)
    assert {kind: what for kind, what in got.items() if wanted.get(kind) != what} == {}
    assert got == wanted


def different(wanted: Sequence[answers.Line], found: Sequence[answers.Line]) -> str:
    """For people; empty: they are the same."""
    lines = [line.text for line in wanted], [line.text for line in found]
    return "\n".join(difflib.unified_diff(*lines, "expected", "iommud", n=1, lineterm=""))
