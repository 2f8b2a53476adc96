"""The driver core's part. What writes to /sys answer was asked of Linux 7.3 and QEMU's edu and
e1000e.
"""

import inspect
from collections.abc import Coroutine
from errno import EINVAL, EIO, ENODEV
from typing import Any

import pytest

from iommud.errors import IoctlError
from iommud.iommus.shown import shown
from iommud.models.edu import Edu
from iommud.pci import registers as r
from iommud.pci.address import Address
from iommud.pci.bus import Bus, Nobody
from iommud.pci.function import PciFunction, Slot
from iommud.pci.ids import DynamicId
from iommud.pci.kernel_dma import KernelDma
from iommud.pci.plugged import Plugged
from iommud.pci.sysfs import Directory, File, Link, boolean, number
from iommud.pci.sysfs_device import cpu_mask
from iommud.pci.sysfs_tree import Machine, SysfsTree
from tests.engine.fakes import errno_of

from .kit import Modern, Plain, rom

EDU, MODERN = "0000:e0:00.0", "0000:e0:01.0"
HOME = f"devices/pci0000:e0/{EDU}"
DRIVER = "bus/pci/drivers/vfio-pci"


class Clients(Nobody):
    """Who is told; a client that has a device open closes it when it is asked."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def bound(self, plugged: Plugged) -> None:
        self.told.append(f"bound {plugged.vfio_name}")

    async def let_go(self, plugged: Plugged) -> None:
        assert plugged.vfio is not None
        self.told.append(f"let go {plugged.vfio_name}{', which is open' if plugged.vfio.opened else ''}")
        if plugged.vfio.opened:
            plugged.vfio.close()

    def unbound(self, plugged: Plugged) -> None:
        self.told.append(f"unbound {plugged.vfio_name}")


def at(device: int) -> Slot:
    return Slot(Address(device=device))


def now(work: Coroutine[Any, Any, Any] | Any) -> Any:
    """The result of what does not wait."""
    if not inspect.isawaitable(work):
        return work
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class Sys:
    """A tree that is written to and read by path."""

    def __init__(
        self, *functions: PciFunction, iommu: str = "vtd", dma: KernelDma | None = None, **options: Any
    ) -> None:
        self.clients = Clients()
        self.bus = Bus(self.clients, first_group=5, dma=dma)
        for function in functions:
            self.bus.plug(function, iommu, **options)
        self.tree = SysfsTree(
            self.bus, Machine(cpus=2, iommus={kind: shown(kind) for kind in ("vtd", "amd", "smmuv3")})
        )

    def write(self, path: str, data: str | bytes, offset: int = 0) -> int | str:
        """How many bytes were taken, or the errno's name; and the tree follows."""
        file = self.tree.entries[path]
        assert isinstance(file, File)
        try:
            if file.write is None:
                raise IoctlError(EIO, "it cannot be written")
            taken: int = now(file.write(offset, data.encode() if isinstance(data, str) else data))
        except IoctlError as error:
            return str(error).split(":")[0]
        self.tree.refresh()
        return taken

    def read(self, path: str, offset: int = 0, length: int = 4096) -> str:
        return self.bytes(path, offset, length).decode()

    def bytes(self, path: str, offset: int = 0, length: int = 4096) -> bytes:
        file = self.tree.entries[path]
        assert isinstance(file, File)
        assert file.read is not None
        return file.read(offset, length)

    def link(self, path: str) -> str | None:
        found = self.tree.entries.get(path)
        return found.target if isinstance(found, Link) else None

    def resolves(self) -> list[str]:
        """Links that lead nowhere."""
        lost = []
        for path, entry in self.tree.entries.items():
            if isinstance(entry, Link):
                parts = path.split("/")[:-1]
                for step in entry.target.split("/"):
                    parts = parts[:-1] if step == ".." else [*parts, step]
                if "/".join(parts) not in self.tree.entries:
                    lost.append(path)
        return lost


