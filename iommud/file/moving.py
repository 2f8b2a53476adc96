"""An open file that another worker may have to serve (cuse_glue/broker/routes.py): an ioctl of it
names an open /dev/iommu that is that worker's.
"""

import errno
from collections.abc import Awaitable, Callable

from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile
from cuse_glue.request.recognise import Elsewhere
from cuse_glue.request.reply import passer

from ..errors import IoctlError
from .opening import Daemon


class Moving:
    """The part of an open file that sees to that."""

    def __init__(self, daemon: Daemon, file: OpenFile, can_move: Callable[[], bool]) -> None:
        """`can_move`: nothing was done with the file yet that binds it to this worker."""
        self._daemon = daemon
        self._file = file
        self._can_move = can_move
        self.is_leaving = False  # another worker is to have it

    async def ioctl(
        self,
        caller: Caller,
        cmd: int,
        arg: int,
        name_of: Callable[[int], str],
        work: Callable[[], Awaitable[int]],
    ) -> int:
        """What `work` returns, unless it is for another worker to do."""
        if self.is_leaving:
            refusal = IoctlError(errno.EINVAL, "another thread is at an ioctl that gives the file a context")
            raise self._daemon.refused(caller, name_of(cmd), refusal)
        try:
            return await self._daemon.conclude(caller, cmd, name_of, work())
        except Elsewhere as elsewhere:
            if not self.is_leaving and self._can_move():
                self.is_leaving = True
                try:
                    passer.get()(self._file, caller, cmd, arg, elsewhere.asked)
                finally:
                    elsewhere.close()
            return -errno.EINVAL  # another thread was faster
