"""What systemd is told, and what it wants to know (sd_notify(3), sd-daemon(3)): that we are ready, alive, and how grave a line is.

Started by anybody else, each of these does nothing.
"""

import logging
import os
import socket
from typing import Final

log: Final = logging.getLogger("iommud.systemd")


def notify(state: str) -> None:
    """Tell systemd; without a NOTIFY_SOCKET in the environment, nobody. Never raises."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        try:
            link.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            log.warning("systemd could not be told %r: %s", state, error)


async def show_life() -> None:
    """Tell systemd, twice as often as it wants to hear it (WatchdogSec=), that the loop goes round. Returns if it does not want to."""
    interval = os.environ.get("WATCHDOG_USEC", "")
    if not interval.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    import trio

    while True:
        notify("WATCHDOG=1")
        await trio.sleep(int(interval) / 1e6 / 2)
