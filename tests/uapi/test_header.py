"""Our headers against the kernel's: same names, sizes, offsets, kinds and values, in Python and in
C.

The committed table of figures is held against always. The kernel's own headers are where they can
be found: in the tree $LINUX_SRC, in the tree that the kernel's selftest was built from, or among
the system's headers if those are Linux 7.3's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from iommud.uapi import header

from .figures import MOCK, TABLE, UAPI, VFIO, Figures, Kernel, Names, compile_c, measure, measure_kernel, names_in

OURS = [header.INCLUDE / name for name in header.HEADERS]
NO_KERNEL = "the kernel's header is not here: LINUX_SRC=<a tree of Linux 7.3> names it (the table was compared)"


VFIO_NUMBERS = {
    "GET_API_VERSION": 100,
    "CHECK_EXTENSION": 101,
    "SET_IOMMU": 102,
    "GROUP_GET_STATUS": 103,
    "GROUP_SET_CONTAINER": 104,
    "GROUP_UNSET_CONTAINER": 105,
    "GROUP_GET_DEVICE_FD": 106,
    "IOMMU_GET_INFO": 112,
    "IOMMU_MAP_DMA": 113,
    "IOMMU_UNMAP_DMA": 114,
    "IOMMU_DIRTY_PAGES": 117,
    "DEVICE_GET_INFO": 107,
    "DEVICE_GET_REGION_INFO": 108,
    "DEVICE_GET_IRQ_INFO": 109,
    "DEVICE_SET_IRQS": 110,
    "DEVICE_RESET": 111,
    "DEVICE_GET_PCI_HOT_RESET_INFO": 112,
    "DEVICE_PCI_HOT_RESET": 113,
    "DEVICE_IOEVENTFD": 116,
    "DEVICE_FEATURE": 117,
    "DEVICE_BIND_IOMMUFD": 118,
    "DEVICE_ATTACH_IOMMUFD_PT": 119,
    "DEVICE_DETACH_IOMMUFD_PT": 120,
}


def find_kernel() -> Kernel | None:
    if tree := os.environ.get("LINUX_SRC"):
        trees = [Path(tree)]
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        trees = [cache / "iommud" / "linux-7.3", *Path("/usr/src").glob("linux-*7.3*")]
    for root in trees:
        if (root / UAPI).is_file():
            return Kernel(root / UAPI, *(root / part if (root / part).is_file() else None for part in (MOCK, VFIO)))
    if tree:
        raise ValueError(f"LINUX_SRC={tree} has no {UAPI}")
    system, version = Path("/usr/include/linux/iommufd.h"), Path("/usr/include/linux/version.h")
    if system.is_file() and version.is_file():
        code = re.search(r"LINUX_VERSION_CODE (\d+)", version.read_text())
        if code and int(code[1]) >> 8 == 7 << 8 | 3:
            return Kernel(system, None, system.with_name("vfio.h"))
    return None


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    found = find_kernel()
    if found is None:
        pytest.skip(NO_KERNEL)
    return found


@pytest.fixture(scope="module")
def table() -> Figures:
    figures: Figures = json.loads(TABLE.read_text())
    return figures


def read_names(headers: list[Path]) -> Names:
    names = Names()
    for path in headers:
        names.add(names_in(path.read_text()))
    return names


def python_figures() -> Figures:
    """The figures as iommud.uapi.header has them. It has no list of enums; their tags are read from
    our headers.
    """
    figures: dict[str, int | list[int | str]] = dict(header.CONST)
    for tag in read_names(OURS).enums:
        figures[f"enum {tag}"] = [header.ffi.sizeof(f"enum {tag}")]
    for struct in header.structs():
        figures[f"struct {struct}"] = [header.struct_size(struct), header.struct_align(struct)]
        figures |= {f"{struct}.{name}": list(field) for name, field in header.fields(struct).items()}
    return figures


def differences(ours: Figures, theirs: Figures) -> Mapping[str, tuple[object, object]]:
    """Name: (our figure, theirs), where they are not the same; None is a name that is missing."""
    names = ours.keys() | theirs.keys()
    return {name: (ours.get(name), theirs.get(name)) for name in sorted(names) if ours.get(name) != theirs.get(name)}


def test_python_has_the_figures_of_the_table(table: Figures) -> None:
    assert differences(python_figures(), table) == {}, "a kernel that has them: tests/uapi/figures.py TREE"


def test_c_has_the_figures_of_the_table(table: Figures) -> None:
    assert differences(measure(read_names(OURS), OURS, header.INCLUDE), table) == {}


def test_our_names_have_our_figures_in_the_kernels_header(kernel: Kernel, tmp_path: Path) -> None:
    figures = python_figures()
    names = Names(
        constants=list(header.CONST),
        enums=[name.removeprefix("enum ") for name in figures if name.startswith("enum ")],
        structs={struct: list(header.fields(struct)) for struct in header.structs()},
    )
    if kernel.mock is None:
        stable = names_in(OURS[0].read_text())
        names.constants = [name for name in names.constants if name in stable.constants]
        names.structs = {struct: fields for struct, fields in names.structs.items() if struct in stable.structs}
    theirs = measure(names, kernel.unpack(tmp_path), tmp_path)
    assert differences({name: figures[name] for name in theirs}, theirs) == {}
    assert len(theirs) == len(figures) or kernel.mock is None


def test_the_kernels_header_has_nothing_that_the_table_has_not(kernel: Kernel, table: Figures) -> None:
    theirs = measure_kernel(kernel)
    if kernel.mock is None:
        table = {name: figure for name, figure in table.items() if name in theirs}
    assert differences(table, theirs) == {}


@pytest.mark.parametrize("name", header.HEADERS)
def test_a_c_program_compiles_with_ours_alone(name: str) -> None:
    known = "VFIO_IOMMU_MAP_DMA" if name == VFIO.relative_to("include/uapi").as_posix() else "IOMMU_IOAS_MAP"
    text = f"#include <{name}>\nint main(void) {{ return {known} == 0; }}\n"
    done = compile_c(text, header.INCLUDE, "-Wpedantic", "-Werror", "-fsyntax-only")
    assert (done.returncode, done.stdout) == (0, "")
    used = compile_c(text, header.INCLUDE, "-M")
    assert str(header.INCLUDE / name) in used.stdout.split()


@pytest.mark.parametrize("ours_first", [False, True])
def test_a_c_program_may_meet_both(kernel: Kernel, tmp_path: Path, ours_first: bool) -> None:
    both = [*kernel.unpack(tmp_path), *(OURS if kernel.mock else OURS[:1])]
    if ours_first:
        both.reverse()
    text = "".join(f'#include "{path}"\n' for path in both) + "int main(void) { return IOMMU_IOAS_MAP == 0; }\n"
    done = compile_c(text, tmp_path, "-Werror", "-fsyntax-only")
    assert (done.returncode, done.stdout) == (0, "")


def test_every_command_has_one_ioctl() -> None:
    commands = {
        name.removeprefix("IOMMUFD_CMD_"): header.const("IOMMUFD_TYPE") << 8 | value
        for name, value in header.CONST.items()
        if name.startswith("IOMMUFD_CMD_") and name != "IOMMUFD_CMD_BASE"
    }
    assert len(commands) == 22
    commands["TEST_CMD"] = 0x3BA0
    ours = {f"IOMMU_{name}": number for name, number in commands.items()}
    assert header.ioctls() == ours | {f"VFIO_{name}": 0x3B00 + number for name, number in VFIO_NUMBERS.items()}


def test_offset_end_is_where_a_short_struct_may_stop() -> None:
    assert header.offset_end("iommu_hwpt_alloc", "__reserved") == 24
    assert header.offset_end("iommu_hw_info", "out_data_type") == 28
    assert header.offset_end("iommu_test_cmd", "dirty.iova") == 32


def test_unknown_names_are_key_errors() -> None:
    with pytest.raises(KeyError, match="IOMMU_NO_SUCH"):
        header.const("IOMMU_NO_SUCH")
    with pytest.raises(KeyError, match="iommu_no_such"):
        header.struct_size("iommu_no_such")
    with pytest.raises(KeyError, match="no_such"):
        header.offset_end("iommu_destroy", "no_such")


def test_an_installed_package_reads_the_headers_inside_it(tmp_path: Path) -> None:
    package = tmp_path / "iommud"
    shutil.copytree(Path(header.__file__).parent, package / "uapi", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__init__.py").touch()
    shutil.copytree(header.INCLUDE, package / "include")
    program = "from iommud.uapi import header; print(header.INCLUDE, header.const('IOMMU_DESTROY'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == f"{package / 'include'} 15232\n"
