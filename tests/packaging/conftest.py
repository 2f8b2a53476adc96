"""The distributions as an index would have them, and an installation of the wheel."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import ROOT

WHEELHOUSE = ROOT / "build" / "wheelhouse"  # what the wheel depends on, fetched once
# No directory of it has a compiler, and who looks for one by name finds `false`.
NO_COMPILER = {"PATH": "/nonexistent", "CC": "false", "CXX": "false"}


@dataclass(frozen=True, slots=True)
class Distributions:
    """An sdist, and the wheel that was built from it (not from the tree)."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT], check=True, capture_output=True
    )
    [sdist], [wheel] = directory.glob("*.tar.gz"), directory.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def installed(distributions: Distributions) -> Iterator[Path]:
    """A virtual environment with the wheel and what it depends on, for every user to read; nothing
    could be compiled for it.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    with TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        environment = Path(name, "venv")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        install: list[str | Path] = [
            *pip,
            "--python",
            environment / "bin" / "python",
            "install",
            "--only-binary=:all:",
            "--no-index",
        ]
        install += ["--find-links", WHEELHOUSE, distributions.wheel]
        variables = os.environ | NO_COMPILER
        if subprocess.run(install, env=variables, capture_output=True).returncode:
            fetch: list[str | Path] = [
                *pip,
                "download",
                "--only-binary=:all:",
                "--dest",
                WHEELHOUSE,
                distributions.wheel,
            ]
            subprocess.run(fetch, check=True, env=variables)
            subprocess.run(install, check=True, env=variables)
        yield environment
