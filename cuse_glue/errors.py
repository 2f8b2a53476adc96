"""The exceptions that more than one module raises or catches, and what they mean.

| exception | raised by | caught by |
|---|---|---|
| IoctlError | the engine, handlers, pins, tracing/job.py | iommud/file: the client gets -errno |
| Unusable | whatever looks at the machine | iommud/commands: the person gets the sentence |
| ControlError | tracing | pins: memory stays watched; tracing/job.py: IoctlError |
| ThreadGone | tracing, mmio | whoever has a thread under control |

Everything may import this; it imports nothing. An exception that one module raises for its own
callers alone is defined there.
"""

import errno as _errno


class IoctlError(Exception):
    """A request refused by a rule of the kernel: `errno` is what the client gets, `why` the
    sentence for the person.

    Not an OSError, so that a stray ENOENT of our own (a file of /proc that went) can never become a
    client's answer.
    """

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(errno, why)
        self.errno = errno
        self.why = why

    def __str__(self) -> str:
        return f"{errno_name(self.errno)}: {self.why}"


class Unusable(Exception):
    """iommud cannot work here; the text tells a person why."""


class ControlError(Exception):
    """A client's thread cannot be brought under our control, or cannot be made to call the kernel
    as it should; the text says why.
    """


class ThreadGone(Exception):
    """The thread that we had under control has ended, or was killed."""


# Numbers with two names: the one that the field uses, where Python's table has the other.
_NAMES = {_errno.EOPNOTSUPP: "EOPNOTSUPP", _errno.EDEADLK: "EDEADLK"}


def errno_name(number: int) -> str:
    """`EINVAL` for 22."""
    return _NAMES.get(number) or _errno.errorcode.get(number, str(number))
