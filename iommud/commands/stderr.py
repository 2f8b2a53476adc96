"""Lines on stderr that never make the daemon wait.

A daemon that blocks on a full pipe blocks its clients inside their ioctl, where not even SIGKILL
ends them. So a line is written only if stderr takes it at once. Otherwise it is dropped, and the
next line that goes through says how many were lost.

If stderr is systemd's journal, each line says how grave it is, and leaves out what the journal
knows (sd-daemon(3)).

Names of programs, paths and arguments come from others. So they are escaped (text.py): one line
that is written is one line that is shown, with nothing hidden. Only a traceback has more lines;
these are indented, so that none can pass for a line of its own. A client may cause log messages
without end, so each place in the code writes only so many a second.
"""

import logging
import os
import select
import traceback
from typing import Final

from ..text import escape
from ..tokens import LeftOut, Tokens

LONGEST: Final = 4096  # bytes: PIPE_BUF, what a pipe that reports POLLOUT takes without blocking
RATE: Final = 20.0  # log records a second from one place in the code
BURST: Final = 100

_poll: Final = select.poll()
_poll.register(2, select.POLLOUT)
_lost = 0
_journal = False
_PRIORITIES: Final = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}  # syslog(3)


def write_line(line: str, level: int = logging.INFO, *, below: str = "") -> None:
    """Write one line, and the lines `below` it, or drop it. Never raises, never waits. `level` is
    for the journal.

    In the journal a line has no `iommud: ` at its beginning, as the journal knows whose it is.
    """
    global _lost
    lines = [escape(line), *(f"    {escape(each)}" for each in below.split("\n") if each)]
    if _lost:
        lines.insert(0, f"iommud: {_lost} lines were lost here")
    if _journal:
        lines = [f"<{_PRIORITIES[level]}>{each.removeprefix('iommud: ')}" for each in lines]
    data = _cut("\n".join(lines).encode(), LONGEST - 1) + b"\n"
    try:
        if any(events & select.POLLOUT for _, events in _poll.poll(0)):
            os.write(2, data)
            _lost = 0
        else:
            _lost += 1
    except OSError:
        _lost += 1


def _cut(data: bytes, length: int) -> bytes:
    return data if len(data) <= length else data[:length].decode(errors="ignore").encode()


class Handler(logging.Handler):
    """Writes log records as lines on stderr: so many a second for each place in the code."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens: dict[tuple[str, int], Tokens] = {}
        self._left_out: LeftOut[tuple[str, int]] = LeftOut()

    def emit(self, record: logging.LogRecord) -> None:
        place = record.pathname, record.lineno
        if not self._tokens.setdefault(place, Tokens(RATE, BURST)).take():
            self._left_out.add(place)
            return
        missed = self._left_out.take(place)
        if missed:
            write_line(f"iommud: {missed} lines like the next one were left out", record.levelno)
        try:
            below = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
            write_line(self.format(record), record.levelno, below=below)
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    def formatException(self, ei: object) -> str:
        return ""  # the traceback goes below the line


def _formatter() -> logging.Formatter:
    return _Formatter("%(message)s" if _journal else "iommud: %(levelname)s: %(message)s")


def configure(level: str) -> None:
    """Send the log to stderr, from `level` on (a name, such as "warning")."""
    global _journal
    _journal = _is_journal()
    handler = Handler()
    handler.setFormatter(_formatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _is_journal() -> bool:
    """Whether stderr is what systemd gave to a service. JOURNAL_STREAM alone does not tell:
    whatever a service starts inherits it.
    """
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
