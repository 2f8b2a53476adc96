"""Lines on stderr that never make the daemon wait.

A daemon that blocks on a full pipe blocks its clients inside their ioctl, where not even SIGKILL ends them. So a line
is written only if stderr takes it at once; otherwise it is dropped, and the next one that goes through says how many
were lost.

Where stderr is systemd's journal each line says how grave it is, and nothing that the journal knows (sd-daemon(3)).
"""

import logging
import os
import select
from typing import Final

LONGEST: Final = 4096  # bytes: PIPE_BUF, what a pipe that reports POLLOUT takes without blocking

_poll: Final = select.poll()
_poll.register(2, select.POLLOUT)
_lost = 0
_journal = False
_PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}  # syslog(3)


def write_line(line: str, level: int = logging.INFO) -> None:
    """Write one line (or some), or drop it. Never raises, never waits. `level` is for the journal."""
    global _lost
    if _lost:
        line = f"iommud: {_lost} lines were lost here\n{line}"
    if _journal:
        line = "\n".join(f"<{_PRIORITIES[level]}>{each.removeprefix('iommud: ')}" for each in line.splitlines())
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
        write_line(self.format(record), record.levelno)


def configure(level: str) -> None:
    """Send the log to stderr from `level` (a name, as "warning") on."""
    global _journal
    _journal = _is_journal()
    handler = Handler()
    handler.setFormatter(logging.Formatter("%(message)s" if _journal else "iommud: %(levelname)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _is_journal() -> bool:
    """Whether stderr is what systemd gave a service; JOURNAL_STREAM alone is inherited by whoever a service starts."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
