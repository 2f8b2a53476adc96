"""What the tests of VFIO's device files share."""

from collections.abc import Iterator

import pytest

from .kit import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Nothing may be left of it afterwards."""
    made = Machine()
    yield made
    made.close()
