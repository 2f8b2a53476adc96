"""What no file system in user space can refuse, and `iommud run` refuses by watching 64-bit
programs: who is not watched is not told.

mmap(2) is answered by the kernel: it succeeds on a FUSE file, and is ENODEV on a character device
of CUSE. So are calls that move 0 bytes.
"""

import re

_FAILED = re.compile(r"^not ok \d+ - (.* \(got \w+, expected \w+\)) \S+:\d+$", re.MULTILINE)
_EMPTY = (
    r"(.*: )?an empty p?(read|write)v? \(got (0|EBADF), expected \w+\)"
    r"|(.*no user's address|to no address) \(got (0|EFAULT), expected \w+\)"
)
_MMAP_TEXTS = (
    r"mmap( of it| to run)?|mmap at \S+, to read|to (write|run|grow)|less than a page, for nothing"
    r"|a copy|validated|far away|in a child|one that grows"
    r"|opened to read|that is ignored else|the last but one|at a page of the process"
)
_MMAP = rf"({_MMAP_TEXTS}) \(got (0|ENODEV|EINVAL), expected (ENODEV|ENXIO|EPERM|EINVAL|0x1)\)"
_TOLERATED = re.compile(f"{_EMPTY}|{_MMAP}")


def wrong(stdout: str) -> set[str]:
    """What a client found wrong that is not of this kind: its texts, each with what it got and
    expected.
    """
    return {text for text in _FAILED.findall(stdout) if not _TOLERATED.fullmatch(text)}
