"""What is installed from the sdist and the wheel works, is all of it, and nothing else."""

import re
import subprocess
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.metadata import Metadata
from readme_renderer import markdown
from trove_classifiers import classifiers

from iommud import __version__
from tests.clients.build import build
from tests.packaging.conftest import NO_COMPILER, Distributions
from tests.support import PATIENCE, ROOT, mentions

SHARED = (
    "man/man1/iommud.1",
    "bash-completion/completions/iommud",
    "zsh/site-functions/_iommud",
    "fish/vendor_completions.d/iommud.fish",
)


@pytest.fixture
def metadata(distributions: Distributions) -> Metadata:
    with zipfile.ZipFile(distributions.wheel) as archive:
        # checks every field
        return Metadata.from_email(archive.read(f"iommud-{__version__}.dist-info/METADATA"))


def output(*command: str | Path, cwd: Path) -> str:
    """What `command` prints, anywhere but in the tree, and where there is no compiler."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=cwd, env=NO_COMPILER)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_sdist_is_all_that_is_kept_and_no_more(distributions: Distributions) -> None:
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True
    )
    if listing.returncode or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, so nobody knows which of its files are kept")
    with tarfile.open(distributions.sdist) as archive:
        inside = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    kept = {name for name in listing.stdout.splitlines() if (ROOT / name).exists() and not name.startswith(".ci/")}
    assert inside - {"PKG-INFO"} == kept


def test_the_wheel_is_the_packages_and_what_they_read(distributions: Distributions) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = {
        path.relative_to(ROOT)
        for package in ("iommud", "cuse_glue")
        for path in (ROOT / package).rglob("*")
        if path.is_file()
    }
    wanted = {str(path) for path in tree if "__pycache__" not in path.parts}
    wanted |= {f"iommud/{path.relative_to(ROOT)}" for path in (ROOT / "include").rglob("*.h")}
    wanted |= {f"iommud-{__version__}.data/data/share/{name}" for name in SHARED}
    assert inside == wanted


def test_the_wheel_is_for_every_machine(distributions: Distributions) -> None:
    assert distributions.wheel.name == f"iommud-{__version__}-py3-none-any.whl"


def test_its_metadata(metadata: Metadata) -> None:
    assert (metadata.name, str(metadata.version), metadata.license_expression) == ("iommud", __version__, "MIT")
    assert metadata.license_files == ["LICENSE"]
    assert set(metadata.classifiers or ()) <= classifiers
    assert metadata.requires_python is not None
    assert "3.11" in metadata.requires_python
    assert "3.10" not in metadata.requires_python
    assert set(metadata.project_urls or ()) == {"Homepage", "Documentation", "Changes", "Issues"}


def test_its_readme_renders(metadata: Metadata) -> None:
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()
    rendered = markdown.render(metadata.description)
    assert rendered is not None
    assert re.search(r"<h1[^>]*>iommud<", rendered)
    assert "<table>" in rendered


def test_the_command_and_the_module_say_their_version(installed: Path, tmp_path: Path) -> None:
    for command in ([installed / "bin" / "iommud"], [installed / "bin" / "python", "-m", "iommud"]):
        assert output(*command, "--version", cwd=tmp_path) == f"iommud {__version__}\n"


def test_nothing_of_it_is_elsewhere(installed: Path, tmp_path: Path) -> None:
    """Also not by a file that adds a path, as editable installations have."""
    script = "import cuse_glue, iommud.uapi.header as h, sys; print(cuse_glue.__file__, h.__file__, h.INCLUDE, *sys.path, sep='\\n')"
    for line in output(installed / "bin" / "python", "-c", script, cwd=tmp_path).splitlines():
        assert not Path(line).is_relative_to(ROOT)
    for name in SHARED:
        assert (installed / "share" / name).is_file()
    naming = [path for path in installed.rglob("*") if path.is_file() and mentions(path.read_bytes(), ROOT)]
    # Python's own note of how the environment was made, and what a Python in there is linked to.
    assert {path.name for path in naming} <= {"pyvenv.cfg", "direct_url.json"}


@pytest.mark.parametrize("options", [["--mock", "--vfio"], ["--mock", "--iommu", "vtd"], []], ids=" ".join)
def test_run(options: list[str], installed: Path, tmp_path: Path) -> None:
    client = {2: "mock/type1", 3: "kinds/vtd", 0: "ioas_map"}[len(options)]
    lines = output(installed / "bin" / "iommud", "run", *options, "--", build(client), cwd=tmp_path).splitlines()
    checks = [line for line in lines if not line.startswith("#")]
    assert checks[-1] == f"1..{len(checks) - 1}"
    assert all(line.startswith("ok ") for line in checks[:-1])
