"""The figures of a C header: every size, offset and value in it, as the C compiler has them.

Two ways lead to them, which share nothing but the compiler. `names_in` reads a header's text and
finds what it declares, with a reader of its own that knows neither cffi nor iommud. `measure`
compiles a program that prints the figures of the names it is given.

    tests/uapi/figures.py TREE

writes figures.json beside this file from the headers of the kernel tree TREE: names found in the
headers, figures measured from them. Of VFIO's header iommud speaks a part; there the names are
those of our own. The committed table was made so, from Linux 7.3; nobody edits it.

A figure is under the name of what it tells of:

    IOMMU_IOAS_MAP          the value of an enumerator or macro
    enum iommufd_option     [size], bytes
    struct iommu_ioas_map   [size, alignment], bytes
    iommu_ioas_map.iova     [offset, size, kind]; kind is u8 to u64 or s32, with [] for an array, or
                            struct
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TABLE = Path(__file__).with_name("figures.json")
UAPI = Path("include/uapi/linux/iommufd.h")  # in a kernel tree
MOCK = Path("drivers/iommu/iommufd/iommufd_test.h")
VFIO = Path("include/uapi/linux/vfio.h")
OUR_VFIO = Path(__file__).parents[2] / "include" / "linux" / "vfio.h"

Figures = Mapping[str, int | list[int | str]]

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*#.*\n", re.MULTILINE)
_VALUE_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+\S", re.MULTILINE)

_PROGRAM = """\
#include <stddef.h>
#include <stdio.h>
#define KIND(x) _Generic((x), __u8: "u8", __u16: "u16", __u32: "u32", __u64: "u64", __s32: "s32", \\
	__u8 *: "u8[]", __u16 *: "u16[]", __u32 *: "u32[]", __u64 *: "u64[]", default: "struct")
#define VALUE(name) printf("\\"%s\\": %lld,\\n", #name, (long long)(name))
#define ENUM(e) printf("\\"enum %s\\": [%zu],\\n", #e, sizeof(enum e))
#define STRUCT(s) printf("\\"struct %s\\": [%zu, %zu],\\n", #s, sizeof(struct s), _Alignof(struct s))
#define FIELD(s, f) printf("\\"%s.%s\\": [%zu, %zu, \\"%s\\"],\\n", #s, #f, \\
	offsetof(struct s, f), sizeof(((struct s *)0)->f), KIND(((struct s *)0)->f))
