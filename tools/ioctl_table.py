"""`make docs`: docs/ioctls.md, every ioctl of Linux 7.3 and what iommud makes of it, from the code.
`--check`: whether it is up to date.
"""

import inspect
import re
import sys
from pathlib import Path

from iommud.ops import vfio as container
from iommud.ops.table import ROWS
from iommud.selftest.command import operations
from iommud.selftest.plug import Socket
from iommud.uapi.header import const
from iommud.uapi.names import name_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "ioctls.md"
CLIENTS = ROOT / "tests" / "clients"
PURE = ROOT / "tests" / "ops"
# The first kernel that had them: by the pull requests of each merge window, and by the headers of
# Linux 6.3, 6.13, 6.19, 7.2 and 7.3.
FIRST_KERNEL = {
    "6.2": "DESTROY IOAS_ALLOC IOAS_ALLOW_IOVAS IOAS_COPY IOAS_IOVA_RANGES IOAS_MAP IOAS_UNMAP OPTION VFIO_IOAS",
    "6.6": "GET_HW_INFO HWPT_ALLOC",
    "6.7": "HWPT_GET_DIRTY_BITMAP HWPT_SET_DIRTY_TRACKING",
    "6.8": "HWPT_INVALIDATE",
    "6.11": "FAULT_QUEUE_ALLOC",
    "6.13": "IOAS_CHANGE_PROCESS IOAS_MAP_FILE VDEVICE_ALLOC VIOMMU_ALLOC",
    "6.15": "VEVENTQ_ALLOC",
    "6.17": "HW_QUEUE_ALLOC",
    "7.3": "IOAS_NOIOMMU_GET_PA",
}
# What came to them later.
GREW = {
    "GET_HW_INFO": "6.7: out_capabilities; 6.15: out_max_pasid_log2; 6.17: in_data_type",
    "HWPT_ALLOC": "6.7: data; 6.11: fault_id; 6.13: vIOMMUs; 6.15: PASIDs",
    "HWPT_INVALIDATE": "6.13: vIOMMUs",
    "IOAS_MAP_FILE": "6.19: dma-bufs",
    "VIOMMU_ALLOC": "6.17: data",
}
SINCE = {name: kernel for kernel, names in FIRST_KERNEL.items() for name in names.split()}
HEAD = """\
# Every ioctl of Linux 7.3's IOMMUFD

This list is made from the code by `make docs`, and a test keeps it up to date. *Number* is the
ioctl's number of the type `;`. *Bytes* are the size of the struct, or the least and the greatest: a
caller of the oldest kernel supplies the least. *Since* is the first kernel that has the ioctl, and
*later* what came to it in which kernel. Where Linux does more than iommud,
[not-done.md](not-done.md) says so.

"""
_FUNCTION = re.compile(r"^static inline [\w \*]+?(\w+)\([^;{]*\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def clients_of(constant: str) -> list[Path]:
    """The C clients that make a call, by its constant or by a helper of their headers: the one
    named like it first, then by calls.
    """
    helpers = {
        name
        for header in CLIENTS.rglob("*.h")
        if not header.stem.startswith("fuzz")
        for name, body in _FUNCTION.findall(header.read_text())
        if re.search(rf"\b{constant}\b", body)
    }
    wanted = re.compile(rf"\b(?:{constant}\b|(?:{'|'.join(sorted(helpers)) or '(?!)'})\()")
    counts = {
        path: len(wanted.findall(path.read_text()))
        for path in CLIENTS.rglob("*.c")
        if path.stem not in ("fuzz", "hold")
    }
    found = (path for path, count in counts.items() if count)
    return sorted(found, key=lambda path: (path.stem.upper() not in constant, -rank(path, constant, counts), path))


def rank(path: Path, constant: str, counts: dict[Path, int]) -> int:
    """How much a file is about a constant: by how often it has it, and by the words of its name."""
    return counts[path] * (1 + len(set(constant.split("_")) & set(path.stem.upper().split("_"))))


def link(path: Path, text: str) -> str:
    return f"[{text}](../{path.relative_to(ROOT)})"


def test_of(constant: str) -> str:
    return link((path := clients_of(constant)[0]), path.stem)


def pure_test_of(name: str) -> Path:
    """The file of tests/ops that has most to say about an ioctl."""
    counts = {path: len(re.findall(rf"\b{name}\b", path.read_text())) for path in PURE.glob("test_*.py")}
    return max(sorted(counts), key=lambda path: rank(path, name, counts))


def ioctls() -> list[str]:
    lines = [
        "| ioctl | number | struct, bytes | since | later | handler | pure test | test in C |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(ROWS, key=lambda row: row.number):
        handler = row.handler
        path = Path(inspect.getsourcefile(handler) or "")
        where, judged = link(path, f"{path.stem}.{handler.__name__}"), test_of(f"IOMMU_{row.name}")
        least, most = row.min_size, row.struct.size
        sizes = f"{row.struct.name}, {least if least == most else f'{least} to {most}'}"
        since = f"{SINCE[row.name]} | {GREW.get(row.name, '')}"
        pure = link(pure_test_of(row.name), pure_test_of(row.name).stem)
        lines.append(f"| {row.name} | {row.number & 0xFF:#x} | {sizes} | {since} | {where} | {pure} | {judged} |")
    return lines


def vfio() -> list[str]:
    lines = [
        "",
        "The same file answers these ioctls of VFIO's container ([vfio.md](vfio.md)). All others of VFIO's",
        "are ENOTTY, as in Linux.",
        "",
        "| ioctl | number | argument | test |",
        "|---|---|---|---|",
    ]
    argument = dict.fromkeys(container.PLAIN, "a number")
    argument |= {number: f"{row.struct.name}, {row.min_size} or more" for number, row in container.ROWS.items()}
    lines += [f"| {name_of(n)} | {n & 0xFF:#x} | {argument[n]} | {test_of(name_of(n))} |" for n in sorted(argument)]
    return lines


def mock_operations() -> list[str]:
    lines = [
        "",
        "With `--mock` there is TEST_CMD (0xa0) as well. By its operations the kernel's selftest drives the",
        "mock devices.",
        "",
        "| operation | number | test |",
        "|---|---|---|",
    ]
    built = operations(Socket())
    text = (ROOT / "include" / "iommud" / "iommufd_test.h").read_text()
    for name in sorted(
        set(re.findall(r"\bIOMMU_TEST_OP_(\w+)", text)), key=lambda name: const(f"IOMMU_TEST_OP_{name}")
    ):
        number = const(f"IOMMU_TEST_OP_{name}")
        lines.append(
            f"| {name} | {number} | {test_of(f'IOMMU_TEST_OP_{name}') if number in built else '**not built**: EOPNOTSUPP'} |"
        )
    return lines


def document() -> str:
    return HEAD + "\n".join(ioctls() + vfio() + mock_operations()) + "\n"


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        fresh = DOCUMENT.exists() and DOCUMENT.read_text() == document()
        print(f"{DOCUMENT.relative_to(ROOT)} is {'up to date' if fresh else 'out of date: make docs'}")
        return 0 if fresh else 1
    DOCUMENT.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