@pytest.fixture
def sys() -> Sys:
    return Sys(Edu(at(0)), Modern(at(1)))


def test_what_a_device_says_of_itself(sys: Sys) -> None:
    expect = {
        "vendor": "0x1234\n",
        "device": "0x11e8\n",
        "subsystem_vendor": "0x1af4\n",
        "subsystem_device": "0x1100\n",
        "class": "0x00ff00\n",
        "revision": "0x10\n",
        "modalias": "pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00\n",
        "uevent": (
            "DRIVER=vfio-pci\nPCI_CLASS=FF00\nPCI_ID=1234:11E8\nPCI_SUBSYS_ID=1AF4:1100\nPCI_SLOT_NAME=0000:e0:00.0\n"
            "MODALIAS=pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00\n"
        ),
        "irq": "10\n",
        "enable": "0\n",
        "driver_override": "(null)\n",
        "numa_node": "-1\n",
        "local_cpus": "3\n",
        "local_cpulist": "0-1\n",
        "msi_bus": "1\n",
        "ari_enabled": "0\n",
        "broken_parity_status": "0\n",
        "dma_mask_bits": "32\n",
        "consistent_dma_mask_bits": "32\n",
        "power_state": "D0\n",
        "power/control": "auto\n",
        "power/runtime_status": "suspended\n",
        "vfio-dev/vfio0/dev": "511:0\n",
        "vfio-dev/vfio0/uevent": "MAJOR=511\nMINOR=0\nDEVNAME=vfio/devices/vfio0\n",
    }
    assert {name: sys.read(f"{HOME}/{name}") for name in expect} == expect
    assert sys.read(f"{HOME}/resource").splitlines()[0] == "0x00000000e0000000 0x00000000e00fffff 0x0000000000040200"
    assert len(sys.read(f"{HOME}/resource").splitlines()) == 13
    assert "reset" not in {path.removeprefix(f"{HOME}/") for path in sys.tree.entries}


def test_resources_of_every_kind() -> None:
    class All(Plain):
        rom = rom()

    sys = Sys(All(at(0)))
    flags = [line.split()[2][-6:] for line in sys.read(f"{HOME}/resource").splitlines()]
    assert flags[:7] == ["040200", "042208", "040101", "000000", "14220c", "000000", "046200"]
    sizes = {
        path.rsplit("/", 1)[1]: entry.size
        for path, entry in sys.tree.entries.items()
        if isinstance(entry, File) and "resource" in path
    }
    assert sizes == {
        "resource": 4096,
        "resource0": 256,
        "resource1": 1 << 16,
        "resource1_wc": 1 << 16,
        "resource2": 32,
        "resource4": 1 << 33,
        "resource4_wc": 1 << 33,
    }
    assert sys.read(f"{HOME}/reset_method") == "af_flr pm\n"


def test_every_link_leads_somewhere_and_every_file_is_in_a_directory(sys: Sys) -> None:
    assert sys.resolves() == []
    top = {"bus", "class", "dev", "devices", "kernel", "module"}
    for path in sys.tree.entries:
        parent = path.rpartition("/")[0]
        assert parent in top or isinstance(sys.tree.entries[parent], Directory), path
    order = list(sys.tree.entries)
    assert all(order.index(path.rpartition("/")[0]) < i for i, path in enumerate(order) if path.count("/") > 1)


