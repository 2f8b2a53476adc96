"""What the kernel's test harness prints: the list of its tests, and TAP, a test's complaints above
its result.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    MISSING = "did not run"


@dataclass
class Result:
    """One test's outcome; `said` are the harness's complaints about it, `seconds` how long it ran
    (if known).
    """

    name: str
    outcome: Outcome
    said: list[str] = field(default_factory=list)
    seconds: float = 0.0


STARTED = re.compile(r"#  RUN +(\S+) \.\.\.$")
ENDED = re.compile(r"(ok|not ok) \d+ (\S+)(?: # +(.*))?$")
VERDICT = re.compile(r"# +(OK|FAIL) +\S+$")
COLUMNS = (20, 25)  # the widths of the fixture's and the variant's column in the list of tests


def parse(lines: Iterable[tuple[float, str]]) -> dict[str, Result]:
    """The results by name, from (time in seconds, line) pairs of the harness's output.

    A test that was started and has no result, because the run ended in it, is MISSING.
    """
    results: dict[str, Result] = {}
    said: list[str] = []
    began = 0.0
    for when, text in lines:
        line = text.rstrip()
        if start := STARTED.match(line):
            results[start[1]] = Result(start[1], Outcome.MISSING)
            said, began = [], when
        elif end := ENDED.match(line):
            status, name, remark = end.groups()
            outcome = Outcome.FAIL if status == "not ok" else Outcome.PASS
            if remark is not None and remark.startswith("SKIP"):
                outcome, said = Outcome.SKIP, [remark.removeprefix("SKIP").strip()]
            results[name] = Result(name, outcome, said, when - began)
            said = []
        elif line.startswith("#") and not VERDICT.match(line):
            said.append(line.lstrip("# "))
    return results


def names(listing: str) -> list[str]:
    """All tests, in the order in which they run, from the harness's list (option -l).

    The list is a block for each fixture, whose rows name its variants and, beside them and
    independent of them, its tests: each test runs in each variant. A fixture without variants has
    just tests.
    """
    found: list[str] = []
    for block in re.split(r"^-+$", listing, flags=re.MULTILINE):
        rows = [split(line) for line in block.splitlines() if line.strip() and not line.startswith("# FIXTURE")]
        fixture = "".join(row[0] for row in rows)
        variants = [row[1] for row in rows if row[1]]
        tests = [row[2] for row in rows if row[2]]
        for middle in [f".{variant}." for variant in variants] or ["."]:
            found += [f"{fixture}{middle}{test}" for test in tests]
    return found


def split(line: str) -> tuple[str, str, str]:
    """The three columns of a row; a word longer than its column moves the rest to the right."""
    cells = []
    for width in COLUMNS:
        word = "" if line[:1] in ("", " ") else line.split(maxsplit=1)[0]
        cells.append(word)
        line = line[max(width, len(word)) + 1 :]
    return cells[0], cells[1], line.strip()
