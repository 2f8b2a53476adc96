"""The clients once more as 32-bit programs (Linux's IOMMUFD has one layout for both), descriptors
given to them included.
"""

import subprocess

import pytest

from tests.clients import unwatched
from tests.clients.build import build, why_not_32_bit
from tests.clients.test_clients import CLIENTS, PATIENCE, RUN, judge
from tests.clients.test_mock_clients import CLIENTS as MOCK_CLIENTS
from tests.clients.test_mock_clients import DIFFERENT
from tests.clients.test_mock_clients import RUN as RUN_MOCK

# Offsets and arguments of 64 bits, which a long is not; and half a minute of races, which are the
# daemon's.
NOT_AGAIN = {"vfio_container", "file_ops", "dma_buf", "viommu", "race"}
UNWATCHED = {"descriptor", "fault", "veventq"}  # the watch of `iommud run` is for 64-bit programs


@pytest.fixture(autouse=True)
def _runs_32_bit_programs() -> None:
    why = why_not_32_bit()
    if why is not None:
        pytest.skip(why)


@pytest.mark.parametrize("name", [name for name in CLIENTS if name not in NOT_AGAIN])
def test_client(name: str) -> None:
    judge([*RUN, build(name, "32")])


@pytest.mark.parametrize("name", [name for name in MOCK_CLIENTS if name not in NOT_AGAIN])
def test_mock_client(name: str) -> None:
    command = [*RUN_MOCK, build(f"mock/{name}", "32"), *(["--iommud"] if name in DIFFERENT else [])]
    if name in UNWATCHED:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert unwatched.wrong(done.stdout) == set()
        assert "\n1.." in done.stdout, "a client that ended early"
    else:
        judge(command)