def test_who_names_it(sys: Sys) -> None:
    home = "../../../devices/pci0000:e0/0000:e0:00.0"
    assert sys.link(f"bus/pci/devices/{EDU}") == home
    assert sys.link(f"{DRIVER}/{EDU}") == f"../{home}"
    assert sys.link(f"{HOME}/driver") == "../../../bus/pci/drivers/vfio-pci"
    assert sys.link(f"{HOME}/subsystem") == "../../../bus/pci"
    assert sys.link(f"{HOME}/iommu_group") == "../../../kernel/iommu_groups/5"
    assert sys.link(f"{HOME}/iommu") == "../../virtual/iommu/dmar0"
    assert sys.link(f"{HOME}/vfio-dev/vfio0/device") == "../../../0000:e0:00.0"
    assert sys.link(f"{HOME}/vfio-dev/vfio0/subsystem") == "../../../../../class/vfio-dev"
    assert sys.link("class/vfio-dev/vfio0") == "../../devices/pci0000:e0/0000:e0:00.0/vfio-dev/vfio0"
    assert sys.link("dev/char/511:0") == "../../devices/pci0000:e0/0000:e0:00.0/vfio-dev/vfio0"
    assert sys.link("dev/char/510:1") == "../../devices/virtual/vfio/6"
    assert sys.link("class/iommu/dmar0") == "../../devices/virtual/iommu/dmar0"
    assert sys.link(f"kernel/iommu_groups/5/devices/{EDU}") == f"../{home}"
    assert sys.read("kernel/iommu_groups/5/reserved_regions") == "0x00000000fee00000 0x00000000feefffff msi\n"
    assert sys.read("devices/virtual/iommu/dmar0/intel-iommu/cap") == "1d2008c002f0406\n"
    assert sys.read("devices/virtual/vfio/5/uevent") == "MAJOR=510\nMINOR=0\nDEVNAME=vfio/5\n"


def test_devices_of_one_group() -> None:
    sys = Sys(Edu(Slot(Address(device=0), group=1)), Modern(Slot(Address(device=1), group=1)))
    assert sys.link(f"devices/pci0000:e0/{MODERN}/iommu_group") == "../../../kernel/iommu_groups/5"
    assert {path for path in sys.tree.entries if path.startswith("devices/virtual/vfio/") and path.count("/") == 3} == {
        "devices/virtual/vfio/5"
    }
    sys.write(f"{DRIVER}/unbind", EDU)
    assert "class/vfio/5" in sys.tree.entries
    sys.write(f"{DRIVER}/unbind", MODERN)
    assert "class/vfio/5" not in sys.tree.entries
    assert "kernel/iommu_groups/5" in sys.tree.entries


def test_unbind_and_bind(sys: Sys) -> None:
    assert sys.write(f"{DRIVER}/bind", EDU) == "EBUSY"
    assert sys.write(f"{DRIVER}/bind", "0000:e0:19.0") == "ENODEV"
    assert sys.write(f"{DRIVER}/unbind", "0000:e0:19.0") == "ENODEV"
    assert sys.write(f"{DRIVER}/unbind", EDU + "\n") == 13
    assert sys.write(f"{DRIVER}/unbind", EDU) == "ENODEV"
    gone = {
        f"{HOME}/vfio-dev",
        f"{HOME}/driver",
        f"{DRIVER}/{EDU}",
        "class/vfio-dev/vfio0",
        "dev/char/511:0",
        "class/vfio/5",
    }
    assert not gone & set(sys.tree.entries)
    assert f"{HOME}/iommu_group" in sys.tree.entries
    assert sys.read(f"{HOME}/uevent").startswith("PCI_CLASS=")
    assert sys.read(f"{HOME}/power/runtime_status") == "active\n"
    assert sys.write(f"{DRIVER}/bind", EDU) == 12
    assert gone <= set(sys.tree.entries)
    assert sys.clients.told == ["bound vfio0", "bound vfio1", "let go vfio0", "unbound vfio0", "bound vfio0"]
    assert sys.resolves() == []


def test_a_device_that_is_open_is_asked_for(sys: Sys) -> None:
    plugged = sys.bus.find(EDU)
    assert plugged.vfio is not None
    plugged.vfio.open()
    assert (sys.read(f"{HOME}/enable"), sys.read(f"{HOME}/power/runtime_status")) == ("1\n", "active\n")
    assert sys.write(f"{DRIVER}/unbind", EDU) == 12
    assert sys.clients.told[-2:] == ["let go vfio0, which is open", "unbound vfio0"]


