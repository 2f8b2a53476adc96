"""The attackers' side: their programs, and what an attacker needs that runs as a user without any
rights.
"""

import ctypes
import errno
import itertools
import mmap
import os
import select
import shutil
import signal
import stat
import subprocess
from pathlib import Path

from cuse_glue.system import libc
from tests.hostile.attacks import Attack
from tests.hostile.server import ATTACKER
from tests.support import ROOT

HERE = Path(__file__).parent
ERRNOS = 160
INNOCENT, CONTROL = 4243, 4244  # users that need not be there
FLAGS = ["-std=gnu11", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}"]
NODES = ("fuse", "userfaultfd")
_numbers = itertools.count()


class Counters(ctypes.Structure):
    """As in attack.h."""

    _fields_ = [("tries", ctypes.c_uint64), ("astray", ctypes.c_uint64), ("answers", ctypes.c_uint64 * ERRNOS)]


def build(source: Path, place: Path, *more: str) -> Path:
    """The program of one source, in `place`."""
    out = place / source.stem
    if not out.exists():
        subprocess.run([shutil.which("cc") or "gcc", *FLAGS, *more, str(source), "-o", str(out)], check=True)
    return out


def build_target(place: Path) -> Path:
    """The set-user-ID program; it does not move in memory, and has its guard where setuid.h
    says.
    """
    out = build(
        HERE / "attackers" / "setuid_target.c", place, "-no-pie", "-static", "-Wl,--section-start=.guard=0x20000000"
    )
    out.chmod(0o4755)
    return out


def make_nodes(place: Path) -> Path:
    """A directory with device nodes that everybody may open, as most machines have /dev/fuse."""
    nodes = place / "nodes"
    nodes.mkdir()
    for name in NODES:
        try:
            number = os.stat(f"/dev/{name}").st_rdev
        except FileNotFoundError:
            continue
        os.mknod(nodes / name, stat.S_IFCHR | 0o666, number)
        os.chmod(nodes / name, 0o666)
    return nodes


class Attacker:
    """One attack, under way. `place`: a directory that others may search, with programs and nodes
    in it.
    """

    def __init__(self, attack: Attack, device: str, place: Path) -> None:
        self.attack = attack
        self._memory = os.memfd_create("counters")
        os.ftruncate(self._memory, mmap.PAGESIZE)
        self._map = mmap.mmap(self._memory, mmap.PAGESIZE)
        self.counters = Counters.from_buffer(self._map)
        self._ready = os.eventfd(0, os.EFD_CLOEXEC)
        self._own = place / f"own-{next(_numbers)}"
        self._own.touch()
        connection = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={connection},rootmode=100777,user_id={ATTACKER},group_id={ATTACKER},allow_other"
        libc.mount("own", str(self._own), "fuse", 6, options)  # nosuid, nodev: as fusermount3 does
        environment = os.environ | {
            "HOSTILE_COUNTERS": str(self._memory),
            "HOSTILE_READY": str(self._ready),
            "HOSTILE_CONNECTION": str(connection),
            "HOSTILE_FILE": str(self._own),
            "HOSTILE_NODES": str(place / "nodes"),
        }
        if attack.target:
            environment["HOSTILE_TARGET"] = str(build_target(place))
        command = [str(build(HERE / "attackers" / f"{attack.program}.c", place)), attack.name, device]
        self._said = os.memfd_create("stderr")
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=environment,
                pass_fds=(self._memory, self._ready, connection),
                user=ATTACKER,
                group=ATTACKER,
                extra_groups=[],
                start_new_session=True,
            )
        finally:
            os.close(connection)

    def wait_ready(self, seconds: float) -> bool:
        """Whether the attack is under way; waits so long at most."""
        poll = select.poll()
        poll.register(self._ready, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def said(self) -> str:
        return os.pread(self._said, 4096, 0).decode(errors="replace")

    def answers(self) -> dict[str, int]:
        """How often each errno was the answer; "ok": success."""
        found = {number: count for number, count in enumerate(self.counters.answers) if count}
        return {errno.errorcode.get(number, str(number)) if number else "ok": count for number, count in found.items()}

    def end(self) -> None:
        """End all of its processes, also those that hang in its own filesystem: the filesystem ends
        with them.
        """
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            libc.umount(str(self._own), libc.MNT_DETACH)
        except OSError:
            pass

    def has_ended(self, seconds: float) -> bool:
        """Whether it ends in this time; after `end`."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """After `end`, and after the daemon that its calls wait for has ended."""
        self.process.wait(30)
        self._own.unlink(missing_ok=True)
        del self.counters
        self._map.close()
        for fd in (self._memory, self._ready, self._said):
            os.close(fd)
