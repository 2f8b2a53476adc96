"""What stands on a vIOMMU, judged by C programs that also pass on Linux 7.3 built with its mock
devices.
"""

import pytest

from tests.clients.build import build
from tests.clients.test_clients import judge
from tests.support import IOMMUD


@pytest.mark.parametrize("name", ["viommu", "vdevice", "veventq", "hw_queue"])
def test_client(name: str) -> None:
    judge([IOMMUD, "run", "--mock", "--", build(f"mock/{name}")])
