"""What is found out about an instruction by trial: it comes out as on the processor itself, and the
device is asked for the very bytes that it loads and stores.
"""

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuse_glue.mmio.decoder import LONGEST, X86_64, decode
from cuse_glue.mmio.device import AccessRefused
from cuse_glue.mmio.stepper import PAGE, Fault, Machine, Stepper
from cuse_glue.mmio.trial import Trial
from tests.examples import examples

from . import forms
from .assembler import assemble
from .native import Both, Ram
from .test_decoder_and_processor import CODE, memory_of, registers_of, spread, vectors_of

NOP = b"\x90"


class Surroundings(Ram):
    """One page is the device's, the others are the program's own."""

    def __init__(self, memory: bytes) -> None:
        super().__init__(forms.DATA, memory)
        self.log: list[tuple[str, int, int]] = []

    def load(self, address: int, size: int) -> int:
        self.log.append(("load", address - forms.TARGET, size))
        return super().load(address, size)

    def store(self, address: int, size: int, value: int) -> None:
        self.log.append(("store", address - forms.TARGET, size))
        super().store(address, size, value)

    def place(self, address: int) -> int | None:
        return 0 if address & -PAGE == forms.TARGET & -PAGE else None

    def read(self, address: int, length: int) -> bytes:
        if not self.start <= address <= self.start + len(self.data) - length:
            raise AccessRefused("nothing")
        return bytes(self.data[address - self.start :][:length])

    def write(self, address: int, data: bytes) -> None:
        self.data[address - self.start : address - self.start + len(data)] = data


# What each does to the device's page, at TARGET: ("load" or "store", distance, bytes).
RARE: dict[str, list[tuple[str, int, int]]] = {
    "imul eax, dword ptr [rbx]": [("load", 0, 4)],
    "imul r9, qword ptr [rbx], 0x123": [("load", 0, 8)],
    "mul word ptr [rbx]": [("load", 0, 2)],
    "shl dword ptr [rbx], 3": [("load", 0, 4), ("store", 0, 4)],
    "rol word ptr [rbx], 5": [("load", 0, 2), ("store", 0, 2)],
    "sar qword ptr [rbx], 1": [("load", 0, 8), ("store", 0, 8)],
    "popcnt rax, qword ptr [rbx]": [("load", 0, 8)],
    "crc32 eax, byte ptr [rbx]": [("load", 0, 1)],
    "sete byte ptr [rbx]": [("store", 0, 1)],
    "push qword ptr [rbx]": [("load", 0, 8)],
    "pop qword ptr [rbx]": [("store", 0, 8)],
    "cmpsd": [("load", 0, 4)],
    "scasw": [("load", 0, 2)],
    "fld qword ptr [rbx]": [("load", 0, 8)],
    "fild word ptr [rbx]": [("load", 0, 2)],
    "fld tbyte ptr [rbx]": [("load", 0, 8), ("load", 8, 2)],
    "stmxcsr dword ptr [rbx]": [("store", 0, 4)],
    "paddd xmm1, xmmword ptr [rbx]": [("load", 0, 16)],
    "pinsrw xmm2, word ptr [rbx], 3": [("load", 0, 2)],
    "pextrb byte ptr [rbx], xmm3, 7": [("store", 0, 1)],
    "cvtsi2sd xmm4, dword ptr [rbx]": [("load", 0, 4)],
    "vpbroadcastw ymm5, word ptr [rbx]": [("load", 0, 2)],
    "vmovlps xmm1, xmm2, qword ptr [rbx]": [("load", 0, 8)],
    "vextracti128 xmmword ptr [rbx], ymm6, 1": [("store", 0, 16)],
    "vpxor ymm1, ymm2, ymmword ptr [rbx]": [("load", 0, 32)],
    "movddup xmm7, qword ptr [rbx]": [("load", 0, 8)],
    "mov word ptr [rbx], ds": [("store", 0, 2)],
    "clflush byte ptr [rbx]": [],
}
# A load that makes no difference, and masks.
UNSEEN = {
    "cmovne eax, dword ptr [rbx]": [("load", 0, 4)],
    "cmovne r10, qword ptr [rbx]": [("load", 0, 8)],
    "imul eax, dword ptr [rbx]": [("load", 0, 4)],
    "vpand ymm1, ymm15, ymmword ptr [rbx]": [("load", 0, 32)],
    "vmaskmovps ymm1, ymm14, ymmword ptr [rbx]": [("load", 8, 8)],
    "vmaskmovps ymmword ptr [rbx], ymm14, ymm13": [("store", 8, 8)],
    "vpmaskmovq xmmword ptr [rbx], xmm14, xmm13": [("store", 8, 8)],
    "vmaskmovps ymmword ptr [rbx], ymm15, ymm13": [],
}
MASK = 0x80000000_80000000 << 64  # of the third and fourth of four bytes each
PLACES = {"rbx": forms.TARGET, "rdi": forms.TARGET, "rsi": forms.SOURCE, "rsp": forms.SOURCE + 0x100}
ZERO = 0x40


