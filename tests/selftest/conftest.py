"""The client of the handlers' tests, who knows the test ioctl."""

from tests.ops.conftest import client

__all__ = ["client"]
