"""Lines on stderr that never make the daemon wait.

A daemon that blocks on a full pipe blocks its clients inside their ioctl, where not even SIGKILL ends them. So a line
is written only if stderr takes it at once; otherwise it is dropped, and the next one that goes through says how many
were lost.
"""

import logging
import os
import select
from typing import Final

LONGEST: Final = 4096  # bytes: PIPE_BUF, what a pipe that reports POLLOUT takes without blocking

_poll: Final = select.poll()
_poll.register(2, select.POLLOUT)
_lost = 0


def write_line(line: str) -> None:
    """Write one line, or drop it. Never raises, never waits."""
    global _lost
    if _lost:
        line = f"iommud: {_lost} lines were lost here\n{line}"
    data = line.encode(errors="backslashreplace")[: LONGEST - 1] + b"\n"
    try:
        if any(events & select.POLLOUT for _, events in _poll.poll(0)):
            os.write(2, data)
            _lost = 0
        else:
            _lost += 1
    except OSError:
        _lost += 1


class Handler(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.format(record))


def configure(level: str) -> None:
    """Send the log to stderr from `level` (a name, as "warning") on."""
    handler = Handler()
    handler.setFormatter(logging.Formatter("iommud: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
