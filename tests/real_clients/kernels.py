"""The kernel's selftests of VFIO as checks: which program drives which device, and how many of its
tests run, pass, and skip themselves.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.kernel_selftest import source
from tests.kernel_selftest.tap import Outcome, Result, parse

from . import selftests
from .users import Check, User, users

SECONDS: Final = 420.0  # five of its tests may take a minute each
MIB: Final = 1 << 20
BY_CONTAINER: Final = ("vfio_type1_iommu", "vfio_type1v2_iommu")  # modes that open /dev/vfio/vfio
MODES: Final = (*BY_CONTAINER, "iommufd", "iommufd_compat_type1", "iommufd_compat_type1v2")
TYPE1: Final = ("--vfio", "type1")  # VFIO's own container, as on a distribution's kernel
# The pages that variants of vfio_dma_mapping_test want one of: by the end of their names, bytes.
HUGE: Final = {"anonymous_hugetlb_2mb": 2 * MIB, "anonymous_hugetlb_1gb": 1024 * MIB}


@dataclass(frozen=True, slots=True)
class Row:
    """One program. What it is to say on an emulated edu is what it says on Linux 7.3's vfio-pci
    (with CONFIG_IOMMUFD_VFIO_CONTAINER), with QEMU's edu behind an emulated VT-d.
    """

    program: str
    tests: int  # that run
    model: str = "edu"
    devices: int = 1
    options: Sequence[str] = ()  # of `iommud run`
    skipped: Mapping[str, str] = field(default_factory=dict)  # tests that skip themselves, and why
    failing: Sequence[str] = ()  # modes in which its tests fail
    locks: int = 0  # bytes that it has pinned at once
    smaller: str = ""  # the program for those who may not lock so much

    @property
    def name(self) -> str:
        options = "".join(f" {word}" for word in self.options)
        return f"{self.program} on {f'{self.devices} ' if self.devices > 1 else ''}{self.model}{options}"


ROWS: Final = (
    Row("vfio_iommufd_setup_test", 6),
    Row(
        "vfio_pci_device_test",
        5,
        skipped={
            "vfio_pci_device_test.reset": "Device does not support reset",
            "vfio_pci_irq_test.msix.enable_trigger_disable": "MSI-x: not supported",
        },
    ),
    Row(
        "vfio_pci_device_test",
        5,
        model="ioat",
        skipped={"vfio_pci_irq_test.msi.enable_trigger_disable": "MSI: not supported"},
    ),
    Row("vfio_dma_mapping_test", 30),
    # Such a container is an iommufd, which maps no BAR.
    Row("vfio_dma_mapping_mmio_test", 15, failing=BY_CONTAINER),
    Row("vfio_dma_mapping_test", 30, options=TYPE1),
    Row("vfio_dma_mapping_mmio_test", 15, options=TYPE1),
    Row("vfio_pci_device_init_perf_test", 5, devices=8),
    Row(
        "vfio_pci_driver_test",
        35,
        model="ioat",
        locks=(selftests.REGION + selftests.DRIVERS_REGION) * MIB,
        smaller=selftests.SMALLER,
    ),
    Row(
        "vfio_pci_driver_test",
        35,
        model="ioat",
        options=TYPE1,
        locks=(selftests.REGION + selftests.DRIVERS_REGION) * MIB,
        smaller=selftests.SMALLER,
    ),
)


def checks(place: Path) -> Iterator[Check]:
    """`place`: where the programs are built. Raises NotHere."""
    place.mkdir(parents=True, exist_ok=True)
    programs = selftests.build(source.find(), place)
    for user in users():
        for row in ROWS:
            name = row.program if user.may_lock(row.locks) else row.smaller
            of_size = f" ({selftests.SMALLER_REGION} MiB)" if name != row.program else ""
            yield f"{row.name}{of_size}, as {user.name}", partial(_run, user, row, programs[name])


def _run(user: User, row: Row, program: Path) -> str:
    addresses = [f"0000:e0:{slot:02x}.0" for slot in range(row.devices)]
    devices = [f"{row.model},bdf={address}" for address in addresses]
    beyond = _beyond(user) if row.program == "vfio_dma_mapping_test" else []
    filters = [word for name in beyond for word in ("-V", name)]
    with _huge_pages() as there:
        command = user.run(devices, [str(program), *filters, *addresses], *row.options)
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    results = parse((0.0, line) for line in done.stdout.splitlines())
    wrong = [
        f"{each.name}: {each.outcome} {' '.join(each.said)}"
        for each in results.values()
        if not _is_as_expected(each, row, there)
    ]
    if len(results) != row.tests - len(beyond):
        wrong.append(f"{len(results)} tests, not {row.tests - len(beyond)}")
    if bool(done.returncode) != bool(row.failing):
        wrong.append(f"status {done.returncode}")
    assert not wrong, "\n".join([*wrong, done.stdout, done.stderr])
    counts = Counter(each.outcome for each in results.values())
    said = [f"{counts[Outcome.PASS]} of {row.tests} pass"]
    if counts[Outcome.FAIL]:
        said.append(f"{counts[Outcome.FAIL]} fail as on Linux")
    if counts[Outcome.SKIP]:
        said.append(f"{counts[Outcome.SKIP]} skip themselves")
    if beyond:
        said.append(f"{len(beyond)} want more than RLIMIT_MEMLOCK")
    return ", ".join(said)


def _beyond(user: User) -> list[str]:
    """Variants that map more than the user may lock."""
    return [f"{mode}_{name}" for name, size in HUGE.items() if not user.may_lock(size) for mode in MODES]


def _is_as_expected(result: Result, row: Row, there: set[int]) -> bool:
    said = " ".join(result.said)
    for name, size in HUGE.items():
        if f"_{name}." in result.name and size not in there:
            return result.outcome is Outcome.SKIP and said.startswith("mmap() failed")
    if why := row.skipped.get(result.name):
        return result.outcome is Outcome.SKIP and said == why
    if any(f".{mode}." in result.name for mode in row.failing):
        return result.outcome is Outcome.FAIL
    return result.outcome is Outcome.PASS


@contextmanager
def _huge_pages() -> Iterator[set[int]]:
    """Root makes one more page of each size, for so long. Which there are (bytes)."""
    made = [size for size in HUGE.values() if os.geteuid() == 0 and _add(size, 1)]
    try:
        yield {size for size in HUGE.values() if int((_pool(size) / "free_hugepages").read_text())}
    finally:
        for size in made:
            _add(size, -1)


def _pool(size: int) -> Path:
    return Path(f"/sys/kernel/mm/hugepages/hugepages-{size // 1024}kB")


def _add(size: int, more: int) -> bool:
    """Whether there are so many pages more now."""
    pages = _pool(size) / "nr_hugepages"
    try:
        before = int(pages.read_text())
        pages.write_text(str(before + more))
        return int(pages.read_text()) == before + more
    except OSError:
        return False
