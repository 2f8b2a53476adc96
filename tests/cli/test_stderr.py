"""Lines on stderr: written if it takes them, counted if not, and never waited for."""

import os
import subprocess
import sys

from tests.support import PATIENCE, wait_for_input

FLOOD = """
import sys
from iommud.commands.stderr import write_line
for i in range(5000): write_line(f"line {i} " + 100 * "x")
print("written", flush=True)
sys.stdin.readline()
write_line("after")
"""


def test_a_full_pipe_loses_lines_and_says_so() -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-c", FLOOD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer) as process:
        os.close(writer)
        assert process.stdin is not None
        assert process.stdout is not None
        wait_for_input(process.stdout.fileno(), "the end of the flood, though nobody reads")
        assert process.stdout.readline() == b"written\n"
        os.set_blocking(reader, False)
        text = b""
        try:
            while piece := os.read(reader, 1 << 16):
                text += piece
        except BlockingIOError:
            pass
        whole = text.decode().splitlines()
        assert 0 < len(whole) < 5000
        assert whole == [f"line {i} " + 100 * "x" for i in range(len(whole))]

        os.set_blocking(reader, True)
        process.stdin.write(b"\n")
        process.stdin.close()
        rest = b""
        while piece := os.read(reader, 1 << 16):
            rest += piece
        assert rest.decode() == f"iommud: {5000 - len(whole)} lines were lost here\nafter\n"
    os.close(reader)


def test_a_closed_reader_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    script = "from iommud.commands.stderr import write_line; write_line('one'); write_line('two'); print('fine')"
    done = subprocess.run([sys.executable, "-c", script], stderr=writer, stdout=subprocess.PIPE, timeout=PATIENCE)
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"fine\n")


def test_a_long_line_is_cut_to_what_a_pipe_takes_at_once() -> None:
    script = "from iommud.commands.stderr import write_line; write_line(10000 * 'x')"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.stderr == 4095 * b"x" + b"\n"


JOURNAL = """
import logging, os, sys
from iommud.commands import stderr
stderr.configure("info")
stderr.write_line("iommud: one")
logging.warning("two\\nlines")
"""


def journal_of(stream: str) -> str:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environment = dict(os.environ, JOURNAL_STREAM=stream or f"{status.st_dev}:{status.st_ino}")
    subprocess.run([sys.executable, "-c", JOURNAL], stderr=writer, env=environment, check=True, timeout=PATIENCE)
    os.close(writer)
    with open(reader) as file:
        return file.read()


def test_the_journal_is_told_how_grave_each_line_is() -> None:
    assert journal_of("") == "<6>one\n<4>two\\nlines\n"


def test_what_is_not_the_journal_is_not_taken_for_it() -> None:
    """A service starts others, who inherit its JOURNAL_STREAM and have a stderr of their own."""
    assert journal_of("1:1") == "iommud: one\niommud: WARNING: two\\nlines\n"
