"""Where `iommud serve` serves: what it takes over, from whom, and what it does not let itself be
led to.
"""

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuse_glue.system import libc
from iommud.commands import place_directory, place_lock
from tests.serve.test_serve import Start, clean, path, refusal, start
from tests.support import AS_NOBODY, IOMMUD, PATIENCE, ROOT, mounts_at, wait_for_input

__all__ = ["path", "start"]  # fixtures

pytestmark = pytest.mark.usefixtures("root")

USED = b"ioas 1\nrefused 2\n"
OWN_RUN = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs own /run && exec "$@"', "sh"]


def fuse_descriptor(pid: int) -> int:
    """A descriptor of ours for the daemon's connection, as a process of it has that is stuck in the
    kernel and outlives it.
    """
    [number] = [int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(entry) == "/dev/fuse"]
    pidfd = os.pidfd_open(pid)
    try:
        return libc.pidfd_getfd(pidfd, number)
    finally:
        os.close(pidfd)


@pytest.fixture
def stuck(start: Start, path: str, probe: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A client (run/probe.c) of a daemon that was killed, whose connection lives on: whoever asks
    the mount for anything hangs.
    """
    server = start("--fuse", path).wait_ready()
    connection = fuse_descriptor(server.process.pid)
    with subprocess.Popen([probe, "wait", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as client:
        assert client.stdout is not None
        assert client.stdout.readline() + client.stdout.readline() == USED
        server.end(signal.SIGKILL)
        yield client
        os.close(connection)  # with which whoever hangs goes on


def test_takes_over_from_one_that_is_stuck(
    stuck: "subprocess.Popen[bytes]", start: Start, path: str, probe: str
) -> None:
    second = start("--fuse", path).wait_ready()
    assert stuck.stdin is not None
    assert stuck.stdout is not None
    stuck.stdin.write(b"\n")
    wait_for_input(stuck.stdout.fileno(), "an answer to a client of the one that was killed")
    assert stuck.stdout.readline() == b"alloc %d open 0\n" % errno.ENOTCONN
    assert len(mounts_at(path)) == 1
    assert subprocess.check_output([probe, "once", path]) == USED
    assert second.end() == 0
    assert not os.path.lexists(path)


def test_cleans_up_after_one_that_is_stuck(stuck: "subprocess.Popen[bytes]", path: str) -> None:
    assert "had left it" in clean(path)
    assert not os.path.lexists(path)
    assert not mounts_at(path)


def test_a_mount_whose_iommud_has_no_lock_here_stays(start: Start, path: str, probe: str) -> None:
    """It may live, in a container with a /run of its own."""
    start("--fuse", path).wait_ready()
    sentence = refusal(*OWN_RUN, IOMMUD, "serve", "--fuse", path)
    assert "by an iommud without a lock in /run/iommud" in sentence
    assert subprocess.check_output([probe, "once", path]) == USED


def test_one_in_another_mount_namespace_is_known_by_the_file(start: Start, path: str) -> None:
    start("--fuse", path, prefix=OWN_RUN).wait_ready()
    assert "is served by another iommud already, in another container" in refusal(IOMMUD, "serve", "--fuse", path)


def test_who_serves_is_named(start: Start, path: str) -> None:
    server = start("--fuse", path).wait_ready()
    assert refusal(IOMMUD, "serve", "--fuse", path) == (
        f"iommud: {path} is served by another iommud already (process {server.process.pid})\n"
    )


def test_a_mount_over_ours_stays(start: Start, path: str) -> None:
    server = start("--fuse", path).wait_ready()
    libc.mount("/dev/null", path, None, libc.MS_BIND)
    assert server.end() == 0
    assert [line.split(" - ")[1].split(" ")[0] for line in mounts_at(path)] == ["fuse.iommud", "devtmpfs"]
    assert "something of type devtmpfs was mounted over it" in server.said()


def test_the_locks_stay_with_the_daemon(start: Start, path: str) -> None:
    """A child that closes what Door.locks names keeps nobody out."""
    script = (
        "import os, sys; from iommud.commands import fuse_place\n"
        "with fuse_place.fuse(sys.argv[1], 0o600) as place:\n"
        "    if os.fork() == 0:\n"
        "        [os.close(fd) for fd in place.locks]; os.write(1, b'.'); os.read(0, 1); os._exit(0)\n"
        "    os.read(0, 1)\n"
    )
    command = [sys.executable, "-c", script, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        process.kill()
        start("--fuse", path).wait_ready()
        process.stdin.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("mode", "owner", "group", "who"),
    [
        (0o1777, 0, 0, "its mode is 1777"),
        (0o777, 0, 0, "its mode is 0777"),
        (0o775, 0, 65534, "its mode is 0775, its group nogroup"),
        (0o755, 65534, 0, "it belongs to nobody"),
    ],
)
def test_refuses_a_directory_that_others_may_write_to(path: str, mode: int, owner: int, group: int, who: str) -> None:
    directory = os.path.dirname(path)
    os.chown(directory, owner, group)
    os.chmod(directory, mode)
    sentence = refusal(IOMMUD, "serve", "--fuse", path)
    assert f"{directory} can be written to by others ({who})" in sentence
    assert os.listdir(directory) == []


@pytest.mark.parametrize("kind", ["final", "component"])
def test_follows_no_link_that_others_could_have_made(open_directory: Path, kind: str) -> None:
    shared, ours = open_directory / "shared", open_directory / "ours"
    ours.mkdir()
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(ours / "iommu" if kind == "final" else ours)
    wanted = shared / "link" if kind == "final" else shared / "link" / "iommu"
    sentence = refusal(IOMMUD, "serve", "--fuse", str(wanted))
    assert (
        f"leads through the symbolic link {shared}/link, which is in a directory that others may write to" in sentence
    )
    assert list(ours.iterdir()) == []


def test_follows_our_own_links(open_directory: Path, start: Start, probe: str) -> None:
    (open_directory / "far").mkdir()
    (open_directory / "link").symlink_to("far/../far")
    (open_directory / "name").symlink_to("link/iommu")
    server = start("--fuse", f"{open_directory}/name").wait_ready()
    assert subprocess.check_output([probe, "once", f"{open_directory}/far/iommu"]) == USED
    assert server.end() == 0
    assert os.listdir(open_directory / "far") == []
    (open_directory / "loop").symlink_to("loop")
    assert "too many symbolic links" in refusal(IOMMUD, "serve", "--fuse", f"{open_directory}/loop/iommu")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("ln {path} {path}.2", "it has another name as well"),
        ("chown nobody {path}", "it belongs to another user"),
        ("chmod 0400 {path}", "its mode is 0400"),
        ("rm {path}; mkfifo -m 0 {path}", "it is no regular file"),
    ],
)
def test_takes_over_nothing_but_what_it_made(path: str, spoil: str, why: str) -> None:
    Path(path).touch(0)
    subprocess.run(["sh", "-ec", spoil.format(path=path)], check=True)
    before = os.lstat(path)
    assert f"not ours to take ({why}" in refusal(IOMMUD, "serve", "--fuse", path)
    assert clean(path) == ""
    assert os.path.samestat(before, os.lstat(path))


def test_directories_that_are_missing_are_made(open_directory: Path, start: Start, probe: str) -> None:
    path = open_directory / "a" / "b" / "iommu"
    server = start(
        "--fuse", str(path), "--mode", "0666", "--vfio", prefix=["sh", "-c", 'umask 077; exec "$@"', "sh"]
    ).wait_ready()
    assert stat.S_IMODE((open_directory / "a").stat().st_mode) == 0o755
    assert subprocess.check_output([*AS_NOBODY, probe, "once", str(path)]) == USED
    assert server.end() == 0
    assert list(open_directory.iterdir()) == []


def test_a_directory_that_was_made_stays_if_others_use_it(open_directory: Path, start: Start) -> None:
    server = start("--fuse", str(open_directory / "a" / "iommu")).wait_ready()
    (open_directory / "a" / "mine").touch()
    assert server.end() == 0
    assert os.listdir(open_directory / "a") == ["mine"]


def test_a_directory_is_no_device() -> None:
    assert refusal(IOMMUD, "serve", "--fuse", "/tmp").startswith(
        "iommud: /tmp is a directory: give the path of a file in it"
    )
    assert "/ is a directory" in refusal(IOMMUD, "serve", "--fuse", "/")


def test_a_file_is_no_directory(open_directory: Path) -> None:
    (open_directory / "file").touch()
    assert f"{open_directory}/file is no directory" in refusal(
        IOMMUD, "serve", "--fuse", f"{open_directory}/file/iommu"
    )


def test_no_lock_is_left(start: Start, path: str) -> None:
    def locks() -> list[str]:
        found = []
        for lock in Path("/run/iommud").glob("*"):
            try:
                if json.loads(lock.read_text() or "{}").get("place") == path:
                    found.append(lock.name)
            except FileNotFoundError:
                pass  # that of another daemon, which went just now
        return found

    server = start("--fuse", path).wait_ready()
    assert len(locks()) == 1
    assert stat.S_IMODE(os.stat("/run/iommud").st_mode) == 0o700
    server.end()
    assert locks() == []
    start("--fuse", path).wait_ready().end(signal.SIGKILL)
    assert len(locks()) == 1
    clean(path)
    assert locks() == []


def test_in_an_empty_run_directory_nothing_is_left(start: Start, path: str) -> None:
    server = start("--fuse", path, prefix=OWN_RUN).wait_ready()
    run = f"/proc/{server.process.pid}/root/run"
    assert os.listdir(run) == ["iommud"]
    held = os.open(run, os.O_PATH)
    assert server.end() == 0
    assert os.listdir(f"/proc/self/fd/{held}") == []
    os.close(held)


def test_a_run_directory_that_cannot_be_written(path: str) -> None:
    shut = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro own /run && exec "$@"', "sh"]
    assert "/run/iommud, for locks, cannot be made (Read-only file system)" in refusal(
        *shut, IOMMUD, "serve", "--fuse", path
    )
    loose = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs own /run && mkdir -m 755 /run/iommud && exec "$@"', "sh"]
    assert "is not a directory that is yours alone" in refusal(*loose, IOMMUD, "serve", "--fuse", path)


INTERRUPTED = """
import importlib, os, signal, sys
module, name, number, path = sys.argv[1:]
module = importlib.import_module(module)
function = getattr(module, name)
def interrupted(*arguments, **more):
    try:
        return function(*arguments, **more)
    finally:
        os.kill(os.getpid(), int(number))
setattr(module, name, interrupted)
sys.argv[1:] = ["serve", "--vfio", "--fuse", path]
from iommud.commands.cli import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "function",
    [
        "cuse_glue.mounts.reach.check",
        "iommud.commands.place_lock.take",
        "iommud.commands.place_directory._make",
        "iommud.commands.fuse_place._open_empty",
        "cuse_glue.mounts.mount.open_fuse",
        "cuse_glue.mounts.mount.mount_fuse",
        "cuse_glue.system.libc.mount",
        "iommud.commands.serve._serve",
    ],
)
def test_interrupted_at_any_moment_it_leaves_nothing(
    open_directory: Path, function: str, number: signal.Signals
) -> None:
    module, _, name = function.rpartition(".")
    command = [
        sys.executable,
        "-c",
        INTERRUPTED,
        module,
        name,
        str(int(number)),
        str(open_directory / "made" / "iommu"),
    ]
    if name == "_serve":
        command[2] = INTERRUPTED.replace("return function(", "return print(")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(open_directory.iterdir()) == []


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_with_closed_standard_descriptors(start: Start, path: str, probe: str, closed: tuple[int, ...]) -> None:
    """The connection must not become number 2, to which the log goes."""
    redirections = " ".join(f"{number}>&-" for number in closed)
    server = start("--fuse", path, "--why", prefix=["sh", "-c", f'exec "$@" {redirections}', "sh"]).wait_ready()
    for number in closed:
        assert os.readlink(f"/proc/{server.process.pid}/fd/{number}") == "/dev/null"
    assert subprocess.check_output([probe, "once", path]) == USED
    assert server.end() == 0


