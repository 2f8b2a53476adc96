"""One daemon for many clients, and what can be seen of it from outside."""

import os
import re
import subprocess
from pathlib import Path

from cuse_glue import libc
from tests.support import IOMMUD, PATIENCE, mounts_at, wait_for_input

# What is freed goes back to the system at once, or what stays of large copies hides what is lost.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class Daemon:
    """An `iommud serve --fuse` in a test, and what can be seen of it from outside."""

    def __init__(self, path: str, connections: Path, *flags: str, also: str = "") -> None:
        self.path = path
        self._connections = connections
        command = [IOMMUD, "serve", "--fuse", path, *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | MALLOC)
        assert self.process.stderr is not None
        wait_for_input(self.process.stderr.fileno(), "the daemon's first line")
        assert self.process.stderr.readline() == f"iommud: serving {path} (FUSE){also}\n"

    def descriptors(self) -> list[str]:
        """What its descriptors are, without their numbers."""
        found = []
        for entry in Path("/proc", str(self.process.pid), "fd").iterdir():
            try:
                found.append(re.sub(r"\d+", "N", os.readlink(entry)))
            except FileNotFoundError:
                pass  # closed while we looked
        return sorted(found)

    def memory(self) -> int:
        """Resident, in bytes."""
        status = Path("/proc", str(self.process.pid), "status").read_text()
        found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        assert found
        return int(found[1]) << 10

    def unanswered(self) -> int:
        """Requests that the kernel waits for."""
        connection = self._connections / str(os.minor(os.stat(self.path).st_dev))
        return int((connection / "waiting").read_text())

    def idle(self, descriptors: list[str]) -> bool:
        """Whether it has these descriptors and no request."""
        return self.descriptors() == descriptors and not self.unanswered()

    def stop(self) -> None:
        """It ends when told to, and had nothing to say."""
        self.process.terminate()
        assert self.process.communicate(timeout=PATIENCE)[1] == ""
        assert self.process.returncode == 0
        assert not os.path.exists(self.path)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        while mounts_at(self.path):
            libc.umount(self.path, libc.MNT_DETACH)
