"""A QEMU with Debian's stock kernel and a shell in it, that a test drives.

The kernel's console is QEMU's stdout, and goes with all complaints to one file. The second serial
port is the shell (guest/init); a third line is QEMU's own monitor (QMP).
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

from tests.boot import kernel
from tests.support import daemon_and_watcher, wait_for_end

MEMORY: Final = 192 << 20  # bytes
QEMU: Final = [
    *("-nodefaults", "-no-user-config", "-display", "none", "-cpu", "max,la57=off", "-accel", "tcg,tb-size=256"),
]
SECONDS: Final = 300.0  # for a command, or a boot
LINES: Final = 40  # of the console, in a complaint
PARAMETERS: Final = (
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "tsc=reliable",
    "no_timer_check",
    "random.trust_cpu=on",
    "mitigations=off",
)
MARKER: Final = "IOMMUD_TEST_GUEST"
_END: Final = re.compile("\x04(\\d+)\n")


class Ended(AssertionError):
    """QEMU has ended, too early."""


class Guest:
    """One QEMU under `iommud run`. Enter it to boot; leaving it kills it, if it has not ended. Of
    iommud nothing must be left then.
    """

    def __init__(
        self,
        command: Sequence[str],
        ramdisk: Path,
        log: Path,
        parameters: Sequence[str] = (),
    ) -> None:
        """`command`: QEMU with its devices. `log`: where the console goes. `parameters`: more of
        the kernel's. Raises NotHere.
        """
        self._command = [
            *command,
            *("-kernel", str(kernel.find().image), "-initrd", str(ramdisk)),
            *("-append", " ".join((*PARAMETERS, *parameters))),
        ]
        self._log = log
        self._said = ""
        self._stack = ExitStack()
        self.process: subprocess.Popen[bytes]
        self.daemon = self.watcher = 0  # processes of iommud

    def __enter__(self) -> "Guest":
        marker = secrets.token_hex(8)
        with ExitStack() as theirs:
            self._shell, port = self._pair(theirs)
            self._monitor, qmp = self._pair(theirs)
            log = theirs.enter_context(open(self._log, "ab"))
            self.process = subprocess.Popen(
                [
                    *self._command,
                    *("-serial", "stdio", "-chardev", f"socket,id=shell,fd={port}", "-serial", "chardev:shell"),
                    *("-chardev", f"socket,id=qmp,fd={qmp}", "-mon", "chardev=qmp,mode=control"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[port, qmp],
                env={**os.environ, MARKER: marker},
            )
        self._stack.callback(self.kill)
        try:
            self._answers: IO[bytes] = self._stack.enter_context(self._monitor.makefile("rb"))
            self._ask("qmp_capabilities")
            self.wait_until_up()
            self.daemon, self.watcher = daemon_and_watcher(marker, self.process.pid)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stack.close()
        if kind is None:
            wait_for_end(self.daemon)
            wait_for_end(self.watcher)

    def wait_until_up(self) -> None:
        """It has booted, or has booted again."""
        self._read_until(re.compile("ready\n"))

    def run(self, script: str, limit: float = SECONDS) -> str:
        """What it said. AssertionError: it failed, or took longer than `limit` seconds."""
        self.start(script)
        try:
            said, end = self._read_until(_END, limit)
        except AssertionError as failure:
            raise AssertionError(f"{script}: {failure}") from None
        assert end[1] == "0", f"{script}: status {end[1]}\n{said}\n{self.console()}"
        return said

    def wait_for(self, device: str) -> None:
        """Until a block device is there."""
        self.run(f"until test -b {device}; do usleep 10000; done")

    def start(self, script: str) -> None:
        """One line, of which `lines` gets what it says."""
        assert "\n" not in script, script
        self._shell.sendall(f"{script}\n".encode())

    def lines(self) -> Iterator[str]:
        """Each line that it says, until it has ended, or QEMU has."""
        while True:
            try:
                text, _ = self._read_until(re.compile("\n"))
            except Ended:
                return
            yield text

    def reset(self) -> None:
        """As by the button of a machine; it boots again."""
        self._ask("system_reset")
        self.wait_until_up()

    def power_off(self) -> None:
        """As by the shell's `poweroff`, to the end of QEMU, which must be content."""
        self.start("poweroff -f")
        status = self.process.wait(SECONDS)
        assert status == 0, f"QEMU: status {status}\n{self.console()}"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def console(self) -> str:
        """The last of it."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LINES:])

    def _pair(self, theirs: ExitStack) -> tuple[socket.socket, int]:
        """A line to QEMU: our end, and the number of its."""
        ours, its = socket.socketpair()
        self._stack.enter_context(ours)
        theirs.enter_context(its)
        ours.settimeout(SECONDS)
        return ours, its.fileno()

    def _read_until(self, end: re.Pattern[str], limit: float = SECONDS) -> tuple[str, re.Match[str]]:
        """What the shell said before `end`, and that. AssertionError: it does not come."""
        until = time.monotonic() + limit
        while (found := end.search(self._said)) is None:
            self._shell.settimeout(max(until - time.monotonic(), 0.001))
            try:
                more = self._shell.recv(1 << 16)
            except TimeoutError:
                raise AssertionError(f"no {end.pattern!r} in {limit:.0f} s\n{self._said}\n{self.console()}") from None
            except ConnectionError:
                more = b""
            if not more:
                raise Ended(f"QEMU has ended\n{self.console()}")
            self._said += more.decode(errors="replace")
        said, self._said = self._said[: found.start()], self._said[found.end() :]
        return said, found

    def _ask(self, command: str) -> None:
        """QEMU's monitor. AssertionError: it refuses."""
        answer: dict[str, Any] = {}
        try:
            self._monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
            while "return" not in answer:
                answer = json.loads(self._answers.readline())  # a greeting and events come between
                assert "error" not in answer, answer
        except (ConnectionError, ValueError):  # the end of file is no JSON
            raise Ended(f"QEMU has ended\n{self.console()}") from None
