"""Disks, and a QEMU that gets them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .. import qemu
from ..users import User
from . import machine

SIZE: Final = 64 << 20  # bytes of a disk


@dataclass(frozen=True, slots=True)
class Disk:
    """An emulated disk. `address`: of its function, for iommud. The rest is how the guest knows it:
    `slot` on its bus, the PCI driver, the whole disk, its first partition, and by which names the
    interrupts of its I/O queues go.
    """

    model: str
    address: str
    slot: int
    driver: str
    device: str
    part: str
    queues: str

    @property
    def function(self) -> str:
        """Its directory in the guest."""
        return f"/sys/bus/pci/devices/{self.name}"

    @property
    def name(self) -> str:
        """Its function's, in the guest."""
        return f"0000:00:{self.slot:02x}.0"

    def file(self, place: Path) -> Path:
        """The file with its bytes."""
        return place / f"{self.model}.img"


NVME: Final = Disk("nvme", "0000:e0:00.0", 4, "nvme", "/dev/nvme0n1", "/dev/nvme0n1p1", r"nvme0q[1-9]\d*$")
VIRTIO: Final = Disk("virtio-blk", "0000:e0:01.0", 5, "virtio-pci", "/dev/vda", "/dev/vda1", r"virtio\d+-req\.\d+$")


@dataclass(frozen=True, slots=True)
class Setup:
    """`way`: fd or host, which is how QEMU opens the devices. `viommu`: the guest has an IOMMU too,
    and maps a page when it is needed and no longer. `shared`: the guest's memory is a file, which
    iommud maps as well; else iommud copies, by system calls. `tmpfs`: the disks' files are there,
    where no write has to wait. `mapped`: QEMU may map the devices' BARs. `keys`: more of the
    devices'.
    """

    user: User
    disks: Sequence[Disk]
    way: str = "fd"
    viommu: bool = False
    shared: bool = True
    tmpfs: bool = False
    processors: int = 1
    mapped: bool = False
    keys: str = ""

    def command(self, place: Path) -> list[str]:
        """What starts QEMU, with the disks' files in `place`. Raises NotHere."""
        keys = ["" if self.mapped else "mmap=off", self.keys]
        devices = [
            ",".join(
                [disk.model, f"bdf={disk.address}", f"file={disk.file(place)}", f"size={SIZE}", *filter(None, keys)]
            )
            for disk in self.disks
        ]
        options = ["--chardev"] if self.way == "host" else []
        return self.user.run(devices, ["sh", "-ec", self._script(), "sh", *self._machine()], *options)

    @property
    def parameters(self) -> Sequence[str]:
        """Of the guest's kernel."""
        return ("intel_iommu=on", "iommu.strict=1", "iommu.passthrough=0") if self.viommu else ()

    def _machine(self) -> list[str]:
        memory = "memory-backend-memfd,share=on" if self.shared else "memory-backend-ram"
        return [
            *(*qemu.command(), *machine.QEMU, "-smp", str(self.processors)),
            *("-object", f"{memory},id=memory,size={machine.MEMORY}"),
            *("-machine", "q35,memory-backend=memory", "-m", f"{machine.MEMORY >> 20}M"),
            *(("-device", "intel-iommu,caching-mode=on") if self.viommu else ()),
            *("-object", "iommufd,id=iommufd0"),
        ]

    def _script(self) -> str:
        """Runs its arguments, with the devices."""
        opened, given = "", ""
        for fd, disk in enumerate(self.disks, 8):
            given += f" -device vfio-pci,iommufd=iommufd0,id={disk.model},addr={disk.slot:02x}.0,"
            if self.way == "host":
                given += f"host={disk.address}"
            else:
                opened += f"exec {fd}<>/dev/vfio/devices/$(ls /sys/bus/pci/devices/{disk.address}/vfio-dev); "
                given += f"fd={fd}"
        return f'{opened}exec "$@"{given}'
