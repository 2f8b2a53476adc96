"""A command that runs in the guest, seen from the host."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

# seconds after its limit at which the agent must have said that a command was ended
SLACK: Final = 30.0


class VmFailed(Exception):
    """The guest did not do what it must: it ended, or hangs. Not the fault of a command in it."""


@dataclass(frozen=True)
class Done:
    """How a command ended: `status` is the exit status, or -signal; `late`: it was killed for
    taking too long.
    """

    argv: Sequence[str]
    stdout: str
    stderr: str
    status: int
    late: bool
    seconds: float

    def check(self) -> "Done":
        """Itself, if it succeeded. Else AssertionError, with all that it said."""
        assert self.status == 0, f"{' '.join(self.argv)}: {self}"
        return self

    def __str__(self) -> str:
        how = "it took too long, and was killed" if self.late else f"status {self.status}"
        return f"{how}\n--- stdout\n{self.stdout}--- stderr\n{self.stderr}---"


class Command:
    """One command. Its output is kept, and can be waited for line by line."""

    def __init__(self, argv: Sequence[str], limit: float, send: Callable[..., None], check: Callable[[], None]) -> None:
        """`send`: a message to the agent about this command. `check`: raises when the guest is
        lost.
        """
        self.argv = argv
        self.pid = 0  # in the guest; known as soon as it has started
        self._limit = limit
        self._send = send
        self._check = check
        self._began = time.monotonic()
        self._text = {1: "", 2: ""}
        self._read = {1: 0, 2: 0}
        self._done: Done | None = None
        self._news = threading.Condition()

    def line(self, fd: int = 1, limit: float = 60.0) -> str:
        """The next line of stdout (1) or stderr (2), without its end. AssertionError: none
        comes.
        """
        self._wait_until(lambda: "\n" in self._text[fd][self._read[fd] :] or self._done is not None, limit)
        rest = self._text[fd][self._read[fd] :]
        text, end, _ = rest.partition("\n")
        assert end, f"{' '.join(self.argv)} said no further line; {self._done or self._text}"
        self._read[fd] += len(text) + 1
        return text

    def wait(self, limit: float | None = None) -> Done:
        """How it ended; at most `limit` seconds from now (its own unless given) are waited."""
        self._wait_until(lambda: self._done is not None, SLACK + (self._limit if limit is None else limit))
        assert self._done is not None
        return self._done

    def started(self) -> int:
        """Its process's id in the guest."""
        self._wait_until(lambda: self.pid != 0, SLACK)
        return self.pid

    def running(self) -> bool:
        return self._done is None

    def say(self, text: str) -> None:
        """Write to its stdin."""
        self._send(send=text)

    def end_input(self) -> None:
        """Close its stdin."""
        self._send(end=True)

    def kill(self, number: int) -> None:
        """Send it a signal."""
        self._send(kill=int(number))

    def hear(self, message: dict[str, Any]) -> None:
        """The agent's message about it."""
        with self._news:
            if "pid" in message:
                self.pid = message["pid"]
            elif "text" in message:
                self._text[message["fd"]] += message["text"]
            else:
                seconds = time.monotonic() - self._began
                self._done = Done(self.argv, self._text[1], self._text[2], message["status"], message["late"], seconds)
            self._news.notify_all()

    def lose(self) -> None:
        """The guest is lost: wake who waits."""
        with self._news:
            self._news.notify_all()

    def _wait_until(self, fulfilled: Callable[[], bool], limit: float) -> None:
        end = time.monotonic() + limit
        with self._news:
            while not fulfilled():
                self._check()
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{' '.join(self.argv)} let us wait for {limit:.0f} s; {self._text}")
                self._news.wait(left)
