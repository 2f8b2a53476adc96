"""All attacks. Each is a function in attackers/PROGRAM.c, where it is said what it does."""

from dataclasses import dataclass

MOCK = ("--mock",)
WHY = ("--mock", "--why")
WITH_DEVICES = (*MOCK, "--device", "edu", "--device", "edu")


@dataclass(frozen=True)
class Attack:
    """`program` and `name` say which; `flags` are the attacked daemon's.

    `refused`: errnos. The attacker must get one of them in the end, because nobody may have without
    limit what it takes; empty: it need not be refused. `unread`: nobody reads what the daemon
    writes to its stderr. `target`: it needs the set-user-ID program.
    """

    program: str
    name: str
    flags: tuple[str, ...] = MOCK
    refused: tuple[str, ...] = ()
    unread: bool = False
    target: bool = False

    def __str__(self) -> str:
        return f"{self.program}.{self.name}"


def _of(program: str, *names: str) -> tuple[Attack, ...]:
    return tuple(Attack(program, name) for name in names)


MEMORY = _of(
    "memory",
    "mmap_lock",
    "mremap_lock",
    "pages",
    "userfaultfd",
    "arrays",
    "pins",
    "mkwrite",
    "mkwrite_array",
    "mkwrite_number",
    "mkwrite_access",
    "mkwrite_lent",
)
HANDS = _of("hands", "stack", "stops", "traced", "traced_at_calls", "vforks", "slow_exec", "own_proc", "own_listener")
FILES = _of("files", "flush", "getattr", "map_open", "map_read", "lease")
WORK = _of(
    "work",
    "pieces_of_zero",
    "pieces_of_file",
    "pieces",
    "size",
    "allow",
    "lists",
    "page_lists",
    "unmap_many",
    "mounts",
    "signals",
    "storm",
    "opens",
    "reads",
)
ENDS = _of("ends", "kills", "execs", "leaderless")
# Small shares, so that they are used up soon; an innocent client still does not come near them.
SHARES_OF = (*MOCK, "--share", "workers=16,files=128,objects=256")
FULL = ("ENOMEM", "EMFILE", "ENFILE", "ENOSPC")
SHARES = tuple(Attack("shares", name, SHARES_OF, FULL) for name in ("objects", "areas", "files", "opens", "queues"))
LOG = (
    Attack("log", "forged", WHY),
    Attack("log", "flood", WHY),
    Attack("log", "flood_of_many", WHY),
    Attack("log", "flood", WHY, unread=True),
)
DEVICES = tuple(
    Attack("devices", name, WITH_DEVICES) for name in ("binds", "groups", "slow_binds", "binds_to_stuck", "loads")
)
SETUID = Attack("setuid", "setuid", target=True)
BUSY = Attack("work", "allow")  # a daemon that is kept busy writes later
ATTACKS = MEMORY + HANDS + FILES + WORK + ENDS + SHARES + LOG + DEVICES
