"""The system calls that FUSE does not tell of: refused on our files as by Linux's device, and on
all others as if nobody watched.

Each errno is judged by the C clients (clients/file_ops.c, and of the mock's descriptors
clients/mock/*.c), under `iommud run` as well.
"""

import errno
import os
import platform
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from cuse_glue.system import seccomp
from cuse_glue.watch.questions import QUESTION
from tests.clients.build import build
from tests.support import AS_NOBODY, IOMMUD, PATIENCE, daemon_and_watcher, wait_for_call, wait_for_end, wait_for_input

RUN = [IOMMUD, "run", "--"]
NO_WATCH = [IOMMUD, "run", "--no-watch", "--"]
STATUS = ["grep", "-E", "^(NoNewPrivs|Seccomp|Speculation)", "/proc/self/status"]
MACHINE = seccomp.machine()
IOCTL = {"x86_64": 16, "aarch64": 29}[platform.machine()]
AS_LINUX = f"memfd 0 mmap {errno.ENXIO} read {errno.EINVAL} ioctl {errno.ENOTTY} signals "


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.fixture(params=["root", "nobody"])
def prefix(request: pytest.FixtureRequest) -> list[str]:
    """What to begin a command with."""
    if request.param == "nobody" and os.geteuid() != 0:
        pytest.skip("the other one is this already")
    return AS_NOBODY if request.param == "nobody" else []


class Watched:
    """`calls device` under `iommud run`: it makes its calls for each line that it gets."""

    def __init__(self, calls: str, prefix: list[str]) -> None:
        marker = str(uuid.uuid4())
        self.process = subprocess.Popen(
            [*prefix, *RUN, calls, "device"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "IOMMUD_TEST": marker},
            bufsize=0,
        )
        try:
            assert self.line() == "ready"
            self.daemon, self.watcher = daemon_and_watcher(marker, self.process.pid)
        except BaseException:
            self.process.kill()
            self.process.communicate(timeout=PATIENCE)
            raise

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def line(self) -> str:
        assert self.process.stdout is not None
        wait_for_input(self.process.stdout.fileno(), "a line")
        return self.process.stdout.readline().decode().strip()

    def stop(self) -> None:
        for helper in self.daemon, self.watcher:
            try:
                os.kill(helper, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)
        wait_for_end(self.daemon)
        wait_for_end(self.watcher)


@pytest.fixture
def watched(calls: str, prefix: list[str]) -> Iterator[Watched]:
    it = Watched(calls, prefix)
    yield it
    it.stop()


def number(name: str) -> int:
    assert MACHINE is not None
    return MACHINE.calls[name]


def test_our_file_refuses_as_linuxs(watched: Watched) -> None:
    watched.begin()
    assert watched.line() == f"{AS_LINUX}0"


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ["viommu", "veventq", "fault", "descriptor"])
def test_descriptors_are_given_and_watched_without_root(name: str) -> None:
    """To give one, the client is made to open a file: under our own filter, which a daemon without
    privileges cannot suspend.
    """
    lines = output(*AS_NOBODY, IOMMUD, "run", "--mock", "--", build(f"mock/{name}")).splitlines()
    assert not [line for line in lines[:-1] if not line.startswith("ok ")]


def test_other_files_are_as_without(calls: str, prefix: list[str]) -> None:
    assert output(*prefix, *RUN, calls, "files") == output(*prefix, calls, "files")


def test_many_at_once(calls: str) -> None:
    assert output(*RUN, calls, "threads") == "wrong 0\n"


def test_why_tells_of_mmap(calls: str) -> None:
    command = [IOMMUD, "run", "--why", "--", calls, "device"]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=PATIENCE)
    lines = [line for line in done.stderr.splitlines() if "mmap" in line]
    assert len(lines) == 1
    assert re.fullmatch(r"calls\[\d+\]: mmap: ENXIO: 0x0\+0x1000 is not exactly a range .*", lines[0])


