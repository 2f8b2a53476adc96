"""What is fetched of a client's, and must not stay open here: a file of ours that does keeps the
daemon alive after its last client has gone.
"""

import os
from typing import cast

import pytest
import trio

from cuse_glue.request.caller import Caller
from iommud.engine.memory.host import Host
from iommud.errors import IoctlError
from iommud.file.vfio_clients import Clients
from iommud.file.vfio_devices import Devices
from iommud.ops.request import Descriptors, Origins
from iommud.settings import Settings
from tests.support import wait_for_input


class Client:
    """Its descriptor is one end of a pipe."""

    def __init__(self) -> None:
        self._other, self._end = os.pipe()

    def descriptor(self, number: int) -> int:
        return os.dup(self._end)

    def close(self) -> None:
        """Its own, which must have been the last."""
        os.close(self._end)
        wait_for_input(self._other, "the end of the pipe")
        os.close(self._other)


@pytest.fixture
def clients() -> Clients:
    devices = Devices(Settings(), Host(), None)
    nobody = cast(Origins, None), cast(Descriptors, None)
    return Clients(*nobody, None, lambda file: None, None, devices)


async def test_what_was_fetched_is_closed(clients: Clients) -> None:
    client = Client()
    with pytest.raises(IoctlError, match="no open container of ours"):
        await clients.container(cast(Caller, client), 5)
    client.close()


async def test_so_it_is_when_the_client_is_interrupted_before_anybody_looks(clients: Clients) -> None:
    """Its ioctl is restarted then, and fetches another."""
    client = Client()
    with trio.CancelScope() as scope:
        scope.cancel()
        await clients.container(cast(Caller, client), 5)
    assert scope.cancelled_caught
    client.close()
