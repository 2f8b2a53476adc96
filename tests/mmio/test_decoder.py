"""What the decoder says without a processor: what it does not know, 32-bit programs, strings that
are interrupted.
"""

import pytest

from cuse_glue.mmio.decoder import I386, LONGEST, X86_64, Layout, decode
from cuse_glue.mmio.instruction import Access, Instruction, Kind
from cuse_glue.mmio.x86_strings import MOST_ELEMENTS

from .assembler import assemble
from .native import INDEXES, Ram

EBX, EIP, EAX, ESP = 0, 12, 6, 15
NOP = b"\x90"


class Lost(Exception):
    """No such memory."""


class Half(Ram):
    """Memory that ends."""

    def store(self, address: int, size: int, value: int) -> None:
        if address + size > self.start + len(self.data):
            raise Lost
        super().store(address, size, value)


class NoVectors:
    def read(self, number: int, size: int) -> int:
        raise AssertionError

    def write(self, number: int, size: int, value: int, clear: bool) -> None:
        raise AssertionError


def read(code: bytes, layout: Layout = X86_64) -> Instruction:
    found = decode(code.ljust(LONGEST, NOP), layout)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "text",
    [
        "imul eax, dword ptr [rbx]", "shl dword ptr [rbx], 1", "push qword ptr [rbx]", "call qword ptr [rbx]", "jmp qword ptr [rbx]",
        "cmpsb", "rep scasb", "fld dword ptr [rbx]", "vpbroadcastd ymm0, dword ptr [rbx]", "vmovdqu32 ymm0{k1}, ymmword ptr [rbx]",
        "vmovlps xmm0, xmm1, qword ptr [rbx]", "paddd xmm0, xmmword ptr [rbx]", "cmovne eax, dword ptr [rbx]", "nop", "mov eax, ebx",
        "crc32 eax, dword ptr [rbx]", "movq mm0, qword ptr [rbx]", "clflush byte ptr [rbx]",
        "vaddps ymm0, ymm1, ymmword ptr [rbx]", "vmovups zmmword ptr [rbx]{k2}, zmm1", "div dword ptr [rbx]",
        "movddup xmm0, qword ptr [rbx]",
    ],
)  # fmt: skip
def test_what_is_not_known_is_said_to_be(text: str) -> None:
    assert decode(assemble([text])[0].ljust(LONGEST, NOP), X86_64) is None


def test_too_many_prefixes_are_no_instruction() -> None:
    assert decode(b"\x66" * LONGEST, X86_64) is None


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        ("mov dword ptr [rbx+0x10], eax", Kind.STORE, 4),
        ("movsx rax, byte ptr [rbx+0x10]", Kind.LOAD, 1),
        ("cmp word ptr [rbx+0x10], 5", Kind.LOAD, 2),
        ("lock or qword ptr [rbx+0x10], 5", Kind.MODIFY, 8),
        ("vmovdqu ymmword ptr [rbx+0x10], ymm1", Kind.STORE, 32),
        ("bt dword ptr [rbx+0x10], 5", Kind.LOAD, 4),
    ],
)
def test_an_access_is_told_before_it_is_made(text: str, kind: Kind, size: int) -> None:
    words = [0] * 27
    words[INDEXES["rbx"]] = 0x1000
    assert read(assemble([text])[0]).access(words) == Access(0x1010, size, kind)


@pytest.mark.parametrize(
    ("code", "address", "eax"),
    [
        ("8b03", 0x1000, 0x44332211),  # mov eax, [ebx]
        ("8b05 04100000", 0x1004, 0x88776655),  # mov eax, [0x1004]: no distance from here, as it is in a 64-bit program
        ("a1 04100000", 0x1004, 0x88776655),
        ("8b4424 08", 0x1008, 0xCCBBAA99),  # mov eax, [esp+8]
        ("26 0fb603", 0x1000, 0x11),  # movzx eax, byte es:[ebx]
        ("66 8b03", 0x1000, 0x99992211),
    ],
)
def test_a_32_bit_program_is_read_as_one(code: str, address: int, eax: int) -> None:
    data = bytes.fromhex(code)
    instruction = read(data, I386)
    words = [0] * 17
    words[EBX], words[ESP], words[EIP], words[EAX] = 0x1000, 0x1000, 0xFFFF_FFFF, 0x9999_9999
    assert instruction.address(words) == address
    instruction.run(words, Ram(0x1000, bytes.fromhex("112233445566778899aabbcc00000000")), NoVectors())
    assert (words[EAX], words[EIP]) == (eax, len(data) - 1)


@pytest.mark.parametrize("code", ["64 8b03", "67 8b07", "40 8903", "c403", "c503", "6203", "638b"])
def test_what_a_32_bit_program_has_of_its_own_is_not_known(code: str) -> None:
    """Segments whose base we cannot see, 16-bit addresses, inc eax, les, lds, bound, arpl."""
    assert decode(bytes.fromhex(code).ljust(LONGEST, NOP), I386) is None


def test_vectors_of_a_32_bit_program() -> None:
    assert read(bytes.fromhex("c5f91103"), I386).size == 16  # vmovupd [ebx], xmm0
    assert (
        read(bytes.fromhex("c4c17e6f03"), I386).size == 32
    )  # the bit that would be another base register is not looked at


def test_a_string_that_meets_no_memory_has_done_what_the_registers_say() -> None:
    words = [0] * 27
    words[INDEXES["rdi"]], words[INDEXES["rcx"]], words[INDEXES["rax"]], words[INDEXES["rip"]] = (
        0x1000,
        10,
        0xAB,
        0x5000,
    )
    memory = Half(0x1000, bytes(6))
    with pytest.raises(Lost):
        read(bytes.fromhex("f366ab")).run(words, memory, NoVectors())
    assert (words[INDEXES["rdi"]], words[INDEXES["rcx"]], words[INDEXES["rip"]]) == (0x1006, 7, 0x5000)
    assert memory.data == bytes.fromhex("ab00ab00ab00")


def test_a_long_string_is_done_in_parts() -> None:
    words = [0] * 27
    words[INDEXES["rdi"]], words[INDEXES["rcx"]], words[INDEXES["rip"]] = 0x1000, MOST_ELEMENTS + 5, 0x5000
    instruction, memory = read(bytes.fromhex("f3aa")), Ram(0x1000, b"x" * (MOST_ELEMENTS + 5))
    instruction.run(words, memory, NoVectors())
    assert (words[INDEXES["rcx"]], words[INDEXES["rip"]]) == (5, 0x5000)
    instruction.run(words, memory, NoVectors())
    assert (words[INDEXES["rcx"]], words[INDEXES["rip"]]) == (0, 0x5002)
    assert not any(memory.data)


def test_a_load_that_fails_changes_no_register() -> None:
    class Nowhere(Ram):
        def load(self, address: int, size: int) -> int:
            raise Lost

    for text in (
        "mov eax, dword ptr [rbx]",
        "lock xadd dword ptr [rbx], eax",
        "cmp eax, dword ptr [rbx]",
        "xchg eax, dword ptr [rbx]",
    ):
        words = list(range(27))
        with pytest.raises(Lost):
            read(assemble([text])[0]).run(words, Nowhere(0, b""), NoVectors())
        assert words == list(range(27))
