"""HWPT_ALLOC, HWPT_INVALIDATE, GET_HW_INFO and PASIDs, judged by C programs that also pass on Linux
7.3 built with its mock devices.
"""

import pytest

from tests.clients.build import SOURCES, build
from tests.clients.test_clients import judge
from tests.support import IOMMUD

CLIENTS = sorted(path.stem for path in (SOURCES / "mock").glob("hwpt_*.c"))


@pytest.mark.parametrize("name", CLIENTS)
def test_client(name: str) -> None:
    judge([IOMMUD, "run", "--mock", "--", build(f"mock/{name}")])
