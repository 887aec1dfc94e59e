"""What runs on an NVIDIA GPU, how right and how fast: `python tests/on_gpu.py [STEP …] [--out FILE] [--seconds 280]`.

Each step is a process of its own with a limit of time; what it finds is appended to FILE, a line of JSON at a time, as
soon as it is known, and a step that fails or hangs costs only itself. Nothing is fetched. Where PyTorch sees the card,
diffusers computes the same from the same weights, and `--table` prints the ratios. `--rehearse` tries the script
itself: tiny models, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import on_gpu_steps as steps

LIMITS = {
    "card": 60,
    "ops": 60,
    "cpu": 60,
    "embedded": 60,
    "dit-512": 60,
    "decode-512": 60,
    "torch-dit-512": 40,
    "torch-decode-512": 40,
    "gradients": 60,
    "dit-256": 40,
    "torch-dit-256": 30,
    "dit-1024": 60,
    "torch-dit-1024": 40,
    "decode-1024": 60,
    "torch-decode-1024": 40,
    "train": 90,
}
"""Every step in the order of their worth, and the seconds that it may take at most."""
LEAST = 15
"""Seconds without which no further step is begun."""


def run(name: str, limit: float, arguments: argparse.Namespace) -> None:
    """Run a step in another process and write how it ended."""
    command = [sys.executable, __file__, name, "--inside", str(arguments.home), "--out", str(arguments.out)]
    if arguments.rehearse:
        command.append("--rehearse")
    start, end = time.perf_counter(), {"step": name, "ended": True}
    with open(arguments.home / f"{name}.log", "w+b") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            end["status"] = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            end["status"] = f"stopped after {limit:.0f} s"
        end["seconds"] = round(time.perf_counter() - start, 1)
        if end["status"] != 0:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 3000))
            end["said"] = log.read().decode(errors="replace")
    steps.write(arguments.out, end)


def table(lines: list[dict]) -> str:
    """The rows of the README: seconds of both sides, their ratio, and memory."""
    timed = {(line["work"], line["dtype"], line["side"]): line for line in lines if "median" in line}
    rows = [
        "| work | dtype | ours | diffusers | ratio | GiB: ours, theirs | first call |",
        "|---|---|---|---|---|---|---|",
    ]
    for (work, dtype, side), ours in timed.items():
        if side != "ours":
            continue
        theirs = timed.get((work, dtype, "theirs"))
        cells = [work, dtype, f"{1e3 * ours['median']:.1f} ms"]
        cells += [f"{1e3 * theirs['median']:.1f} ms" if theirs else "", ""]
        cells[-1] = f"**{ours['median'] / theirs['median']:.2f}**" if theirs else ""
        memory = [f"{each['gib']:.1f}" for each in (ours, theirs) if each and each.get("gib") is not None]
        rows.append("| " + " | ".join([*cells, ", ".join(memory), f"{ours['first']:.1f} s"]) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", metavar="STEP", help=f"of {', '.join(LIMITS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("on_gpu.jsonl"))
    parser.add_argument("--seconds", type=float, default=280, help="of all steps together")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on the CPU, to try this script")
    parser.add_argument("--table", action="store_true", help="print what FILE holds, and run nothing")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.only if name not in LIMITS]:
        parser.error(f"unknown step {unknown[0]!r}; known: {', '.join(LIMITS)}")
    if arguments.table:
        print(table([json.loads(line) for line in arguments.out.read_text("utf-8").splitlines()]))
        return
    if arguments.inside:
        steps.run(arguments.only[0], arguments.inside, arguments.out, arguments.rehearse)
        return
    end = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory() as home:
        arguments.home, arguments.out = Path(home), arguments.out.absolute()
        for name in arguments.only or LIMITS:
            if (left := end - time.monotonic()) < LEAST:
                steps.write(arguments.out, {"step": name, "ended": True, "status": "no time was left"})
                continue
            run(name, min(left, LIMITS[name]), arguments)
    print(table([json.loads(line) for line in arguments.out.read_text("utf-8").splitlines()]))


if __name__ == "__main__":
    main()
