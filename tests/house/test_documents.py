"""What the documents name is there: files, headings, make's targets; and each document is named."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT

PARTS = ("*.md", "docs/*.md", "tests/*.md", ".github/*.md")
DOCUMENTS = sorted(path for part in PARTS for path in ROOT.glob(part))
CODE_BLOCK = re.compile(r"(?ms)^```.*?^```$")
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
# A path of the tree, in words or as code: what begins with one of its folders and a slash.
PATH = re.compile(r"(?<![\w/.-])(?:iommud|cuse_glue|tests|docs|scripts|man|completion|include)/[\w./-]+")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")


def anchors(path: Path) -> set[str]:
    """What can stand behind `#` in a link to this document, as GitHub makes it of the headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", CODE_BLOCK.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def targets() -> set[str]:
    """Every target of the Makefile that is not a file."""
    return set(re.findall(r"(?m)^([a-z][\w-]*):", (ROOT / "Makefile").read_text()))


def named(document: Path, word: re.Pattern[str]) -> set[str]:
    """What is named in code: in backquotes, or in a line that is set in."""
    text = document.read_text()
    code = re.findall(r"`[^`\n]+`|(?m:^ {4,}.*$)", text)
    return {found for part in code for found in word.findall(part)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_somewhere(document: Path) -> None:
    dead = []
    for link, anchor in LINK.findall(CODE_BLOCK.sub("", document.read_text())):
        if "://" in link:
            continue
        goal = (document.parent / link).resolve() if link else document
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            dead.append(f"{link}#{anchor}")
    assert dead == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_paths_are_there(document: Path) -> None:
    text = LINK.sub("]", document.read_text())
    paths = {found.rstrip(".") for found in PATH.findall(text)}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_targets_are_makes(document: Path) -> None:
    assert named(document, TARGET) <= targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_prose_ends_at_column_100(document: Path) -> None:
    """But for tables, code, and links that are longer."""
    lines = CODE_BLOCK.sub("", document.read_text()).splitlines()
    prose = [line for line in lines if not line.startswith(("|", "    ", "#")) and " " in line.strip()]
    assert [line for line in prose if len(line) > 100] == []


def test_what_is_not_there_is_found() -> None:
    assert PATH.findall("see iommud/nowhere.py") == ["iommud/nowhere.py"]
    assert TARGET.findall("`make nothing`") == ["nothing"]
    assert "nothing" not in targets()
    assert "check" in targets()
    assert "start" in anchors(ROOT / "CONTRIBUTING.md")


def test_the_index_names_each_document() -> None:
    index = ROOT / "docs" / "README.md"
    links = {link for link, _ in LINK.findall(index.read_text())}
    assert {path.name for path in (ROOT / "docs").iterdir()} - {"README.md"} <= links


def test_the_list_of_tests_names_each_folder() -> None:
    links = {link for link, _ in LINK.findall((ROOT / "tests" / "README.md").read_text())}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert links == folders
