"""DPDK's own tests of DMA devices, Debian trixie's, on the device ioat."""

import csv
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from .unpacked import Unpacked

DPDK: Final = Unpacked("dpdk", ("dpdk-dev", "dpdk"))
PLUGINS: Final = ("bus_pci", "mempool_ring", "dma_ioat")
SKELETON: Final = ("bus_vdev", "mempool_ring", "dma_skeleton")  # copies by a thread of its own
# What the autotest tries on the device by itself, by the device's version.
TRIED: Final = {"3.3": {"copy", "stop_start", "burst_capacity", "fill"}}
TRIED["3.4"] = TRIED["3.3"] | {"error_handling"}
_CASE: Final = re.compile(r" \+ TestCase \[ ?\d+\] : (\w+) (succeeded|skipped|failed)")
_INSTANCE: Final = re.compile(r"### Test dmadev instance \d+ \[(.*)\]")


@cache
def _found() -> Unpacked:
    """DPDK is looked for when it is first needed. Raises NotHere."""
    found = DPDK.find()
    print(f"DPDK {found.version}", flush=True)
    return found


def _program(name: str) -> list[str]:
    plugins = (_found().libraries / "dpdk").glob("pmds-*")
    return _found().program(name, *plugins)


def _environment(bdf: str | None, megabytes: int) -> list[str]:
    """Options of DPDK's environment: the device alone, and memory that is not huge pages. No
    device: dma_skeleton.
    """
    device = ["-a", bdf] if bdf else ["--no-pci", "--vdev=dma_skeleton"]
    # by bare names, which the loader finds: a line of a configuration file holds 255 bytes
    loaded = [word for name in (PLUGINS if bdf else SKELETON) for word in ("-d", f"librte_{name}.so")]
    return ["--no-huge", "--no-shconf", "-m", str(megabytes), "--no-telemetry", "--lcores=(0,1)@0", *device, *loaded]


def autotest(bdf: str, megabytes: int) -> list[str]:
    """The command of dmadev_autotest."""
    return ["env", "DPDK_TEST=dmadev_autotest", *_program("dpdk-test"), *_environment(bdf, megabytes)]


def without_counts(said: str) -> str:
    """What a program says, without the line that an autotest writes over and over again."""
    return re.sub(r"^(Ops submitted: .*)?[\r\n]", "", said, flags=re.MULTILINE)


def passed(said: str, device: str) -> set[str]:
    """The test cases of one device that passed in an autotest. AssertionError: a case failed, or
    the whole did.
    """
    cases: list[tuple[str, str, str]] = []  # whose, its name, what came of it
    running = ""
    for line in said.splitlines():
        if found := _INSTANCE.match(line):
            running = found[1]
        elif found := _CASE.match(line):
            cases.append((running, found[1], found[2]))
    wrong = [f"{name} of {whose or 'the API'} failed" for whose, name, became in cases if became == "failed"]
    assert not wrong, "\n".join([*wrong, said[-8000:]])
    assert "Test OK" in said, said[-8000:]
    return {name for whose, name, became in cases if whose == device and became == "succeeded"}


def devbind() -> str:
    """The command that lists devices and their drivers, for a shell."""
    return f"{sys.executable} {_found().root / 'usr' / 'bin' / 'dpdk-devbind.py'}"


class Performance:
    """dpdk-test-dma-perf: copies for a second of each size, at so many descriptors to a doorbell;
    in the end it compares what was copied.
    """

    def __init__(self, place: Path, bdf: str | None, cases: Sequence[tuple[int, int]], megabytes: int) -> None:
        """`bdf`: of the device; None: dma_skeleton. `cases`: (bytes of a copy, descriptors to a
        doorbell). `megabytes`: of DPDK's memory.
        """
        self._config, self._result = place / "config", place / "result"
        environment = " ".join(_environment(bdf, megabytes))
        self._config.write_text(
            "".join(
                f"[case{number}]\ntype=DMA_MEM_COPY\nmem_size={1 if size < 1024 else 10}\nbuf_size={size}\n"
                f"dma_ring_size=512\nkick_batch={kick}\nsrc_numa_node=0\ndst_numa_node=0\ncache_flush=0\n"
                f"test_seconds=1\nlcore_dma0=lcore=1,dev={bdf or 'dma_skeleton'},dir=mem2mem\neal_args={environment}\n"
                for number, (size, kick) in enumerate(cases, 1)
            )
        )
        self._count = len(cases)

    @property
    def command(self) -> list[str]:
        return [*_program("dpdk-test-dma-perf"), "--config", str(self._config), "--result", str(self._result)]

    def copies(self, said: str) -> list[float]:
        """Copies a second, of each case. AssertionError: one did not run, or its data is wrong."""
        assert "validation fails" not in said, said
        rows = [row for row in csv.reader(self._result.read_text().splitlines()) if row and row[0] == "Scenario 1"]
        (ghz,) = set(re.findall(r"Frequency: ([\d.]+) Ghz", said))
        assert len(rows) == self._count, said
        return [float(ghz) * 1e9 / float(row[8]) for row in rows]
