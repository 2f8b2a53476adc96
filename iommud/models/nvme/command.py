"""One command, as it was taken from a submission queue."""

from .wire import COMMAND, FUSE, PSDT


class Command:
    """Its fields by the specification's names; `sqid`: from which queue.

    Ref: NVM Express Base Specification 1.4 section 4.2
    """

    __slots__ = (
        "cdw10",
        "cdw11",
        "cdw12",
        "cdw13",
        "cdw14",
        "cdw15",
        "cid",
        "flags",
        "nsid",
        "opcode",
        "prp1",
        "prp2",
        "sqid",
    )

    opcode: int
    flags: int
    cid: int
    nsid: int
    prp1: int
    prp2: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int

    def __init__(self, sqid: int, data: bytes | memoryview, at: int) -> None:
        self.sqid = sqid
        (
            self.opcode,
            self.flags,
            self.cid,
            self.nsid,
            self.prp1,
            self.prp2,
            self.cdw10,
            self.cdw11,
            self.cdw12,
            self.cdw13,
            self.cdw14,
            self.cdw15,
        ) = COMMAND.unpack_from(data, at)

    @property
    def fused(self) -> int:
        return self.flags & FUSE

    @property
    def psdt(self) -> int:
        """How the data pointer is meant: 0 PRPs, 1 and 2 an SGL."""
        return (self.flags & PSDT) >> 6

    @property
    def slba(self) -> int:
        """The first block of a command of the NVM command set."""
        return self.cdw10 | self.cdw11 << 32

    @property
    def nlb(self) -> int:
        """How many blocks."""
        return (self.cdw12 & 0xFFFF) + 1