def test_the_container_of_vfio_too(calls: str) -> None:
    command = [IOMMUD, "run", "--vfio", "--", calls, "device", "/dev/vfio/vfio"]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.splitlines()[1] == f"{AS_LINUX}0"


class TestTheProgramSees:
    def test_one_filter_and_nothing_else(self, prefix: list[str]) -> None:
        before = output(*prefix, *STATUS)
        filters = re.search(r"^Seccomp_filters:\t(\d+)$", before, re.MULTILINE)
        assert filters
        expected = before.replace(filters[0], f"Seccomp_filters:\t{int(filters[1]) + 1}")
        assert output(*prefix, *RUN, *STATUS) == re.sub(r"^Seccomp:\t\d", "Seccomp:\t2", expected, flags=re.MULTILINE)

    def test_no_filter_with_no_watch(self, prefix: list[str]) -> None:
        assert output(*prefix, *NO_WATCH, *STATUS) == output(*prefix, *STATUS)

    def test_no_listener_of_its_own_but_with_no_watch(self, calls: str) -> None:
        assert output(*RUN, calls, "listener") == f"listener {errno.EBUSY}\n"
        assert output(*NO_WATCH, calls, "listener") == "listener 0\n"


def test_without_the_watch_fuse_answers(calls: str) -> None:
    done = subprocess.run([*NO_WATCH, calls, "device"], input="\n", capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.splitlines()[1] == f"memfd 0 mmap {errno.ENODEV} read 0 ioctl {errno.ENOTTY} signals 0"


def test_where_there_is_a_listener_already_nothing_is_said(calls: str) -> None:
    command = [*RUN, IOMMUD, "run", "--log-level", "{}", "--", calls, "device"]
    quiet, talkative = (
        subprocess.run(
            [word.format(level) for word in command], input="\n", capture_output=True, text=True, timeout=PATIENCE
        )
        for level in ("warning", "info")
    )
    assert quiet.stdout == talkative.stdout
    assert quiet.stdout.splitlines()[1].startswith(f"memfd 0 mmap {errno.ENODEV} read 0 "), "the inner device is not"
    assert quiet.stderr == ""
    reason = "the kernel refuses the filter: there is a listener already"
    assert f"iommud: INFO: system calls are not watched: {reason}" in talkative.stderr


class TestDeathInMidCall:
    def test_of_the_program_before_the_watcher_looks(self, watched: Watched) -> None:
        os.kill(watched.watcher, signal.SIGSTOP)
        watched.begin()
        wait_for_call(watched.process.pid, number("mmap"))
        watched.process.kill()
        assert watched.process.wait(PATIENCE) == -signal.SIGKILL

    def test_of_the_program_while_the_daemon_thinks(self, watched: Watched) -> None:
        self.begin_without_daemon(watched)
        watched.process.kill()
        assert watched.process.wait(PATIENCE) == -signal.SIGKILL

    def test_of_the_daemon(self, watched: Watched) -> None:
        self.begin_without_daemon(watched)
        os.kill(watched.daemon, signal.SIGKILL)
        assert watched.line().startswith("memfd 0 "), "the program goes on"
        watched.begin()
        assert watched.line() == f"memfd 0 mmap {errno.ENODEV} read 0 ioctl {errno.ENOTCONN} signals 0", (
            "as FUSE answers"
        )

    def test_a_signal_does_not_interrupt_what_is_being_looked_at(self, watched: Watched) -> None:
        """Its handler has no SA_RESTART, and mmap(2) no EINTR."""
        self.begin_without_daemon(watched)
        os.kill(watched.process.pid, signal.SIGUSR1)
        os.kill(watched.daemon, signal.SIGCONT)
        assert watched.line() == f"{AS_LINUX}1"

    def begin_without_daemon(self, watched: Watched) -> None:
        """The program waits in mmap of the device for the watcher, and that for the daemon, which
        stands still.
        """
        os.kill(watched.daemon, signal.SIGSTOP)
        watched.begin()
        wait_for_call(watched.watcher, IOCTL, QUESTION)  # in one of its threads
        wait_for_call(watched.process.pid, number("mmap"))
