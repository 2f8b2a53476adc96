"""What was flushed stays: rounds in which a driver writes numbered blocks to a file by way of an
emulated controller, and the driver or the daemon is killed (-9) at any moment.

After each round the file itself is looked at (nvme_file.c tells what must be there).
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

from tests.clients.build import build
from tests.clients.nvme.streams import DEVICE, IOMMU
from tests.support import IOMMUD, PATIENCE, processes_with, wait_for_end, wait_for_input

SIZE: Final = 8 << 20
MOST_FLUSHES: Final = 30  # of a round, until the kill
MOST_DELAY: Final = 0.02  # seconds, then
MARK: Final = "NVME_KILLS"  # in the environment


class Rounds:
    """All on one file, in `directory`. `seed` decides who is killed, and when."""

    def __init__(self, directory: Path, block: int, seed: int) -> None:
        self._file, self._state = directory / "disk", directory / "state"
        self._block, self._random = block, Random(seed)
        self._mark = f"{os.getpid()}-{directory.name}-{block}"
        self._round = 0
        self.flushed = 0  # writes that stayed, in all

    def play(self) -> None:
        """One round. AssertionError: something is not as it should be."""
        self._round += 1
        kills_driver, flushes = bool(self._random.getrandbits(1)), self._random.randrange(1, MOST_FLUSHES)
        delay = self._random.random() * MOST_DELAY
        device = f"nvme,file={self._file},size={SIZE},lba={self._block}"
        command = [IOMMUD, "run", "--device", device, "--", build("nvme/nvme_file")]
        mark = f"{MARK}={self._mark}-{self._round}"
        with subprocess.Popen(
            [*command, "write", DEVICE, IOMMU, str(self._round)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, MARK: mark.partition("=")[2]},
        ) as driver:
            try:
                flushed = self._listen(driver, mark, flushes, delay, kills_driver=kills_driver)
            finally:
                driver.kill()
        self._check(flushed)

    def _listen(
        self, driver: subprocess.Popen[bytes], mark: str, flushes: int, delay: float, *, kills_driver: bool
    ) -> int:
        """Kill, after so many flushes were reported, and `delay` seconds. The last that was."""
        assert driver.stdout is not None
        last = b""
        for _ in range(flushes):
            wait_for_input(driver.stdout.fileno(), f"a flush in round {self._round}")
            last = driver.stdout.readline()
            assert last.startswith(b"flushed "), (last, driver.stderr and driver.stderr.read())
        others = processes_with(mark) - {driver.pid}
        end = time.monotonic() + delay
        while time.monotonic() < end:
            pass  # a moment is short beside what a sleep may take
        if kills_driver:
            driver.kill()
        else:
            for pid in others:
                with suppress(ProcessLookupError):  # it ended with another of them
                    os.kill(pid, signal.SIGKILL)
        rest = driver.stdout.read().splitlines()
        assert driver.wait(PATIENCE) != 0
        for pid in others:
            wait_for_end(pid)
        return int(rest[-1].split()[1]) if rest else int(last.split()[1])

    def _check(self, flushed: int) -> None:
        arguments = [str(self._file), str(self._block), str(self._state), str(self._round), str(flushed)]
        done = subprocess.run([build("nvme/nvme_file"), "check", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        self.flushed += flushed
