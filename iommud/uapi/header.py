"""The C headers under include/, as Python sees them: sizes, offsets, enumerators and ioctl numbers.

The headers are the one place where the ABI is written down; nothing here repeats a number of
theirs. cffi parses declarations, but is no preprocessor. So each header goes through one rule
first: `#define NAME BODY` becomes an enumerator NAME with the value BODY, `_IO(type, nr)` in it
becomes the number that it stands for, and every other line of the preprocessor is dropped. The
headers use only what the rule can read: no macro with arguments, no condition but the include
guard, and no types but the fixed-width ones below.

Structs are named without `struct`. Sizes and offsets are in bytes. A name that the headers do not
have is a KeyError.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import cffi

HEADERS: Final = ("linux/iommufd.h", "iommud/iommufd_test.h", "linux/vfio.h")

# What <linux/types.h> would bring. The aligned types need no attribute: on 64-bit machines they are
# aligned by nature.
_TYPES: Final = """
typedef uint8_t __u8; typedef uint16_t __u16; typedef uint32_t __u32; typedef uint64_t __u64; typedef int32_t __s32;
typedef uint64_t __aligned_u64; typedef uint64_t __aligned_le64;
"""
_DEFINE: Final = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)[ \t]+(\S.*)$", re.MULTILINE)
_DIRECTIVE: Final = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_IO: Final = re.compile(r"\b_IO\(([^,]*),([^)]*)\)")
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)


class Field(NamedTuple):
    """A field's place in its struct. `kind`: u8 to u64 and s32, with [] when it is an array or a
    pointer to one, or struct.
    """

    offset: int
    size: int
    kind: str


def _include() -> Path:
    """Where the headers are: in the package if it was installed from a wheel, beside it in a
    checkout.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "include"
    return inside if inside.is_dir() else package.parent / "include"


def _enumerator(define: re.Match[str]) -> str:
    name, body = define.groups()
    # _IO without a direction: type << 8 | nr on x86, arm and riscv.
    value = _IO.sub(r"((\1) << 8 | (\2))", body)
    return f"enum {{ {name} = {value} }};"


def _load() -> tuple[cffi.FFI, Mapping[str, int], Mapping[str, int]]:
    """The parsed headers, all their constants, and those constants that are ioctl numbers."""
    parsed = cffi.FFI()
    parsed.cdef(_TYPES)
    ioctls = []
    for header in HEADERS:
        text = _COMMENT.sub(" ", (INCLUDE / header).read_text(encoding="ascii")).replace("\\\n", " ")
        ioctls += [name for name, body in _DEFINE.findall(text) if _IO.search(body)]
        parsed.cdef(_DIRECTIVE.sub("", _DEFINE.sub(_enumerator, text)))
    values = parsed.dlopen(None)  # declares no function: only its enumerators are wanted
    constants = {name: int(getattr(values, name)) for name in dir(values)}
    return parsed, MappingProxyType(constants), MappingProxyType({name: constants[name] for name in ioctls})


INCLUDE: Final = _include()
_LOADED: Final = _load()
ffi: Final = _LOADED[0]
CONST: Final = _LOADED[1]
_IOCTLS: Final = _LOADED[2]
_STRUCTS: Final = tuple(name for name in ffi.list_types()[1] if not name.startswith("$"))


def const(name: str) -> int:
    """The value of an enumerator or macro."""
    return CONST[name]


def ioctls() -> dict[str, int]:
    """Every ioctl, by the name of its macro: the commands of the uAPI, then IOMMU_TEST_CMD, then
    those of VFIO.
    """
    return dict(_IOCTLS)


def structs() -> tuple[str, ...]:
    """The names of all structs, sorted."""
    return _STRUCTS


def struct_size(name: str) -> int:
    """sizeof."""
    return ffi.sizeof(_struct(name))


def struct_align(name: str) -> int:
    """_Alignof."""
    return ffi.alignof(_struct(name))


def offset_end(name: str, field: str) -> int:
    """The offset just after `field`: the size of a caller's struct that ends with it."""
    found = fields(name)[field]
    return found.offset + found.size


@cache
def fields(name: str) -> Mapping[str, Field]:
    """Every field, in the header's order, except for an array without a length at the end.

    The members of an anonymous union count as the struct's own. Those of a named one appear twice,
    as `dirty` and as `dirty.iova`. A member whose type has a name of its own is one field.
    """
    return MappingProxyType(dict(_walk(_struct(name), "", 0)))


# A cffi.FFI.CType is Any below: the published annotations do not let sizeof take one.
def _struct(name: str) -> Any:
    if name not in _STRUCTS:
        raise KeyError(name)
    return ffi.typeof(f"struct {name}")


def _walk(ctype: Any, prefix: str, base: int) -> list[tuple[str, Field]]:
    found: list[tuple[str, Field]] = []
    for name, member in ctype.fields or ():
        inner, offset = member.type, base + member.offset
        if inner.kind == "array" and inner.length is None:
            continue
        if name:
            found.append((prefix + name, Field(offset, ffi.sizeof(inner), _kind(inner))))
        if inner.kind in ("struct", "union") and "$" in inner.cname:
            found += _walk(inner, f"{prefix}{name}." if name else prefix, offset)
    return found


def _kind(ctype: Any) -> str:
    if ctype.kind in ("array", "pointer"):
        return f"{_kind(ctype.item)}[]"
    if ctype.kind == "primitive":
        return str(ctype.cname).removesuffix("_t").replace("uint", "u").replace("int", "s")
    return str(ctype.kind)
