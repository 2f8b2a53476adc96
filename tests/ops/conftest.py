"""What the handlers' tests share."""

from collections.abc import Iterator

import pytest

from iommud.selftest.command import selftest_row

from .client import Client


@pytest.fixture
def client() -> Iterator[Client]:
    """One that knows the test ioctl, too. Nothing may be left of it afterwards."""
    made = Client(selftest_row())
    yield made
    made.close()
