"""What each process that serves does at its start: the daemon of `run`, and each worker of
`serve`.
"""

import gc
from collections.abc import Callable

from ..settings import Settings
from . import stderr


def prepare_process(settings: Settings) -> Callable[[str], None] | None:
    """Make this process ready to serve. Returns a function that writes a line of `--why` to stderr;
    None: there is no `--why`.
    """
    _calm_collector()
    return stderr.write_line if settings.why else None


def _calm_collector() -> None:
    """No full garbage collections while clients wait.

    A million areas are millions of objects, and a full collection looks at them for a second. The
    engine makes no cycles, so it would find nothing. The cycles that Python itself leaves
    (tracebacks) are collected when there is no client.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 1_000_000_000)
