"""An NVMe controller driven by C programs that know nothing of iommud: as QEMU's answered them on
Linux 7.3, but for what nvme/differences.py lists.

nvme/expected has what they printed there, in a machine of QEMU 7.2's with an emulated VT-d, the
controller bound to vfio-pci, and three namespaces of 16 MiB (N is 1 to 3; BLOCK is 512 or 4096):

    -drive file=N.img,if=none,id=dN,format=raw,discard=unmap
    -device nvme,id=nvme0,serial=iommud
    -device nvme-ns,drive=dN,bus=nvme0,nsid=N,logical_block_size=BLOCK

That controller ends its machine now and then when it is disabled with commands in flight (an
assertion of QEMU's about the queue of a request). Then the stream has to be asked for again.
"""

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from iommud.commands.machine import first_group
from tests import daemon
from tests.clients.build import build
from tests.clients.nvme import answers
from tests.clients.nvme.differences import BASIC, ROWS, Row
from tests.clients.nvme.streams import (
    BLOCKS,
    EXPECTED,
    Stream,
    answered,
    compare,
    compare_digest,
    different,
    model,
    run,
)
from tests.support import AS_NOBODY, PATIENCE

SHORT, SHORT_4K = Stream(512, 1, 1000), Stream(4096, 2, 1000)
DIGESTS = (Stream(512, 11, 5000), Stream(4096, 12, 5000))


def basic(block: int, prefix: Sequence[str], *arguments: str) -> None:
    done = subprocess.run(
        [*prefix, build("nvme/nvme_basic"), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    kept = (EXPECTED / f"basic-{block}.txt").read_text().splitlines()
    wanted = [answers.expected(BASIC.get(line, line)) for line in kept]
    assert different(wanted, [answers.ours(line) for line in done.stdout.splitlines()]) == ""
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The device's file and /dev/iommu of an `iommud serve`."""
    directory = tmp_path_factory.mktemp("served")
    iommu, vfio = directory / "iommu", directory / "vfio"
    server = daemon.Daemon("--fuse", str(iommu), "--device", model(512))
    server.wait_serving()
    yield str(vfio / "devices" / "vfio0"), str(iommu)
    server.kill_all()
    for path in iommu, vfio / "devices" / "vfio0", vfio / "vfio", vfio / str(first_group()):
        daemon.take_away(path)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_drivers_life(block: int) -> None:
    basic(block, run(block))


@pytest.mark.usefixtures("root")
def test_a_drivers_life_without_any_privilege() -> None:
    basic(512, [*AS_NOBODY, *run(512)])


@pytest.mark.usefixtures("root")
def test_so_it_is_with_serve_one_client_after_the_other(served: tuple[str, str]) -> None:
    for _ in range(2):
        basic(512, [], *served)


@pytest.mark.parametrize("stream", [SHORT, SHORT_4K])
def test_random_commands_are_answered_as_expected(stream: Stream) -> None:
    compare(stream, answered(stream, run(stream.block)))


@pytest.mark.usefixtures("root")
def test_so_they_are_without_any_privilege() -> None:
    compare(SHORT, answered(SHORT, [*AS_NOBODY, *run(512)]))


@pytest.mark.usefixtures("root")
def test_so_they_are_by_serve(served: tuple[str, str]) -> None:
    compare(SHORT, answered(SHORT, [], *served))


@pytest.mark.parametrize("option", ["mmap=off", "poll=200", "queues=4"])
def test_so_they_are_however_the_device_is_made(option: str) -> None:
    compare(SHORT, answered(SHORT, run(512, option)))


def test_so_they_are_by_a_file_that_has_to_be_waited_for(tmp_path: Path) -> None:
    compare(SHORT, answered(SHORT, run(512, f"file={tmp_path / 'disk'}")))


@pytest.mark.slow
@pytest.mark.parametrize("stream", DIGESTS)
def test_more_of_them_are_answered_as_expected(stream: Stream) -> None:
    """`nvme_stream DEVICE IOMMU SEED COUNT` prints each, where one differs. `make nvme` runs a
    hundred thousand.
    """
    compare_digest(stream.name, answered(stream, run(stream.block)))


def test_a_difference_that_is_listed_is_there() -> None:
    """Each row is about a line that is kept: of a stream, or of rare.txt, which has single ones of
    those of which there are only digests.
    """
    seen: set[Row] = set()
    for name in SHORT.name, SHORT_4K.name, "rare":
        for line in (EXPECTED / f"{name}.txt").read_text().splitlines():
            answers.expected(line, seen)
    assert [row.kinds for row in ROWS if row not in seen] == []
