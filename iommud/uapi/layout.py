"""A struct as it lies in a caller's memory, ready to be decoded."""

from dataclasses import dataclass

import cffi

from .header import ffi, struct_size


@dataclass(frozen=True, slots=True)
class Layout:
    """A struct by its name without `struct`; its size in bytes."""

    name: str
    size: int
    pointer: cffi.FFI.CType


def layout(name: str) -> Layout:
    """KeyError: the headers have no such struct."""
    return Layout(name, struct_size(name), ffi.typeof(f"struct {name} *"))
