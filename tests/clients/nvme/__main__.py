"""`make nvme`: a hundred thousand random commands, and ROUNDS kills of drivers and daemons.

Exit status 1: something is wrong, and was said.
"""

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.clients.nvme.kills import Rounds
from tests.clients.nvme.streams import BLOCKS, LONG, answered, compare_digest, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients.nvme", description="Random commands, and kills.")
    parser.add_argument("--rounds", type=int, default=1000, help="kills in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the kills (default: the time)")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    wrong = 0
    for block in BLOCKS:
        try:
            lines = [line for stream in LONG[block] for line in answered(stream, run(block))]
            compare_digest(f"long-{block}", lines)
            print(f"blocks of {block}: {len(lines)} lines are as expected", flush=True)
        except AssertionError as error:
            wrong += 1
            print(f"blocks of {block}: {error}", flush=True)
    for block in BLOCKS:
        with TemporaryDirectory(prefix="iommud-nvme-") as name:
            rounds = Rounds(Path(name), block, args.seed + block)
            for number in range(args.rounds // len(BLOCKS)):
                try:
                    rounds.play()
                except AssertionError as error:
                    wrong += 1
                    print(f"blocks of {block}, round {number + 1}: {error}", flush=True)
            print(f"blocks of {block}: {rounds.flushed} writes were flushed, and stayed", flush=True)
    print("nothing is wrong" if not wrong else f"{wrong} things are wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
