"""`make soak`: millions of random ioctls by eight users of one `iommud serve`, while clients,
workers and the daemon are killed.

Twice: without mock devices, and with them. Afterwards nothing may be left, and no client may have
got an answer that Linux does not give. Exit status 1: something is wrong, and was said.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from cuse_glue.system import libc
from tests.soak.phase import Phase


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Random ioctls and random kills.")
    parser.add_argument("--calls", type=int, default=10_000_000, help="how many ioctls in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is random here (default: the time)")
    args = parser.parse_args()
    # so that everything is removed at the end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if os.geteuid() != 0:
        sys.exit("make soak mounts and changes its user: it needs root")
    print(f"seed {args.seed}", flush=True)
    wrong = []
    with TemporaryDirectory(prefix="iommud-soak-") as name:
        place = Path(name)
        place.chmod(0o755)
        connections = place / "connections"
        connections.mkdir()
        libc.mount("fusectl", str(connections), "fusectl", 0)
        try:
            for mock in (False, True):
                phase = Phase(place, connections, mock, args.calls // 2, Random(args.seed + mock))
                wrong += phase.play()
                print(phase.figures(), flush=True)
        finally:
            libc.umount(str(connections), libc.MNT_DETACH)
    for what in wrong:
        print(what)
    print("nothing is wrong" if not wrong else f"{len(wrong)} things are wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
