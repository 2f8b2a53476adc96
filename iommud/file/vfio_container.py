"""An open file of VFIO's own container (`--vfio type1`), and what opens it."""

from typing import Final

from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile

from ..engine.memory.host import Host
from ..pci.type1 import Parameters
from ..uapi.names import name_of
from ..vfio.outside import Outside
from ..vfio.type1.container import Container
from ..vfio.type1.ioctls import dispatch
from .no_data import NoData
from .opening import Daemon, FileOpener


class ContainerOpener(FileOpener):
    """What a session serves as /dev/vfio/vfio."""

    def __init__(self, daemon: Daemon, host: Host, parameters: Parameters, outside: Outside) -> None:
        super().__init__(daemon)
        self._host: Final = host
        self._parameters: Final = parameters
        self._outside: Final = outside

    def make(self, caller: Caller) -> OpenFile:
        """ENOMEM: the user has no more objects left of his share."""
        return ContainerFile(self._daemon, Container(self._host, self._parameters), self._outside)


class ContainerFile(NoData):
    """One open of it."""

    def __init__(self, daemon: Daemon, container: Container, outside: Outside) -> None:
        self._daemon: Final = daemon
        self._outside: Final = outside
        self.container: Final = container

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        work = dispatch(self.container, caller, self._outside, cmd, arg)
        return await self._daemon.conclude(caller, cmd, name_of, work)

    def release(self) -> None:
        self.container.close()
        self._daemon.closed()