def test_numbers_are_the_lowest_that_are_free(sys: Sys) -> None:
    sys.write(f"{DRIVER}/unbind", EDU)
    sys.write(f"{DRIVER}/unbind", MODERN)
    sys.write(f"{DRIVER}/bind", MODERN)
    assert sys.read(f"devices/pci0000:e0/{MODERN}/vfio-dev/vfio0/dev") == "511:0\n"
    assert sys.read("devices/virtual/vfio/6/dev") == "510:0\n"
    sys.write(f"{DRIVER}/bind", EDU)
    assert sys.read(f"{HOME}/vfio-dev/vfio1/dev") == "511:1\n"


def test_driver_override(sys: Sys) -> None:
    override, bind = f"{HOME}/driver_override", f"{DRIVER}/bind"
    assert sys.write(override, "nothing\n") == 8
    assert sys.read(override) == "nothing\n"
    sys.write(f"{DRIVER}/unbind", EDU)
    assert sys.write(bind, EDU) == "ENODEV"
    assert sys.write(f"{DRIVER}/remove_id", "1234 11e8") == 9
    sys.write(override, "\n")
    assert sys.read(override) == "(null)\n"
    assert sys.write(bind, EDU) == "ENODEV"
    sys.write(override, "vfio-pci\0\0")
    assert sys.write(bind, EDU) == 12
    assert sys.write(override, "x" * 4095) == "EINVAL"


def test_new_id_and_remove_id(sys: Sys) -> None:
    sys.write(f"{DRIVER}/unbind", EDU)
    for text in ("1234", "xyz", "", "0x"):
        assert sys.write(f"{DRIVER}/new_id", text) == "EINVAL"
        assert sys.write(f"{DRIVER}/remove_id", text) == "EINVAL"
    assert sys.write(f"{DRIVER}/new_id", "1234 11e8") == "EEXIST"
    assert sys.write(f"{DRIVER}/remove_id", "1234 11e8 5") == "ENODEV"
    assert sys.write(f"{DRIVER}/remove_id", "1234 11e8") == 9
    assert sys.write(f"{DRIVER}/remove_id", "1234 11e8") == "ENODEV"
    assert sys.write(f"{DRIVER}/new_id", "ffffffff 0x11E8 ffffffff ffffffff ff00 ff00\n") == 44
    assert f"{HOME}/vfio-dev" in sys.tree.entries  # it was taken at once


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("1234 11e8", True),
        ("1234 11e9", False),
        ("1234 11e8 1af4 1100", True),
        ("1234 11e8 1af4 1101", False),
        ("1234 11e8 ffffffff 1100", True),
        ("1234 11e8 1af4 1100 00ff00 ffffff", True),
        ("1234 11e8 1af4 1100 00fe00 ffff00", False),
    ],
)
def test_ids(text: str, matches: bool) -> None:
    assert DynamicId.parse(text).matches(Edu.identity) == matches


def test_drivers_probe_and_autoprobe(sys: Sys) -> None:
    sys.write(f"{DRIVER}/unbind", EDU)
    assert sys.write("bus/pci/drivers_probe", "0000:e0:19.0") == "ENODEV"
    assert sys.write("bus/pci/drivers_probe", EDU) == 12
    assert f"{HOME}/driver" in sys.tree.entries
    told = list(sys.clients.told)
    assert sys.write("bus/pci/drivers_probe", EDU) == 12  # it has a driver
    sys.write(f"{DRIVER}/unbind", MODERN)
    sys.write(f"devices/pci0000:e0/{MODERN}/driver_override", "nothing")
    assert sys.write("bus/pci/drivers_probe", MODERN) == 12  # and nobody takes this one
    assert sys.clients.told[len(told) :] == ["let go vfio1", "unbound vfio1"]
    assert sys.read("bus/pci/drivers_autoprobe") == "1\n"
    sys.write("bus/pci/drivers_autoprobe", "0")
    sys.write(f"{HOME}/remove", "1")
    sys.write("bus/pci/rescan", "1")
    assert f"{HOME}/vendor" in sys.tree.entries
    assert f"{HOME}/driver" not in sys.tree.entries


