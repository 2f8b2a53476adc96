"""A process in which the processor shows what it does."""

import platform
from collections.abc import Iterator
from functools import cache

import pytest

from cuse_glue.mmio.stepper import Stepper

from .native import Both


@pytest.fixture(scope="session")
def stepper() -> Iterator[Stepper]:
    if platform.machine() != "x86_64":
        pytest.skip("the instructions are x86's")
    made = Stepper()
    yield made
    made.close()


@pytest.fixture(scope="session")
def both(stepper: Stepper) -> Both:
    @cache
    def where(component: int) -> int:
        return stepper.features(13, component)[1]

    return Both(stepper, stepper.idle(), where)
