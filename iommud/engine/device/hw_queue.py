"""Hardware queues: a guest's queue in its own memory. The hardware of a vIOMMU works on it by
physical addresses.

So its pages must not go while the queue is there. An access of iommud's own holds them. It is never
asked to let go; an unmap is refused instead.

Ref: v7.3 viommu.c iommufd_hw_queue_alloc_ioctl
"""

from errno import EFAULT, ENOMEM, ERANGE
from itertools import pairwise
from typing import Final

from ...errors import IoctlError
from ..mapping.objects import Object
from ..memory.origin import PAGE_SIZE
from ..memory.pages import Pages
from ..memory.span import U64_MAX
from .access import Access, create
from .context import Context
from .viommu import Viommu

MOST_PAGES: Final = ((1 << 31) - 1) // 8  # the kernel's array of pages has a pointer for each


class HwQueue(Object):
    """`iova`, `length` (bytes): where it lies in the IOAS of the vIOMMU's parent. Users: queues
    that its driver makes depend on it.
    """

    kind = "hardware queue"
    name = "hardware queue"
    pins: Final = True
    __slots__ = ("_access", "_added", "index", "iova", "length", "type", "viommu")

    def __init__(self, viommu: Viommu, queue_type: int, index: int, iova: int, length: int) -> None:
        super().__init__()
        self.viommu = viommu
        self.type = queue_type
        self.index = index
        self.iova = iova
        self.length = length
        self._access: Access | None = None
        self._added = False
        viommu.users.append(self)

    async def unmap(self, iova: int, length: int) -> None:
        """Never called: what it holds cannot be unmapped."""

    @property
    def _held(self) -> tuple[int, int]:
        """The whole pages that it lies in: IOVA and length (bytes)."""
        first = self.iova // PAGE_SIZE * PAGE_SIZE
        return first, -(-(self.iova - first + self.length) // PAGE_SIZE) * PAGE_SIZE

    def begin(self, context: Context) -> None:
        """Hold its pages, and let the hardware work on it. On failure, destroy it. Errors:
        `alloc_hw_queue`.
        """
        first, length = self._held
        if length > U64_MAX:
            raise IoctlError(ERANGE, f"{self.length} bytes from {self.iova:#x} on are too many pages")
        if length // PAGE_SIZE > MOST_PAGES:
            raise IoctlError(ENOMEM, f"{length // PAGE_SIZE} pages are more than {MOST_PAGES}")
        access = create(context, self, internal=True)
        try:
            access.stand_on(self.viommu.hwpt.ioas)
            pinned = access.pin_pages(first, length, write=False)
            try:
                _check_contiguous(pinned)
            except IoctlError:
                access.unpin_pages(first, length)
                raise
        except BaseException:
            access.release()
            raise
        self._access = access
        self.viommu.driver.add_hw_queue(self)
        self._added = True

    def destroy(self) -> None:
        if self._added:
            self.viommu.driver.remove_hw_queue(self)
        if self._access is not None:
            self._access.unpin_pages(*self._held)
            self._access.release()
        self.viommu.users.remove(self)


def _check_contiguous(pinned: list[tuple[Pages, int]]) -> None:
    # There are no physical addresses here: what is contiguous in its memory or file counts as
    # contiguous.
    for (pages, index), (after, after_index) in pairwise(pinned):
        if after is not pages or after_index != index + 1:
            raise IoctlError(EFAULT, "the queue's pages do not lie one behind the other")


def alloc_hw_queue(context: Context, queue: HwQueue) -> None:
    """Give a new queue its ID and begin. It is not published: publish it, or `abort_and_destroy`.

    ERANGE, ENOMEM: too long. EFAULT: not contiguous. Others: IoPagetable.add_access,
    Access.pin_pages, those of the driver. Then it is gone.
    """
    try:
        context.objects.reserve(queue)
    except IoctlError:
        queue.destroy()
        raise
    try:
        queue.begin(context)
    except BaseException:
        context.objects.abort_and_destroy(queue)
        raise