int main(void)
{
"""


@dataclass
class Names:
    """What a header declares. `enums` are tags; `structs` have their fields, those within named
    members as `member.field`.
    """

    constants: list[str] = field(default_factory=list)
    enums: list[str] = field(default_factory=list)
    structs: dict[str, list[str]] = field(default_factory=dict)

    def add(self, other: "Names") -> None:
        self.constants += other.constants
        self.enums += other.enums
        self.structs |= other.structs


@dataclass(frozen=True)
class Kernel:
    """The kernel's headers. `mock` is the selftests' own, which only a tree of the kernel's source
    has. `vfio` may be missing.
    """

    uapi: Path
    mock: Path | None
    vfio: Path | None

    def unpack(self, into: Path) -> list[Path]:
        """Places the headers in `into`, an include path without the rest of the kernel's; what to
        include, in order.
        """
        (into / "linux").mkdir()
        headers = [into / "linux" / "iommufd.h"]
        shutil.copy(self.uapi, headers[0])
        if self.mock:
            headers.append(into / "iommufd_test.h")
            shutil.copy(self.mock, headers[1])
        if self.vfio:
            headers.append(into / "linux" / "vfio.h")
            shutil.copy(self.vfio, headers[-1])
        return headers


def names_in(text: str) -> Names:
    """Every enumerator, macro with a value, enum, struct and field that the header `text`
    declares.
    """
    text = _COMMENT.sub(" ", text).replace("\\\n", " ")
    names = Names(constants=_VALUE_MACRO.findall(text))
    tokens = iter(re.findall(r"\w+|[^\w\s]", _DIRECTIVE.sub("", text)))
    for token in tokens:
        if token not in ("enum", "struct"):
            continue
        tag = next(tokens)
        if tag != "{" and next(tokens) != "{":
            raise ValueError(f"{token} {tag} is not a declaration")
        if token == "enum":
            names.constants += _enumerators(tokens)
            names.enums += [tag] if tag != "{" else []
        else:
            names.structs[tag] = _members(tokens)
    return names


def _enumerators(tokens: Iterator[str]) -> list[str]:
    """The names up to the closing brace: each the first word after a comma."""
    found: list[str] = []
    fresh = True
    for token in tokens:
        if token == "}":
            return found
        if fresh:
            found.append(token)
        fresh = token == ","
    raise ValueError("an enum has no end")


def _members(tokens: Iterator[str]) -> list[str]:
    """The fields up to the closing brace. A member's name is the last word before its `;` or `[`;
    one with `[]` is left out.
    """
    found: list[str] = []
    inner: list[str] = []
    name = length = ""
    in_bracket = False
    for token in tokens:
        match token:
            case "}":
                return found
            case "{":
                inner, name = _members(tokens), ""
            case "]" if in_bracket and not length:
                in_bracket, name = False, ""
            case "[" | "]":
                in_bracket, length = token == "[", ""
            case ";":
                found += [name, *(f"{name}.{field}" for field in inner)] if name else inner
                inner, name = [], ""
            case _ if in_bracket:
                length = token
            case _:
                name = token
    raise ValueError("a struct has no end")


def program(names: Names, headers: Sequence[Path]) -> str:
    """A C program that includes `headers` and prints the figures of `names`, a line each."""
    lines = [f'#include "{header}"\n' for header in headers]
    lines.append(_PROGRAM)
    lines += [f"\tVALUE({name});\n" for name in names.constants]
    lines += [f"\tENUM({tag});\n" for tag in names.enums]
    for struct, fields in names.structs.items():
        lines.append(f"\tSTRUCT({struct});\n")
        lines += [f"\tFIELD({struct}, {field});\n" for field in fields]
    return "".join([*lines, "\treturn 0;\n}\n"])


def compile_c(text: str, include: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs the C compiler on `text`, with `include` before the system's headers; its complaints are
    the result's stdout.
    """
    kernels_own = ["-D__user=", "-D__counted_by(member)="]  # of its headers that were not installed
    command = [
        os.environ.get("CC", "cc"),
        "-std=c11",
        "-Wall",
        "-Wextra",
        *kernels_own,
        "-I",
        str(include),
        *options,
        "-xc",
        "-",
    ]
    return subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=120
    )


def measure(names: Names, headers: Sequence[Path], include: Path) -> Figures:
    """The figures of `names` by the C compiler. A name that the headers lack is a ValueError with
    the compiler's words.
    """
    with tempfile.TemporaryDirectory() as work:
        binary = Path(work) / "figures"
        built = compile_c(program(names, headers), include, "-o", str(binary))
        if built.returncode:
            raise ValueError(built.stdout)
        printed = subprocess.run([binary], stdout=subprocess.PIPE, text=True, check=True, timeout=10).stdout
    figures: Figures = json.loads("{" + printed.rstrip(",\n") + "}")
    return figures


def measure_kernel(kernel: Kernel) -> Figures:
    """The figures of all that the kernel's headers declare."""
    with tempfile.TemporaryDirectory() as work:
        include = Path(work)
        headers = kernel.unpack(include)
        names = Names()
        for header in headers:
            names.add(names_in((OUR_VFIO if header.name == VFIO.name else header).read_text()))
        return measure(names, headers, include)


def main(tree: Path) -> None:
    figures = measure_kernel(Kernel(tree / UAPI, tree / MOCK, tree / VFIO))
    lines = (f"{json.dumps(name)}: {json.dumps(figure)}" for name, figure in figures.items())
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{TABLE}: {len(figures)} figures")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: figures.py TREE (of Linux 7.3)")
    main(Path(sys.argv[1]))
