"""Devices behind every kind of IOMMU, judged by C programs that also pass on Linux 7.3 where there
is such an IOMMU.
"""

import pytest

from iommud.selftest.kinds import NAMES
from tests.clients.build import SOURCES, build
from tests.clients.test_clients import judge
from tests.support import IOMMUD

# What a program's name begins with says what its devices stand behind.
CLIENTS = sorted(path.stem for path in (SOURCES / "kinds").glob("*.c"))


def kind(client: str) -> str:
    name = client.partition("_")[0]
    return "none" if name == "noiommu" else name


@pytest.mark.parametrize("client", CLIENTS)
def test_client(client: str) -> None:
    judge([IOMMUD, "run", "--mock", "--iommu", kind(client), "--", build(f"kinds/{client}")])


def test_every_kind_is_judged() -> None:
    assert {kind(client) for client in CLIENTS} == set(NAMES) - {"mock"}
