"""What this process itself may do: its effective capabilities."""

from typing import Final

from . import status

SYS_PTRACE: Final = 19
SYS_ADMIN: Final = 21
DAC_OVERRIDE: Final = 1


def has(capability: int) -> bool:
    """Whether the capability is in effect, in the user namespace that we are in. OSError: there is
    no /proc.
    """
    return bool((status.read("self").mask("CapEff") or 0) >> capability & 1)
