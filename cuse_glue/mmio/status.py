"""Whose a thread is, and who traces it."""

import errno
import re
from typing import Final, NamedTuple

_NUMBERS: Final = re.compile(rb"^(Tgid|TracerPid):\t(\d+)$", re.MULTILINE)


class Status(NamedTuple):
    """Process and tracer of a thread, by their numbers."""

    process: int
    tracer: int  # 0: nobody


def thread_status(tid: int) -> Status:
    """OSError: it is gone."""
    with open(f"/proc/{tid}/status", "rb") as file:
        found = dict(_NUMBERS.findall(file.read()))
    if len(found) != 2:
        raise OSError(errno.ESRCH, "it is gone")
    return Status(int(found[b"Tgid"]), int(found[b"TracerPid"]))
