"""Run a coroutine at once, on the spot, and give it a task of its own only if it has to wait.

A task switch in trio costs about as much as a whole ioctl, and nearly every request ends without
waiting. So the reader starts each handler by hand, in its own task. A handler that must wait first
says so (`await leave()`); from there on it runs in a task of its own. The rule that makes this
sound: **nothing may wait, or open a cancel scope or a nursery, before it has awaited `leave()`**.
(trio would bind it to the reader's task.) `start` notices a breach and stops it.
"""

import types
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import trio


class _Leave:
    """The one object that `leave` yields; trio never sees it."""


_LEAVE: Final = _Leave()


@types.coroutine
def leave() -> Generator[Any, None, None]:
    """Move the rest of this coroutine to a task of its own. No effect outside of `start` (in tests,
    or when already moved).
    """
    global _inline
    if _inline:
        _inline = False
        yield _LEAVE


_inline = False


def start(coro: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
    """Run `coro` until it ends or leaves.

    Returns (True, its value) when it ended, and (False, None) when another task must await
    `finish(coro)`. Exceptions of the coroutine pass through.
    """
    global _inline
    _inline = True
    try:
        step = coro.send(None)
    except StopIteration as stop:
        return True, stop.value
    finally:
        _inline = False
    if step is not _LEAVE:
        coro.throw(RuntimeError("a handler waited before `await leave()`"))
        raise RuntimeError("a handler waited before `await leave()`")
    return False, None


@types.coroutine
def finish(coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that left. Its new task awaits this."""
    # `yield from`, because `await` refuses a coroutine that was already started.
    return (yield from coro)


# In the task of a handler that left: what keeps an interrupt away from it.
_guard: Final[ContextVar[trio.CancelScope]] = ContextVar("guard")


@contextmanager
def guarded() -> Iterator[None]:
    """For use around a handler in its task. An interrupt (a signal to the caller, the end of the
    session) then cancels the handler only inside of `interruptible`.
    """
    with trio.CancelScope(shield=True) as guard:
        token = _guard.set(guard)
        try:
            yield
        finally:
            _guard.reset(token)


@contextmanager
def interruptible() -> Iterator[None]:
    """For use around a wait that depends on the caller. Nothing may have been done yet, or a
    cancellation must undo all of it.
    """
    guard = _guard.get(None)
    if guard is None:
        yield
        return
    guard.shield = False
    try:
        yield
    finally:
        guard.shield = True
