"""`make hostile`: every attack for a minute, and a table of what became of the others. Exit status
1: something is wrong.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hostile.attacks import ATTACKS, BUSY, SETUID, Attack
from tests.hostile.stage import Result, Stage

HEAD = (
    f"{'attack':28} {'longest':>8} {'its doing':>9} {'calm':>6} {'tries':>9} {'astray':>6} {'killed':>6} {'new one':>7}"
)


def row(result: Result) -> str:
    """One line of the table. Times are in ms, but for the new daemon's, in s."""
    times = f"{result.longest * 1e3:8.0f} {result.held_up * 1e3:9.0f} {result.machine * 1e3:6.0f}"
    serves = "-" if result.serves is None else f"{result.serves:.1f}"
    return f"{result!s:28} {times} {result.tries:9} {result.astray:6} {'yes' if result.killed else 'NO':>6} {serves:>7}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile", description="Attack daemons, with innocent clients beside."
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long each attack goes on (default: %(default)s)"
    )
    parser.add_argument(
        "--tries", type=int, default=5000, help="how often a set-user-ID program is tried (default: %(default)s)"
    )
    parser.add_argument("names", nargs="*", help="which attacks, or the programs whose attacks (default: all)")
    args = parser.parse_args()
    # so that everything is removed at the end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if os.geteuid() != 0:
        sys.exit("make hostile mounts, makes device nodes and changes its user: it needs root")
    every: list[tuple[Attack, ...]] = [*((attack,) for attack in ATTACKS), (SETUID,), (SETUID, BUSY)]
    chosen = [attacks for attacks in every if not args.names or {attacks[0].program, str(attacks[0])} & set(args.names)]
    print(HEAD, flush=True)
    bad = 0
    with TemporaryDirectory(prefix="iommud-hostile-") as name:
        os.chmod(name, 0o755)
        stage = Stage(Path(name))
        try:
            for attacks in chosen:
                tries = args.tries if SETUID in attacks else 0
                result = stage.run(attacks[0], args.seconds, *attacks[1:], tries=tries)
                result.wrong += stage.terminate_under(*attacks)
                print(row(result), flush=True)
                for what in result.wrong:
                    print(f"    {what}", flush=True)
                bad += bool(result.wrong)
        finally:
            stage.close()
    print(
        f"{len(chosen)} attacks, {bad} of them harmed others. longest, its doing, calm: ms of the other client's longest call, what of"
    )
    print(
        "that was the daemon's doing, and of a client whose daemon nobody attacked; new one: s until the next daemon served"
    )
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