def test_enable(sys: Sys) -> None:
    enable, function = f"{HOME}/enable", sys.bus.find(EDU).function
    assert sys.write(enable, "1") == sys.write(enable, "0") == "EBUSY"
    sys.write(f"{DRIVER}/unbind", EDU)
    function.config.write(4, 2, 0)
    answers = [
        (sys.write(enable, said), sys.read(enable)) for said in ("0", "1", "1", "0", "0", "0", "x", "2", "0x0\n")
    ]
    assert answers == [
        ("EIO", "0\n"),
        (1, "1\n"),
        (1, "2\n"),
        (1, "1\n"),
        (1, "0\n"),
        ("EIO", "0\n"),
        ("EINVAL", "0\n"),
        (1, "1\n"),
        (4, "0\n"),
    ]
    assert function.command & r.PCI_COMMAND_MEMORY  # it stays, as in the kernel


def test_remove_and_rescan(sys: Sys) -> None:
    for path, said in (
        (f"{HOME}/remove", "x"),
        (f"{HOME}/rescan", "x"),
        ("bus/pci/rescan", "q"),
        ("bus/pci/rescan", "-1"),
    ):
        assert sys.write(path, said) == "EINVAL"
    assert sys.write(f"{HOME}/remove", "0") == 1
    sys.write(f"{HOME}/driver_override", "vfio-pci")
    assert sys.write(f"{HOME}/remove", "1\n") == 2
    assert not [path for path in sys.tree.entries if EDU in path or path.startswith("kernel/iommu_groups/5")]
    assert errno_of(lambda: sys.bus.find(EDU)) == ENODEV
    assert sys.write(f"devices/pci0000:e0/{MODERN}/rescan", "0") == 1
    assert f"{HOME}/vendor" not in sys.tree.entries
    assert sys.write("bus/pci/rescan", "1") == 1
    assert sys.link(f"{HOME}/iommu_group") == "../../../kernel/iommu_groups/5"
    assert sys.read(f"{HOME}/driver_override") == "(null)\n"
    assert sys.link(f"{HOME}/driver") is not None  # its ID is known still
    assert sys.resolves() == []


def test_a_device_without_a_driver() -> None:
    sys = Sys(Edu(at(0)), driver="none")
    assert f"{HOME}/vfio-dev" not in sys.tree.entries
    assert sys.write(f"{DRIVER}/bind", EDU) == "ENODEV"
    sys.write(f"{HOME}/driver_override", "vfio-pci")
    assert f"{HOME}/driver" not in sys.tree.entries
    assert sys.write("bus/pci/drivers_probe", EDU) == 12
    assert f"{HOME}/vfio-dev/vfio0" in sys.tree.entries


def test_a_device_without_an_iommu() -> None:
    sys = Sys(Edu(at(0)), iommu="none")
    assert f"{HOME}/iommu" not in sys.tree.entries
    assert sys.read(f"{HOME}/vfio-dev/noiommu-vfio0/dev") == "511:0\n"
    assert sys.read("kernel/iommu_groups/5/name") == "vfio-noiommu\n"
    assert sys.read("kernel/iommu_groups/5/type") == "unknown\n"
    assert sys.read("kernel/iommu_groups/5/reserved_regions") == ""
    assert sys.read("devices/virtual/vfio/noiommu-5/uevent") == "MAJOR=510\nMINOR=0\nDEVNAME=vfio/noiommu-5\n"
    assert sys.read("module/vfio/parameters/enable_unsafe_noiommu_mode") == "Y\n"
    sys.write(f"{DRIVER}/unbind", EDU)
    assert "kernel/iommu_groups/5" not in sys.tree.entries
    assert f"{HOME}/iommu_group" not in sys.tree.entries
    assert sys.resolves() == []


