"""dma-bufs as clients have them: descriptors that an ioctl gave."""

from ..engine.memory.dma_buf import DmaBuf
from ..errors import IoctlError
from .request import Request


class GivenDmaBuf:
    """A dma-buf behind a client's descriptor. When the descriptor is closed, what was mapped of it
    stays.
    """

    def __init__(self, buffer: DmaBuf) -> None:
        self.buffer = buffer

    def release(self) -> None:
        pass


def dma_buf_behind(request: Request, number: int) -> DmaBuf | None:
    """The dma-buf behind a descriptor of the caller. None: it is no dma-buf of ours."""
    try:
        given = request.open_file(number)
    except IoctlError:
        return None
    return given.buffer if isinstance(given, GivenDmaBuf) else None
