"""One daemon for many clients, and what can be seen of it from outside."""

import os
import re
import time
from collections import Counter
from pathlib import Path

from cuse_glue.broker.broker import SPARES
from tests import daemon
from tests.family import descriptors, wait_gone
from tests.support import PATIENCE

# What is freed goes back to the system at once, or what stays of large copies hides what is lost.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
# Beside its first process, when nobody has the device open.
AT_REST = Counter({"iommud-spawner": 1, "iommud-spare": SPARES, "iommud-twin": SPARES})


class Daemon(daemon.Daemon):
    """An `iommud serve --fuse` that serves, with all the spare workers that it wants."""

    def __init__(self, path: str, connections: Path, *flags: str, also: str = "") -> None:
        self.path = path
        self._connections = connections
        super().__init__("--fuse", path, *flags, environment=MALLOC)
        assert self.first_line() == f"{daemon.SERVING}{path} (FUSE){also}\n"
        deadline = time.monotonic() + PATIENCE
        while not self._is_at_rest():
            assert time.monotonic() < deadline, self.family()

    def _is_at_rest(self) -> bool:
        """Whether all spare workers are there, and the first process has heard of each."""
        first, *others = self.family()
        known = descriptors(first).count("anon_inode:[pidfd]")
        return Counter(process.name for process in others) == AT_REST and known == SPARES

    def descriptors(self) -> list[str]:
        """What the first process's descriptors are, without their numbers, and which processes
        there are beside it.
        """
        first, *others = self.family()
        held = [re.sub(r"\d+", "N", name) for name in descriptors(first)]
        return sorted(held) + sorted(f"process {process.name}" for process in others)

    def memory(self) -> int:
        """Of all processes: resident, in bytes, of what they share each its share."""
        total = 0
        for process in self.family():
            try:
                status = Path("/proc", str(process.pid), "smaps_rollup").read_text()
            except OSError:
                continue  # it ended while we looked
            found = re.search(r"^Pss:\s*(\d+) kB", status, re.MULTILINE)
            total += int(found[1]) << 10 if found else 0
        return total

    def unanswered(self) -> int:
        """Requests that the kernel waits for."""
        connection = self._connections / str(os.minor(os.stat(self.path).st_dev))
        return int((connection / "waiting").read_text())

    def idle(self, descriptors: list[str]) -> bool:
        """Whether it has these descriptors and processes, and no request."""
        return self.descriptors() == descriptors and not self.unanswered()

    def end(self) -> None:
        """It ends when told to, and had nothing to say."""
        assert self.stop() == (0, "")
        assert not os.path.exists(self.path)
        assert not wait_gone(self.family(), PATIENCE), "processes are left"

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        daemon.take_away(self.path)
