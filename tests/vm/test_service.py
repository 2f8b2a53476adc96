"""The service with a character device: a real systemd as first program of the virtual machine.
tests/systemd has it with a FUSE file.

A start takes a few seconds in there, so the tests, in their order, share one of each kind.
"""

import errno
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.clients.build import build
from tests.debian import apt
from tests.support import ROOT

from .machine import PLACE, SHARE, Machine

UNIT: Final = "iommud.service"
ANSWERS: Final = "ioas 1\nrefused 2\n"  # of the probe
PROMPT: Final = 20.0  # seconds for a stop, of a Python that is 20 times slower
DROP_INS: Final = dict(re.findall(r"(?ms)^```ini \S*/(\S+)\n(.*?)^```$", (ROOT / "docs/service.md").read_text()))
UDEV: Final = PLACE / "udev"


@dataclass
class Service:
    """iommud.service, installed in the guest."""

    vm: Machine
    probe: str
    alice: tuple[int, int, list[int]]  # in the group
    bob: tuple[int, int, list[int]]

    def said(self, *argv: str, user: tuple[int, int, list[int]] | None = None) -> str:
        return self.vm.run(*argv, user=user).check().stdout

    def shows(self, name: str, unit: str = UNIT) -> str:
        return self.said("systemctl", "show", "--property", name, "--value", unit).strip()

    def node(self, path: str = "/dev/iommu") -> str:
        """Kind, owner, group and mode."""
        return self.said("stat", "--format=%F, %U:%G %a", path).strip()


@pytest.fixture(scope="module")
def service(vm: Machine, installed: Path, probe: str) -> Iterator[Service]:
    """Installed; started by the first test."""
    place = SHARE / "service"
    place.mkdir()
    shutil.copy(probe, place / "probe")
    subprocess.run(["tar", "-C", str(installed), "-cf", str(place / "installed.tar"), "."], check=True)
    vm.run("tar", "-C", "/", "--no-overwrite-dir", "-xf", str(place / "installed.tar")).check()
    vm.run("mkdir", "-p", "/run/sysusers.d").check()
    (place / "users.conf").write_text("u alice\nu bob\nm alice iommu\n")
    vm.run("systemd-sysusers", "/usr/local/lib/sysusers.d/iommud.conf", str(place / "users.conf")).check()
    vm.run("systemctl", "daemon-reload").check()
    group = _number(vm, "group", "iommu")
    users = {name: _number(vm, "passwd", name) for name in ("alice", "bob")}
    yield Service(
        vm,
        str(place / "probe"),
        (users["alice"], users["alice"], [users["alice"], group]),
        (users["bob"], users["bob"], [users["bob"]]),
    )
    vm.run("systemctl", "stop", UNIT, "iommud@*")


def _number(vm: Machine, kind: str, name: str) -> int:
    return int(vm.run("getent", kind, name).check().stdout.split(":")[2])


def test_the_module_is_loaded_at_boot(service: Service) -> None:
    service.vm.run("rmmod", "cuse").check()
    service.vm.run("/lib/systemd/systemd-modules-load", "/usr/local/lib/modules-load.d/iommud.conf").check()
    service.vm.run("test", "-c", "/dev/cuse").check()


def test_started_it_is_ready(service: Service) -> None:
    service.vm.run("systemctl", "start", UNIT).check()
    assert service.said(service.probe, "once", user=service.alice) == ANSWERS
    assert service.shows("StatusText") == "Serving /dev/iommu (CUSE)"
    assert service.node() == "character special file, root:iommu 660"


def test_who_is_not_in_the_group_is_refused(service: Service) -> None:
    done = service.vm.run(service.probe, "once", user=service.bob)
    assert (done.status, done.stderr) == (1, "/dev/iommu: Permission denied\n")


def test_the_journal_has_the_reasons(service: Service) -> None:
    service.said(service.probe, "once", user=service.alice)
    service.said("journalctl", "--sync")
    assert ": IOMMU_DESTROY: ENOENT: " in service.said(
        "journalctl", f"--unit={UNIT}", "--priority=info", "--output=cat"
    )


def test_a_descriptor_for_a_client_behind_a_filter_where_only_privilege_may_trace(service: Service) -> None:
    scope = "kernel.yama.ptrace_scope"
    before = service.said("sysctl", "--values", scope).strip()
    service.said("sysctl", f"{scope}=2")
    try:
        done = service.vm.run(build("seccomp"), user=service.alice)
    finally:
        service.said("sysctl", f"{scope}={before}")
    assert done.check().stdout.splitlines()[-1] == "1..7"


