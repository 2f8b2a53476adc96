"""`iommud serve`: what it takes, what it refuses, what it tells systemd, and that it leaves
nothing.
"""

import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cuse_glue.system import libc
from tests.bare import BARE_DEV
from tests.daemon import Daemon
from tests.support import AS_NOBODY, IOMMUD, PATIENCE, mounts_at

pytestmark = pytest.mark.usefixtures("root")

Start = Callable[..., "Server"]


class Server(Daemon):
    """An `iommud serve` in a test, and the datagrams that systemd would get of it."""

    def __init__(self, arguments: list[str], prefix: list[str], address: str) -> None:
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.link.bind("\0" + address[1:] if address.startswith("@") else address)
        self.link.settimeout(PATIENCE)
        super().__init__(*arguments, prefix=prefix, environment={"NOTIFY_SOCKET": address})

    def told(self) -> list[str]:
        """The next datagram's lines."""
        return self.link.recv(4096).decode().split("\n")

    def wait_ready(self) -> "Server":
        assert self.told()[0] == "READY=1"
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status; what it said is to be read yet."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        """All that it wrote to stderr; it has to have ended, or to end."""
        return self.process.communicate(timeout=PATIENCE)[1].decode()

    def close(self) -> None:
        self.kill_all()
        self.link.close()


@pytest.fixture
def path(open_directory: Path) -> Iterator[str]:
    it = str(open_directory / "iommu")
    yield it
    while mounts_at(it):
        libc.umount(it, libc.MNT_DETACH)
    forget(it)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        count = 0

        def start_one(*arguments: str, prefix: list[str] | None = None, address: str | None = None) -> Server:
            nonlocal count
            count += 1
            server = Server(list(arguments), prefix or [], address or str(tmp_path / f"notify-{count}"))
            stack.callback(server.close)
            return server

        yield start_one


def forget(path: str) -> None:
    """Remove the lock of a daemon that the test has killed."""
    for lock in Path("/run/iommud").glob("*"):
        try:
            if json.loads(lock.read_text() or "{}").get("place", "").startswith(os.path.dirname(path)):
                lock.unlink()
        except FileNotFoundError:
            pass  # that of another daemon, which went just now


def refusal(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.startswith("iommud: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_leaves_nothing(start: Start, path: str, probe: str, number: signal.Signals) -> None:
    server = start("--fuse", path).wait_ready()
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n"
    assert server.end(number) == 0
    assert server.told() == ["STOPPING=1"]
    assert not os.path.lexists(path)
    assert not mounts_at(path)
    assert server.said() == f"iommud: serving {path} (FUSE)\n"


def test_vfio_is_beside_it(start: Start, path: str, probe: str) -> None:
    vfio = os.path.join(os.path.dirname(path), "vfio", "vfio")
    server = start("--fuse", path, "--vfio").wait_ready()
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n"
    assert subprocess.check_output([probe, "once", vfio]) == b"ioas 1\nrefused 2\n"
    assert stat.S_IMODE(os.stat(vfio).st_mode) == 0o666
    assert server.end() == 0
    assert os.listdir(os.path.dirname(path)) == []
    assert server.said() == f"iommud: serving {path} (FUSE), {vfio} (FUSE)\n"


def test_vfios_directory_stays_if_others_are_in_it(start: Start, path: str) -> None:
    directory = os.path.join(os.path.dirname(path), "vfio")
    os.mkdir(directory)
    assert start("--fuse", path, "--vfio").wait_ready().end() == 0
    assert os.listdir(directory) == []


def test_refuses_somebody_elses_vfio(path: str) -> None:
    directory = os.path.join(os.path.dirname(path), "vfio")
    os.mkdir(directory)
    Path(directory, "vfio").write_text("a file")
    assert f"{directory}/vfio is there already" in refusal(IOMMUD, "serve", "--fuse", path, "--vfio")
    assert Path(directory, "vfio").read_text() == "a file"
    assert not os.path.exists(path)


def test_stopped_before_it_is_ready_it_leaves_nothing(start: Start, path: str) -> None:
    server = start("--fuse", path)
    while not mounts_at(path):
        assert server.process.poll() is None
    assert server.end() == 0
    assert not os.path.lexists(path)
    assert not mounts_at(path)


def test_systemd_is_told_at_an_abstract_address_too(start: Start, path: str) -> None:
    server = start("--fuse", path, address=f"@iommud-test-{os.getpid()}")
    assert server.told() == ["READY=1", f"STATUS=Serving {path} (FUSE)"]


def test_mode_and_group(start: Start, path: str) -> None:
    start("--fuse", path, "--mode", "0640", "--group", "nogroup").wait_ready()
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_uid, status.st_gid) == (0, 65534)


def test_default_mode_keeps_others_out(start: Start, path: str, probe: str) -> None:
    start("--fuse", path).wait_ready()
    done = subprocess.run([*AS_NOBODY, probe, "once", path], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr


def test_mode_0666_lets_everybody_in(start: Start, path: str, probe: str) -> None:
    start("--fuse", path, "--mode", "666").wait_ready()
    assert subprocess.check_output([*AS_NOBODY, probe, "once", path]) == b"ioas 1\nrefused 2\n"


def test_the_file_system_can_be_asked_for(start: Start, path: str) -> None:
    server = start("--fuse", path).wait_ready()
    done = subprocess.run(
        ["stat", "--file-system", "--format=%s %l", path], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (0, "4096 255\n"), done.stderr
    server.end()
    assert "Traceback" not in server.said()


def test_why(start: Start, path: str, probe: str) -> None:
    server = start("--fuse", path, "--why").wait_ready()
    subprocess.run([probe, "once", path], check=True, stdout=subprocess.DEVNULL)
    server.end()
    assert "IOMMU_DESTROY: ENOENT: " in server.said()


def test_default_is_dev_iommu_made_and_removed(start: Start, probe: str) -> None:
    server = start(prefix=BARE_DEV)
    assert server.told() == ["READY=1", "STATUS=Serving /dev/iommu (FUSE)"]
    dev = f"/proc/{server.process.pid}/root/dev"
    assert sorted(os.listdir(dev)) == ["fuse", "iommu", "null", "zero"]
    assert subprocess.check_output([probe, "once", f"{dev}/iommu"]) == b"ioas 1\nrefused 2\n"
    held = os.open(dev, os.O_PATH)
    assert server.end() == 0
    assert sorted(os.listdir(f"/proc/self/fd/{held}")) == ["fuse", "null", "zero"]
    os.close(held)


def test_a_client_that_is_there_at_the_end_gets_enotconn(start: Start, path: str, probe: str) -> None:
    server = start("--fuse", path).wait_ready()
    with subprocess.Popen([probe, "wait", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdin is not None
        assert client.stdout.readline() == b"ioas 1\n"
        assert client.stdout.readline() == b"refused 2\n"
        assert server.end() == 0
        client.stdin.write(b"\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"alloc %d open %d\n" % (errno.ENOTCONN, errno.ENOENT)


def test_a_killed_client_is_forgotten(start: Start, path: str, probe: str) -> None:
    start("--fuse", path).wait_ready()
    with subprocess.Popen([probe, "wait", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ioas 1\n"
        client.kill()
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n"


def test_unmounted_by_somebody_else_it_ends(start: Start, path: str) -> None:
    server = start("--fuse", path).wait_ready()
    libc.umount(path)
    assert server.process.wait(PATIENCE) == 75, "EX_TEMPFAIL: systemd starts it again"
    assert server.said().endswith(f"iommud: {path} (FUSE) was taken away\n")
    assert not os.path.lexists(path)


@pytest.mark.parametrize("used", [False, True])
def test_takes_over_from_one_that_was_killed(start: Start, path: str, probe: str, used: bool) -> None:
    first = start("--fuse", path).wait_ready()
    if used:  # then the kernel remembers attributes, and stat(2) tells nothing
        subprocess.run([probe, "once", path], check=True, stdout=subprocess.DEVNULL)
    first.end(signal.SIGKILL)
    with pytest.raises(
        OSError, match=r"not connected|connection abort"
    ):  # its workers may hold the connection for a moment
        os.open(path, os.O_RDWR)
    second = start("--fuse", path).wait_ready()
    assert len(mounts_at(path)) == 1
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n"
    assert second.end() == 0
    assert not os.path.lexists(path)


def test_takes_over_the_file_of_one_that_was_killed_and_unmounted(start: Start, path: str) -> None:
    start("--fuse", path).wait_ready().end(signal.SIGKILL)
    libc.umount(path)
    assert os.path.getsize(path) == 0
    assert start("--fuse", path).wait_ready().end() == 0


def test_refuses_where_another_iommud_serves(start: Start, path: str, probe: str) -> None:
    start("--fuse", path).wait_ready()
    assert "is served by another iommud already" in refusal(IOMMUD, "serve", "--fuse", path)
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n", "and does it no harm"


def test_refuses_a_real_device(path: str) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert "is a real device" in refusal(IOMMUD, "serve", "--fuse", path)
    assert stat.S_ISCHR(os.lstat(path).st_mode)


def test_refuses_somebody_elses_file(path: str) -> None:
    Path(path).write_text("mine")
    assert "is there already, and not ours to take" in refusal(IOMMUD, "serve", "--fuse", path)
    assert Path(path).read_text() == "mine"
    Path(path).write_text("")
    assert "not ours to take" in refusal(IOMMUD, "serve", "--fuse", path), "an empty file is somebody's, too"
    os.unlink(path)
    os.mkdir(path)
    assert f"is a directory: give the path of a file in it, like {path}/iommu" in refusal(
        IOMMUD, "serve", "--fuse", path
    )


def test_refuses_somebody_elses_mount(path: str) -> None:
    Path(path).touch(0)
    libc.mount("/dev/null", path, None, libc.MS_BIND)
    assert "is a mount of type devtmpfs" in refusal(IOMMUD, "serve", "--fuse", path)
    assert mounts_at(path)


def test_refuses_an_unknown_group(path: str) -> None:
    assert "there is no group nosuchgroup" in refusal(IOMMUD, "serve", "--fuse", path, "--group", "nosuchgroup")


def test_refuses_a_user_without_privilege(path: str, open_directory: Path) -> None:
    assert "needs root" in refusal(*AS_NOBODY, IOMMUD, "serve", "--fuse", path)
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    lacks = f"FUSE may not be mounted on {path} (Operation not permitted): root lacks CAP_SYS_ADMIN here"
    assert lacks in refusal(*without, IOMMUD, "serve", "--fuse", path)
    assert os.listdir(open_directory) == [], "what it made it has removed"


def test_refuses_cuse_where_there_is_none() -> None:
    sentence = refusal(*BARE_DEV, IOMMUD, "serve", "--cuse", "iommu")
    assert "/dev/cuse is not there" in sentence
    assert "modprobe cuse" in sentence


def test_a_node_of_cuse_that_no_module_serves_is_none(start: Start) -> None:
    """udev makes it for every module that could be loaded."""
    node = 'mknod /dev/cuse c 10 254 && exec "$@"'
    server = start(prefix=[*BARE_DEV, "sh", "-c", node, "sh"])
    assert server.told() == ["READY=1", "STATUS=Serving /dev/iommu (FUSE)"]


def test_another_name(start: Start, probe: str) -> None:
    server = start("--name", "iommu-two", prefix=BARE_DEV)
    assert server.told() == ["READY=1", "STATUS=Serving /dev/iommu-two (FUSE)"]
    path = f"/proc/{server.process.pid}/root/dev/iommu-two"
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n"


def clean(path: str, *more: str) -> str:
    done = subprocess.run(
        [IOMMUD, "serve", "--clean", "--fuse", path, *more], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("used", [False, True])
def test_what_one_that_was_killed_has_left_can_be_cleaned_away(start: Start, path: str, probe: str, used: bool) -> None:
    server = start("--fuse", path, "--vfio").wait_ready()
    if used:
        subprocess.run([probe, "once", path], check=True, stdout=subprocess.DEVNULL)
    server.end(signal.SIGKILL)
    said = clean(path, "--vfio")
    assert said.count("had left it") == 2
    assert os.listdir(os.path.dirname(path)) == ["vfio"]
    assert os.listdir(os.path.join(os.path.dirname(path), "vfio")) == []
    assert clean(path, "--vfio") == ""


def test_cleaning_leaves_a_living_one_alone(start: Start, path: str, probe: str) -> None:
    start("--fuse", path).wait_ready()
    assert clean(path) == ""
    assert subprocess.check_output([probe, "once", path]) == b"ioas 1\nrefused 2\n"


def test_cleaning_leaves_somebody_elses_file_alone(path: str) -> None:
    Path(path).write_text("mine")
    assert clean(path) == ""
    assert Path(path).read_text() == "mine"


def test_systemd_hears_that_it_is_alive(start: Start, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    server = start("--fuse", path)
    heard = {server.told()[0] for _ in range(5)}
    assert heard == {"READY=1", "WATCHDOG=1"}


def test_a_watchdog_of_another_process_is_not_ours(start: Start, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    server = start("--fuse", path).wait_ready()
    assert server.end() == 0
    assert server.told() == ["STOPPING=1"]


def test_systemd_is_told_the_reason_of_a_refusal(start: Start, path: str) -> None:
    Path(path).write_text("mine")
    server = start("--fuse", path)
    assert server.told()[0].startswith(f"STATUS=Refused: {path} is there already")
    assert server.process.wait(PATIENCE) == 1


def test_a_bug_has_an_exit_status_of_its_own(path: str) -> None:
    script = (
        "import sys; sys.argv[1:] = ['serve', '--fuse', sys.argv[1]]\n"
        "import iommud.commands.serve; iommud.commands.serve._gid = lambda group: 1 // 0\n"
        "from iommud.commands.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr


def test_refuses_fuse_where_there_is_none(path: str) -> None:
    hide = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"'
    sentence = refusal("unshare", "-m", "sh", "-c", hide, "sh", IOMMUD, "serve", "--fuse", path)
    assert "/dev/fuse is not there" in sentence
    assert not os.path.lexists(path)


@pytest.mark.parametrize("name", ["", "/x", "x/", "../x", "a//b", "a/../b", "x!y", "two words", "x" * 300])
def test_refuses_what_is_no_name_of_a_device(name: str) -> None:
    assert (
        refusal(IOMMUD, "serve", "--cuse", name)
        == f"iommud: --cuse {name}: that is no name that a device below /dev can have\n"
    )


def test_it_may_open_many_files(start: Start, path: str) -> None:
    server = start("--fuse", path, prefix=["prlimit", "--nofile=200:3000"]).wait_ready()
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (3000, 3000)
