"""C programs that drive the kernel's mock device judge iommud's. Each of them passes on Linux 7.3's
own (CONFIG_IOMMUFD_TEST).

Where iommud does not do what a kernel does, as it does not truly pin memory (keep the private
memory of a process that unmapped it), a program asked with --iommud expects iommud's answer
instead; without it, the kernel's. With --pin=uring all of them expect the kernel's.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.build import SOURCES, build
from tests.clients.test_clients import USER_NAMESPACE, judge, to_set_rlimit_mode
from tests.support import AS_NOBODY, IOMMUD, PATIENCE

RUN = [IOMMUD, "run", "--mock", "--"]
TRUE_PINS = [IOMMUD, "run", "--mock", "--pin=uring", "--"]
CLIENTS = sorted(
    {path.stem for path in (SOURCES / "mock").glob("*.c")} - {"type1", "pinned"}
)  # test_vfio_clients.py; below
DIFFERENT = {"map_file", "memory", "processes"}
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE_PAGES_NEEDED = 8


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """As many free huge pages as a client needs, and afterwards as many as before."""
    before = HUGE_PAGES.read_text()
    try:
        HUGE_PAGES.write_text(str(int(before) + HUGE_PAGES_NEEDED))
    except OSError as error:
        pytest.skip(f"there are no huge pages to be had: {error}")
    try:
        if int(HUGE_PAGES.read_text()) < int(before) + HUGE_PAGES_NEEDED:
            pytest.skip("the memory is in too small pieces for huge pages")
        yield
    finally:
        HUGE_PAGES.write_text(before)


@pytest.mark.parametrize("name", CLIENTS)
def test_mock_client(name: str) -> None:
    judge([*RUN, build(f"mock/{name}"), *(["--iommud"] if name in DIFFERENT else [])])


def test_huge_pages(huge_pages: None) -> None:
    judge([*RUN, build("mock/memory"), "--iommud", "--huge"])


@pytest.mark.parametrize(
    "name", ["pinned", "accounting", "change_process", "access_pages", "unmap", *sorted(DIFFERENT)]
)
def test_with_true_pins(name: str) -> None:
    # What a limit does not let io_uring hold is said; some of the limits in there are another
    # user's, which not every root may raise.
    quiet = ["--log-level=error"] if name == "accounting" else []
    judge([IOMMUD, "run", "--mock", "--pin=uring", *quiet, "--", build(f"mock/{name}")])


def test_true_pins_of_huge_pages(huge_pages: None) -> None:
    judge([*TRUE_PINS, build("mock/memory"), "--huge"])


@pytest.mark.parametrize("name", ["pinned", "change_process"])
def test_true_pins_that_count_as_locked(name: str) -> None:
    judge([*to_set_rlimit_mode(), *TRUE_PINS, build(f"mock/{name}"), "--mm"])


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", ["pinned", "memory"])
def test_true_pins_without_any_privilege(name: str) -> None:
    judge([*AS_NOBODY, *TRUE_PINS, build(f"mock/{name}")])


def test_accounting_by_process() -> None:
    judge([*to_set_rlimit_mode(), *RUN, build("mock/accounting"), "--mm"])


@pytest.mark.parametrize("name", ["descriptor", "accounting", "access_pages"])
@pytest.mark.parametrize("inside", [True, False], ids=["with iommud", "without iommud"])
def test_in_a_user_namespace(name: str, inside: bool) -> None:
    """A client whose capabilities are of its own making, which count for an iommud in there, and
    not for one outside.
    """
    if subprocess.run([*USER_NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here")
    command = [*USER_NAMESPACE, *RUN] if inside else [*RUN, *USER_NAMESPACE]
    judge([*command, build(f"mock/{name}")])


def test_a_lock_on_the_whole_device_is_in_the_way() -> None:
    """Given descriptors are marked by a lock each; it says so when it cannot."""
    lock = "import fcntl, subprocess, sys; f = open('/dev/iommu', 'r+b', 0); fcntl.lockf(f, fcntl.LOCK_EX); subprocess.run(sys.argv[1:])"
    command = [IOMMUD, "run", "--mock", "--why", "--", sys.executable, "-c", lock, build("mock/descriptor")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (
        "ENOMEM: its file cannot be marked (Resource temporarily unavailable): a program holds a lock on the device?"
        in done.stderr
    )
