"""Time for devices: pci.scheduler.Scheduler by trio. What is due runs in tasks of its own, between
two requests, and ends with the loop.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from ..pci.scheduler import Cancel

log: Final = logging.getLogger("iommud")
T = TypeVar("T")
THREADS: Final = 16  # of all devices of one process


class Clock:
    def __init__(self) -> None:
        self._threads: Final = trio.CapacityLimiter(THREADS)

    def now(self) -> float:
        return time.monotonic()  # a device is made before trio runs

    def after(self, seconds: float, call: Callable[[], None]) -> Cancel:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await trio.sleep(seconds)
                with _bugs_in_the_log():
                    call()

        trio.lowlevel.spawn_system_task(wait)
        return scope

    def start(self, work: Callable[[], Awaitable[None]]) -> Cancel:
        scope = trio.CancelScope()

        async def go() -> None:
            with scope, _bugs_in_the_log():
                await work()

        trio.lowlevel.spawn_system_task(go)
        return scope

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def in_thread(self, call: Callable[[], T]) -> T:
        result = await trio.to_thread.run_sync(call, limiter=self._threads)
        await trio.lowlevel.checkpoint_if_cancelled()
        return result


class _bugs_in_the_log:
    """Logs a bug of a model; the daemon goes on."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, Exception):
            log.error("bug: a device's work", exc_info=error)
            return True
        return False