def test_udev_gives_group_and_mode(service: Service) -> None:
    """A real udevd with our rule and no other, and a node that has lost both."""
    udev = _udev()
    service.said("chown", "root:root", "/dev/iommu")
    service.said("chmod", "0600", "/dev/iommu")
    service.said(str(udev / "systemd-udevd"), "--daemon")
    udevadm = str(udev / "udevadm")
    try:
        service.said(udevadm, "trigger", "--settle", "--action=add", "/sys/class/cuse/iommu")
        assert service.node() == "character special file, root:iommu 660"
    finally:
        service.said(udevadm, "control", "--exit")


def _udev() -> Path:
    """A directory with the programs of the package, which is not installed. It is one program with
    two names.
    """
    if not UDEV.is_dir():
        with TemporaryDirectory(dir=PLACE) as name:
            work = Path(name)
            if not apt(work, (), "download", "udev"):
                pytest.skip("the system's package sources have no udev")
            [package] = work.glob("udev_*.deb")
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / "tree")], check=True)
            (work / "programs").mkdir()
            for program in ("udevadm", "systemd-udevd"):
                shutil.copy(work / "tree/bin/udevadm", work / "programs" / program)
            (work / "programs").rename(UDEV)
    return UDEV


def test_a_second_instance(service: Service) -> None:
    service.vm.run("systemctl", "start", "iommud@two").check()
    assert service.shows("StatusText", "iommud@two") == "Serving /dev/iommu-two (CUSE)"
    assert service.node("/dev/iommu-two") == "character special file, root:iommu 660"
    for path in ("/dev/iommu", "/dev/iommu-two"):
        assert service.said(service.probe, "once", path, user=service.alice) == ANSWERS
    service.said("systemctl", "stop", "iommud@two")
    assert service.vm.run("ls", "/dev/iommu-two").status == 2
    assert service.said(service.probe, "once", user=service.alice) == ANSWERS


def test_after_a_crash_it_is_back(service: Service) -> None:
    """As it is configured by then: see the next test."""
    (SHARE / "service" / "default").write_text('IOMMUD_ARGS="--why --mock"\n')
    service.said("cp", str(SHARE / "service" / "default"), "/etc/default/iommud")
    for name, text in DROP_INS.items():
        (SHARE / "service" / name).write_text(text)
        service.said(
            "install",
            "-D",
            "--mode=644",
            f"--target-directory=/run/systemd/system/{UNIT}.d",
            str(SHARE / "service" / name),
        )
    service.said("systemctl", "daemon-reload")
    client = service.vm.start(service.probe, "wait", user=service.alice)
    assert [client.line(), client.line()] == ANSWERS.splitlines()
    begin = service.said("date", "+%s.%N").strip()
    follow = service.vm.start("journalctl", "--follow", f"--since=@{begin}", "--output=cat", f"--unit={UNIT}")
    service.said("systemctl", "kill", "--signal=KILL", UNIT)
    assert follow.line() == "serving /dev/iommu (CUSE)"
    follow.kill(15)
    while service.shows("ActiveState") != "active":  # it is being told in this moment
        pass
    assert service.shows("NRestarts") == "1"
    assert service.node() == "character special file, root:iommu 660"
    assert service.said(service.probe, "once", user=service.alice) == ANSWERS
    client.say("\n")
    assert client.line() == f"alloc {errno.ENOTCONN} open 0"
    client.end_input()
    assert client.wait().status == 0


def test_confined_as_far_as_a_character_device_permits(service: Service) -> None:
    """By all the drop-ins of docs/service.md: clients notice nothing, but for those behind a
    filter.
    """
    pid = service.shows("MainPID")
    assert service.said("readlink", f"/proc/{pid}/ns/mnt") != service.said("readlink", "/proc/1/ns/mnt")
    assert re.search(r"Seccomp_filters:\t[1-9]", service.said("cat", f"/proc/{pid}/status"))
    done = service.vm.run(build("seccomp"), user=service.alice)
    assert re.search(r"(?m)^ok \d+ - a fault queue$", done.stdout)
    assert "a fault queue there (got EPERM, expected 0)" in done.stdout


def test_a_stop_does_not_wait_for_clients(service: Service) -> None:
    idle = service.vm.start(service.probe, "wait", user=service.alice)
    assert [idle.line(), idle.line()] == ANSWERS.splitlines()
    waiting = service.vm.start(build("waits"))
    assert waiting.line() == "waiting"
    begin = time.monotonic()
    service.said("systemctl", "stop", UNIT)
    assert time.monotonic() - begin < PROMPT
    assert service.vm.run("ls", "/dev/iommu").status == 2
    assert waiting.line() == f"errno {errno.ECONNABORTED}"
    idle.say("\n")
    assert idle.line() == f"alloc {errno.ENOTCONN} open {errno.ENOENT}"
    idle.end_input()
    assert (waiting.wait().status, idle.wait().status) == (0, 0)
    assert service.shows("Result") == "success"
