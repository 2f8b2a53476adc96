"""What to do when our own descriptors run out, where the kernel has no such limit: first give up
what is only kept for speed.

Whoever keeps such a thing says how to give it back (`spare`). Whoever opens something does it by
`with_means`.
"""

import errno
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

R = TypeVar("R")

SHORT: Final = frozenset((errno.EMFILE, errno.ENFILE))
NO_DESCRIPTORS: Final = "iommud has no descriptors left (raise its RLIMIT_NOFILE)"
NO_MEMORY: Final = "iommud has no more memory for this user (--share memory=SIZE)"
# how Python says that there is no memory for a thread
_NO_THREAD: Final = "can't start new thread"

_givers: Final[list[Callable[[], Callable[[], None] | None]]] = []


def spare(give_back: Callable[[], None]) -> None:
    """`give_back` closes what is not needed. If it is a method, it is forgotten together with its
    object.
    """
    if hasattr(give_back, "__self__"):
        method: Any = weakref.WeakMethod(give_back)
        _givers.append(method)
    else:
        _givers.append(lambda: give_back)


def with_means(look: Callable[[], R]) -> R:
    """Returns what `look` returns. If there are no descriptors, it is tried again without the spare
    ones. OSError(EMFILE, ENFILE): even then there are none.
    """
    try:
        return look()
    except OSError as error:
        if error.errno not in SHORT or threading.current_thread() is not threading.main_thread():
            raise  # what is kept belongs to the loop, which runs in the main thread
    give_back()
    return look()


def lacked(error: BaseException) -> str | None:
    """If this error says that we have too little of something: the sentence for that. Else None."""
    if isinstance(error, OSError) and error.errno in SHORT:
        return NO_DESCRIPTORS
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error) == _NO_THREAD):
        return NO_MEMORY
    return None


def give_back() -> None:
    """Close everything that is only kept for speed."""
    for giver in list(_givers):
        found = giver()
        if found is None:
            _givers.remove(giver)
        else:
            found()
