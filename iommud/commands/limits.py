"""What the daemon may use of the system, and what it cannot do without."""

import os
import resource
from typing import Final

from cuse_glue.errors import Unusable

# open files of `serve`: a start takes some twenty, the first client and its memory some more
LEAST_FILES: Final = 64
LEAST_OF_RUN: Final = 12  # enough for most of what one program does


def check(least: int = LEAST_FILES) -> None:
    """Raises Unusable if there is no /proc, or if so few files can be open that later errors could
    not be reported.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < least:
        raise Unusable(f"{most} open files (ulimit -n) are too few: they have to be {least}")
    if not os.path.exists("/proc/self/mountinfo"):
        raise Unusable("/proc is not there, by which programs and mounts are known: mount -t proc proc /proc")


def allow_many_files() -> None:
    """Allow as many open files as the hard limit does. Each process takes some, and so does each
    file that clients mapped from.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def fill_standard_descriptors() -> None:
    """If 0, 1 or 2 were closed, open something there. Otherwise the next file that is opened would
    get our messages.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            try:
                os.open(os.devnull, os.O_RDWR)
            except OSError:
                os.memfd_create("null", 0)
