"""What the engine's tests share."""

from collections.abc import Iterator

import pytest

from .world import World


@pytest.fixture
def world() -> Iterator[World]:
    """Nothing may be left of it afterwards."""
    made = World()
    yield made
    made.close()
