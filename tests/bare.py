"""A /dev with nothing in it but what a daemon serves there."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon import SERVING
from tests.support import PATIENCE, wait_for_input

BARE_DEV = [sys.executable, str(Path(__file__).parent / "serve" / "bare_dev.py")]


@contextmanager
def served(*command: str) -> Iterator[list[str]]:
    """How to start a program that sees what this command serves. In the end the daemon is told to
    end; it must have said nothing, and its status must be 0.
    """
    with subprocess.Popen([*BARE_DEV, *command], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            wait_for_input(server.stderr.fileno(), "the daemon's first line")
            assert server.stderr.readline().startswith(SERVING)
            yield ["nsenter", "--target", str(server.pid), "--mount", "--wd=/"]
            server.terminate()
            assert server.communicate(timeout=PATIENCE)[1] == ""
            assert server.returncode == 0
        finally:
            server.kill()