@pytest.mark.parametrize("most", [8, 16, 63])
def test_with_few_descriptors(path: str, most: int) -> None:
    sentence = refusal("prlimit", f"--nofile={most}:{most}", IOMMUD, "serve", "--fuse", path)
    assert sentence == f"iommud: {most} open files (ulimit -n) are too few: they have to be 64\n"


def test_with_all_descriptors_taken(path: str) -> None:
    script = (
        "import errno, os, sys; sys.argv[1:] = ['serve', '--fuse', sys.argv[1]]\n"
        "from cuse_glue.mounts import mount\n"
        "opened = mount.os.open\n"
        "def full(path, *more, **others):\n"
        "    if path == '/dev/fuse': raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))\n"
        "    return opened(path, *more, **others)\n"
        "mount.os.open = full\n"
        "from iommud.commands.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert (done.returncode, done.stderr) == (1, f"iommud: Too many open files: the limit is {most} (ulimit -n)\n")
    assert not os.path.lexists(path)


def test_without_proc(path: str) -> None:
    bare = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    assert "/proc is not there" in refusal(*bare, IOMMUD, "serve", "--fuse", path)


def test_root_is_not_told_to_be_root(path: str) -> None:
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    directory = os.path.dirname(path)
    os.chmod(directory, 0o500)
    sentence = refusal(*without, IOMMUD, "serve", "--fuse", path)
    assert "root lacks CAP_DAC_OVERRIDE here" in sentence
    assert "needs root" not in sentence


def test_a_lock_is_of_the_directory_and_not_of_a_path(open_directory: Path) -> None:
    (open_directory / "link").symlink_to(".")
    reach = place_directory.reach
    with reach(f"{open_directory}/x", make=False) as one, reach(f"{open_directory}/link/x", make=False) as two:
        assert os.path.samestat(os.fstat(one.directory), os.fstat(two.directory))
        assert one.path == two.path


def test_a_lock_that_was_removed_meanwhile_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it went between our open and our flock."""
    first = place_lock.take("a test", "test")
    first.tell(place="a test")
    taken = place_lock.fcntl.flock  # type: ignore[attr-defined]

    def late(fd: int, operation: int) -> None:
        monkeypatch.undo()
        first.release()
        taken(fd, operation)

    monkeypatch.setattr(place_lock.fcntl, "flock", late)  # type: ignore[attr-defined]
    second = place_lock.take("a test", "test")
    assert second.left is None
    with pytest.raises(place_lock.PlaceTaken):
        place_lock.take("a test", "test")
    second.release()
