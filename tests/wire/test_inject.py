"""Descriptors for clients, with real processes: C programs that know nothing of how they
got them.
"""

import functools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cuse_glue.mounts import mount
from tests.support import PATIENCE, ROOT

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the programs are written for x86-64"),
]

SOURCES = Path(__file__).parent
OUTPUT = ROOT / "build" / "wire"
FLAGS = ["-std=gnu11", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror"]
COMPAT_FLAGS = ["-m32", "-O1", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-nostdlib", "-static", "-fno-pic",
                "-fno-stack-protector", "-mregparm=0"]  # fmt: skip
KILLS = 200
# microseconds that a bystander may wait for a reply, on a machine that is busy with other things
LONGEST = 5_000_000
Start = Callable[..., "Server"]


@functools.cache
def build(name: str, *flags: str) -> str:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    program = OUTPUT / name
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, *(flags or FLAGS), str(SOURCES / f"{name}.c"), "-o", str(program)], check=True)
    return str(program)


class Server:
    """inject_server.py on a file, and what it said."""

    def __init__(self, path: Path, arguments: tuple[str, ...], prefix: list[str]) -> None:
        path.touch()
        self.path = str(path)
        command = [*prefix, sys.executable, "-m", "tests.wire.inject_server", self.path, *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            pytest.fail(self.process.communicate()[1])
        self.pid = _first_child(self.process.pid) if "unshare" in prefix else self.process.pid
        self.why: list[str] = []
        self.seen: dict[str, Any] = {}

    def run(self, name: str, *arguments: str, user: int | None = None) -> None:
        """Run a client that judges for itself; fail with what it found wrong."""
        done = self.ask(name, *arguments, user=user)
        lines = done.stdout.splitlines()
        assert not [line for line in lines if not line.startswith(("ok ", "1.."))], done.stdout
        assert done.returncode == 0
        assert lines[-1] == f"1..{len(lines) - 1}", "a client that ended early"

    def ask(self, name: str, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run a client, from a place where every user may."""
        program = shutil.copy(build(name), Path(self.path).parent)
        client = subprocess.Popen([program, *arguments, self.path], stdout=subprocess.PIPE, text=True, user=user)
        try:
            output, _ = client.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()  # first: a client that it holds cannot be killed
            client.kill()
            pytest.fail(f"{name} hangs; it said: {client.communicate()[0]}")
        return subprocess.CompletedProcess(name, client.returncode, output)

    def stop(self) -> None:
        """End it, and see that nothing was left."""
        if self.process.returncode is not None:
            return
        os.kill(self.pid, signal.SIGTERM)
        output, errors = self.process.communicate(timeout=PATIENCE)
        assert errors == ""
        assert self.process.wait() == 0
        *self.why, last = output.splitlines()
        self.seen = json.loads(last)
        assert {name: self.seen[name] for name in ("live", "released_twice", "unanswered", "kept")} == {
            "live": 0, "released_twice": 0, "unanswered": 0, "kept": 0,
        }  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
        mount.unmount(self.path)


def _first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@pytest.fixture
def start(open_directory: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def one(*arguments: str, prefix: list[str] | None = None) -> Server:
        servers.append(Server(open_directory / f"device{len(servers)}", arguments, prefix or []))
        return servers[-1]

    yield one
    try:
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def server(start: Start) -> Server:
    return start("--mode", "600")


@pytest.mark.parametrize("way", [[], ["--arm64-way"]], ids=["x86", "arm64_way"])
def test_a_descriptor_like_any_other(start: Start, way: list[str]) -> None:
    server = start(*way)
    server.run("inject_basic")
    server.stop()
    assert {line[:12] for line in server.why} == {"why: ENOMEM:", "why: EFAULT:"}
    assert server.seen["created"] > 800


def test_the_client_is_unharmed(server: Server) -> None:
    server.run("inject_unharmed", "10000")


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("given", []),
        ("traced", ["why: EPERM: the client is traced by process"]),
        ("seccomp_given", []),
        ("without_proc", []),
        ("other_root", []),
        ("mount_namespace", []),
        ("pid_namespace", []),
        ("user_namespace", []),
        ("passed_on", ["why: ENOMEM: the client has no descriptor free (RLIMIT_NOFILE)"]),
    ],
)
def test_in_special_places(server: Server, case: str, why: list[str]) -> None:
    server.run("inject_places", case)
    server.stop()
    assert [line[: len(begin)] for line, begin in zip(server.why, why, strict=True)] == why


def test_a_descriptor_that_changes_under_the_ioctl(server: Server) -> None:
    server.run("inject_places", "swapped")
    server.stop()
    assert {line.partition("descriptor")[0] for line in server.why} == {"why: EBADF: "}


def test_an_unprivileged_daemon(start: Start) -> None:
    """As under `iommud run`: it cannot suspend a filter, and does not make a client do what its
    filter might kill it for.
    """
    server = start("--uid", "65534")
    server.run("inject_places", "given", user=65534)
    server.run("inject_places", "seccomp_refused", user=65534)
    server.stop()
    assert [line[:45] for line in server.why] == ["why: EPERM: the client has a seccomp filter, "]


def test_another_users_client_of_an_unprivileged_daemon(start: Start) -> None:
    server = start("--uid", "65533")
    assert server.ask("inject_places", "given", user=65534).returncode == 1
    server.stop()
    assert server.why == []  # it cannot even read the struct
    assert server.seen["created"] == 0


def test_a_filter_that_everybody_has(start: Start) -> None:
    """In a container everybody lives under the same filter; nothing can be suspended, and nothing
    need be.
    """
    container = ["unshare", "--pid", "--mount-proc", "--fork", build("inject_filtered")]
    server = start(prefix=container)
    enter = ["nsenter", f"--target={server.pid}", "--pid", "--mount", build("inject_filtered"), build("inject_places")]
    assert subprocess.run([*enter, "given", server.path], timeout=PATIENCE).returncode == 0
    server.stop()
    assert server.why == []


def test_a_filter_that_only_the_daemon_has(start: Start) -> None:
    """A service manager's: it keeps us from suspending others, and theirs may be another one, which
    kills them.
    """
    server = start(prefix=[build("inject_filtered")])
    server.run("inject_places", "given")
    server.run("inject_places", "seccomp_refused")
    server.stop()
    assert [line[:45] for line in server.why] == ["why: EPERM: the client has a seccomp filter, "]


def test_a_32_bit_client(server: Server) -> None:
    program = build("inject_compat", *COMPAT_FLAGS)
    try:
        done = subprocess.run([program, server.path], timeout=PATIENCE)
    except OSError as error:
        pytest.skip(f"this kernel runs no 32-bit programs: {error}")
    assert done.returncode == 255, "no errno"
    server.stop()
    assert server.why == []
    assert server.seen["created"] == 1


def test_a_32_bit_call_of_a_64_bit_client(server: Server) -> None:
    done = server.ask("inject_places", "int80")
    if done.returncode == -signal.SIGSEGV:
        pytest.skip("this kernel has no 32-bit calls")
    assert (done.returncode, "not ok" in done.stdout) == (0, False), done.stdout
    server.stop()
    (why,) = server.why
    assert why.startswith("why: ENOTSUP: the client cannot be given a descriptor: it called 0x36")


def test_a_client_that_execs_meanwhile(server: Server) -> None:
    assert server.ask("inject_places", "exec_meanwhile", "60").returncode == 0


def test_nothing_is_written_into_another_program(start: Start, open_directory: Path) -> None:
    """While its leader is given a descriptor, another thread executes a program that has memory
    where the leader's struct was.
    """
    there = open_directory / "there"
    os.mkfifo(there)
    server = start("--fill-waits-for", str(there))
    program = build("inject_exec")
    client = subprocess.Popen(
        [program, server.path, str(there)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "another program\n"
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "why: ESRCH: the client ended while it was given a descriptor\n"
    output, _ = client.communicate("\n", timeout=PATIENCE)
    assert output == "nothing was written\n"
    assert client.returncode == 0


def test_clients_that_are_killed(server: Server) -> None:
    """At moments that differ each time; nobody hangs, nobody else waits, nothing is left (the
    server's own count).
    """
    chance = random.Random(1)
    watcher = subprocess.Popen(
        [build("inject_churn"), "--watch", server.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(KILLS):
        client = subprocess.Popen([build("inject_churn"), server.path], stdout=subprocess.PIPE)
        assert client.stdout is not None
        client.stdout.read(chance.randrange(1, 8))
        moment = time.perf_counter() + chance.random() * 600e-6
        while time.perf_counter() < moment:
            pass
        client.kill()
        client.communicate(timeout=PATIENCE)
        assert client.returncode == -signal.SIGKILL
    longest, _ = watcher.communicate(timeout=PATIENCE)
    assert watcher.returncode == 0
    assert int(longest) < LONGEST
    server.stop()
    assert server.seen["created"] > KILLS


def test_a_daemon_that_is_stopped_meanwhile(start: Start) -> None:
    """SIGTERM in the middle: no client hangs, and nothing is left."""
    for _ in range(10):
        server = start()
        client = subprocess.Popen([build("inject_churn"), server.path], stdout=subprocess.PIPE)
        assert client.stdout is not None
        client.stdout.read(20)
        server.stop()
        client.communicate(timeout=PATIENCE)
        assert client.returncode == 1
