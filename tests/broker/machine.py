"""An `iommud serve` with PCI devices, and its clients."""

from contextlib import ExitStack
from pathlib import Path

from iommud.commands.machine import first_group
from tests import daemon
from tests.broker.served import Client, Served, until


class Machine:
    """All its files lie in one directory. All that it begins ends with `stack`."""

    def __init__(self, directory: Path, stack: ExitStack, *flags: str) -> None:
        self.directory, self.sys = directory, directory / "sys"
        self._stack, self._flags = stack, flags
        self.served = self.serve()

    def serve(self) -> Served:
        """The daemon; once more, when it has been killed."""
        served = Served(str(self.directory / "iommu"), *self._flags)
        self._stack.callback(self._close, served)
        return served

    def begin(self, *prefix: str) -> Client:
        client = Client(str(self.directory / "iommu"), *prefix)
        self._stack.callback(client.close)
        return client

    def opened(self, *prefix: str) -> Client:
        """A client that has opened /dev/iommu (0)."""
        client = self.begin(*prefix)
        assert client.ask("open") == "0"
        return client

    def driver(self, device: int = 0, *prefix: str) -> Client:
        """A client that has opened /dev/iommu (0) and a device (1)."""
        client = self.opened(*prefix)
        assert client.ask(f"open {self.device(device)}") == "1"
        return client

    def until_workers(self, count: int) -> None:
        """Until so many of them have an open file."""
        until(lambda: len(self.served.busy_workers()) == count)

    def device(self, number: int) -> str:
        return str(self.directory / "vfio" / "devices" / f"vfio{number}")

    @property
    def container(self) -> str:
        return str(self.directory / "vfio" / "vfio")

    def group(self, number: int) -> str:
        """By their numbers, from 0 on."""
        return str(self.directory / "vfio" / str(first_group() + number))

    def _close(self, served: Served) -> None:
        served.close()
        daemon.take_away_below(self.directory)
