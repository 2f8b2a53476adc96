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
"""Set in the task of a handler that left. To call it takes over the reply. It returns a function
that sends the reply, to be called once, with the value (0 for an ioctl). None: the request was
answered already.

From then on an INTERRUPT does not cancel the handler, and what the handler returns or raises is not
sent. Both functions may be called in any thread.
"""


class PassedOn(Exception):
    """Another process has the open file from now on, and answers the request."""


Passer = Callable[[OpenFile, Caller, int, int, int], None]

passer: Final[ContextVar[Passer]] = ContextVar("passer")
"""Set in the task of an ioctl that left, where open files can be moved to other processes. It is
called with the open file, the caller, the command, its argument, and the thread by which it was
asked where to (recognise.which). Raises PassedOn; if it returns, the request was answered already.
"""
