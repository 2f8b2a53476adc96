"""Processes full of threads use one daemon at random, and die at random: it is as it was before,
and nobody had to wait.

For 15 s; IOMMUD_STRESS_SECONDS=60 for the whole test, IOMMUD_STRESS_SEED for another one.
"""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.clients.build import build
from tests.clients.daemon import Daemon
from tests.support import PATIENCE

pytestmark = pytest.mark.usefixtures("root")

SECONDS = int(os.environ.get("IOMMUD_STRESS_SECONDS", "15"))
SEED = int(os.environ.get("IOMMUD_STRESS_SEED", "1"))
PROCESSES, THREADS = 8, 4
LONGEST_CALL = 5000.0  # ms: none hangs; tests/hostile measures how long one has to wait
LEAST_CALLS = 500  # a second; it does twenty times as many
RSS_GROWTH = 48 << 20  # bytes: it levels off; a leak of 50 bytes a call would be as much in 60 s


def stress(daemon: Daemon, seconds: int, seed: int, processes: int = PROCESSES, threads: int = THREADS) -> str:
    command = [build("stress"), daemon.path, *map(str, (seconds, seed, processes, threads))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * seconds + 60 + PATIENCE)
    print(done.stdout)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def test_a_daemon_under_stress(open_directory: Path, connections: Path) -> None:
    # Where another user may come, too.
    with Daemon(str(open_directory / "iommu"), connections, "--mock") as daemon:
        os.chmod(daemon.path, 0o666)
        descriptors = daemon.descriptors()
        stress(daemon, 3, SEED + 1)  # what is allocated once
        memory = daemon.memory()
        said = stress(daemon, SECONDS, SEED)
        found = re.search(
            r"^seed \d+: (\d+) calls .* (\d+) killed, (\d+) ended, 0 bad answers, 0 wrong bytes, "
            r"longest call ([\d.]+) ms, longest death ([\d.]+) ms$",
            said,
            re.MULTILINE,
        )
        assert found
        assert int(found[1]) > LEAST_CALLS * SECONDS
        assert int(found[2]) > 0
        assert int(found[3]) > 0
        assert float(found[4]) < LONGEST_CALL
        assert float(found[5]) < LONGEST_CALL
        stress(daemon, 1, SEED, 1, 1)
        # a request, which is answered after the last of the closes before it
        os.chmod(daemon.path, 0o660)
        # its workers end, and others take the spare ones' places
        deadline = time.monotonic() + PATIENCE
        while not daemon.idle(descriptors) and time.monotonic() < deadline:
            daemon.process.poll()
        assert daemon.descriptors() == descriptors
        assert daemon.idle(descriptors)
        assert daemon.memory() - memory < RSS_GROWTH
        daemon.end()
