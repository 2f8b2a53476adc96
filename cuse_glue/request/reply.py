"""The reply to a request, for a handler that sends it itself before it ends, or that leaves it to
another process.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from .caller import Caller
from .open_file import OpenFile

ReplyTaker = Callable[[], Callable[[Any], None] | None]

reply_taker: Final[ContextVar[ReplyTaker]] = ContextVar("reply_taker")
"""Set in the task of a handler that left. A call of it takes over the reply, and returns a function
that sends the reply. Call that once, with what the handler would return (for an ioctl, its result).
None: the request was answered already.

From then on an INTERRUPT does not cancel the handler, and what the handler returns or raises is not
sent. Both functions may be called in any thread.
"""


class PassedOn(Exception):
    """Another process has the open file from now on, and answers the request."""


Passer = Callable[[OpenFile, Caller, int, int, int], None]

passer: Final[ContextVar[Passer]] = ContextVar("passer")
"""Set in the task of an ioctl that left, where open files can be moved to other processes. Call it
with the open file that is to move, the caller, the command, its argument, and the thread that found
out where to (recognise.Elsewhere.asked). Raises PassedOn; if it returns, the request was answered
already.
"""
