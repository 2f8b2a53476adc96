"""Lines of nvme_stream: what is compared of them, and how they are kept.

A line is `NUMBER KIND qQUEUE what was asked: answer`, or says something of a session. Whole streams
are kept as QEMU printed them (expected/*.txt). Of long ones only a digest of what is expected of
iommud is kept (expected/*.digest): of each kind how many lines there are, and a checksum.

    python -m tests.clients.nvme.answers OUTPUT >DIGEST        # of what QEMU printed
"""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from tests.clients.nvme.differences import LEFT_OUT, ROWS, Row

SESSION: Final = "session"  # the kind of lines that are no command's
# QEMU refuses these, so nobody knows their data.
_NO_DATA: Final = ("read.sgl_chain",)
_LINE: Final = re.compile(r"(?P<number>\d+) (?P<kind>[^ :]+)(?P<asked>.*): (?P<answer>[^:]*)")


class Line(NamedTuple):
    """`text`: all that is compared."""

    kind: str
    text: str


def ours(line: str) -> Line:
    """A line of iommud's."""
    match = _LINE.fullmatch(line)
    if match is None:
        return Line(SESSION, _plain(SESSION, line))
    return _line(match, _plain(match["kind"], match["answer"]))


def expected(line: str, used: set[Row] | None = None) -> Line:
    """What is expected where QEMU has printed `line`. `used`: rows that made a difference."""
    match = _LINE.fullmatch(line)
    if match is None:
        return Line(SESSION, _plain(SESSION, line))
    answer = _plain(match["kind"], match["answer"])
    for row in ROWS:
        if row.is_about(match["kind"], answer):
            answer = row.right
            if used is not None:
                used.add(row)
            break
    return _line(match, answer)


def digest(lines: Iterable[Line]) -> dict[str, str]:
    """Of each kind: how many there are, and a checksum."""
    counts: dict[str, int] = {}
    sums: dict[str, int] = {}
    for kind, text in lines:
        counts[kind] = counts.get(kind, 0) + 1
        sums[kind] = crc32(f"{text}\n".encode(), sums.get(kind, 0))
    return {kind: f"{counts[kind]} {sums[kind]:08x}" for kind in sorted(counts)}


def write(found: Mapping[str, str]) -> str:
    return "".join(f"{kind} {what}\n" for kind, what in found.items())


def read(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def _plain(kind: str, answer: str) -> str:
    answer = re.sub(" DNR| More", "", answer)
    return re.sub(" data [0-9a-f]{8}", "", answer) if kind in _NO_DATA else answer


def _line(match: re.Match[str], answer: str) -> Line:
    asked = "" if answer == LEFT_OUT else match["asked"]
    return Line(match["kind"], f"{match['number']} {match['kind']}{asked}: {answer}")


def main() -> None:
    used: set[Row] = set()
    lines = [expected(line, used) for line in Path(sys.argv[1]).read_text().splitlines()]
    sys.stdout.write(write(digest(lines)))
    for row in ROWS:
        if row not in used:
            print(f"no line is of {row.kinds}: {row.qemu}", file=sys.stderr)


if __name__ == "__main__":
    main()
