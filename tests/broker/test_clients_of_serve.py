"""The C programs that judge `iommud run` judge `iommud serve` as well, where each open file has a
worker of its own. No program may notice that.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import bare
from tests.clients import unwatched
from tests.clients.build import build
from tests.clients.test_clients import judge
from tests.support import IOMMUD, PATIENCE

pytestmark = pytest.mark.usefixtures("root")

LENDS_AT_ONCE = [sys.executable, str(Path(__file__).with_name("lends_at_once.py"))]
# Those about what crosses processes: descriptors, memory, mappings, limits and the end of files.
# The others cannot tell how they are served.
PROGRAMS = (
    "destroy", "dispatch", "ioas_map", "ioas_map_file", "ioas_iova_ranges", "lifetime", "option",
    "slow_memory",
)  # fmt: skip
# As in tests/clients/unwatched.py: mmap(2) of a FUSE file succeeds, whatever lies there. Only a
# touch of the memory tells.
MMAP_OF_A_RANGE = {
    f"{what} (got 0, expected ENXIO)"
    for what in (
        "the first page of the file", "what lies behind a range", "what lies before it", "in one mapping with it", "its first page alone",
        "its second page alone", "another context's", "a range that is gone",
    )
} | {"to run it (got 0, expected EPERM)", "a copy of it (got 0, expected EINVAL)"}  # fmt: skip
OF_THE_MOCK = ("access_rw", "accounting", "change_process", "dirty", "memory", "page_table", "processes")


@pytest.fixture(scope="module", params=[[IOMMUD], LENDS_AT_ONCE], ids=["serve", "lends_at_once"])
def inside(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """How to start a program that sees an `iommud serve --mock --vfio` as /dev/iommu."""
    with bare.served(*request.param, "serve", "--mock", "--vfio", "--mode", "0666") as inside:
        yield inside


@pytest.mark.parametrize("name", PROGRAMS)
def test_client(inside: list[str], name: str) -> None:
    judge([*inside, build(name), *(["--mock"] if name == "dispatch" else [])])


@pytest.mark.parametrize("name", OF_THE_MOCK)
def test_client_of_the_mock(inside: list[str], name: str) -> None:
    judge([*inside, build(f"mock/{name}"), *(["--iommud"] if name in ("memory", "processes") else [])])


@pytest.mark.parametrize("name", ["mock/fault", "mock/viommu"])
def test_client_that_asks_what_only_run_refuses(inside: list[str], name: str) -> None:
    done = subprocess.run([*inside, build(name)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == ""
    assert unwatched.wrong(done.stdout) - MMAP_OF_A_RANGE == set()


def test_client_of_the_container(inside: list[str]) -> None:
    judge([*inside, build("vfio_container")])
