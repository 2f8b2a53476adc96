"""Who goes first if there are more processes than processors (nice(2)): those that do little, and
that all clients wait for.
"""

import os
import threading
from typing import Final

PRIORITY: Final = -10


def go_first() -> None:
    """Let the calling thread go before others, if we may."""
    _renice(PRIORITY)


def go_with_others() -> None:
    """Undo `go_first`."""
    _renice(0)


def _renice(priority: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), priority)
    except PermissionError:
        pass  # then we are one among many
