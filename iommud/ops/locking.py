"""All locks: who may change an object while a request that changes it waits for something.

A handler that never waits needs none. The few that wait (for an unmap callback, a page table that
is filled in pieces, a large copy) hold the object's lock meanwhile. All others that change the
object pass through `locked` too. Nearly always they find it free, at the cost of a dictionary
look-up. First come, first served. Of two objects, the one with the lower ID is locked first. A lock
may be dropped around a callback only if it is the only one held; then the state must be looked at
again.
"""

from collections import deque
from collections.abc import Generator, Iterable
from typing import Final, TypeVar

import trio

from cuse_glue.request.inline import leave

from ..engine.mapping.objects import Object

T = TypeVar("T")

_waiting: Final[dict[Object, deque[trio.Event]]] = {}


class locked:
    """Hold the locks of these objects. None of them can be destroyed meanwhile (EBUSY). Not
    reentrant.
    """

    __slots__ = ("_answered", "_objects")

    def __init__(self, *objects: Object) -> None:
        self._objects = sorted(set(objects), key=_by_id) if len(objects) > 1 else objects
        self._answered = False

    async def __aenter__(self) -> None:
        held: list[Object] = []
        try:
            for obj in self._objects:
                obj.shortterm_users.append(self)
                try:
                    if obj in _waiting:
                        await _wait_for(obj)
                    else:
                        _waiting[obj] = deque()
                except BaseException:
                    obj.shortterm_users.remove(self)
                    raise
                held.append(obj)
        except BaseException:
            self._leave(held)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave(self._objects)

    def answered(self) -> None:
        """The caller goes on before the locks are given back. From now on they do not keep it from
        destroying the objects. In any thread.
        """
        for obj in self._objects:
            obj.shortterm_users.remove(self)
        self._answered = True

    def _leave(self, held: Iterable[Object]) -> None:
        for obj in held:
            if not self._answered:
                obj.shortterm_users.remove(self)
            _release(obj)


async def _wait_for(obj: Object) -> None:
    await leave()
    if obj not in _waiting:
        _waiting[obj] = deque()  # it was released while we left
        return
    turn = trio.Event()
    _waiting[obj].append(turn)
    try:
        await turn.wait()
    except trio.Cancelled:
        if turn.is_set():
            _release(obj)  # it was handed to us as we were cancelled
        else:
            _waiting[obj].remove(turn)
        raise


def _release(obj: Object) -> None:
    queue = _waiting[obj]
    if queue:
        queue.popleft().set()
    else:
        del _waiting[obj]


def _by_id(obj: Object) -> int:
    return obj.id


async def in_steps(steps: Generator[None, None, T]) -> T:
    """Run a long engine operation. At each of its pauses other requests have their turn. If it is
    cancelled, it undoes itself.
    """
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            await give_way()
        except BaseException as cancelled:
            steps.throw(cancelled)
            raise


async def give_way() -> None:
    """Let other requests have their turn, in the middle of a long one."""
    await leave()
    await trio.lowlevel.checkpoint()


def idle() -> bool:
    """Whether nothing is locked; for tests."""
    return not _waiting
