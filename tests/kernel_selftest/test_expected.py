"""The rules by which `make kernel-selftest` judges: what a result is, and that the list of failures
only shrinks.
"""

from pathlib import Path

import pytest

from .expected import judge, read, shrink
from .process import collect
from .tap import Outcome, Result, names, parse

TAP = """\
TAP version 13
1..4
# Starting 4 tests from 2 test cases.
#  RUN           door.opens ...
#            OK  door.opens
ok 1 door.opens
#  RUN           door.wood.shuts ...
# door.c:12:shuts:Expected 0 (0) == shut() (-1)
# shuts: Test terminated by assertion
#          FAIL  door.wood.shuts
not ok 2 door.wood.shuts
#  RUN           door.iron.shuts ...
#      SKIP      no iron here
#            OK  door.iron.shuts
ok 3 door.iron.shuts # SKIP no iron here
#  RUN           door.iron.locks ...
"""

LISTING = """\
# FIXTURE            VARIANT                   TEST
global                                         
--------------------------------------------------------------------------------
door                                           opens
                                               shuts
--------------------------------------------------------------------------------
a_fixture_with_a_long_name wood                      locks
                     iron                      creaks
                     something_longer_than_the_column 
--------------------------------------------------------------------------------
window               left                      opens
                                               shuts
"""  # noqa: W291  the harness pads with blanks


def results(**outcomes: str) -> dict[str, Result]:
    return {name: Result(name, Outcome(outcome)) for name, outcome in outcomes.items()}


def test_tap_results() -> None:
    found = parse((float(when), line) for when, line in enumerate(TAP.splitlines(keepends=True)))
    assert {name: result.outcome for name, result in found.items()} == {
        "door.opens": Outcome.PASS,
        "door.wood.shuts": Outcome.FAIL,
        "door.iron.shuts": Outcome.SKIP,
        "door.iron.locks": Outcome.MISSING,  # the run ended in it
    }
    assert found["door.opens"].said == []
    assert found["door.wood.shuts"].said == [
        "door.c:12:shuts:Expected 0 (0) == shut() (-1)",
        "shuts: Test terminated by assertion",
    ]
    assert found["door.iron.shuts"].said == ["no iron here"]
    assert found["door.wood.shuts"].seconds == 4


def test_every_test_of_a_fixture_runs_in_every_variant() -> None:
    assert names(LISTING) == [
        "door.opens",
        "door.shuts",
        "a_fixture_with_a_long_name.wood.locks",
        "a_fixture_with_a_long_name.wood.creaks",
        "a_fixture_with_a_long_name.iron.locks",
        "a_fixture_with_a_long_name.iron.creaks",
        "a_fixture_with_a_long_name.something_longer_than_the_column.locks",
        "a_fixture_with_a_long_name.something_longer_than_the_column.creaks",
        "window.left.opens",
        "window.left.shuts",
    ]


def test_as_expected() -> None:
    verdict = judge(["a", "b", "c"], results(a="pass", b="fail", c="skip"), ["b"])
    assert (verdict.passed, verdict.failed, verdict.skipped, verdict.bad) == (["a"], ["b"], ["c"], 0)


def test_a_failure_that_is_not_listed() -> None:
    verdict = judge(["a", "b"], results(a="pass", b="fail"), [])
    assert (verdict.passed, verdict.broken, verdict.bad) == (["a"], ["b"], 1)


def test_a_listed_test_that_passes() -> None:
    verdict = judge(["a", "b"], results(a="pass", b="pass"), ["b"])
    assert (verdict.passed, verdict.mended, verdict.bad) == (["a"], ["b"], 1)


def test_a_listed_name_that_is_no_test() -> None:
    verdict = judge(["a"], results(a="pass"), ["z"])
    assert (verdict.passed, verdict.unknown, verdict.bad) == (["a"], ["z"], 1)


def test_a_test_that_never_ran_failed() -> None:
    verdict = judge(["a", "b", "c"], results(a="pass", b="did not run"), [])
    assert (verdict.broken, verdict.bad) == (["b", "c"], 2)


def test_a_skipped_test_may_be_listed() -> None:
    verdict = judge(["a"], results(a="skip"), ["a"])
    assert (verdict.skipped, verdict.bad) == (["a"], 0)


def test_read_the_list() -> None:
    assert read("# all of them\n\ndoor.opens  # the hinge\n  door.shuts\n#door.locks\n") == ["door.opens", "door.shuts"]
    with pytest.raises(ValueError, match="line 1: one name a line"):
        read("door.opens door.shuts\n")
    with pytest.raises(ValueError, match=r"line 3: door\.opens is listed twice"):
        read("door.opens\n\ndoor.opens # again\n")


def test_the_list_only_shrinks() -> None:
    text = "# wood\ndoor.opens # the hinge\ndoor.shuts\n\n# door.opens is a comment here\nwindow.opens"
    less = "# wood\ndoor.shuts\n\n# door.opens is a comment here\nwindow.opens"
    assert shrink(text, ["door.opens", "not.listed"]) == less
    assert shrink(text, []) == text


def test_a_run_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    # The inner shell is in a process group of its own, as the harness's tests are, and holds the
    # output open.
    script = "set -m; bash -c 'echo $$; exec sleep 1000' & wait"
    output = collect(["bash", "-c", script], tmp_path / "log", 0.5)
    assert output.timed_out
    inner = Path(f"/proc/{int((tmp_path / 'log').read_text())}/stat")
    assert not inner.exists() or inner.read_text().rpartition(")")[2].split()[0] in "ZX"
