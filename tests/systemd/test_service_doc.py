"""docs/service.md, and what docs/install.md has of it: each block is run as it stands, in a machine
that has only what everybody has.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.clients.build import build
from tests.support import ROOT

from .conftest import boot
from .machine import Machine
from .test_service import ANSWERS, PROBE

TEXT = (ROOT / "docs" / "service.md").read_text()
DROP_INS = ["filter", "mounts", "capabilities"]  # test_service.py and vm/test_service.py
INSTALL = (ROOT / "docs" / "install.md").read_text()
KINDS = ["arguments", "instance", "journal", "remove"]


def block(kind: str) -> str:
    [text] = re.findall(rf"(?ms)^```sh {kind}\n(.*?)^```$", TEXT + INSTALL)
    return str(text)


@pytest.fixture
def bare(built: None, probe: str) -> Iterator[Machine]:
    """A machine without iommud, in which alice has an account."""
    with TemporaryDirectory(prefix="iommud-test-") as name, boot(Path(name), Path(name, "nothing"), probe) as one:
        one.check("useradd", "--create-home", "alice")
        yield one


@pytest.mark.usefixtures("root")
def test_from_installing_to_removing(bare: Machine) -> None:
    def do(kind: str) -> str:
        return bare.check("sh", "-e", "-c", f"cd {ROOT}\n{block(kind)}")

    do("systemd")
    assert bare.check(PROBE, "once", user="alice") == ANSWERS
    assert "multi-user.target.wants" in bare.check("find", "/etc/systemd/system", "-name", "iommud.service")
    do("arguments")
    done = bare.run(build("mock/unmap"), user="alice")
    assert (done.returncode, done.stderr) == (0, "")
    do("instance")
    assert bare.check(PROBE, "once", "/dev/iommu-vtd", user="alice") == ANSWERS
    bare.check(PROBE, "once", user="alice")
    bare.check("journalctl", "--sync")
    assert "IOMMU_DESTROY: ENOENT: " in do("journal")
    do("remove")
    assert bare.run("ls", "/dev/iommu").returncode == 2
    left = bare.check("find", "/usr/local", "/etc/default", "-name", "*iommu*").split()
    assert set(left) == {"/etc/default/iommud", "/etc/default/iommud-vtd"}


def test_every_block_is_run() -> None:
    assert sorted(KINDS) == sorted(re.findall(r"(?m)^```sh (.*)$", TEXT))
    assert re.findall(r"(?m)^```ini (.*)$", TEXT) == [
        f"/etc/systemd/system/iommud.service.d/{name}.conf" for name in DROP_INS
    ]
