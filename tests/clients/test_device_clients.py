"""VFIO's device files, asked by C programs that print what they are answered: as Linux 7.3's
vfio-pci answered them of QEMU's edu.

expected/ has what each program printed there, in a machine of QEMU 7.2's with an emulated VT-d and
`-device edu`, started anew for each, with the driver option vfio-pci.ids=1234:11e8.
"""

import difflib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from iommud.commands.machine import first_group
from tests import daemon
from tests.clients.build import SOURCES, build
from tests.support import AS_NOBODY, IOMMUD, PATIENCE

RUN = [IOMMUD, "run", "--device", "edu", "--"]
EXPECTED = SOURCES / "vfio" / "expected"
# What all that `walk DEVICE IOMMU SEED 1000` was answered comes to there, as a checksum.
LINUX_WALKED = {
    1: "146ee312e8e34547",
    2: "98bd61e5ba3d3bf2",
    3: "4c77888639af26ef",
    4: "62244394b3ba174b",
    5: "705eb22f18d7ea50",
    6: "bd23efa72b2c8565",
}
# Where it takes more than an answer: descriptors are fetched and given, threads are stopped.
REACH_INTO_CLIENTS = ("bind", "features", "ioeventfd", "irqs", "mmio")
PROGRAMS = sorted(path.stem for path in EXPECTED.glob("*.txt"))
# What the kernel answers by itself where nobody watches the program (docs/not-done.md): 0.
UNWATCHED = {
    program: {f"{what}: EINVAL": f"{what}: 0" for what in texts}
    for program, texts in {
        "bind": ("read of nothing", "write of nothing", "mmap"),
        "regions": (
            "privately", "a page too many", "a byte too many", "beyond", "across its end", "BAR 1", "BAR 5", "the ROM",
            "configuration space", "VGA", "region 9", "far away",
        ),
    }.items()
}  # fmt: skip


def compare(
    command: list[str],
    program: str,
    *arguments: str,
    answers: Path = EXPECTED,
    instead: Mapping[str, str] = MappingProxyType({}),
    patience: float = PATIENCE,
) -> None:
    """`instead`: lines that are allowed where Linux has printed others, by those. Each has to be
    there, once at least.
    """
    done = subprocess.run(
        [*command, build(f"vfio/{program}"), *arguments], capture_output=True, text=True, timeout=patience, check=False
    )
    linux = (answers / f"{program}.txt").read_text().splitlines()
    found = done.stdout.splitlines()
    assert set(instead.values()) <= set(found)
    if len(found) == len(linux):
        found = [
            expected if instead.get(expected) == line else line for line, expected in zip(found, linux, strict=True)
        ]
    different = difflib.unified_diff(linux, found, "Linux", "iommud", n=1, lineterm="")
    assert "\n".join(different) == ""
    assert (done.returncode, done.stderr) == (0, "")


class Served(daemon.Daemon):
    """`iommud serve` with one device."""

    def __init__(self, directory: Path) -> None:
        self.iommu, self.device = str(directory / "iommu"), str(directory / "vfio" / "devices" / "vfio0")
        super().__init__("--fuse", self.iommu, "--device", "edu")
        self.wait_serving()

    def close(self) -> None:
        self.kill_all()
        vfio = Path(self.device).parents[1]
        for path in self.iommu, self.device, vfio / "vfio", vfio / str(first_group()):
            daemon.take_away(path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


@pytest.mark.parametrize("program", PROGRAMS)
def test_answers_are_those_of_linux(program: str) -> None:
    compare(RUN, program)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("program", PROGRAMS)
def test_so_are_those_of_serve_one_client_after_the_other(served: Served, program: str) -> None:
    compare([], program, served.device, served.iommu, instead=UNWATCHED.get(program, {}))


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("program", REACH_INTO_CLIENTS)
def test_without_any_privilege(program: str) -> None:
    compare([*AS_NOBODY, *RUN], program)


@pytest.mark.parametrize("seed", LINUX_WALKED)
def test_a_random_walk_is_answered_as_by_linux(seed: int) -> None:
    """`walk DEVICE IOMMU SEED 1000 trace` prints each step, where one differs."""
    walk([*RUN, build("vfio/walk"), "/dev/vfio/devices/vfio0", "/dev/iommu"], seed)


def walk(command: list[str], seed: int) -> None:
    done = subprocess.run([*command, str(seed), "1000"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == (f"seed {seed}, 1000 steps: {LINUX_WALKED[seed]}\n", "")
