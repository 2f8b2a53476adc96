"""C programs that drive the kernel's mock device judge iommud's. Each of them passes on Linux 7.3's own (CONFIG_IOMMUFD_TEST).

Where user space cannot do what a kernel does (keep the private memory of a process that unmapped it), a program asked with --iommud
expects iommud's answer instead; without it, the kernel's.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.build import SOURCES, build
from tests.clients.test_clients import USER_NAMESPACE, judge, to_set_rlimit_mode
from tests.support import IOMMUD

RUN = [IOMMUD, "run", "--mock", "--"]
CLIENTS = sorted({path.stem for path in (SOURCES / "mock").glob("*.c")} - {"type1"})  # test_vfio_clients.py
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


def test_accounting_by_process() -> None:
    judge([*to_set_rlimit_mode(), *RUN, build("mock/accounting"), "--mm"])


@pytest.mark.parametrize("name", ["descriptor", "accounting", "access_pages"])
@pytest.mark.parametrize("inside", [True, False], ids=["with iommud", "without iommud"])
def test_in_a_user_namespace(name: str, inside: bool) -> None:
    """A client whose capabilities are of its own making, which count for an iommud in there, and not for one outside."""
    if subprocess.run([*USER_NAMESPACE, "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespaces here")
    command = [*USER_NAMESPACE, *RUN] if inside else [*RUN, *USER_NAMESPACE]
    judge([*command, build(f"mock/{name}")])
