"""A userspace driver of VFIO's type1 starts up, on /dev/vfio/vfio and on /dev/iommu. The same
program passes on Linux 7.3's own.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.build import SOURCES, build
from tests.clients.daemon import Daemon
from tests.clients.test_clients import judge, last_line
from tests.support import AS_NOBODY, IOMMUD, PATIENCE, ROOT

RUN = [IOMMUD, "run", "--mock", "--vfio", "--"]
# What it was told by Linux, once for each kind of container.
LINUX_SAID = 2 * ["# page sizes 0x1ffffff000", "# IOVAs 0x1000000 to 0x7fffffff"]
# What the calls of `fuzz_vfio N 20000` were answered by Linux 7.3, as a checksum over all errnos
# and all values written back.
LINUX_ANSWERS = {1: "72a23453bb805385", 2: "186c8ab636f5a790", 3: "ca6cfcb1e4ad179b"}


def test_on_vfios_own_path() -> None:
    judge([*RUN, build("mock/type1")])


def test_it_is_told_what_linux_tells() -> None:
    said = subprocess.run(
        [*RUN, build("mock/type1")], capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout
    assert [line for line in said.splitlines() if line.startswith("#")] == LINUX_SAID


def test_on_dev_iommu() -> None:
    judge([IOMMUD, "run", "--mock", "--", build("mock/type1"), "/dev/iommu"])


def test_within_another() -> None:
    """What is at /dev/vfio/vfio already is out of sight."""
    judge([*RUN, *RUN, build("mock/type1")])


@pytest.mark.usefixtures("root")
def test_without_any_privilege() -> None:
    judge([*AS_NOBODY, *RUN, build("mock/type1")])


@pytest.mark.usefixtures("root")
def test_beside_a_served_device(open_directory: Path, connections: Path) -> None:
    path = open_directory / "iommu"
    vfio = open_directory / "vfio" / "vfio"
    with Daemon(str(path), connections, "--mock", "--vfio", also=f", {vfio} (FUSE)") as daemon:
        assert oct(vfio.stat().st_mode) == "0o100666"
        judge([build("mock/type1"), str(path)])
        daemon.end()
    assert not vfio.parent.exists()


@pytest.mark.parametrize("seed", LINUX_ANSWERS)
def test_random_calls_are_answered_as_by_linux(seed: int) -> None:
    """The container's ioctls among IOMMUFD's own, with devices and accesses that come and go."""
    assert (
        last_line(IOMMUD, "run", "--mock", "--", build("fuzz_vfio"), str(seed), "20000")
        == f"checksum {LINUX_ANSWERS[seed]}"
    )


def test_each_line_of_the_docs_is_shown() -> None:
    """By a C program, or a function of it, that is there; or by a file that is linked to."""
    rows = []
    is_shown = False
    for line in (ROOT / "docs" / "vfio.md").read_text().splitlines():
        if not line.startswith("|") or line.endswith("| shown by |"):
            is_shown = line.endswith("| shown by |")
        elif is_shown and line.startswith("| "):
            rows.append(line.rstrip(" |").rsplit(" | ", 1)[1])
    assert len(rows) > 15
    for shown in "; ".join(rows).split("; "):
        if link := re.fullmatch(r"\[\w+\.py\]\((.+)\)", shown):
            assert (ROOT / "docs" / link[1]).is_file()
            continue
        name, *functions = shown.replace("`", "").split(", ")
        text = (SOURCES / f"{name}.c").read_text()
        assert not [
            function for function in functions if not re.search(rf"^\w[\w *]*\b{function}\(", text, re.MULTILINE)
        ], shown
