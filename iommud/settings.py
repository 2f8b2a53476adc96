"""What was asked for, by the command line or by a test. Everything else is made from it."""

import re
from dataclasses import dataclass, field, fields
from typing import Final

PINS: Final = ("watch", "uring")
TYPE1: Final = "type1"  # VFIO's own container
VFIO: Final = ("iommufd", TYPE1)
MOCK: Final = "mock"  # the kind of IOMMU of the kernel's selftest driver
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
LEAST: Final = {"workers": 1, "files": 64, "memory": 64 << 20, "objects": 256}


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of each user. No virtual machine monitor comes near any of these numbers."""

    workers: int = 32  # processes with one open file each; all beyond is served by one more
    files: int = 16384  # descriptors of each of these
    memory: int = 2 << 30  # bytes that each of these may have for itself
    objects: int = 2_000_000  # objects and mappings of all of these

    @classmethod
    def of(cls, text: str) -> "Shares":
        """From `key=value,...`, as `--share` takes it. ValueError: a sentence for people."""
        found: dict[str, int] = {}
        names = [field.name for field in fields(cls)]
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if key not in names or not equals:
                raise ValueError(f"{part}: a share is one of {', '.join(f'{name}=N' for name in names)}")
            match = re.fullmatch(r"(\d{1,15})([KMG]?)", value)
            if match is None:
                raise ValueError(f"{part}: {value or 'nothing'} is no number (with K, M or G behind it, if you like)")
            number = int(match[1]) * _FACTORS[match[2]]
            if number < LEAST[key]:
                raise ValueError(f"{part}: the least that works is {key}={LEAST[key]}")
            found[key] = number
        return cls(**found)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of `run` and `serve`. What only one of them knows comes last."""

    mock: bool = False  # the kernel's selftest driver is there, and makes devices
    iommu: str | None = (
        # the kind that devices stand behind (selftest.kinds.NAMES); None: the one of who makes them
        None
    )
    vfio: str | None = None  # VFIO's container too: one of VFIO; None: only with devices, as IOMMUFD
    devices: tuple[str, ...] = ()  # PCI devices with a file of VFIO's each: `MODEL,key=value,...`
    pin: str = PINS[0]
    why: bool = False  # a line for each refused ioctl
    log_level: str = "warning"
    # --- run ---
    watch: bool = True  # the system calls that FUSE does not tell of
    chardev: bool = False  # fstat(2) of the files says character device
    # --- serve: absolute path `fuse`, or name under /dev `cuse`; neither: /dev/`name`, by what the
    # kernel has ---
    fuse: str | None = None
    cuse: str | None = None
    name: str = "iommu"
    sysfs: str | None = None  # absolute path of a directory: what the devices are in /sys
    mode: int = 0o660  # what the kernel gives /dev/iommu
    group: str | None = None
    shares: Shares = field(default_factory=Shares)

    @property
    def iommu_of_devices(self) -> str | None:
        """The kind that a device stands behind which names none; None: the default of devices. The
        mock is for its own devices only.
        """
        return None if self.iommu == MOCK else self.iommu
