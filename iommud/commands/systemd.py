"""What systemd is told, and what it wants to know (sd_notify(3), sd-daemon(3)): that we are ready,
that we are alive, and how grave a line is.

If somebody else started us, each of these does nothing.
"""

import logging
import os
import socket
from typing import Final

from ..text import escape

log: Final = logging.getLogger("iommud.commands.systemd")


def notify(*facts: str) -> None:
    """Tell systemd these names and values, in turn. Without a NOTIFY_SOCKET in the environment
    nobody is told. Never raises.

    A value is sent as one line, whatever is in it.
    """
    state = "\n".join(f"{name}={escape(value)}" for name, value in zip(facts[::2], facts[1::2], strict=True))
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
        try:
            link.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", facts, error.strerror)


def life_interval() -> float | None:
    """How often (seconds) to tell systemd that we are alive: half of WatchdogSec=. None: systemd
    does not ask for it.
    """
    interval = os.environ.get("WATCHDOG_USEC", "")
    if not interval.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(interval) / 1e6 / 2


def show_life() -> None:
    """Tell systemd that we are alive."""
    notify("WATCHDOG", "1")
