"""`make docs`: docs/ioctls.md, every ioctl of Linux 7.3 and what iommud makes of it, from the code. `--check`: whether it is up to date."""

import inspect
import re
import sys
from pathlib import Path

from iommud.ops.dispatch import HANDLERS
from iommud.ops.test_cmd import OPERATIONS
from iommud.uapi.header import const
from iommud.uapi.table import ROWS
from iommud.uapi.vfio_table import VFIO_BY_NUMBER, VFIO_WITHOUT_STRUCT

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "ioctls.md"
CLIENTS = ROOT / "tests" / "clients"
FIRST_STEP = {
    1: "DESTROY IOAS_ALLOC IOAS_ALLOW_IOVAS IOAS_COPY IOAS_IOVA_RANGES IOAS_MAP IOAS_MAP_FILE IOAS_UNMAP OPTION",
    3: "FAULT_QUEUE_ALLOC GET_HW_INFO HWPT_ALLOC HWPT_GET_DIRTY_BITMAP HWPT_INVALIDATE HWPT_SET_DIRTY_TRACKING VIOMMU_ALLOC",
    4: "HW_QUEUE_ALLOC IOAS_CHANGE_PROCESS IOAS_NOIOMMU_GET_PA VDEVICE_ALLOC VEVENTQ_ALLOC",
    5: "VFIO_IOAS",
}
SINCE = {name: step for step, names in FIRST_STEP.items() for name in names.split()}
HEAD = """\
# Every ioctl of Linux 7.3's IOMMUFD

Made from the code by `make docs`; a test keeps it up to date. Numbers are of the type `;`. *Step* is the one of the project's steps that
built it. Where the kernel would do more than iommud does, [not-done.md](not-done.md) says so.

"""
_FUNCTION = re.compile(r"^static inline [\w \*]+?(\w+)\([^;{]*\)\n\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def clients_of(constant: str) -> list[Path]:
    """The C clients that make a call, by its constant or by a helper of their headers: the one named like it first, then by calls."""
    helpers = {
        name
        for header in CLIENTS.rglob("*.h")
        if not header.stem.startswith("fuzz")
        for name, body in _FUNCTION.findall(header.read_text())
        if re.search(rf"\b{constant}\b", body)
    }
    wanted = re.compile(rf"\b(?:{constant}\b|(?:{'|'.join(sorted(helpers)) or '(?!)'})\()")
    counts = {path: len(wanted.findall(path.read_text())) for path in CLIENTS.rglob("*.c") if path.stem not in ("fuzz", "hold")}
    found = (path for path, count in counts.items() if count)
    return sorted(found, key=lambda path: (path.stem.upper() not in constant, -counts[path], path))


def link(path: Path, text: str) -> str:
    return f"[{text}](../{path.relative_to(ROOT)})"


def test_of(constant: str) -> str:
    return link((path := clients_of(constant)[0]), path.stem)


def ioctls() -> list[str]:
    lines = ["| ioctl | number | struct, bytes | step | handler | test |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        handler = HANDLERS[row.name]
        path = Path(inspect.getsourcefile(handler) or "")
        where, judged = link(path, f"{path.stem}.{handler.__name__}"), test_of(f"IOMMU_{row.name}")
        sizes = f"{row.struct}, {row.min_size} to {row.size}"
        lines.append(f"| {row.name} | {row.number & 0xFF:#x} | {sizes} | {SINCE[row.name]} | {where} | {judged} |")
    return lines


def vfio() -> list[str]:
    lines = [
        "",
        "VFIO's container ioctls, on the same file ([vfio.md](vfio.md)); all others of VFIO's are ENOTTY, as in Linux:",
        "",
        "| ioctl | number | argument | test |",
        "|---|---|---|---|",
    ]
    argument = dict.fromkeys(VFIO_WITHOUT_STRUCT, "a number")
    argument |= {number: f"{row.struct}, {row.min_size} or more" for number, row in VFIO_BY_NUMBER.items()}
    names = dict(VFIO_WITHOUT_STRUCT) | {number: row.name for number, row in VFIO_BY_NUMBER.items()}
    lines += [f"| {names[n]} | {n & 0xFF:#x} | {argument[n]} | {test_of(names[n])} |" for n in sorted(names)]
    return lines


def mock_operations() -> list[str]:
    lines = [
        "",
        "With `--mock` there is TEST_CMD (0xa0) as well, by which the kernel's selftest drives the mock devices:",
        "",
        "| operation | number | state | test |",
        "|---|---|---|---|",
    ]
    text = (ROOT / "include" / "iommud" / "iommufd_test.h").read_text()
    for name in sorted(set(re.findall(r"\bIOMMU_TEST_OP_(\w+)", text)), key=lambda name: const(f"IOMMU_TEST_OP_{name}")):
        number = const(f"IOMMU_TEST_OP_{name}")
        state = "built" if number in OPERATIONS else "**not built**: EOPNOTSUPP"
        lines.append(f"| {name} | {number} | {state} | {test_of(f'IOMMU_TEST_OP_{name}') if number in OPERATIONS else ''} |")
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
