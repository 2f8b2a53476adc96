"""The files for those who come from outside: workflows, forms, versions. None of them can run here,
so they are kept thin, and what they name is held against what there is.
"""

import re
import tomllib
from pathlib import Path

import pytest

from iommud import __version__
from tests.house.options import commands
from tests.house.test_documents import targets
from tests.support import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STEP = re.compile(r"(?m)^\s*-? ?run: *(.*)$")
CALL = re.compile(r'(?:sudo )?make ([a-z-]+)((?: [A-Z]+=(?:"[^"]*"|[\w./]+))*)')


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_only_calls_make(path: Path) -> None:
    """Whatever a workflow does can be done by hand, by the same name."""
    steps = STEP.findall(path.read_text())
    assert steps
    calls = [CALL.fullmatch(step) for step in steps]
    assert all(calls), f"more than a call of make: {steps}"
    assert {call[1] for call in calls if call} <= targets()


def test_what_more_than_make_does_is_found() -> None:
    assert STEP.findall("    - run: make check && rm -r /\n") == ["make check && rm -r /"]
    assert CALL.fullmatch("make check && rm -r /") is None
    assert CALL.fullmatch("make check DEPENDENCIES=lowest")


def test_variables_of_workflows_are_makes() -> None:
    variables = set(re.findall(r"(?m)^([A-Z]+) [?:]?=", (ROOT / "Makefile").read_text()))
    calls = [CALL.fullmatch(step) for path in WORKFLOWS for step in STEP.findall(path.read_text())]
    given = {name for call in calls if call for name in re.findall(r" ([A-Z]+)=", call[2])}
    assert given
    assert given <= variables


def test_each_python_that_is_supported_is_checked() -> None:
    [matrix] = re.findall(r"(?m)^\s+python: \[(.*)\]$", (ROOT / ".github" / "workflows" / "check.yml").read_text())
    versions = re.findall(r'"([\d.]+)"', matrix)
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert versions == [f"3.{minor}" for minor in range(11, 15)]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_asks_for_what_is_needed_to_answer(path: Path) -> None:
    text = path.read_text()
    assert "iommud --version" in text
    assert "uname -r" in text
    assert "iommud run --why" in text


def test_forms_name_options_that_there_are() -> None:
    known = {flag for command in commands() for flag in command.flags}
    lines = "\n".join(path.read_text() for path in FORMS)
    used = {
        flag for line in re.findall(r"iommud (?:run |serve )?(--.*)", lines) for flag in re.findall(r"--[\w-]+", line)
    }
    assert used
    assert used <= known


def test_the_newest_changes_are_of_this_version() -> None:
    """Released: number and date. Before that the code calls itself `.dev0` of what is to come."""
    heading = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text())[0]
    number = __version__.removesuffix(".dev0")
    wanted = r", not released yet" if __version__.endswith(".dev0") else r", \d{4}-\d\d-\d\d"
    assert re.fullmatch(re.escape(number) + wanted, heading), f"{heading!r} and {__version__}"
