"""`iommud run --device`: the device in /sys, beside the machine's own, and what scripts do there.

What the files answer was asked of Linux 7.3's vfio-pci, which had QEMU's edu.
"""

import ast
import glob
import os
import re
import subprocess
import sys

import pytest

from cuse_glue.system import seccomp
from tests.support import AS_NOBODY, IOMMUD, PATIENCE, lacking, mounts_of_the_machine

BDF = "0000:e0:00.0"
AT = f"/sys/bus/pci/devices/{BDF}"
DRIVER = "/sys/bus/pci/drivers/vfio-pci"


@pytest.fixture(params=["root", "nobody"])
def run(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "nobody" and os.geteuid() != 0:
        pytest.skip("the other one is this already")
    return [*(AS_NOBODY if request.param == "nobody" else []), IOMMUD, "run"]


def need(*packages: str) -> None:
    if why := lacking(*packages):
        pytest.skip(why)


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def shell(run: list[str], script: str, device: str = "edu", *options: str) -> list[str]:
    return output([*run, *options, "--device", device, "--", "sh", "-c", script]).splitlines()


def value(run: list[str], program: str, *devices: str) -> object:
    """What a Python program within prints."""
    helper = (
        "import errno, os\n"
        "def write(path, text):\n"
        " fd = os.open(path, os.O_WRONLY)\n"
        " try: return os.write(fd, text.encode()) and 'ok'\n"
        " except OSError as e: return errno.errorcode[e.errno]\n"
        " finally: os.close(fd)\n"
        "def opened(path):\n"
        " try: return os.close(os.open(path, os.O_RDWR)) or 'ok'\n"
        " except OSError as e: return errno.errorcode[e.errno]\n"
        f"bdf, at, driver, file = {BDF!r}, {AT!r}, {DRIVER!r}, '/dev/vfio/devices/vfio0'\n"
    )
    options = [word for device in devices or ("edu",) for word in ("--device", device)]
    command = [*run, *options, "--", sys.executable, "-c", helper + program]
    return ast.literal_eval(output(command))


class TestWhatIsSeen:
    def test_lspci(self, run: list[str]) -> None:
        need("pciutils")
        before = output(["lspci", "-D"]).splitlines()
        done = subprocess.run(
            [*run, "--device", "edu", "--", "sh", "-c", f"lspci -D; lspci -vvv -s {BDF}"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        lines = done.stdout.splitlines()
        assert lines[: len(before)] == before
        assert re.fullmatch(rf"{BDF} .* 1234:11e8 \(rev 10\)", lines[len(before)])
        text = "\n".join(lines[len(before) + 1 :])
        for words in (
            "Region 0: Memory at e0000000 (32-bit, non-prefetchable) [size=1M]",
            "Capabilities: [40] MSI: Enable- Count=1/1 Maskable- 64bit+",
            "IOMMU group: ",
            "Kernel driver in use: vfio-pci",
        ):
            assert words in text

    def test_values_and_links(self, run: list[str]) -> None:
        script = f"cd {AT} && cat vendor device class vfio-dev/vfio0/dev && readlink driver vfio-dev/vfio0/subsystem && pwd -P"
        assert shell(run, script) == [
            "0x1234",
            "0x11e8",
            "0x00ff00",
            "511:0",
            "../../../bus/pci/drivers/vfio-pci",
            "../../../../../class/vfio-dev",
            f"/sys/devices/pci0000:e0/{BDF}",
        ]

    def test_every_link_leads_somewhere(self, run: list[str]) -> None:
        script = f"find -P {AT}/ {DRIVER} /sys/class/vfio-dev /sys/class/iommu /sys/kernel/iommu_groups -xtype l"
        assert shell(run, script) == []

    def test_its_numbers_lead_to_it(self, run: list[str]) -> None:
        assert shell(run, f"readlink -f /sys/dev/char/$(cat {AT}/vfio-dev/vfio0/dev)") == [
            f"/sys/devices/pci0000:e0/{BDF}/vfio-dev/vfio0"
        ]

    def test_the_groups_of_the_machine_stay(self, run: list[str]) -> None:
        before = set(os.listdir("/sys/kernel/iommu_groups"))
        groups = set(shell(run, "ls /sys/kernel/iommu_groups"))
        assert groups > before
        assert len(groups - before) == 1
        assert shell(run, f"basename $(readlink {AT}/iommu_group)") == list(groups - before)

    def test_each_device_has_its_place(self, run: list[str]) -> None:
        command = [*run, "--device", "edu", "--device", "edu,bdf=0000:e1:02.3", "--", "ls", "/sys/bus/pci/devices"]
        before = os.listdir("/sys/bus/pci/devices")
        assert set(output(command).split()) == {*before, BDF, "0000:e1:02.3"}

    def test_one_iommud_in_another(self, run: list[str]) -> None:
        """The inner one takes the next place that is free."""
        inner = f"{IOMMUD} run --device edu -- ls /sys/bus/pci/devices"
        before = os.listdir("/sys/bus/pci/devices")
        assert set(shell(run, inner)) == {*before, BDF, "0000:e0:01.0"}

    def test_nobody_else_sees_it(self, run: list[str]) -> None:
        before = os.listdir("/sys/bus/pci/devices"), mounts_of_the_machine()
        with subprocess.Popen(
            [*run, "--device", "edu", "--", "sh", "-c", "echo up; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert (os.listdir("/sys/bus/pci/devices"), mounts_of_the_machine()) == before
            process.communicate(b"\n", timeout=PATIENCE)

    def test_a_place_that_is_taken(self, run: list[str]) -> None:
        name = sorted(os.listdir("/sys/bus/pci/devices"))[0]
        command = [*run, "--device", f"edu,bdf={name}", "--", "true"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 125
        assert f"edu and a device of the machine's cannot both be at {name}" in done.stderr


class TestDrivers:
    def test_unbind_and_bind(self, run: list[str]) -> None:
        """Without a driver it has no VFIO device, and no file can be opened."""
        program = """
def look(): return os.path.lexists(at + '/driver'), os.path.exists(at + '/vfio-dev'), os.listdir('/sys/class/vfio-dev'), opened(file)
before, gone = look(), (write(driver + '/unbind', bdf), look())
again = write(driver + '/unbind', bdf)
print((before, gone, again, write(driver + '/bind', bdf), look(), write(driver + '/bind', bdf)))
"""
        here = True, True, ["vfio0"], "ok"
        gone: object = (False, False, [], "ENODEV")
        assert value(run, program) == (here, ("ok", gone), "ENODEV", "ok", here, "EBUSY")

    def test_a_device_without_a_driver_gets_one_by_an_override(self, run: list[str]) -> None:
        program = """
def look(): return os.path.lexists(at + '/driver'), os.path.exists(at + '/vfio-dev'), opened(file)
steps = [look(), write(driver + '/bind', bdf), open(at + '/driver_override').read()]
steps += [write(at + '/driver_override', 'vfio-pci\\n'), open(at + '/driver_override').read(), look()]
steps += [write('/sys/bus/pci/drivers_probe', bdf + '\\n'), look()]
print(steps)
"""
        none = (False, False, "ENODEV")
        assert value(run, program, "edu,driver=none") == [
            *[none, "ENODEV", "(null)\n", "ok", "vfio-pci\n", none],
            *["ok", (True, True, "ok")],
        ]

    def test_a_device_without_a_driver_gets_one_by_its_ids(self, run: list[str]) -> None:
        program = """
ids = driver + '/new_id', driver + '/remove_id'
print([write(ids[0], '1234 11e8'), opened(file), write(ids[0], '1234 11e8'), write(ids[0], 'zz'), write(ids[1], '1234 11e8'),
       write(ids[1], '1234 11e8'), opened(file)])
"""
        assert value(run, program, "edu,driver=none") == ["ok", "ok", "EEXIST", "EINVAL", "ok", "ENODEV", "ok"]

    def test_remove_and_rescan(self, run: list[str]) -> None:
        program = """
def look(): return bdf in os.listdir('/sys/bus/pci/devices'), os.path.exists(at), opened(file), len(os.listdir('/sys/kernel/iommu_groups'))
before, removed = look(), (write(at + '/remove', '1'), look())
print((before, removed, write('/sys/bus/pci/rescan', '1'), look()))
"""
        groups = len(os.listdir("/sys/kernel/iommu_groups"))
        here, gone = (True, True, "ok", groups + 1), (False, False, "ENODEV", groups)
        assert value(run, program) == (here, ("ok", gone), "ok", here)

    def test_devices_of_the_machine_are_not_ours_to_move(self, run: list[str]) -> None:
        program = """
(*_, other) = sorted(set(os.listdir('/sys/bus/pci/devices')) - {bdf})
print([write(driver + '/' + how, other) for how in ('bind', 'unbind')] + [write('/sys/bus/pci/drivers_probe', other)])
"""
        assert value(run, program) == ["ENODEV"] * 3

    def test_whoever_has_it_open_is_waited_for(self, run: list[str]) -> None:
        program = """
import threading
fd, seen, done = os.open(file, os.O_RDWR), [], threading.Event()
def unbind():
    seen.append(write(driver + '/unbind', bdf))
    done.set()
thread = threading.Thread(target=unbind)
thread.start()
seen.append(done.wait(0.2))
seen.append(os.path.exists(at + '/vfio-dev'))
os.close(fd)
thread.join()
print(seen + [os.path.exists(at + '/vfio-dev')])
"""
        assert value(run, program) == [False, True, "ok", False]

    def test_many_who_want_it_at_once(self, run: list[str]) -> None:
        """All wait for the same close. One of them is the first; who comes when all is done finds
        nothing.
        """
        program = """
import threading
fd, seen = os.open(file, os.O_RDWR), []
def do(path, text): seen.append(write(path, text))
tasks = [(driver + '/unbind', bdf), (at + '/remove', '1'), (driver + '/unbind', bdf), (at + '/remove', '1')]
threads = [threading.Thread(target=do, args=task) for task in tasks]
for thread in threads: thread.start()
while not all(open(f'/proc/self/task/{t.native_id}/syscall').read().startswith('WRITE ') for t in threads): pass
os.close(fd)
for thread in threads: thread.join()
write('/sys/bus/pci/rescan', '1')
print(('ok' in seen, set(seen) <= {'ok', 'ENODEV'}, bdf in os.listdir('/sys/bus/pci/devices'), opened(file)))
"""
        machine = seccomp.machine()
        assert machine is not None
        program = program.replace("WRITE", str(machine.calls["write"]))
        assert value(run, program) == (True, True, True, "ok")

    def test_a_signal_ends_the_wait(self, run: list[str]) -> None:
        """Also of one who waits for himself; then nothing has happened."""
        program = """
import signal
class Alarm(Exception): pass
def alarm(*_): raise Alarm
signal.signal(signal.SIGALRM, alarm)
fd, seen = os.open(file, os.O_RDWR), []
for path in driver + '/unbind', at + '/remove':
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try: seen.append(write(path, bdf if 'unbind' in path else '1'))
    except Alarm: seen.append('interrupted')
pid = os.fork()
if not pid:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    write(driver + '/unbind', bdf)
seen.append(os.waitpid(pid, 0)[1])
print(seen + [os.path.exists(at + '/vfio-dev'), opened(file)])
"""
        assert value(run, program) == ["interrupted", "interrupted", 14, True, "ok"]

    def test_whoever_drives_it_is_asked_for_it(self, run: list[str]) -> None:
        """By the eventfd of VFIO_PCI_REQ_IRQ_INDEX."""
        program = """
import fcntl, struct, threading
fd, iommufd, event = os.open(file, os.O_RDWR), os.open('/dev/iommu', os.O_RDWR), os.eventfd(0)
fcntl.ioctl(fd, 0x3b76, bytearray(struct.pack('=IIiI', 16, 0, iommufd, 0)))  # VFIO_DEVICE_BIND_IOMMUFD
fcntl.ioctl(fd, 0x3b6e, bytearray(struct.pack('=5Ii', 24, 0x24, 4, 0, 1, event)))  # VFIO_DEVICE_SET_IRQS
seen = []
thread = threading.Thread(target=lambda: seen.append(write(driver + '/unbind', bdf)))
thread.start()
asked = os.eventfd_read(event)
os.close(fd)
thread.join()
print((asked, seen))
"""
        assert value(run, program) == (1, ["ok"])

    def test_config_can_be_written(self, run: list[str]) -> None:
        program = """
fd = os.open(at + '/config', os.O_RDWR)
before = os.pread(fd, 4, 0), os.pread(fd, 2, 4)[0] & 4, os.fstat(fd).st_size
os.pwrite(fd, bytes([os.pread(fd, 1, 4)[0] | 4]), 4)
print((*before, os.pread(fd, 2, 4)[0] & 4))
"""
        assert value(run, program) == (b"\x34\x12\xe8\x11", 0, 256, 4)

    def test_why_tells_which_write_was_refused(self, run: list[str]) -> None:
        command = [*run, "--why", "--device", "edu", "--", "sh", "-c", f"echo {BDF} >{DRIVER}/bind"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert f"/sys/bus/pci/drivers/vfio-pci/bind: EBUSY: vfio-pci has {BDF}\n" in done.stderr

    @pytest.mark.usefixtures("root")
    def test_driverctl(self) -> None:
        need("driverctl")
        script = f"""
driverctl list-devices | grep {BDF}
driverctl --nosave set-override {BDF} vfio-pci
driverctl list-overrides
driverctl --nosave set-override {BDF} none
driverctl list-devices | grep {BDF}
driverctl --nosave unset-override {BDF} 2>&1
driverctl list-devices | grep {BDF}
"""
        assert shell([IOMMUD, "run"], script, "edu,driver=none") == [
            f"{BDF} (none)",
            f"{BDF} vfio-pci",
            f"{BDF} (none) [*]",
            f"driverctl: failed to bind device {BDF} to driver ",  # there is none that takes it by itself
            f"{BDF} (none)",
        ]


class TestNativeDrivers:
    """A device that another driver than vfio-pci has: driver=NAME."""

    def test_lspci_names_it(self, run: list[str]) -> None:
        need("pciutils")
        assert "\tKernel driver in use: ioatdma" in shell(run, f"lspci -ks {BDF} 2>/dev/null", "ioat,driver=ioatdma")

    def test_a_script_gives_it_to_vfio_pci(self, run: list[str]) -> None:
        script = f"""
cd /sys/bus/pci/drivers/ioatdma && ls
head -n 1 {AT}/uevent
basename $(readlink -f {AT}/driver) $(readlink -f module)
test -e /dev/vfio/devices/vfio0 && test -e /dev/vfio/$(basename $(readlink {AT}/iommu_group)) && echo there
echo {BDF} >{AT}/driver/unbind && test ! -e {AT}/driver && ls
echo vfio-pci >{AT}/driver_override && echo {BDF} >/sys/bus/pci/drivers_probe
readlink {AT}/driver
echo {BDF} >{AT}/driver/unbind && echo >{AT}/driver_override && echo {BDF} >bind
readlink {AT}/driver
"""
        files = ["bind", "module", "new_id", "remove_id", "uevent", "unbind"]
        assert shell(run, script, "ioat,driver=ioatdma") == [
            *(BDF, *files),
            *("DRIVER=ioatdma", "ioatdma", "there"),
            *files,
            "../../../bus/pci/drivers/vfio-pci",
            "../../../bus/pci/drivers/ioatdma",
        ]

    def test_its_group_cannot_be_used_meanwhile(self, run: list[str]) -> None:
        program = """
import fcntl, struct
mine, both = '/sys/bus/pci/drivers/ioatdma', os.path.basename(os.readlink(at + '/iommu_group'))
fd, group, iommufd = (os.open(path, os.O_RDWR) for path in (file, '/dev/vfio/' + both, '/dev/iommu'))
def viable(): return fcntl.ioctl(group, 0x3b67, struct.pack('=II', 8, 0))[4] & 1  # VFIO_GROUP_GET_STATUS
def bind():  # VFIO_DEVICE_BIND_IOMMUFD
 try: return fcntl.ioctl(fd, 0x3b76, bytearray(struct.pack('=IIiI', 16, 0, iommufd, 0)))
 except OSError as e: return errno.errorcode[e.errno]
seen = [viable()]
os.close(group)
seen += [bind(), write(mine + '/unbind', '0000:e0:01.0'), bind(), write(mine + '/bind', '0000:e0:01.0')]
print(seen)
"""
        devices = "edu,group=1", "ioat,group=1,driver=ioatdma"
        assert value(run, program, *devices) == [0, "EPERM", "ok", 0, "EBUSY"]

    def test_a_driver_that_the_machine_has_too(self, run: list[str]) -> None:
        """Its directory has both its devices and ours, which come and go."""
        at = {os.path.basename(os.readlink(path)): path for path in glob.glob("/sys/bus/pci/devices/*/driver")}
        if not at:
            pytest.skip("no PCI device of this machine has a driver")
        name, path = sorted(at.items())[0]
        before, theirs = set(os.listdir(f"/sys/bus/pci/drivers/{name}")), path.split("/")[-2]
        program = f"""
mine = '/sys/bus/pci/drivers/{name}'
def look(): return set(os.listdir(mine)), os.path.lexists(f'{{mine}}/{{bdf}}')
print([look(), os.path.basename(os.readlink(at + '/driver')), write(mine + '/unbind', '{theirs}'),
       write(mine + '/unbind', bdf), look(), write(mine + '/bind', bdf), look()])
"""
        files = {"bind", "unbind", "new_id", "remove_id", "uevent", "module"}
        without, having = (before | files, False), (before | files | {BDF}, True)
        assert value(run, program, f"ioat,driver={name}") == [having, name, "ENODEV", "ok", without, "ok", having]

    def test_why_tells_whose_the_group_is(self, run: list[str]) -> None:
        program = f"""
import fcntl, os, struct
fd, iommufd = (os.open(path, os.O_RDWR) for path in ("/dev/vfio/devices/vfio0", "/dev/iommu"))
try: fcntl.ioctl(fd, 0x3b76, bytearray(struct.pack("=IIiI", 16, 0, iommufd, 0)))
except PermissionError: open("/sys/bus/pci/drivers/ioatdma/unbind", "w").write("{BDF}")
"""
        devices = ["--device", "ioat,group=1,driver=ioatdma", "--device", "edu,group=1"]
        command = [*run, "--why", *devices, "--", sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert "EPERM" in line
        assert "or a kernel driver has a device of it" in line

    @pytest.mark.usefixtures("root")
    def test_driverctl(self) -> None:
        need("driverctl")
        script = f"""
driverctl list-devices | grep {BDF}
driverctl --nosave set-override {BDF} vfio-pci
driverctl list-devices | grep {BDF}
driverctl --nosave unset-override {BDF}
driverctl list-devices | grep {BDF}
"""
        assert shell([IOMMUD, "run"], script, "ioat,driver=ioatdma") == [
            f"{BDF} ioatdma",
            f"{BDF} vfio-pci [*]",
            f"{BDF} ioatdma",
        ]


def test_no_write_and_no_read_harms_the_daemon(run: list[str]) -> None:
    """Whatever is written where, and read: an errno, or it is taken. What it did is undone by a
    removal and a rescan.
    """
    program = """
import random
random.seed(14)
words = [b'', b'0', b'1', b'-1', b'1\\n', b'\\n', b'\\0', b'1234 11e8', b'vfio-pci', bdf.encode(), b'%n%s', b'\\xff' * 9, b'9' * 5000]
mate, native = at[:-len(bdf)] + '0000:e0:01.0', '/sys/bus/pci/drivers/ioatdma'
words += [b'0000:e0:01.0', b'ioatdma']
ours = at + '/', mate + '/', driver + '/', native + '/'
places = [*ours, '/sys/bus/pci/', '/sys/kernel/iommu_groups/', '/sys/devices/virtual/iommu/', '/sys/class/vfio-dev/']
count = 0
for _ in range(4):
    files = [os.path.join(directory, name) for place in places for directory, _, names in os.walk(place) for name in names]
    random.shuffle(files)
    for path in files:
        if path.startswith('/sys/bus/pci/') and not path.startswith((*ours, '/sys/bus/pci/rescan', '/sys/bus/pci/drivers_probe')):
            continue  # the machine's own
        for flags in os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC:
            try: fd = os.open(path, flags)
            except OSError: continue
            for call in (lambda: os.pread(fd, random.choice((0, 1, 3, 4, 5000)), random.choice((0, 1, 2, 255, 4095, 1 << 40)))), (
                lambda: os.pwrite(fd, random.choice(words), random.choice((0, 1, 2, 5, 255, 1 << 40)))):
                count += 1
                try: call()
                except OSError as e: assert e.errno not in (errno.EIO, errno.ENOTCONN) or path.endswith(('resource0', '/enable')), (path, e)
            os.close(fd)
    for name in b'x' * 255, b'\\xff', b'a b':
        assert not os.path.exists(at.encode() + b'/' + name)
    write('/sys/bus/pci/rescan', '1')
write(at + '/remove', '1'), write('/sys/bus/pci/rescan', '1')  # whoever has it
write(at + '/driver_override', 'vfio-pci'), write(at + '/driver/unbind', bdf) if os.path.lexists(at + '/driver') else ''
write(driver + '/bind', bdf)
number, = os.listdir(at + '/vfio-dev')
print((count > 500, opened('/dev/vfio/devices/' + number), open(at + '/vendor').read()))
"""
    assert value(run, program, "edu,group=1", "ioat,group=1,driver=ioatdma") == (True, "ok", "0x1234\n")
