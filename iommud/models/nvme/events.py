"""Asynchronous events: the driver leaves requests with the controller, which completes one when
something has happened.

Of each type one event is told. Then that type is quiet until the driver has read the log page that
says more.

Ref: NVM Express Base Specification 1.4 section 5.2
"""

from collections.abc import Callable
from typing import Final

from .identify import ASYNC_EVENTS
from .wire import ASYNC_EVENT_LIMIT_EXCEEDED, LOG_ERROR, LOG_SMART, Failed

ERROR, HEALTH = 0, 1  # types
NO_SUCH_DOORBELL, WRONG_DOORBELL_VALUE = 0, 1  # errors
TEMPERATURE: Final = 1  # of health
_LOGS: Final = {ERROR: LOG_ERROR, HEALTH: LOG_SMART}


class Events:
    """`complete(cid, dword0)` completes a request."""

    def __init__(self, complete: Callable[[int, int], None]) -> None:
        self._complete: Final = complete
        self.reset()

    def reset(self) -> None:
        self._requests: list[int] = []
        self._happened: dict[int, int] = {}  # of each type, what is to be told
        self._quiet: set[int] = set()

    def request(self, cid: int) -> None:
        """Failed: there are as many as there can be."""
        if len(self._requests) >= ASYNC_EVENTS:
            raise Failed(ASYNC_EVENT_LIMIT_EXCEEDED)
        self._requests.append(cid)
        self._tell()

    def abort(self, cid: int) -> bool:
        """Forget a request; False: there is none."""
        if cid not in self._requests:
            return False
        self._requests.remove(cid)
        return True

    def happen(self, kind: int, what: int) -> None:
        if kind not in self._quiet:
            self._happened.setdefault(kind, what)
            self._tell()

    def read(self, log: int) -> None:
        """The driver has read this log page."""
        self._quiet = {kind for kind in self._quiet if _LOGS[kind] != log}

    def _tell(self) -> None:
        while self._requests and self._happened:
            kind, what = next(iter(self._happened.items()))
            del self._happened[kind]
            self._quiet.add(kind)
            self._complete(self._requests.pop(0), kind | what << 8 | _LOGS[kind] << 16)
