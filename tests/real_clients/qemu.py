"""A QEMU that knows IOMMUFD: Debian trixie's."""

from typing import Final

from .unpacked import Unpacked

QEMU: Final = Unpacked("qemu", ("qemu-system-x86",))


def command() -> list[str]:
    """What starts it, without any option but where its firmware is. Raises NotHere."""
    found = QEMU.find()
    share = found.root / "usr" / "share"
    data = [word for name in ("qemu", "seabios") for word in ("-L", str(share / name))]
    modules = f"QEMU_MODULE_DIR={found.libraries / 'qemu'}"
    return ["env", modules, *found.program("qemu-system-x86_64"), *data]
