"""What is to be bound where in /sys, as the daemon tells whoever mounts."""

import json

from cuse_glue.tree.merge import How, Step


def pack(steps: list[Step]) -> bytes:
    """A message."""
    return json.dumps([(step.how.value, step.path) for step in steps]).encode()


def unpack(message: bytes) -> list[Step]:
    """What `pack` made it of."""
    return [Step(How(how), path) for how, path in json.loads(message)]
