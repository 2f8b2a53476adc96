"""The selftest driver's dma-bufs. A client gets one as a descriptor, and can revoke it. Ref: v7.3
selftest.c iommufd_test_dmabuf_get
"""

import os
from errno import EBADF, EINVAL
from typing import Final

from ..engine.memory.dma_buf import MemoryBuf
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError
from ..ops.dma_buf import GivenDmaBuf, dma_buf_behind
from ..ops.request import Request

LARGEST: Final = 512 * PAGE_SIZE  # bytes


async def dmabuf_get(request: Request) -> None:
    """A new dma-buf of `length` bytes, rounded up to pages; the ioctl returns its descriptor.

    EINVAL: length 0 or more than 512 pages (2^32 - 1 rounds up to 2^32). EMFILE: no descriptor is
    free. The kernel's own mock returns 0 and not the descriptor, so nobody can use its dma-buf.
    """
    wanted = request.cmd.dmabuf_get
    size = -(-wanted.length // PAGE_SIZE) * PAGE_SIZE
    if not 0 < size <= LARGEST:
        raise IoctlError(EINVAL, f"length {wanted.length:#x} is 0 or more than {LARGEST:#x}")
    mode = wanted.open_flags & (os.O_ACCMODE | os.O_CLOEXEC)
    await request.return_descriptor(
        GivenDmaBuf(MemoryBuf(size)), mode if mode & os.O_ACCMODE != os.O_ACCMODE else os.O_RDWR | os.O_CLOEXEC
    )


async def dmabuf_revoke(request: Request) -> None:
    """Revoke a dma-buf, or undo that. Either way, what is mapped of it is lost. EBADF: no such
    descriptor. EINVAL: it is no dma-buf.
    """
    wanted = request.cmd.dmabuf_revoke
    buffer = dma_buf_behind(request, wanted.dmabuf_fd)
    if buffer is None:
        try:
            file = request.origins.file(request.caller, wanted.dmabuf_fd)
        except OSError as error:
            raise IoctlError(EBADF, f"descriptor {wanted.dmabuf_fd} of the caller: {error.strerror}") from None
        file.get()
        file.put()
        raise IoctlError(EINVAL, f"descriptor {wanted.dmabuf_fd} is no dma-buf of the mock's")
    buffer.revoke(bool(wanted.revoked))