@pytest.mark.parametrize(("kind", "name", "regions"), [("amd", "ivhd0", 2), ("smmuv3", "smmu3.0x0000000009050000", 1)])
def test_other_iommus(kind: str, name: str, regions: int) -> None:
    sys = Sys(Edu(at(0)), iommu=kind)
    assert sys.link(f"{HOME}/iommu") == f"../../virtual/iommu/{name}"
    assert len(sys.read("kernel/iommu_groups/5/reserved_regions").splitlines()) == regions
    assert sys.resolves() == []


def test_the_type_of_a_group(sys: Sys) -> None:
    path = "kernel/iommu_groups/5/type"
    assert sys.read(path) == "DMA-FQ\n"
    assert sys.write(path, "DMA\n") == 4
    assert sys.read(path) == "DMA\n"
    plugged = sys.bus.find(EDU)
    assert plugged.vfio is not None
    plugged.vfio.open()
    assert sys.write(path, "identity") == "EPERM"
    assert sys.write(path, "DMA-FQ") == 6  # from DMA that can always be
    assert sys.write(path, "none") == "EINVAL"
    plugged.vfio.close()
    assert sys.write(path, "identity") == 8
    assert sys.write(path, "auto") == 4
    assert sys.read(path) == "DMA-FQ\n"


def test_reset_and_its_methods(sys: Sys) -> None:
    home, function = f"devices/pci0000:e0/{MODERN}", sys.bus.find(MODERN).function
    assert isinstance(function, Plain)
    assert [sys.write(f"{home}/reset", said) for said in ("1", "0", "x", "2")] == [1, "EINVAL", "EINVAL", "EINVAL"]
    assert function.resets == 1
    assert sys.read(f"{home}/reset_method") == "flr\n"
    assert [sys.write(f"{home}/reset_method", said) for said in ("pm", "foo", "flr\n", "", "default")] == [
        "EINVAL",
        "EINVAL",
        4,
        0,
        7,
    ]
    now(sys.tree.entries[f"{home}/reset_method"].write(0, b"\n"))  # type: ignore[union-attr,misc]
    assert sys.read(f"{home}/reset_method") == ""
    assert sys.write(f"{home}/reset", "1") == "ENOTTY"
    plugged = sys.bus.find(MODERN)
    assert plugged.vfio is not None
    plugged.vfio.open()
    assert not plugged.vfio.reset_works
    assert errno_of(plugged.vfio.reset) == EINVAL
    plugged.vfio.close()
    sys.write(f"{home}/reset_method", "default\n")
    plugged.vfio.open()
    assert plugged.vfio.reset_works


def test_config_is_the_functions_own(sys: Sys) -> None:
    path = f"{HOME}/config"
    file = sys.tree.entries[path]
    assert isinstance(file, File)
    assert (file.size, file.public, file.mode) == (256, 64, 0o644)
    assert sys.bytes(path)[:4] == b"\x34\x12\xe8\x11"
    assert sys.bytes(path, 0x3D, 7) == b"\x01\0\0\x05\0\x80\0"
    assert (sys.bytes(path, 250, 100), sys.bytes(path, 256, 4)) == (bytes(6), b"")
    assert sys.write(path, b"\x07\x01", 4) == 2
    assert sys.bytes(path, 4, 2) == b"\x07\x01"
    assert sys.write(path, b"\1\2\3\4\5", 0xFD) == 3
    assert sys.write(path, b"1", 256) == 0
    seen: list[tuple[int, int]] = []
    space = sys.bus.find(EDU).function.config
    space.written = lambda at, size: seen.append((at, size))
    sys.write(path, bytes(9), 0x51)
    assert seen == [(0x51, 1), (0x52, 2), (0x54, 4), (0x58, 2)]


