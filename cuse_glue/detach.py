"""For a process that is to keep nothing of the one that it was forked from."""

import os


def close_all_but(*kept: int) -> None:
    """Close every descriptor from 3 on that is not to be kept."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself
