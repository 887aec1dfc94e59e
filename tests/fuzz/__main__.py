"""Damaged files by hand: `python -m tests.fuzz [READER …] [--minutes N] [--seed S] [--out DIR]`.

Each reader has a process of its own, one after another. What is found goes to DIR as an input and a traceback; where
the process ended, READER.current is the input. A past crash belongs into corpus/READER/, which the tests read again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `helpers`, as pytest has it


def main() -> int:
    """Run the campaigns, and return 1 where one found something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help="all of them, if none is named")
    parser.add_argument("--minutes", type=float, default=1.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from .run import campaign
    from .targets import TARGETS

    if unknown := set(arguments.readers) - set(TARGETS):
        parser.error(f"there is no reader {', '.join(sorted(unknown))}; the readers are {', '.join(TARGETS)}")
    if arguments.here:
        count, found = campaign(arguments.readers[0], arguments.minutes, arguments.seed, arguments.out)
        print(f"{arguments.readers[0]}: {count} inputs, {len(found)} found", flush=True)
        return int(bool(found))
    bad = 0
    for name in arguments.readers or TARGETS:
        options = ["--minutes", str(arguments.minutes), "--seed", str(arguments.seed), "--out", str(arguments.out)]
        done = subprocess.run([sys.executable, "-m", "tests.fuzz", name, *options, "--here"])
        if done.returncode not in (0, 1):
            print(f"{name}: the process ended with {done.returncode}; see {arguments.out / f'{name}.current'}")
        bad += done.returncode != 0
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
