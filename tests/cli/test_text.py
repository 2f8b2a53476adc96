"""What others write into a line of ours."""

import os
import subprocess
import sys
import unicodedata

import pytest

from iommud.text import escape
from tests.support import PATIENCE

MARKS = "\u200b\u200d\u200e\u202a\u202e\u2066\u2069\ufeff\u00ad\u2028\u2029\u0085\u061c\u180e\u3164\u115f\u034f\U000e0041\ufe0e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("demo[77]: plain", "demo[77]: plain"),
        ("größer ✓ 漢字", "größer ✓ 漢字"),
        ("x\n<0>iommud: ok", r"x\n<0>iommud: ok"),
        ("\x1b]0;pwn\x07\x1b[2J\r\t\x7f\x9b", r"\x1b]0;pwn\x07\x1b[2J\r\t\x7f\x9b"),
        (os.fsdecode(b"\xff\xfe\xc3 ok"), r"\xff\xfe\xc3 ok"),
        ("\ud800", r"\ud800"),
        (r"\x0a", r"\\x0a"),
        ("\u202e", r"\u202e"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_nothing_that_shows_as_nothing_is_left() -> None:
    for character in [*MARKS, *map(chr, range(32)), *map(chr, range(127, 160))]:
        assert escape(f"a{character}b").isascii(), hex(ord(character))
    left = [
        chr(n)
        for n in range(0x110000)
        if unicodedata.category(chr(n)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and escape(chr(n)) == chr(n)
    ]
    assert left == []


FORGED = """
import logging
from iommud.commands import stderr
stderr.configure("info")
stderr.write_line("one\\n<0>iommud: forged\\x85\\u2028end")
logging.getLogger("x").warning("of %s", "\\n<1>two")
try:
    raise ValueError("three\\n<2>iommud: forged\\x0b\\x1b[2J")
except ValueError:
    logging.getLogger("x").exception("bug of %s", "four\\n<3>five")
"""


@pytest.mark.parametrize("is_journal", [False, True])
def test_no_line_can_be_forged(is_journal: bool) -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    environment = dict(os.environ, JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}" if is_journal else "")
    subprocess.run([sys.executable, "-c", FORGED], stderr=writer, env=environment, check=True, timeout=PATIENCE)
    os.close(writer)
    with open(reader, encoding="utf-8", newline="\n") as file:
        lines = file.read().split("\n")
    assert lines.pop() == ""
    begin = ("<6>", "<4>", "<3>") if is_journal else ("one", "iommud: ", "    ")
    assert [line for line in lines if not line.startswith(begin)] == []
    assert lines[:2] == (
        [r"<6>one\n<0>iommud: forged\x85\u2028end", r"<4>of \n<1>two"]
        if is_journal
        else [r"one\n<0>iommud: forged\x85\u2028end", r"iommud: WARNING: of \n<1>two"]
    )
    assert all(line.removeprefix("<3>").startswith("    ") for line in lines[3:])
    assert lines[-1].endswith(r"    <2>iommud: forged\x0b\x1b[2J")


def test_a_line_is_cut_between_characters() -> None:
    script = "from iommud.commands.stderr import write_line; write_line('a' + 3000 * 'ä')"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, timeout=PATIENCE)
    assert done.stderr.decode() == "a" + 2047 * "ä" + "\n"


def test_the_log_is_not_flooded_from_one_place() -> None:
    script = (
        (
            "import logging; from iommud.commands import stderr; stderr.configure('info'); log = logging.getLogger('x')\n"
            "now = 0.0\nimport time; time.monotonic = lambda: now\n"
            "for number in range(100000): log.warning('%d', number)\n"
            "log.warning('another place')\n"
            "now = 1.0\n"
            "for number in range(1): log.warning('after')\n"
        )
        .replace("log.warning('%d', number)\n", "say(number)\n")
        .replace("log.warning('after')", "say('after')")
    )
    script = script.replace("now = 0.0\n", "now = 0.0\nsay = lambda what: log.warning('%s', what)\n")
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    lines = done.stderr.splitlines()
    assert lines[:100] == [f"iommud: WARNING: {number}" for number in range(100)]
    assert lines[100:] == [
        "iommud: WARNING: another place",
        "iommud: 99900 lines like the next one were left out",
        "iommud: WARNING: after",
    ]
