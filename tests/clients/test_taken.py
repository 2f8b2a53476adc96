"""--pin=uring in processes that are not easily taken in hand (pins/taken.c), and a daemon that is
killed meanwhile.
"""

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuse_glue.system import libc
from cuse_glue.tracing import ptrace
from tests.clients.build import build
from tests.support import IOMMUD, PATIENCE, mounts_at, processes_with

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.skipif(ptrace.machine() is not ptrace.X86_64, reason="x86-64 only"),
]

# A process that has unshared its PID namespace can make no helper; that is said.
SAID = re.compile(
    r"iommud: (serving .*|WARNING: what process \d+ has pinned .*: it has unshared its PID namespace, .*)"
)


def judge(done: subprocess.CompletedProcess[str]) -> None:
    assert not [line for line in done.stdout.splitlines() if line.startswith("not ok")], done.stdout
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if not SAID.fullmatch(line)]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path / "iommu", tmp_path / "vfio" / "vfio":
        while mounts_at(str(path)):
            libc.umount(str(path), libc.MNT_DETACH)


def test_under_run() -> None:
    command = [IOMMUD, "run", "--mock", "--vfio", "--pin=uring", "--", build("pins/taken"), "/dev/vfio/vfio"]
    judge(subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE))


def test_under_serve(directory: Path) -> None:
    device = directory / "vfio" / "vfio"
    command = [IOMMUD, "serve", "--fuse", str(directory / "iommu"), "--vfio", "--mock", "--pin=uring"]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        assert daemon.stderr.readline().startswith("iommud: serving ")
        judge(subprocess.run([build("pins/taken"), str(device)], capture_output=True, text=True, timeout=2 * PATIENCE))
        daemon.terminate()
        assert daemon.wait(PATIENCE) == 0
    finally:
        daemon.kill()
        daemon.communicate()


def test_a_client_goes_on_when_the_daemon_is_killed() -> None:
    """In the midst of a call that it was made to begin, which lasts because its own page does not
    come.
    """
    marker = str(uuid.uuid4())
    command = [IOMMUD, "run", "--mock", "--vfio", "--pin=uring", "--", build("pins/goes_on"), "/dev/vfio/vfio"]
    environment = {"PATH": os.environ["PATH"], "IOMMUD_TEST": marker}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as client:
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == "begun\n"
            # The helper, whose environment is its parent's, is the daemon's child in no way, and
            # has the program's name.
            for pid in processes_with(marker) - {client.pid}:
                if Path("/proc", str(pid), "comm").read_text() not in ("goes_on\n", "iommud-watch\n"):
                    os.kill(pid, signal.SIGKILL)
            assert client.communicate(timeout=PATIENCE)[0] == "all is well\n"
            assert client.returncode == 0
        finally:
            client.kill()
