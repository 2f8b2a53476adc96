"""docs/install.md: each of its blocks is run as it stands (that for systemd by tests/systemd)."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.packaging import container
from tests.packaging.conftest import Distributions
from tests.packaging.need import need
from tests.support import AS_NOBODY, PATIENCE, ROOT

DOCUMENT = (ROOT / "docs" / "install.md").read_text()
BLOCKS = re.findall(r"(?ms)^```(.*?)\n(.*?)^```$", DOCUMENT)
SECONDS = 300.0  # for one block, which may fetch and build
SAID = re.compile(r"^my-program\[\d+\]: IOMMU_DESTROY: ENOENT: .*77", re.MULTILINE)  # by --why
REACHES_PIP = [text for text in os.environ if text.startswith(("PIP_", "SSL_", "http", "HTTP"))]

pytestmark = pytest.mark.usefixtures("root")


def blocks(kind: str) -> list[str]:
    return [text for label, text in BLOCKS if label == f"sh {kind}"]


def test_each_block_is_of_a_kind_that_is_run() -> None:
    assert {label for label, _ in BLOCKS} == {"sh user", "sh root", "sh pipx", "sh container", "sh systemd"}


@pytest.fixture(scope="module")
def home(distributions: Distributions, probe: str) -> Iterator[Path]:
    """The home of the user nobody, with a checkout and a program in it."""
    with TemporaryDirectory(prefix="iommud-test-") as name:
        directory = Path(name)
        with tarfile.open(distributions.sdist) as archive:
            archive.extractall(directory, filter="data")
        [tree] = directory.iterdir()
        tree.rename(directory / "checkout")
        shutil.copy(probe, directory / "checkout" / "my-program")
        subprocess.run(["chown", "-R", "nobody:nogroup", directory], check=True)
        yield directory


def shell(script: str, home: Path, *flags: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run the lines of a block as nobody, in the checkout; the first that fails ends it."""
    kept = {name: os.environ[name] for name in REACHES_PIP}
    environment = kept | {"HOME": str(home), "PATH": f"{path}{sys.base_prefix}/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    command = [*AS_NOBODY, *flags, "sh", "-ec", script]
    return subprocess.run(
        command, cwd=home / "checkout", env=environment, capture_output=True, text=True, timeout=SECONDS
    )


def assert_it_ran(done: subprocess.CompletedProcess[str], times: int = 1) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ioas 1\nrefused 2\n") == times
    assert len(SAID.findall(done.stderr)) == times


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """For what fetches packages."""
    command: list[str | Path] = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest"]
    command += [tmp_path_factory.mktemp("index"), "hatchling"]
    if subprocess.run(command, capture_output=True, timeout=SECONDS).returncode:
        pytest.skip("no package index is to be reached")


@pytest.mark.usefixtures("index")
def test_the_users_blocks(home: Path) -> None:
    """In the order of the text: one of them needs what another made."""
    script = "\n".join(blocks("user"))
    assert_it_ran(shell(script, home), times=script.count("./my-program"))


@pytest.mark.usefixtures("index")
def test_pipx(home: Path) -> None:
    [block] = blocks("pipx")
    path = f"{Path(need('pipx')).parent}:{home}/.local/bin:"
    assert_it_ran(shell(f"export PIPX_DEFAULT_PYTHON={sys.base_prefix}/bin/python3\n{block}", home, path=path))


def test_roots_blocks(home: Path, installed: Path) -> None:
    """What the user is told to have done helps him. It is done to a node of its own, in a private
    mount namespace.
    """
    command = f"{installed / 'bin' / 'iommud'} run --why -- ./my-program"
    refused = shell(command, home, "--closed-fuse")
    assert refused.returncode == 125
    assert "chmod 0666 /dev/fuse" in refused.stderr
    for block in blocks("root"):
        assert_it_ran(shell(command, home, "--closed-fuse", "--first", block))


@pytest.fixture
def image(installed: Path, probe: str, open_directory: Path) -> Path:
    """What my-image has besides a system: iommud, and the program."""
    (open_directory / "venv").mkdir()
    shutil.copytree(installed, open_directory / "venv", symlinks=True, dirs_exist_ok=True)
    for script in (open_directory / "venv" / "bin").iterdir():
        if not script.is_symlink() and script.read_bytes().startswith(b"#!"):
            script.write_text(script.read_text().replace(str(installed), "/venv"))
    shutil.copy(probe, open_directory / "my-program")
    return open_directory


def contained(line: str, image: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    command = container.command(line, image, directory, need("runc"))
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("line", blocks("container"))
def test_the_containers(line: str, image: Path, tmp_path: Path) -> None:
    done = contained(line, image, tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ioas 1\nrefused 2\n"
    assert bool(SAID.search(done.stderr)) == ("--why" in line)


def test_an_ordinary_user_in_a_container(image: Path, tmp_path: Path) -> None:
    line = blocks("container")[0].replace("--rm", "--rm --user 65534")
    done = contained(line, image, tmp_path / "bundle")
    assert (done.returncode, done.stdout) == (0, "ioas 1\nrefused 2\n"), done.stderr


@pytest.mark.parametrize("line", blocks("container")[:2])
def test_fewer_options_are_not_enough(line: str, image: Path, tmp_path: Path) -> None:
    options = re.findall(r"--(?:device|cap-add|security-opt) \S+", line)
    assert len(options) > 1
    for number, option in enumerate(options):
        done = contained(line.replace(option, ""), image, tmp_path / str(number))
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith("iommud: ")
        assert done.stderr.count("\n") == 1
        assert option.split()[1].partition("=")[0] in done.stderr or option.startswith("--cap-add SYS_ADMIN")


def test_true_pins_take_the_profile_away(image: Path, tmp_path: Path) -> None:
    line = blocks("container")[1].replace("run --why", "run --pin uring")
    done = contained(line, image, tmp_path / "1")
    assert (done.returncode, done.stdout, done.stderr.count("Traceback")) == (125, "", 0), done.stderr
    assert "io_uring" in done.stderr
    done = contained(line.replace("--device", "--security-opt seccomp=unconfined --device"), image, tmp_path / "2")
    assert (done.returncode, done.stdout) == (0, "ioas 1\nrefused 2\n"), done.stderr


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]*)\)", DOCUMENT)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
