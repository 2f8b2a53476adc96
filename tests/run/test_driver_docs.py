"""The documents that lead to a driver: each one's program is built, each block of sh is run as it
stands, and answers what the text says.
"""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE, ROOT

DOCUMENTS = ("vfio-devices.md", "nvme.md")
NUMBER = re.compile(r"(?<=mistake\[)\d+|(?<=thread )\d+")  # another one in each run


def steps(document: str) -> list[tuple[str, str]]:
    """Each block of sh, and what it prints: the block without a language that follows it."""
    blocks = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", (ROOT / "docs" / document).read_text())
    languages = [language for language, _ in blocks]
    assert set(languages) - {"yaml"} == {"sh", "c", ""}
    found = []
    for index, (language, text) in enumerate(blocks):
        if language == "sh":
            found.append((text, blocks[index + 1][1] if languages[index + 1 : index + 2] == [""] else ""))
    assert len(found) == languages.count("sh") >= languages.count("")
    return found


def checkout(directory: Path) -> Path:
    """What of the tree the blocks need, where a program may be built; `iommud` is on the PATH."""
    for part in "docs", "include":
        shutil.copytree(ROOT / part, directory / part)
    (directory / "bin").mkdir()
    (directory / "bin" / "iommud").symlink_to(IOMMUD)
    return directory


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_each_block_does_what_the_text_says(user: str, document: str) -> None:
    if user == "nobody" and os.geteuid() != 0:
        pytest.skip("the other one is this already")
    with TemporaryDirectory(prefix="iommud-test-") as name:
        directory = checkout(Path(name))
        directory.chmod(0o777)
        expected_of = steps(document)
        said = iter(outputs(directory, [script for script, _ in expected_of], [*AS_NOBODY] if user == "nobody" else []))
        for script, expected in expected_of:
            assert NUMBER.sub("N", next(said)) == NUMBER.sub("N", expected), script


def outputs(directory: Path, scripts: list[str], prefix: list[str]) -> list[str]:
    """What each of them prints, in one shell, in their order."""
    mark = "==== the next block ===="
    script = f"\necho '{mark}'\n".join(scripts)
    environment = {"PATH": f"{directory}/bin:{os.environ['PATH']}", "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    command = [*prefix, "sh", "-c", f"ulimit -c 0; exec 2>&1\n{script}"]
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=4 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)  # a driver that waits for ever keeps its device
            raise
    return said.split(f"{mark}\n")
