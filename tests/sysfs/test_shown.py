"""A device of ours in a private /sys, by real mounts, as root and as an ordinary user."""

import ast
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import AS_NOBODY, PATIENCE, ROOT, lacking, mounts_of_the_machine, processes_with, wait_for_end

from .bus import ADDRESS, DEVICE

SHOWN = [sys.executable, str(ROOT / "tests" / "sysfs" / "shown.py")]
PCI = "/sys/bus/pci/devices"
AT = f"/sys/{DEVICE}"

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture(params=[[], AS_NOBODY], ids=["root", "nobody"])
def shown(request: pytest.FixtureRequest) -> list[str]:
    return [*request.param, *SHOWN]


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def value(shown: list[str], program: str) -> object:
    """What a Python program within prints."""
    prelude = f"import errno, os, signal, threading\nat = {AT!r}\n"
    helper = (
        "def refused(call, *args, **words):\n try: return call(*args, **words)\n except OSError as e: return e.errno\n"
    )
    return ast.literal_eval(output([*shown, sys.executable, "-c", prelude + helper + program]))


def need_pciutils() -> None:
    if why := lacking("pciutils"):
        pytest.skip(why)


class TestWhatIsSeen:
    def test_lspci_lists_the_machines_devices_and_ours(self, shown: list[str]) -> None:
        need_pciutils()
        before = output(["lspci", "-D"]).splitlines()
        within = output([*shown, "lspci", "-D"]).splitlines()
        assert within[:-1] == before
        assert re.fullmatch(rf"{ADDRESS} .* 1234:11e8 \(rev 10\)", within[-1])

    def test_each_entry_of_the_machines_is_as_before(self, shown: list[str]) -> None:
        """Directories that got a name of ours have all their others, which are the same objects."""
        places = ["devices", "bus/pci/devices", "bus/pci", "class", "kernel", "kernel/iommu_groups"]
        look = f"for p in {places}: print({{n: os.lstat(f'/sys/{{p}}/{{n}}').st_ino for n in os.listdir('/sys/' + p)}})"
        within = [
            ast.literal_eval(line) for line in output([*shown, sys.executable, "-c", f"import os\n{look}"]).splitlines()
        ]
        ours = {"pci0000:e0", ADDRESS, "rescan", "iommud-test", "iommu_groups", "devices", "4242"}
        for place, found in zip(places, within, strict=True):
            before = {name: os.lstat(f"/sys/{place}/{name}") for name in os.listdir(f"/sys/{place}")}
            assert set(found) == set(before) | (set(found) & ours)
            same = {
                name: s.st_ino
                for name, s in before.items()
                if name not in ours and not os.path.islink(f"/sys/{place}/{name}")
            }
            assert {name: found[name] for name in same} == same

    def test_paths_lead_to_it(self, shown: list[str]) -> None:
        assert output([*shown, "readlink", "-f", f"{PCI}/{ADDRESS}"]) == f"{AT}\n"
        assert output([*shown, "sh", "-c", f"cd -P {PCI}/{ADDRESS}/subsystem/devices/{ADDRESS} && pwd"]) == f"{AT}\n"
        assert output([*shown, "find", PCI, "-name", "0000:e0*"]) == f"{PCI}/{ADDRESS}\n"
        assert f"{AT}/config\n" in output([*shown, "find", "/sys/devices", "-name", "config"])

    def test_other_values_of_the_machine_are_read(self, shown: list[str]) -> None:
        online = "/sys/devices/system/cpu/online"
        assert output([*shown, "cat", online]) == Path(online).read_text()

    def test_nothing_of_it_is_seen_outside_and_nothing_is_left(self, shown: list[str]) -> None:
        before = mounts_of_the_machine(), os.listdir(PCI), os.listdir("/sys/class")
        marker = f"IOMMUD_TEST={os.getpid()}"
        with subprocess.Popen(
            [*shown, "sh", "-c", "echo up; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict([marker.split("=")]),
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert (mounts_of_the_machine(), os.listdir(PCI), os.listdir("/sys/class")) == before
            family = processes_with(marker)
            assert len(family) >= 2, "the program and who serves it"
            process.communicate(b"\n", timeout=PATIENCE)
        for pid in family:
            wait_for_end(pid)

    def test_the_machines_own_are_there_without_a_server(self, shown: list[str]) -> None:
        marker = f"IOMMUD_TEST=gone-{os.getpid()}"
        script = f"echo up; read line; cat /sys/devices/system/cpu/online; cat {AT}/vendor 2>&1; ls /sys/class/net"
        with subprocess.Popen(
            [*shown, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict([marker.split("=")]),
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            for pid in processes_with(marker) - {process.pid}:
                os.kill(pid, signal.SIGKILL)
                wait_for_end(pid)
            online, ours, *networks = process.communicate("\n", timeout=PATIENCE)[0].splitlines()
        assert online == Path("/sys/devices/system/cpu/online").read_text().strip()
        assert "not connected" in ours
        assert set(networks) <= set(os.listdir("/sys/class/net"))
        assert networks

    def test_who_stands_in_it_sees_it(self, shown: list[str]) -> None:
        within = [sys.executable, "-c", "import os; print(os.getcwd(), len(os.listdir('.')))"]
        done = subprocess.run([*shown, *within], cwd=PCI, capture_output=True, text=True, timeout=PATIENCE)
        assert done.stdout == f"{PCI} {len(os.listdir(PCI)) + 1}\n", done.stderr


class TestElsewhere:
    """Directories that are no /sys."""

    @pytest.mark.parametrize(
        "there", ["", "bus/pci/devices/0 class/net kernel/iommu_groups devices", "bus class kernel other/things"]
    )
    def test_what_is_missing_is_made(self, shown: list[str], there: str, open_directory: Path) -> None:
        for path in there.split():
            (open_directory / path).mkdir(parents=True)
        found = output([*shown, "--sys", str(open_directory), "find", str(open_directory), "-type", "d"])
        directories = {str(Path(line).relative_to(open_directory)) for line in found.splitlines()}
        mine = {DEVICE, "class/iommud-test", "kernel/iommu_groups/4242", "bus/pci/devices"}
        assert mine | set(there.split()) <= directories
        assert not list(open_directory.rglob("*e0*"))


class TestValues:
    def test_a_value_is_asked_for_anew_from_the_beginning_only(self, shown: list[str]) -> None:
        """As sysfs: a read that goes on gets the rest of what the first one began."""
        program = """
fd = os.open(at + '/counted', os.O_RDONLY)
first = os.read(fd, 3), os.read(fd, 100), os.read(fd, 100)
os.lseek(fd, 0, os.SEEK_SET)
print((*first, os.read(fd, 100), os.pread(fd, 100, 2), os.pread(fd, 1, 0)))
"""
        assert value(shown, program) == (b"1 o", b"f many\n", b"", b"2 of many\n", b"of many\n", b"3")

    def test_sizes(self, shown: list[str]) -> None:
        assert value(shown, "print([os.stat(f'{at}/{n}').st_size for n in ('vendor', 'config')])") == [4096, 256]
        assert value(shown, "print(len(open(at + '/long', 'rb').read()))") == 3001

    def test_what_is_written_is_read(self, shown: list[str]) -> None:
        script = f"cd {AT} && cat driver_override && echo vfio-pci >driver_override && cat driver_override"
        assert output([*shown, "sh", "-c", script]) == "(null)\nvfio-pci\n"

    def test_one_write_takes_up_to_a_page(self, shown: list[str]) -> None:
        program = """
fd = os.open(at + '/driver_override', os.O_RDWR)
print((os.write(fd, b'x' * 5000), len(os.pread(fd, 9999, 0))))
"""
        assert value(shown, program) == (4096, 4097)

    @pytest.mark.parametrize("name", ["EPERM", "EACCES", "EINVAL", "EBUSY", "ENODEV", "EIO", "ENOMEM"])
    def test_a_write_is_refused_with_the_errno_of_whoever_refuses_it(self, shown: list[str], name: str) -> None:
        program = f"print(refused(os.write, os.open(at + '/refuses', os.O_WRONLY), b'{name}'))"
        assert value(shown, program) == getattr(errno, name)

    def test_nobody_may_do_what_the_mode_rules_out(self, shown: list[str]) -> None:
        """Root neither."""
        opens = [("vendor", "os.O_RDWR"), ("vendor", "os.O_WRONLY"), ("remove", "os.O_RDONLY"), ("remove", "os.O_RDWR")]
        calls = ", ".join(f"refused(os.open, at + '/{name}', {flags})" for name, flags in opens)
        assert value(shown, f"print([{calls}])") == [13] * 4

    def test_modes_can_be_changed(self, shown: list[str]) -> None:
        script = (
            f"cd {AT} && chmod 600 vendor && stat -c %a vendor && cat vendor && chmod 200 vendor && cat vendor 2>&1"
        )
        done = subprocess.run([*shown, "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE)
        assert done.stdout == "600\n0x1234\ncat: vendor: Permission denied\n"

    def test_names_cannot_be(self, shown: list[str]) -> None:
        calls = [
            "open, at + '/new', 'w'",
            "os.mkdir, at + '/new'",
            "os.symlink, 'a', at + '/new'",
            "os.unlink, at + '/vendor'",
            "os.rmdir, at",
            "os.rename, at + '/vendor', at + '/other'",
            "os.link, at + '/vendor', at + '/other'",
            "os.mkfifo, at + '/new'",
        ]
        found = value(shown, f"print([{', '.join(f'refused({call})' for call in calls)}])")
        assert found == [13, 1, 1, 1, 1, 1, 1, 1]

    def test_bytes_have_positions_and_an_end(self, shown: list[str]) -> None:
        program = """
fd = os.open(at + '/config', os.O_RDWR)
print((
    os.pread(fd, 4, 0), len(os.pread(fd, 9999, 0)), len(os.pread(fd, 99, 250)), os.pread(fd, 1, 256),
    os.pwrite(fd, b'abcdefgh', 252), os.pread(fd, 9, 252), refused(os.pwrite, fd, b'x', 256),
))
"""
        assert value(shown, program) == (b"\x34\x12\xe8\x11", 256, 6, b"", 4, b"abcd", 27)

    def test_bytes_that_cannot_be_read(self, shown: list[str]) -> None:
        assert value(shown, "print(refused(os.read, os.open(at + '/unreadable', os.O_RDONLY), 4))") == 5

    def test_bytes_without_any(self, shown: list[str]) -> None:
        """Such as a window that is there to be mapped: it can be opened."""
        program = """
fd = os.open(at + '/resource0', os.O_RDWR)
print((refused(os.read, fd, 4), refused(os.write, fd, b'x'), os.pread(fd, 4, 4096), refused(os.pwrite, fd, b'x', 4096)))
"""
        assert value(shown, program) == (5, 5, b"", 27)

    def test_a_write_that_takes_less(self, shown: list[str]) -> None:
        assert value(shown, "print(os.write(os.open(at + '/takes', os.O_WRONLY), b'abcdef'))") == 3

    def test_it_cannot_be_mapped_and_has_no_ioctls(self, shown: list[str]) -> None:
        program = """
import fcntl, mmap
fd = os.open(at + '/config', os.O_RDWR)
print((refused(mmap.mmap, fd, 256), refused(fcntl.ioctl, fd, 0x3b64)))
"""
        assert value(shown, program) == (19, 25)


class TestChanges:
    def test_what_is_removed_is_gone_everywhere_until_it_comes_back(self, shown: list[str]) -> None:
        program = f"""
fd, places = os.open(at + '/vendor', os.O_RDONLY), ({PCI!r}, '/sys/devices/pci0000:e0')
def there(): return [{ADDRESS!r} in os.listdir(place) for place in places], os.path.exists(at)
before, config = there(), os.open(at + '/config', os.O_RDONLY)
open(at + '/remove', 'w').write('1')
gone = there(), refused(os.pread, fd, 1, 0), refused(os.pread, config, 1, 0), refused(os.stat, {PCI!r} + '/' + {ADDRESS!r})
open('/sys/bus/pci/rescan', 'w').write('1')
print((before, gone, there()))
"""
        here, gone = ([True, True], True), ([False, False], False)
        assert value(shown, program) == (here, (gone, 19, 19, 2), here)

    def test_a_write_that_waits_delays_nobody_and_can_be_interrupted(self, shown: list[str]) -> None:
        program = """
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGUSR1, alarm)
seen = []
def other():
    seen.append(open(at + '/vendor').read())
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
fd = os.open(at + '/waits', os.O_WRONLY)
seen.append(os.write(fd, b'now'))
threading.Timer(0.05, other).start()
try: os.write(fd, b'for ever')
except Alarm: seen.append('interrupted')
print(seen)
"""
        assert value(shown, program) == [3, "0x1234\n", "interrupted"]


def test_where_there_is_no_directory(shown: list[str]) -> None:
    with TemporaryDirectory(prefix="iommud-test-") as name:
        done = subprocess.run(
            [*shown, "--sys", f"{name}/none", "true"], capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode != 0
