"""`iommud run`, installed from its wheel, for a user who has nothing: no capability, no group, no
home, and no checkout to look into.
"""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.clients.build import SOURCES, build
from tests.clients.test_clients import PLAYERS
from tests.clients.test_kind_clients import kind
from tests.clients.test_mock_clients import DIFFERENT
from tests.support import AS_NOBODY, PATIENCE, ROOT
from tests.terminal import Terminal

pytestmark = pytest.mark.usefixtures("root")

SECONDS = 120.0  # for one client
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C"}
CLIENTS = sorted(
    str(path.relative_to(SOURCES).with_suffix(""))
    for path in SOURCES.rglob("*.c")
    # Pins are told what to do; a device's clients take a device, and are run in
    # tests/clients/test_device_clients.py and its neighbours.
    if path.stem not in PLAYERS and path.parent.name not in ("pins", "vfio", "nvme")
)
# As much memory as users may usually pin; not all machines let root raise it.
LIMITED = ["prlimit", f"--memlock={8 << 20}:{8 << 20}"]
# Checks that this user cannot pass, by words of each. All others have to be passed.
MISSED = {
    "file_ops": "root's",  # the device is the user's own here
    "slow_memory": "uffd",  # not for him on Linux either, and without it there is no slow memory
    "mock/slow_destroy": "uffd",  # the same
    "mock/access_rw": "LARGEST_ACCESS.*Cannot allocate memory",  # RLIMIT_MEMLOCK, on Linux too
    "mock/change_process": "five are .got ENOMEM",  # the same
    # shared and without any file: docs/not-done.md
    "mock/map_file": "without its shared parts|all its bytes|write it|its last page",
    "mock/memory": "shared memory, held by",  # the same
    "mock/race": "IOAS_NOIOMMU_GET_PA",  # takes CAP_SYS_RAWIO, on Linux too
}
ENDS_EARLY = {"slow_memory", "mock/slow_destroy", "mock/access_rw"}


@pytest.fixture
def run(installed: Path) -> list[str]:
    """The beginning of a command line: the user, and `iommud run` of the wheel."""
    return [*AS_NOBODY, str(installed / "bin" / "iommud"), "run"]


def output(command: list[str], status: int = 0) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


def test_he_has_nothing(run: list[str]) -> None:
    lines = dict(
        line.split(":\t", 1) for line in output([*run, "cat", "/proc/self/status"]).splitlines() if ":\t" in line
    )
    assert lines["Uid"].split() == lines["Gid"].split() == ["65534"] * 4
    assert lines["Groups"].split() == []
    assert {lines[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert output([*run, "sh", "-c", "test -w $HOME || test -w / || echo nothing"]) == "nothing\n"
    assert output([*run, "stat", "-c", "%a %F", "/dev/fuse"]) == "666 character special file\n"


def test_the_checkout_is_not_needed(installed: Path, probe: str) -> None:
    command = [*AS_NOBODY, "--hide", str(ROOT), "sh", "-c", f'ls {ROOT}; exec "$@"', "sh"]
    assert output([*command, str(installed / "bin" / "iommud"), "run", "--", probe]) == "ioas 1\nrefused 2\n"


@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: str, run: list[str]) -> None:
    folder, _, name = client.rpartition("/")
    options = ["--mock", "--vfio"] if folder else []
    options += ["--iommu", kind(name)] if folder == "kinds" else []
    options += ["--pin=uring"] if name == "pinned" else []
    command = [*run, *options, "--", build(client), *(["--iommud"] if folder == "mock" and name in DIFFERENT else [])]
    done = subprocess.run([*LIMITED, *command], capture_output=True, text=True, timeout=SECONDS, env=ENVIRONMENT)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if not line.startswith(("ok ", "# ", "1.."))]
    expected = re.compile(MISSED.get(client, "(?!)"))
    assert [line for line in wrong if not expected.search(line)] == []
    assert bool(wrong) == (client in MISSED), "the list is out of date"
    if client not in ENDS_EARLY:
        assert lines[-2 if wrong else -1] == f"1..{sum(line.startswith(('ok ', 'not ok ')) for line in lines)}"


def test_its_children_and_pipelines(run: list[str], probe: str) -> None:
    script = f'{probe} & wait; ({probe}; {probe}) | cat; sh -c "{probe}" | while read line; do echo "$line"; done; exec {probe}'
    assert output([*run, "--", "sh", "-c", script]) == "ioas 1\nrefused 2\n" * 5


def test_two_generations_later(run: list[str], probe: str) -> None:
    """An orphan, whose parents have ended, is served still."""
    script = f"(sh -c '(sleep 0; read line; {probe}) <&3 &') 3<&0; echo first"
    with subprocess.Popen(
        [*run, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert process.wait(PATIENCE) == 0
        assert process.communicate(b"\n", timeout=PATIENCE)[0] == b"ioas 1\nrefused 2\n"


@pytest.mark.parametrize("status", [0, 1, 3, 125, 255])
def test_exit_status(status: int, run: list[str]) -> None:
    assert output([*run, "--", "sh", "-c", f"exit {status}"], status) == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE])
def test_death_by_signal(number: signal.Signals, run: list[str]) -> None:
    assert output([*run, "--", "sh", "-c", f"kill -{int(number)} $$"], -number) == ""


def test_not_found_and_not_executable(run: list[str]) -> None:
    for program, status in ("no-such-program", 127), ("/etc/passwd", 126):
        done = subprocess.run([*run, "--", program], capture_output=True, text=True, timeout=PATIENCE, env=ENVIRONMENT)
        assert (done.returncode, done.stderr.count("\n")) == (status, 1)


def test_the_interrupt_key(run: list[str], probe: str) -> None:
    terminal = Terminal([*run, "sh", "-c", f"{probe}; tty; exec cat"], ENVIRONMENT)
    assert b"ioas 1\r\nrefused 2\r\n" in terminal.read_until(rb"/dev/pts/\d+")
    terminal.type("\x03")
    status = terminal.status()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_a_program_that_cannot_be_read(run: list[str], probe: str, open_directory: Path) -> None:
    """Only executed. The kernel lets nobody but root look into its memory"""
    program = shutil.copy(probe, open_directory / "secret")
    os.chmod(program, 0o711)
    done = subprocess.run(
        [*run, "--why", "--", program], capture_output=True, text=True, timeout=PATIENCE, env=ENVIRONMENT
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.match(r"secret\[\d+\]: IOMMU_IOAS_ALLOC: EFAULT: ", done.stderr)