@cache
def encoded(text: str) -> bytes:
    return assemble([text])[0]


def run(stepper: Stepper, machine: Machine, code: bytes, memory: bytes) -> tuple[Machine, Surroundings]:
    around = Surroundings(memory)
    trial = Trial(stepper, machine, code.ljust(LONGEST, NOP), around)
    try:
        return trial.carry_out(), around
    finally:
        trial.end()


@pytest.mark.parametrize("text", RARE)
@examples(6)
@given(data=st.data())
def test_a_trial_is_what_the_processor_does(stepper: Stepper, both: Both, text: str, data: Any) -> None:
    seed = data.draw(st.integers(0, (1 << 64) - 1))
    code, memory = encoded(text), memory_of(seed, seed ^ 0x1234_5678_9ABC_DEF0)
    assert decode(code.ljust(LONGEST, NOP), X86_64) is None, "it is known, and needs no trial"
    registers = registers_of(forms.Case(text, {}), seed) | PLACES | {"rip": CODE, "fs_base": 0, "gs_base": 0}
    registers |= {"rax": 3, "rdx": registers["rdx"] % 32}
    machine = both.machine(registers, vectors_of(both, seed))
    native = both.native(code, machine, forms.DATA, memory)
    assert not isinstance(native, Fault)
    stepper.clear()
    after, around = run(stepper, machine, code, memory)
    assert both.seen(after, bytes(around.data)) == native
    assert around.log == RARE[text]


@pytest.mark.parametrize("text", UNSEEN)
def test_what_makes_no_difference_is_loaded_and_what_a_mask_leaves_out_is_not(
    stepper: Stepper, both: Both, text: str
) -> None:
    registers = {**PLACES, "rip": CODE, "flags": ZERO | 2, "rax": 0}
    vectors = (*(0,) * 13, (1 << 256) - 1, MASK, *(0,) * 17)
    after, around = run(stepper, both.machine(registers, vectors), encoded(text), spread(1, 4 * PAGE))
    assert after.words[X86_64.pointer] == CODE + len(encoded(text))
    assert around.log == UNSEEN[text]


@pytest.mark.parametrize(
    ("text", "why"),
    [("div dword ptr [rbx]", "signal 8"), ("ud2", "signal 4"), ("syscall", "does not touch the device")],
)
def test_what_does_not_work_is_refused(stepper: Stepper, both: Both, text: str, why: str) -> None:
    machine = both.machine({**PLACES, "rip": CODE, "rdx": 1 << 31}, (0,) * 32)
    with pytest.raises(AccessRefused, match=why):
        run(stepper, machine, encoded(text), bytes(4 * PAGE))


def test_memory_that_is_not_there_is_refused(stepper: Stepper, both: Both) -> None:
    machine = both.machine({**PLACES, "rip": CODE, "rsp": 0x7000_0000}, (0,) * 32)
    with pytest.raises(AccessRefused, match="nothing"):
        run(stepper, machine, encoded("push qword ptr [rbx]"), bytes(4 * PAGE))
