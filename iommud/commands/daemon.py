"""What every process does that serves: the daemon of `run`, and each worker of `serve`."""

import gc
from collections.abc import Callable

from ..settings import Settings
from . import stderr


def prepare_process(settings: Settings) -> Callable[[str], None] | None:
    """Make this process ready to serve. Returns what writes the lines of `--why`, to stderr; None:
    they are not wanted.
    """
    _calm_collector()
    return stderr.write_line if settings.why else None


def _calm_collector() -> None:
    """No full garbage collections while clients wait.

    A million areas are millions of objects, and a full collection looks at them for a second. The
    engine makes no cycles, so it would find nothing. What Python's own machinery leaves
    (tracebacks) is looked for when there is no client.
    """
    gc.freeze()
    gc.set_threshold(700, 10, 1_000_000_000)
