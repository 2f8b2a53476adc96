"""When to look for the next request again and again, instead of waiting for it.

A client that asks for one thing after the other, on a processor of its own, comes back sooner than
a wake-up takes. Where that is so, looking halves the time of a request. Elsewhere it would take the
processor from the client: together on one processor the next request is there at once, or the
client computes. So it is not decided beforehand, but seen: requests are counted that came soon
after the wait for them had begun. If nearly all did, there is looking for a while; then it is seen
anew. Where looking did not pay, it takes longer until it is tried again.
"""

import select
import time
from typing import Final

SEEN: Final = 32  # requests of which it is seen how soon they come
SOON: Final = 100e-6  # seconds
NEARLY_ALL: Final = 0.9
LOOKED_FOR: Final = 1024  # requests for which there is looking then
PATIENCE: Final = 60e-6  # seconds of looking
MOST: Final = 64  # times SEEN


class Spin:
    """Of one connection. `found`: how often looking has found a request. Who looks must give other
    tasks their turn now and then.
    """

    def __init__(self, fd: int) -> None:
        self._poll: Final = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._window = SEEN
        self._left = SEEN  # requests until it is decided again
        self._soon = 0
        self._looks = self.found = 0
        self.on = False

    def handled(self, requests: int) -> None:
        """So many requests have come, since the last time."""
        self._left -= requests
        if self._left > 0:
            return
        if self.on:
            self._window = min(self._window * 2, SEEN * MOST) if self.found * 2 < self._looks else SEEN
            self.on = False
        else:
            self.on = self._soon >= self._window * NEARLY_ALL
        self._left = LOOKED_FOR if self.on else self._window
        self._soon = self._looks = self.found = 0

    def waited(self, seconds: float) -> None:
        """A request had to be waited for."""
        self._soon += seconds <= SOON

    def look(self) -> bool:
        """Look for a while. Returns whether there is a request, or the connection has ended."""
        self._looks += 1
        poll, now = self._poll.poll, time.monotonic
        end = now() + PATIENCE
        while not poll(0):
            if now() > end:
                return False
        self.found += 1
        return True
