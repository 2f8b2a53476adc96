"""A terminal that a test types at, and reads."""

import os
import pty
import re

from tests.support import wait_for_end, wait_for_input


class Terminal:
    """A command as the leader of the session of a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(command[0], command, os.environ if environment is None else environment)
            finally:
                os._exit(99)

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def read_until(self, pattern: bytes) -> bytes:
        """All that was shown until `pattern`, a regular expression, was found in it."""
        seen = b""
        while not re.search(pattern, seen):
            wait_for_input(self.fd, f"{pattern!r} after {seen!r}")
            seen += os.read(self.fd, 4096)  # EIO: everybody has closed the terminal
        return seen

    def hang_up(self) -> None:
        """Close it; the command is gone afterwards."""
        os.close(self.fd)
        os.waitpid(self.pid, 0)

    def status(self) -> int:
        """The command's wait status."""
        wait_for_end(self.pid)
        os.close(self.fd)
        return os.waitpid(self.pid, 0)[1]
