"""The processor beside the decoder: one instruction, the same registers and memory, and what each
makes of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cuse_glue.mmio.decoder import X86_64
from cuse_glue.mmio.instruction import Instruction
from cuse_glue.mmio.stepper import PAGE, Fault, Machine, Stepper
from cuse_glue.mmio.x86_flags import ALL
from cuse_glue.mmio.xstate import XState

NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))
INDEXES = {name: X86_64.general[number] for number, name in enumerate(NAMES)} | {
    "rip": X86_64.pointer, "flags": X86_64.flags, "fs_base": 21, "gs_base": 22,
}  # fmt: skip
DIRECTION = 0x400


@dataclass(frozen=True)
class After:
    """What is there after an instruction."""

    words: dict[str, int]
    vectors: tuple[int, ...]
    memory: bytes


class Ram:
    """Memory of bytes, at `start`."""

    def __init__(self, start: int, data: bytes) -> None:
        self.start, self.data = start, bytearray(data)

    def load(self, address: int, size: int) -> int:
        return int.from_bytes(self._part(address, size), "little")

    def store(self, address: int, size: int, value: int) -> None:
        assert 0 <= value < 1 << 8 * size, "a value that is no number of so many bytes"
        self._part(address, size)[:] = value.to_bytes(size, "little")

    def _part(self, address: int, size: int) -> memoryview:
        at = address - self.start
        assert 0 <= at <= len(self.data) - size, f"an access to {address:#x}, where nothing is"
        return memoryview(self.data)[at : at + size]


class Both:
    """A place for code and one for memory, in a stepper and here."""

    def __init__(self, stepper: Stepper, idle: Machine, where: Callable[[int], int]) -> None:
        self._stepper, self._idle, self._where = stepper, idle, where
        self.wide = bool(idle.xstate[464] >> 7 & 1)

    def machine(self, registers: dict[str, int], vectors: tuple[int, ...]) -> Machine:
        words = list(self._idle.words)
        for name, value in registers.items():
            words[INDEXES[name]] = value
        state = XState(bytearray(self._idle.xstate), self._where)
        there = vectors if self.wide else vectors[:16]  # registers from 16 on are AVX-512's
        for number, value in enumerate(there):
            state.write(number, 64 if self.wide else 32, value, True)
        return Machine(tuple(words), bytes(state.state))

    def native(self, code: bytes, machine: Machine, start: int, memory: bytes) -> After | Fault:
        """As the processor does it; of a repetition all."""
        stepper, pointer = self._stepper, machine.words[X86_64.pointer]
        for at in range(0, len(code), max(1, PAGE - pointer % PAGE)):
            stepper.lay(pointer + at, code[at:][: PAGE - (pointer + at) % PAGE], code=True)
        for at in range(0, len(memory), PAGE):
            stepper.lay(start + at, memory[at : at + PAGE])
        after, fault = stepper.step(machine)
        while fault is None and after.words[X86_64.pointer] == pointer:
            after, fault = stepper.step(after)
        return fault or self.seen(after, stepper.look(start, len(memory)))

    def decoded(self, instruction: Instruction, machine: Machine, start: int, memory: bytes) -> After:
        """As the decoder says."""
        words, ram = list(machine.words), Ram(start, memory)
        state = XState(bytearray(machine.xstate), self._where)
        instruction.run(words, ram, state)
        while words[X86_64.pointer] == machine.words[X86_64.pointer]:
            instruction.run(words, ram, state)
        return self.seen(Machine(tuple(words), bytes(state.state)), bytes(ram.data))

    def seen(self, machine: Machine, memory: bytes) -> After:
        words = {name: machine.words[index] for name, index in INDEXES.items()}
        words["flags"] &= ALL | DIRECTION
        state = XState(bytearray(machine.xstate), self._where)
        registers = range(32 if self.wide else 16)
        return After(words, tuple(state.read(number, 64 if self.wide else 32) for number in registers), memory)
