"""The files for systemd, judged by systemd's own tools."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import ROOT, mentions

# How exposed the service is, in tenths, by `systemd-analyze security` of systemd 252. It may only
# go down.
EXPOSURE = 69
UNITS = ["iommud.service", "iommud@.service"]
INSTANCES = ["iommud.service", "iommud@two.service"]
PLACES = ["lib/systemd/system", "usr/lib/systemd/system"]

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


@pytest.fixture(scope="module")
def system(installed: Path) -> Iterator[Path]:
    """A root directory with iommud installed beside this machine's units."""
    with TemporaryDirectory(prefix="iommud-test-") as name:
        root = Path(name, "root")
        shutil.copytree(installed, root, symlinks=True)
        for place in PLACES:
            if Path("/", place).is_dir() and not Path("/", place).parent.is_symlink():
                shutil.copytree(Path("/", place), root / place, symlinks=True, dirs_exist_ok=True)
        for needed in ("usr/bin/true", "sbin/modprobe", "usr/sbin/modprobe"):
            (root / needed).parent.mkdir(parents=True, exist_ok=True)
            (root / needed).touch(0o755)
        yield root


def unit_text(system: Path, unit: str) -> str:
    return (system / "usr/local/lib/systemd/system" / unit).read_text()


@pytest.mark.parametrize("unit", INSTANCES)
def test_systemd_finds_nothing_wrong(system: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={system}", unit], capture_output=True, text=True
    )
    about_us = [line for line in done.stderr.splitlines() if "iommud" in line]
    assert (about_us, done.returncode) == ([], 0), done.stderr


def test_it_would_find_something(system: Path, tmp_path: Path) -> None:
    bad = tmp_path / "iommud-bad.service"
    bad.write_text(unit_text(system, "iommud.service").replace("NoNewPrivileges=yes", "NoNewPrivilege=yes"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(bad)], capture_output=True, text=True)
    assert "NoNewPrivilege" in done.stderr


def exposure(system: Path, unit: str) -> int:
    command = ["systemd-analyze", "security", "--offline=true", f"--root={system}", "--no-pager", unit]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for \S+: (\d+)\.(\d)", done.stdout)
    assert found, done.stderr
    return int(found[1] + found[2])


@pytest.mark.parametrize("unit", INSTANCES)
def test_it_is_not_more_exposed_than_before(system: Path, unit: str) -> None:
    assert exposure(system, unit) <= EXPOSURE


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("filter",), "first brings the figure to"),
        (("mounts",), "second to"),
        (("filter", "mounts"), "both to"),
        (("filter", "mounts", "capabilities"), "all three to"),
    ],
)
def test_what_the_document_says_of_confining_it_further(system: Path, names: tuple[str, ...], words: str) -> None:
    text = (ROOT / "docs" / "service.md").read_text()
    drop_ins = system / "etc/systemd/system/iommud.service.d"
    drop_ins.mkdir(parents=True)
    try:
        for name in names:
            [settings] = re.findall(rf"(?ms)^```ini /etc/systemd/system/iommud.service.d/{name}.conf\n(.*?)^```$", text)
            (drop_ins / f"{name}.conf").write_text(settings)
        [(whole, tenths)] = re.findall(rf"{words} (\d)\.(\d)", text)
        assert exposure(system, "iommud.service") <= int(whole + tenths)
    finally:
        shutil.rmtree(drop_ins)


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_left_open_has_its_reason(system: Path, unit: str) -> None:
    """Each setting that systemd counts as relaxed is named in the unit, by a comment that
    says why.
    """
    command = ["systemd-analyze", "security", "--offline=true", f"--root={system}", "--json=short", "iommud.service"]
    table = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    relaxed = {re.match(r"\w+", row["name"])[0] for row in table if row["set"] is False}  # type: ignore[index]
    comments = " ".join(line for line in unit_text(system, unit).splitlines() if line.startswith("#"))
    explained = set(re.findall(r"\b(\w+)=", comments)) | {"CapabilityBoundingSet", "DeviceAllow", "PrivateMounts"}
    assert relaxed
    assert relaxed - explained == set()


@pytest.mark.parametrize("unit", UNITS)
def test_each_capability_has_its_reason(system: Path, unit: str) -> None:
    text = unit_text(system, unit)
    [granted] = re.findall(r"(?m)^CapabilityBoundingSet=(.*)$", text)
    assert set(granted.split()) == set(re.findall(r"(?m)^# (CAP_\w+): ", text))


def test_the_manual_that_it_names_is_installed(installed: Path) -> None:
    [name, chapter] = re.findall(r"(?m)^Documentation=man:(\w+)\((\d)\)$", unit_text(installed, "iommud.service"))[0]
    assert (installed / f"usr/local/share/man/man{chapter}/{name}.{chapter}").is_file()


def test_the_group_is_made(installed: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("there is no systemd-sysusers")
    shutil.copytree(installed / "usr/local/lib/sysusers.d", tmp_path / "usr/lib/sysusers.d")
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True, capture_output=True)
    assert re.search(r"(?m)^iommu:", (tmp_path / "etc/group").read_text())
    assert not (tmp_path / "etc/passwd").exists() or "iommu" not in (tmp_path / "etc/passwd").read_text()


def test_no_unit_has_a_place_of_the_machine_that_made_it(installed: Path) -> None:
    for path in installed.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not mentions(content, ROOT), path
            assert not mentions(content, installed), path
