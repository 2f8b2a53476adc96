"""dma-bufs as clients have them: descriptors that were given to them here."""

from ..engine.dma_buf import DmaBuf
from ..errors import IoctlError
from .request import Request


class GivenDmaBuf:
    """A dma-buf behind a client's descriptor. What was mapped of it stays when the descriptor is closed."""

    def __init__(self, size: int) -> None:
        self.buffer = DmaBuf(size)

    def release(self) -> None:
        pass


def dma_buf_behind(request: Request, number: int) -> DmaBuf | None:
    """The dma-buf of ours that a descriptor of the caller is."""
    try:
        given = request.open_file(number)
    except IoctlError:
        return None
    return given.buffer if isinstance(given, GivenDmaBuf) else None
