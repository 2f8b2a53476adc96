"""Daemons in the guest that serve a character device, and how they refuse to."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import IOMMUD

from .command import Command
from .machine import Machine

NAME = "iommu-test"
PATH = f"/dev/{NAME}"
CLASS = "/sys/class/cuse"
USED = "ioas 1\nrefused 2\n"  # what the probe says of a device that works


def start(vm: Machine, name: str = NAME, *flags: str) -> Command:
    daemon = vm.start(IOMMUD, "serve", "--cuse", name, *flags)
    assert daemon.line(2) == f"iommud: serving /dev/{name} (CUSE)"
    return daemon


@contextmanager
def serving(vm: Machine, name: str = NAME, *flags: str) -> Iterator[Command]:
    daemon = start(vm, name, *flags)
    try:
        yield daemon
    finally:
        if daemon.running():
            daemon.kill(signal.SIGTERM)
        daemon.wait(60)


def number(vm: Machine, name: str = NAME) -> str:
    """The device number of the CUSE device, major:minor; empty: there is none."""
    return vm.run("cat", f"{CLASS}/{name}/dev").stdout.strip()


def refusal(vm: Machine, *command: str) -> str:
    done = vm.run(*command)
    assert done.status == 1, str(done)
    assert done.stderr.startswith("iommud: ")
    assert done.stderr.count("\n") == 1, str(done)
    return done.stderr
