"""The clients once more as 32-bit programs (Linux's IOMMUFD has one layout for both), descriptors given to them included."""

import pytest

from tests.clients.build import build, why_not_32_bit
from tests.clients.test_clients import CLIENTS, RUN, judge
from tests.clients.test_mock_clients import CLIENTS as MOCK_CLIENTS
from tests.clients.test_mock_clients import DIFFERENT
from tests.clients.test_mock_clients import RUN as RUN_MOCK

# Arguments that are numbers of 64 bits, which a long is not; and half a minute of races, which are the daemon's.
NOT_AGAIN = {"vfio_container", "race"}


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
    judge([*RUN_MOCK, build(f"mock/{name}", "32"), *(["--iommud"] if name in DIFFERENT else [])])
