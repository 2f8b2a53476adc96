"""Every struct of the wire has the size that linux/fuse.h gives it, and every opcode's answer is
one of them.
"""

import asyncio
import os
import subprocess
from struct import Struct

import pytest

from cuse_glue.fuse import wire
from cuse_glue.fuse.node import _HANDLERS, ROOT_INODE, Attributes, Node, Work
from cuse_glue.request.caller import Caller

STRUCTS = {
    "IN_HEADER": "struct fuse_in_header",
    "OUT_HEADER": "struct fuse_out_header",
    "INIT_OUT": "struct fuse_init_out",
    "CUSE_INIT_IN": "struct cuse_init_in",
    "CUSE_INIT_OUT": "struct cuse_init_out",
    "ATTR_OUT": "struct fuse_attr_out",
    "ATTR": "struct fuse_attr",
    "DIRENT": "struct fuse_dirent",
    "SETATTR_IN": "struct fuse_setattr_in",
    "OPEN_IN": "struct fuse_open_in",
    "OPEN_OUT": "struct fuse_open_out",
    "RELEASE_IN": "struct fuse_release_in",
    "IOCTL_IN": "struct fuse_ioctl_in",
    "IOCTL_OUT": "struct fuse_ioctl_out",
    "READ_IN": "struct fuse_read_in",
    "WRITE_IN": "struct fuse_write_in",
    "WRITE_OUT": "struct fuse_write_out",
    "POLL_IN": "struct fuse_poll_in",
    "POLL_OUT": "struct fuse_poll_out",
    "INTERRUPT_IN": "struct fuse_interrupt_in",
    "STATFS_OUT": "struct fuse_statfs_out",
    "NOTIFY_POLL_OUT": "struct fuse_notify_poll_wakeup_out",
    "NOTIFY_INVAL_INODE_OUT": "struct fuse_notify_inval_inode_out",
    "NOTIFY_STORE_OUT": "struct fuse_notify_store_out",
}
# Not a struct of their own: a part of one, and two in one.
PARTS = {"INIT_IN", "INIT_FLAGS2", "IOCTL_REPLY", "ATTR_HEAD", "ENTRY_OUT"}
# Opcode: (struct of the request, struct of the answer); "": nothing, and no struct for what is
# refused.
OPCODES = {
    "INIT": ("struct fuse_init_in", "struct fuse_init_out"),
    "GETATTR": ("struct fuse_getattr_in", "struct fuse_attr_out"),
    "SETATTR": ("struct fuse_setattr_in", "struct fuse_attr_out"),
    "OPEN": ("struct fuse_open_in", "struct fuse_open_out"),
    "RELEASE": ("struct fuse_release_in", ""),
    "WRITE": ("struct fuse_write_in", "struct fuse_write_out"),
    "POLL": ("struct fuse_poll_in", "struct fuse_poll_out"),
    "STATFS": ("", "struct fuse_statfs_out"),
    "DESTROY": ("", ""),
}
OTHERWISE = {
    "READ": "bytes of the file",
    "CUSE_INIT": "with a name behind it",
    "FSYNC": "refused",
    "FALLOCATE": "refused",
}


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    names = sorted(
        {name for pair in OPCODES.values() for name in pair if name} | set(STRUCTS.values()) | {"struct fuse_entry_out"}
    )
    lines = "\n".join(f'\tprintf("%zu {name}\\n", sizeof({name}));' for name in names)
    source = tmp_path_factory.mktemp("sizes") / "sizes.c"
    source.write_text(f"#include <stdio.h>\n#include <linux/fuse.h>\nint main(void)\n{{\n{lines}\n\treturn 0;\n}}\n")
    subprocess.run(["cc", "-Wall", "-Werror", str(source), "-o", str(source.with_suffix(""))], check=True)
    text = subprocess.check_output([source.with_suffix("")], text=True)
    return {name: int(size) for size, name in (line.split(" ", 1) for line in text.splitlines())}


def test_each_struct_is_in_the_table() -> None:
    assert {name for name, value in vars(wire).items() if isinstance(value, Struct)} == set(STRUCTS) | PARTS


@pytest.mark.parametrize("name", STRUCTS)
def test_size(name: str, sizes: dict[str, int]) -> None:
    assert getattr(wire, name).size == sizes[STRUCTS[name]]


def test_what_is_sent_in_parts(sizes: dict[str, int]) -> None:
    assert wire.ATTR_HEAD.size + wire.ATTR.size == sizes["struct fuse_attr_out"]
    assert wire.ENTRY_OUT.size + wire.ATTR.size == sizes["struct fuse_entry_out"]
    assert len(wire.dirent(1, 1, 0, b"name")) == sizes["struct fuse_dirent"] + 8


class File:
    """An open file, and what opens it."""

    def open(self, caller: Caller, flags: int) -> "File":
        return self

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return 0

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        return b"x"

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        return len(data)

    def poll(self, wake: object) -> int:
        return 0

    def release(self) -> None:
        pass


def test_each_opcode_is_in_the_table() -> None:
    assert set(_HANDLERS) == {getattr(wire, name) for name in [*OPCODES, *OTHERWISE]}


@pytest.mark.parametrize("opcode", OPCODES)
def test_answer(opcode: str, sizes: dict[str, int]) -> None:
    request, answer = OPCODES[opcode]
    node = Node(File(), Attributes(), lambda message: None, cuse_name=None, mapped=None)
    node.files[0] = File()
    body = bytearray(sizes[request] if request else 0)
    if opcode == "INIT":
        wire.INIT_IN.pack_into(body, 0, 7, 31, 0, 0)
    made = node.answer(getattr(wire, opcode), ROOT_INODE, Caller(os.getpid(), 0, 0), memoryview(body))
    if isinstance(made, Work):
        made = made.form(1, asyncio.run(made.coro))[wire.REPLY_HEADER_SIZE :]
    assert len(made) == (sizes[answer] if answer else 0)
