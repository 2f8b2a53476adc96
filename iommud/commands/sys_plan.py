"""What is to be bound where in /sys: a message from the daemon to the process that mounts."""

import json

from cuse_glue.tree.merge import How, Step


def pack(steps: list[Step]) -> bytes:
    """The steps as a message."""
    return json.dumps([(step.how.value, step.path) for step in steps]).encode()


def unpack(message: bytes) -> list[Step]:
    """The steps that `pack` made the message of."""
    return [Step(How(how), path) for how, path in json.loads(message)]