def test_ports_and_memory() -> None:
    sys = Sys(Plain(at(0)))
    ports = f"{HOME}/resource2"
    assert sys.write(ports, b"\1\2\3\4", 8) == 4
    assert sys.bytes(ports, 8, 2) == b"\1\2"
    assert sys.write(ports, b"123", 0) == sys.write(ports, b"1234", 30) == "EINVAL"
    assert (sys.write(ports, b"1", 32), sys.bytes(ports, 32, 1)) == (0, b"")
    assert errno_of(lambda: sys.bytes(ports, 0, 8)) == EINVAL
    memory = sys.tree.entries[f"{HOME}/resource0"]
    assert isinstance(memory, File)
    assert (memory.read, memory.write) == (None, None)
    assert sys.bytes(f"{HOME}/vpd", 4, 2) == b"\4\5"


def test_the_rom_is_shown_when_it_was_enabled() -> None:
    class WithRom(Plain):
        rom = rom(1024)

    class Broken(Plain):
        rom = bytes(1024)

    sys, broken = Sys(WithRom(at(0))), Sys(Broken(at(0)))
    path = f"{HOME}/rom"
    assert errno_of(lambda: sys.bytes(path)) == EINVAL
    assert sys.write(path, "2") == "EINVAL"
    assert sys.write(path, "1") == 1
    assert (sys.bytes(path, 0, 2), sys.bytes(path, 1020), sys.bytes(path, 1024)) == (b"\x55\xaa", rom(1024)[1020:], b"")
    sys.write(path, "0")
    assert errno_of(lambda: sys.bytes(path)) == EINVAL
    broken.write(path, "1")
    assert errno_of(lambda: broken.bytes(path)) == EIO


def test_small_things_that_can_be_written(sys: Sys) -> None:
    for name, said, answer, shown_after in (
        ("uevent", "add", 3, None),
        ("uevent", "change 1234", 11, None),
        ("uevent", "foo", "EINVAL", None),
        ("numa_node", "-1", 2, "-1\n"),
        ("numa_node", "0", "EINVAL", "-1\n"),
        ("msi_bus", "0", 1, "0\n"),
        ("broken_parity_status", "1", 1, "1\n"),
        ("broken_parity_status", "yes", "EINVAL", "1\n"),
        ("power/control", "on\n", 3, "on\n"),
        ("power/control", "off", "EINVAL", "on\n"),
    ):
        assert sys.write(f"{HOME}/{name}", said) == answer, (name, said)
        if shown_after is not None:
            assert sys.read(f"{HOME}/{name}") == shown_after
    assert sys.write(f"{HOME}/vendor", "0x1") == "EIO"
    assert sys.write(f"{HOME}/enable", "1" * 5000) == "EIO"


def test_msi_irqs_come_with_msi(sys: Sys) -> None:
    plugged = sys.bus.find(EDU)
    assert f"{HOME}/msi_irqs" not in sys.tree.entries
    plugged.host.allocate_vectors(1, msix=False)
    changes = sys.tree.refresh()
    assert set(changes.added) == {f"{HOME}/msi_irqs", f"{HOME}/msi_irqs/64"}
    assert (sys.read(f"{HOME}/msi_irqs/64"), sys.read(f"{HOME}/irq")) == ("msi\n", "64\n")
    plugged.host.free_vectors()
    assert sys.tree.refresh().removed == [f"{HOME}/msi_irqs/64", f"{HOME}/msi_irqs"]


def test_what_stays_is_the_same(sys: Sys) -> None:
    before = dict(sys.tree.entries)
    changes = sys.tree.refresh()
    assert (changes.added, changes.removed) == ({}, [])
    sys.write(f"{DRIVER}/unbind", EDU)
    assert all(sys.tree.entries[path] is before[path] for path in sys.tree.entries if isinstance(before[path], File))
    sys.write(f"{DRIVER}/bind", EDU)
    assert set(sys.tree.entries) == set(before)


