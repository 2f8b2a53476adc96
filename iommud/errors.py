"""The one exception by which a request is refused: what the client gets, and the sentence for the person."""

import errno as _errno


class IoctlError(Exception):
    """A request refused by a rule of the kernel.

    Not an OSError, so that a stray ENOENT of our own (a file of /proc that went) can never become a client's answer.
    """

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(errno, why)
        self.errno = errno
        self.why = why

    def __str__(self) -> str:
        return f"{errno_name(self.errno)}: {self.why}"


# Numbers with two names: the one that the field uses, where Python's table has the other.
_NAMES = {_errno.EOPNOTSUPP: "EOPNOTSUPP", _errno.EDEADLK: "EDEADLK"}


def errno_name(number: int) -> str:
    """`EINVAL` for 22."""
    return _NAMES.get(number) or _errno.errorcode.get(number, str(number))
