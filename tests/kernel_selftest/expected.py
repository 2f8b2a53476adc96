"""The committed list of tests that are expected to fail, and the rule that it only shrinks.

The list has one name a line; `#` starts a comment. A listed test that passes is as much a failure
of the run as one that fails and is not listed: so what was won is written down at once and cannot
be lost again unseen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .tap import Outcome, Result


@dataclass
class Judgement:
    """Names, each list in the order of the run.

    `passed` and `failed` are as they should be (failed: listed); `skipped` are neither good nor
    bad. The other three fail the run: `broken` failed or did not run and is not listed, `mended`
    passed and still is, `unknown` is listed and is no test.
    """

    passed: list[str]
    failed: list[str]
    skipped: list[str]
    broken: list[str]
    mended: list[str]
    unknown: list[str]

    @property
    def bad(self) -> int:
        """How many tests or lines of the list are not as they should be."""
        return len(self.broken) + len(self.mended) + len(self.unknown)


def read(text: str) -> list[str]:
    """The names in a list. Raises ValueError at a line that is not one name, or a name that is
    there twice.
    """
    listed: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise ValueError(f"line {number}: one name a line, not {line!r}")
        if words and words[0] in listed:
            raise ValueError(f"line {number}: {words[0]} is listed twice")
        listed += words
    return listed


def judge(every: Sequence[str], results: Mapping[str, Result], listed: Iterable[str]) -> Judgement:
    """Holds the results of the tests `every` against the list. A test without a result failed."""
    expected = set(listed)
    verdict = Judgement([], [], [], [], [], sorted(expected.difference(every)))
    for name in every:
        outcome = results[name].outcome if name in results else Outcome.MISSING
        if outcome is Outcome.SKIP:
            verdict.skipped.append(name)
        elif outcome is Outcome.PASS:
            (verdict.mended if name in expected else verdict.passed).append(name)
        else:
            (verdict.failed if name in expected else verdict.broken).append(name)
    return verdict


def shrink(text: str, gone: Iterable[str]) -> str:
    """The list without the lines that name one of `gone`. Nothing else changes, so nothing can be
    added.
    """
    removed = set(gone)
    kept = [line for line in text.splitlines(keepends=True) if not removed.intersection(line.partition("#")[0].split())]
    return "".join(kept)
