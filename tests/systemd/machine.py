"""A real systemd in namespaces of its own: pid 1 there, with this machine's files below what `make
install` put.

It shares the kernel, so the device is the one that this kernel can have (here that is FUSE); its
/dev, /run, /etc and users are its own.
"""

import os
import select
import socket
import subprocess
from pathlib import Path

from tests.support import PATIENCE

BOOT = Path(__file__).with_name("boot.sh")
NAMESPACES = ["--mount", "--pid", "--net", "--cgroup", "--uts", "--ipc"]


class Machine:
    """`run` and `start` programs in it, as root or another of its users. Closed by `close`, with
    all that runs in it.
    """

    def __init__(self, directory: Path, installed: Path) -> None:
        """`directory`: an empty one; `installed`: what lies over this machine's files."""
        self.shared = directory / "shared"  # seen there as /run/shared
        self.shared.mkdir()
        work = directory / "work"
        work.mkdir()
        groups = _cgroup2()
        assert groups is not None
        self._cgroup = groups / f"{directory.name}-{os.getpid()}"
        self._cgroup.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
            link.bind(str(self.shared / "notify"))
            link.settimeout(PATIENCE)
            # The first program of a group of its own: the tree that systemd makes hangs below that.
            enter = f'echo 0 > "{self._cgroup}/cgroup.procs" && exec "$@"'
            boot = [str(BOOT), str(work), str(installed), str(self.shared)]
            self._process = subprocess.Popen(
                ["sh", "-c", enter, "sh", "unshare", *NAMESPACES, "--fork", "--kill-child", *boot],
                stdin=subprocess.DEVNULL,
            )
            try:
                while b"READY=1" not in link.recv(4096).split(b"\n"):
                    pass
            except BaseException:
                self.close()
                raise
        (self._init,) = _children(self._process.pid)

    def command(self, *words: str, user: str | None = None) -> list[str]:
        """What runs `words` in it, as `user` with that one's groups."""
        inside = ["nsenter", f"--target={self._init}", *NAMESPACES, "--root", "--wd", "--"]
        if user is not None:
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*inside, *words]

    def run(self, *words: str, user: str | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, user=user), input=stdin, capture_output=True, text=True, timeout=PATIENCE
        )

    def check(self, *words: str, user: str | None = None, stdin: str = "") -> str:
        """What it prints, if it succeeds. AssertionError: it does not."""
        done = self.run(*words, user=user, stdin=stdin)
        assert done.returncode == 0, f"{words}: {done.returncode}, {done.stderr}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """A file in it."""
        self.check("mkdir", "-p", os.path.dirname(path))
        self.check("tee", path, stdin=text)

    def start(self, *words: str, user: str | None = None) -> subprocess.Popen[str]:
        """With pipes to its stdin and stdout."""
        return subprocess.Popen(
            self.command(*words, user=user), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        (self._cgroup / "cgroup.kill").write_text("1")
        self._process.wait()
        _remove_cgroup(self._cgroup)


def missing() -> str | None:
    """What this machine lacks for a Machine, in words; None: nothing."""
    if not os.path.exists("/lib/systemd/systemd"):
        return "no systemd is installed"
    if _cgroup2() is None:
        return "version 2 of control groups is not mounted"
    done = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return done.stderr.strip() or None if done.returncode else None


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _cgroup2() -> Path | None:
    """Where version 2 of control groups is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split(" ")
        if fields[2] == "cgroup2":
            return Path(fields[1])
    return None


def _remove_cgroup(cgroup: Path) -> None:
    """Once its last process, which was killed, has ended."""
    with open(cgroup / "cgroup.events") as events:
        change = select.poll()
        change.register(events, select.POLLPRI)
        while "populated 0" not in events.read():
            assert change.poll(PATIENCE * 1000), f"processes in {cgroup} do not end"
            events.seek(0)
    for directory, _, _ in os.walk(cgroup, topdown=False):
        os.rmdir(directory)
