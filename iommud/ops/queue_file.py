"""Queues that a client reads by a descriptor of their own: the open file behind it, and how an
ioctl gives one.

The queue has an ID as well. It cannot be destroyed by that while the descriptor is open. Ref: v7.3
eventq.c iommufd_eventq_init
"""

import os
from collections.abc import Callable
from errno import EINVAL, ENOTTY
from typing import Final

from cuse_glue.request.caller import Caller

from ..engine.device.context import Context
from ..engine.mapping.objects import Object
from ..errors import IoctlError
from .request import Request


class QueueFile:
    """What the open files of all queues have in common. It keeps the context."""

    def __init__(self, context: Context, queue: Object) -> None:
        self._context = context
        self.queue: Final = queue
        self.given = False  # the client has it; else the queue goes with it
        context.get()
        queue.users.append(self)

    def __str__(self) -> str:
        return "its open descriptor"

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return -ENOTTY

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        raise NotImplementedError

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        raise OSError(EINVAL, os.strerror(EINVAL))

    def poll(self, wake: Callable[[], None] | None) -> int:
        raise NotImplementedError

    def release(self) -> None:
        self.queue.users.remove(self)
        if not self.given:
            self._context.objects.abort_and_destroy(self.queue)
        self._context.put()


async def give_queue(
    request: Request, reserve: Callable[[], QueueFile], field: int, answered: Callable[[], None] | None = None
) -> None:
    """Answer the ioctl with a new queue: its ID at offset `field` of the struct, and behind it the
    number of a descriptor. `reserve` makes the file, of a queue that has its ID and is not
    published. `answered` is called, in another thread, before the client goes on.

    Errors: what `reserve` says, then EFAULT, EMFILE and those of Injector.give; then there is no
    queue.
    """
    file = reserve()
    try:
        # As it is: that the answer can be written is to be known before the client is made to open
        # anything.
        request.respond()
    except BaseException:
        file.release()
        raise
    objects, queue = request.context.objects, file.queue

    def finish(number: int) -> bytes:
        # In another thread; the last thing before the client goes on, and may use the ID.
        file.given = True
        objects.publish(queue)
        if answered is not None:
            answered()
        return queue.id.to_bytes(4, "little") + number.to_bytes(4, "little")

    try:
        await request.give_file(file, field, finish)
    except IoctlError:
        if file.given and not queue.users:
            objects.remove_by_owner(queue)  # the struct became read-only at the last moment
        raise
