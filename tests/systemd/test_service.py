"""The service, under a real systemd, as users see it. Here the device is a FUSE file; tests/vm has
the character device.
"""

import errno
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cuse_glue.tracing.inject import CLOSING
from tests.clients import unwatched
from tests.clients.build import build
from tests.support import PATIENCE, ROOT, wait_for_input

from .machine import Machine

pytestmark = pytest.mark.usefixtures("root")

UNIT = "iommud.service"
PROMPT = 2 * CLOSING  # seconds for a stop, whatever clients do
PROBE = "/run/shared/probe"
ANSWERS = "ioas 1\nrefused 2\n"
# Those that need nothing of the machine but a device: memory of all kinds, given descriptors,
# fetched descriptors, a filter.
CLIENTS = ["ioas_map", "ioas_map_file", "lifetime", "option", "seccomp"]
CLIENTS += [
    f"mock/{name}" for name in ("fault", "veventq", "memory", "processes", "map_file", "change_process", "unmap")
]
DIFFERENT = {"mock/memory", "mock/processes", "mock/map_file"}


class Service:
    """iommud.service in the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._begin = machine.check("date", "+%s.%N").strip()

    def start(self, arguments: str | None = None, drop_in: str = "") -> "Service":
        """Start it anew, with these arguments (None: those that it is installed with)."""
        if arguments is not None:
            self.machine.write("/etc/default/iommud", f'IOMMUD_ARGS="{arguments}"\n')
        if drop_in:
            self.machine.write(f"/run/systemd/system/{UNIT}.d/test.conf", f"[Service]\n{drop_in}\n")
            self.machine.check("systemctl", "daemon-reload")
        self.machine.check("systemctl", "start", UNIT)
        return self

    def stop(self) -> float:
        """Seconds that it took."""
        begin = time.monotonic()
        self.machine.check("systemctl", "stop", UNIT)
        return time.monotonic() - begin

    def devices(self) -> list[str]:
        """What is in /dev, dead mounts as well."""
        return self.machine.check("ls", "/dev").split()

    def shows(self, name: str, unit: str = UNIT) -> str:
        return self.machine.check("systemctl", "show", "--property", name, "--value", unit).strip()

    def wait(self, fulfilled: Callable[[], bool]) -> None:
        """Until something that systemd does has happened; asked after each of its messages."""
        follow = self.machine.command("journalctl", "--follow", f"--since=@{self._begin}", "--output=cat")
        with subprocess.Popen(follow, stdout=subprocess.PIPE) as journal:
            assert journal.stdout is not None
            try:
                while not fulfilled():
                    status = self.machine.run("systemctl", "status", UNIT).stdout
                    wait_for_input(journal.stdout.fileno(), f"what is waited for, in: {status}")
                    os.read(journal.stdout.fileno(), 1 << 16)
            finally:
                journal.kill()

    def journal(self, unit: str = UNIT) -> list[dict[str, Any]]:
        """What it wrote since the test began."""
        self.machine.check("journalctl", "--sync")
        lines = self.machine.check("journalctl", f"--unit={unit}", f"--since=@{self._begin}", "--output=json")
        return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    default = machine.check("cat", "/etc/default/iommud")
    yield Service(machine)
    machine.run("systemctl", "stop", UNIT, "iommud@*")
    machine.run("systemctl", "reset-failed")
    machine.run("umount", "--lazy", "/dev/iommu")
    machine.run("rm", "-rf", f"/run/systemd/system/{UNIT}.d", "/dev/iommu")
    machine.write("/etc/default/iommud", default)
    machine.check("systemctl", "daemon-reload")


def test_when_it_is_started_it_is_ready(service: Service) -> None:
    service.start()
    assert service.machine.check(PROBE, "once", user="alice") == ANSWERS
    assert service.shows("StatusText") == "Serving /dev/iommu (FUSE)"
    assert service.shows("WatchdogUSec") == "1min"
    assert service.machine.check("stat", "--format=%U %G %a", "/dev/iommu") == "root iommu 660\n"


def test_who_is_not_in_the_group_is_refused(service: Service) -> None:
    service.start()
    done = service.machine.run(PROBE, "once", user="bob")
    assert done.stderr == f"/dev/iommu: {os.strerror(errno.EACCES)}\n"


def test_a_stop_leaves_nothing(service: Service) -> None:
    service.start().stop()
    assert "iommu" not in service.devices()
    assert "iommud" not in service.machine.check("cat", "/proc/mounts").replace("iommud-test", "")
    assert (service.shows("ActiveState"), service.shows("Result")) == ("inactive", "success")


def test_a_stop_does_not_wait_for_clients(service: Service) -> None:
    service.start()
    with (
        service.machine.start(PROBE, "wait", user="alice") as idle,
        service.machine.start(build("waits")) as waiting,
    ):
        assert idle.stdin is not None
        assert idle.stdout is not None
        assert waiting.stdout is not None
        assert idle.stdout.readline() + idle.stdout.readline() == ANSWERS
        assert waiting.stdout.readline() == "waiting\n"
        assert service.stop() < PROMPT
        assert "iommu" not in service.devices()
        assert waiting.stdout.readline() == f"errno {errno.ECONNABORTED}\n"
        idle.stdin.write("\n")
        idle.stdin.flush()
        assert idle.stdout.readline() == f"alloc {errno.ENOTCONN} open {errno.ENOENT}\n"


def test_after_a_crash_it_is_back(service: Service) -> None:
    service.start()
    with service.machine.start(PROBE, "wait", user="alice") as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() + client.stdout.readline() == ANSWERS
        before = service.shows("MainPID")
        service.machine.check("systemctl", "kill", "--signal=KILL", UNIT)
        service.wait(lambda: service.shows("NRestarts") == "1" and service.shows("ActiveState") == "active")
        assert service.shows("MainPID") != before
        assert service.machine.check(PROBE, "once", user="alice") == ANSWERS
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline() == f"alloc {errno.ENOTCONN} open 0\n"
    assert service.machine.check("stat", "--format=%U %G %a", "/dev/iommu") == "root iommu 660\n"


def test_after_its_place_was_taken_away_it_takes_it_again(service: Service) -> None:
    service.start()
    service.machine.check("umount", "--lazy", "/dev/iommu")
    service.wait(lambda: service.shows("NRestarts") == "1" and service.shows("ActiveState") == "active")
    assert service.machine.check(PROBE, "once", user="alice") == ANSWERS
    assert "/dev/iommu (FUSE) was taken away" in [line["MESSAGE"] for line in service.journal()]
    assert service.machine.check("stat", "--format=%a", "/run/iommud") == "700\n"


def test_after_a_crash_that_is_the_last_nothing_is_left(service: Service) -> None:
    service.start(drop_in="Restart=no")
    service.machine.check("systemctl", "kill", "--signal=KILL", UNIT)
    service.wait(lambda: service.shows("ActiveState") == "failed")
    assert "iommu" not in service.devices()


def test_a_daemon_that_hangs_is_replaced_and_says_where_it_hung(service: Service) -> None:
    service.start(drop_in="WatchdogSec=1")
    service.machine.check("systemctl", "kill", "--signal=STOP", UNIT)
    service.wait(lambda: service.shows("NRestarts") == "1" and service.shows("ActiveState") == "active")
    said = [line["MESSAGE"] for line in service.journal()]
    assert "Fatal Python error: Aborted" in said
    assert any(" in _serve" in line for line in said)


def test_a_daemon_that_lives_is_not_replaced(service: Service) -> None:
    """Longer than the watchdog waits, and idle."""
    service.start(drop_in="WatchdogSec=0.5")
    with service.machine.start("sleep", "1.5") as time_passes:
        time_passes.wait(PATIENCE)
    assert (service.shows("NRestarts"), service.shows("ActiveState")) == ("0", "active")


def test_the_journal_has_the_reasons(service: Service) -> None:
    service.start()
    service.machine.check(PROBE, "once", user="alice")
    (line,) = [line for line in service.journal() if "IOMMU_DESTROY" in line["MESSAGE"]]
    assert line["MESSAGE"].startswith("probe[")
    assert ": IOMMU_DESTROY: ENOENT: " in line["MESSAGE"]
    assert (line["PRIORITY"], line["SYSLOG_IDENTIFIER"]) == ("6", "iommud")


def test_a_refusal_is_an_error_in_the_journal_and_not_tried_again(service: Service) -> None:
    service.machine.write("/dev/iommu", "somebody's")
    assert service.machine.run("systemctl", "start", UNIT).returncode == 1
    assert (service.shows("NRestarts"), service.shows("ExecMainStatus"), service.shows("ActiveState")) == (
        "0",
        "1",
        "failed",
    )
    (line,) = [line for line in service.journal() if "not ours to take" in line["MESSAGE"]]
    assert line["PRIORITY"] == "3"
    assert service.machine.check("cat", "/dev/iommu") == "somebody's"


def test_wrong_arguments_are_not_tried_again(service: Service) -> None:
    service.machine.write("/etc/default/iommud", "IOMMUD_ARGS=--frobnicate\n")
    assert service.machine.run("systemctl", "start", UNIT).returncode == 1
    assert (service.shows("NRestarts"), service.shows("ExecMainStatus"), service.shows("ActiveState")) == (
        "0",
        "2",
        "failed",
    )


def test_instances_are_devices_of_their_own(service: Service) -> None:
    service.start()
    service.machine.write("/etc/default/iommud-two", "IOMMUD_ARGS=--mock\n")
    service.machine.check("systemctl", "start", "iommud@two")
    assert service.shows("StatusText", "iommud@two") == "Serving /dev/iommu-two (FUSE)"
    assert service.machine.check("stat", "--format=%U %G %a", "/dev/iommu-two") == "root iommu 660\n"
    for path in ("/dev/iommu", "/dev/iommu-two"):
        assert service.machine.check(PROBE, "once", path, user="alice") == ANSWERS
    service.stop()
    assert service.machine.check(PROBE, "once", "/dev/iommu-two", user="alice") == ANSWERS
    service.machine.check("systemctl", "stop", "iommud@two")
    assert "iommu-two" not in service.devices()


def test_vfio(service: Service) -> None:
    service.start("--vfio")
    assert service.machine.check(PROBE, "once", "/dev/vfio/vfio", user="bob") == ANSWERS
    service.machine.check("systemctl", "kill", "--signal=KILL", UNIT)
    service.wait(lambda: service.shows("NRestarts") == "1" and service.shows("ActiveState") == "active")
    assert service.machine.check(PROBE, "once", "/dev/vfio/vfio", user="bob") == ANSWERS
    service.stop()
    assert service.machine.run("ls", "/dev/vfio/vfio").returncode == 2


def test_it_starts_with_the_machine(service: Service) -> None:
    try:
        service.machine.check("systemctl", "enable", UNIT)
        assert UNIT in service.machine.check("systemctl", "list-dependencies", "--plain", "multi-user.target")
    finally:
        service.machine.check("systemctl", "disable", UNIT)


# --- as far as it can be confined ---


def judge(done: subprocess.CompletedProcess[str]) -> None:
    """It found nothing wrong but what only `iommud run` can refuse."""
    assert unwatched.wrong(done.stdout) == set()
    assert (done.returncode in (0, 1), done.stderr) == (True, ""), done.returncode
    lines = done.stdout.splitlines()
    plan = f"1..{sum(line.startswith(('ok ', 'not ok ')) for line in lines)}"
    assert plan in lines[-2:], "a client that ended early"  # a count of what failed may follow


def test_clients_of_an_unprivileged_user(service: Service) -> None:
    service.start("--mock")
    for name in CLIENTS:
        judge(service.machine.run(build(name), *(["--iommud"] if name in DIFFERENT else []), user="alice"))


def test_what_rules_out_the_rest_of_confinement(service: Service) -> None:
    """No filter, or it could not suspend clients'; no mounts of its own, or nobody would see the
    device.
    """
    service.start()
    status = service.machine.check("cat", f"/proc/{service.shows('MainPID')}/status")
    assert "Seccomp_filters:\t0\n" in status
    ours, first = (service.machine.check("readlink", f"/proc/{pid}/ns/mnt") for pid in (service.shows("MainPID"), "1"))
    assert ours == first


@pytest.mark.parametrize(
    ("capability", "client", "says"),
    [
        ("CAP_SYS_PTRACE", "ioas_alloc", "got EFAULT"),
        ("CAP_DAC_OVERRIDE", "ioas_map", "got EFAULT"),
        ("CAP_SYS_ADMIN", None, "FUSE may not be mounted"),
    ],
)
def test_each_capability_is_needed(service: Service, capability: str, client: str | None, says: str) -> None:
    drop_in = f"CapabilityBoundingSet=~{capability}"
    if client is None:
        with pytest.raises(AssertionError):
            service.start(drop_in=drop_in)
        assert any(says in line["MESSAGE"] for line in service.journal())
    else:
        service.start(drop_in=drop_in)
        assert says in service.machine.run(build(client), user="alice").stdout


def test_a_system_call_filter_costs_clients_behind_filters_their_descriptors(service: Service) -> None:
    """And never their life; and nothing else. The settings are those of docs/service.md."""
    [settings] = re.findall(
        r"(?ms)^```ini \S*/filter.conf\n\[Service\]\n(.*?)^```$", (ROOT / "docs/service.md").read_text()
    )
    service.start("--why --mock", drop_in=settings)
    done = service.machine.run(build("seccomp"), user="alice")
    assert done.returncode == 1
    assert "a fault queue there (got EPERM, expected 0)" in done.stdout
    assert any("EPERM: the client has a seccomp filter" in line["MESSAGE"] for line in service.journal())
    for name in set(CLIENTS) - {"seccomp"}:
        judge(service.machine.run(build(name), *(["--iommud"] if name in DIFFERENT else []), user="alice"))