def test_whoever_shows_it_is_told_of_each_change(sys: Sys) -> None:
    changes: list[str] = []
    sys.bus.changed = lambda: changes.append("changed")
    for path, said, told in (
        (f"{DRIVER}/unbind", EDU, 1),
        (f"{DRIVER}/bind", EDU, 1),
        (f"{DRIVER}/unbind", EDU, 1),
        ("bus/pci/drivers_probe", EDU, 1),
        ("bus/pci/drivers_probe", EDU, 0),
        (f"{HOME}/remove", "1", 1),
        ("bus/pci/rescan", "1", 1),
        (f"{DRIVER}/new_id", "1 2", 1),
        (f"{DRIVER}/bind", EDU, 0),
    ):
        sys.write(path, said)
        assert len(changes) == told, (path, said)
        changes.clear()


def test_modes(sys: Sys) -> None:
    """As Linux 7.3 has them."""
    expect = {
        0o444: [
            "vendor",
            "device",
            "class",
            "resource",
            "irq",
            "modalias",
            "local_cpus",
            "power_state",
            "ari_enabled",
            "dma_mask_bits",
        ],
        0o644: [
            "config",
            "enable",
            "driver_override",
            "uevent",
            "msi_bus",
            "broken_parity_status",
            "numa_node",
            "d3cold_allowed",
        ],
        0o600: ["resource0"],
        0o220: ["remove"],
        0o200: ["rescan"],
    }
    for mode, names in expect.items():
        for name in names:
            file = sys.tree.entries[f"{HOME}/{name}"]
            assert isinstance(file, File)
            assert file.mode == mode, name
    modern = f"devices/pci0000:e0/{MODERN}"
    for path, mode in (
        (f"{DRIVER}/bind", 0o200),
        (f"{DRIVER}/new_id", 0o200),
        ("bus/pci/rescan", 0o200),
        ("bus/pci/drivers_autoprobe", 0o644),
        ("kernel/iommu_groups/5/type", 0o644),
        ("kernel/iommu_groups/5/reserved_regions", 0o444),
        (f"{HOME}/vfio-dev/vfio0/dev", 0o444),
        (f"{modern}/reset", 0o200),
        (f"{modern}/reset_method", 0o644),
        (f"{modern}/serial_number", 0o400),
    ):
        file = sys.tree.entries[path]
        assert isinstance(file, File)
        assert file.mode == mode, path


def test_two_devices_cannot_be_in_one_place(sys: Sys) -> None:
    with pytest.raises(ValueError, match=r"there is a device at 0000:e0:00\.0 already"):
        sys.bus.plug(Edu(at(0)), "vtd")


@pytest.mark.parametrize(
    ("said", "value"),
    [("0", 0), ("1\n", 1), ("+7", 7), ("0x1F", 31), ("010", 8), ("18446744073709551615", 2**64 - 1)],
)
def test_numbers(said: str, value: int) -> None:
    assert number(said) == value


@pytest.mark.parametrize(
    "said", ["", "\n", "-1", " 1", "1 ", "1\n\n", "1_0", "08", "0x", "1e", "\u0661", "18446744073709551616"]
)
def test_what_is_no_number(said: str) -> None:
    assert errno_of(lambda: number(said)) == EINVAL


@pytest.mark.parametrize(
    ("said", "value"),
    [("1", True), ("yes", True), ("On", True), ("0", False), ("no", False), ("off", False), ("E", True), ("d", False)],
)
def test_booleans(said: str, value: bool) -> None:
    assert boolean(said) == value
    assert errno_of(lambda: boolean("x")) == EINVAL


@pytest.mark.parametrize(
    ("cpus", "mask"), [(1, "1"), (2, "3"), (32, "ffffffff"), (33, "1,ffffffff"), (72, "ff,ffffffff,ffffffff")]
)
def test_masks_of_cpus(cpus: int, mask: str) -> None:
    assert cpu_mask(cpus) == mask
