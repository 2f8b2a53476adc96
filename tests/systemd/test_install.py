"""`make install` and `make uninstall`: what they put where, and that nothing else is touched."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import AS_NOBODY, PATIENCE, ROOT, make

pytestmark = pytest.mark.usefixtures("built")

ANSWERS = "ioas 1\nrefused 2\n"  # of probe
FILES = {
    "bin/iommud",
    "lib/modules-load.d/iommud.conf",
    "lib/systemd/system/iommud.service",
    "lib/systemd/system/iommud@.service",
    "lib/sysusers.d/iommud.conf",
    "lib/udev/rules.d/60-iommud.rules",
    "share/bash-completion/completions/iommud",
    "share/fish/vendor_completions.d/iommud.fish",
    "share/man/man1/iommud.1",
    "share/zsh/site-functions/_iommud",
}


def tree(top: Path) -> dict[str, object]:
    """All that is below `top`: of files the content, of directories nothing."""
    return {
        str(path.relative_to(top)): path.read_bytes() if path.is_file() else None for path in sorted(top.rglob("*"))
    }


def files(top: Path) -> set[str]:
    """The files below `top` that are not the packages'."""
    return {name for name, content in tree(top).items() if content is not None and "lib/iommud/" not in name}


def installs(*variables: str) -> None:
    done = make("install", *variables)
    assert done.returncode == 0, done.stderr


def uninstalls(*variables: str) -> str:
    done = make("uninstall", *variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_installed(installed: Path) -> None:
    assert files(installed) == {"etc/default/iommud"} | {f"usr/local/{name}" for name in FILES}
    modes = {path.stat().st_mode & 0o7777 for path in installed.rglob("*") if path.is_file()}
    assert modes == {0o644, 0o755}
    assert {path.stat().st_mode & 0o7777 for path in installed.rglob("*") if path.is_dir()} == {0o755}


def test_prefix(tmp_path: Path) -> None:
    installs(f"DESTDIR={tmp_path}", "PREFIX=/usr")
    assert files(tmp_path) == {"etc/default/iommud"} | {f"usr/{name}" for name in FILES}
    assert "ExecStart=/usr/bin/iommud serve" in (tmp_path / "usr/lib/systemd/system/iommud.service").read_text()


def test_gnus_variables(tmp_path: Path) -> None:
    variables = {
        "bindir": "/b", "mandir": "/m", "sysconfdir": "/s", "unitdir": "/u", "sysusersdir": "/y", "udevrulesdir": "/r",
        "modulesloaddir": "/l", "datadir": "/d", "pkglibdir": "/p",
    }  # fmt: skip
    installs(f"DESTDIR={tmp_path}", *(f"{name}={path}" for name, path in variables.items()))
    assert {path.name for path in tmp_path.iterdir()} == {path[1:] for path in variables.values()}
    unit = (tmp_path / "u/iommud.service").read_text()
    assert "ExecStart=/b/iommud serve" in unit
    assert "EnvironmentFile=-/s/default/iommud\n" in unit
    assert 'sys.path.insert(0, "/p")' in (tmp_path / "b/iommud").read_text()


def test_uninstall_leaves_what_was_there(tmp_path: Path) -> None:
    others = ["usr/local/bin/other", "usr/local/lib/systemd/system/other.service", "usr/local/lib/iommud/of-somebody"]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    (tmp_path / "usr/local/share/man/man1").mkdir(parents=True)
    before = tree(tmp_path)
    installs(f"DESTDIR={tmp_path}")
    assert tree(tmp_path).items() > before.items()
    uninstalls(f"DESTDIR={tmp_path}")
    assert tree(tmp_path) == before


def test_uninstall_of_nothing(tmp_path: Path) -> None:
    done = make("uninstall", f"DESTDIR={tmp_path}")
    assert done.returncode != 0
    assert "nothing is installed" in done.stderr


def test_a_second_install_is_as_the_first(tmp_path: Path) -> None:
    installs(f"DESTDIR={tmp_path}")
    before = files(tmp_path)
    stale = tmp_path / "usr/local/lib/iommud/iommud/engine/__pycache__/old.cpython-311.pyc"
    stale.touch()
    installs(f"DESTDIR={tmp_path}")
    assert files(tmp_path) == before
    assert not stale.exists()


def test_a_changed_configuration_is_kept(tmp_path: Path) -> None:
    installs(f"DESTDIR={tmp_path}")
    configuration = tmp_path / "etc/default/iommud"
    configuration.write_text("IOMMUD_ARGS=--mock\n")
    installs(f"DESTDIR={tmp_path}")
    assert configuration.read_text() == "IOMMUD_ARGS=--mock\n"
    assert str(configuration) in uninstalls(f"DESTDIR={tmp_path}")
    assert files(tmp_path) == {"etc/default/iommud"}


def test_somebody_elses_file_is_not_replaced(tmp_path: Path) -> None:
    theirs = tmp_path / "usr/local/bin/iommud"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    done = make("install", f"DESTDIR={tmp_path}")
    assert done.returncode != 0
    assert f"{theirs} is there, and was not installed by this" in done.stderr
    assert tree(tmp_path) == {"usr": None, "usr/local": None, "usr/local/bin": None, "usr/local/bin/iommud": b"theirs"}


def test_a_relative_directory_is_refused(tmp_path: Path) -> None:
    assert "bindir has to be an absolute path" in make("install", f"DESTDIR={tmp_path}", "bindir=bin").stderr


def test_the_command_runs_from_there(open_directory: Path, probe: str) -> None:
    """And nothing that Python finds elsewhere gets between."""
    installs(f"PREFIX={open_directory}", f"sysconfdir={open_directory}/etc")
    command = [f"{open_directory}/bin/iommud", "run", "--", probe, "once"]
    (open_directory / "trap").mkdir()
    for module in ("trio", "argparse"):
        (open_directory / "trap" / f"{module}.py").write_text("raise SystemExit('the trap')")
    environment = dict(os.environ, PYTHONPATH=str(open_directory / "trap"))
    assert subprocess.check_output(command, env=environment, cwd=open_directory / "trap", text=True) == ANSWERS
    if os.geteuid() == 0:
        assert subprocess.check_output([*AS_NOBODY, *command], text=True, timeout=PATIENCE) == ANSWERS
    uninstalls(f"PREFIX={open_directory}", f"sysconfdir={open_directory}/etc")
    assert {path.name for path in open_directory.iterdir()} == {"trap"}


def test_what_is_built_has_no_place_of_this_machine() -> None:
    assert not (ROOT / "build" / "app" / "bin").exists()
    assert not list((ROOT / "build" / "app").rglob("direct_url.json"))
