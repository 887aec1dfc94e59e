"""Ours against diffusers, side by side: `python -m tests.bench [WORK …] [--folder DIR] [--mindone PYTHON] [--table]`.

Each side of a work has a process of its own; after a first run of each they take turns, so that what the machine does
besides hits both. Medians, ratios, peak memory and the number of compilations go to results.json beside this file, from
which `--table` prints the tables of notebooks/about/benchmarks.md. Models of released size are made in --folder once:
5 GB, and 22 GB more for t5-24 and pipeline-512. mindone wants another transformers than diffusers, so it has an
environment of its own, whose Python --mindone names; without, that side is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pixart_fn.files import atomic

from . import weights
from .works import WORKS

RESULTS = Path(__file__).with_name("results.json")
ROOT = Path(__file__).parents[2]


class Side:
    """A worker process."""

    def __init__(self, side: str, name: str, home: Path, python: str):
        self.started = time.perf_counter()
        command = [python, "-m", "tests.bench.worker", side, name, str(home)]
        # or its idle thread would spin beside the other sides; ours sets it itself
        env = {**os.environ, "MS_DEV_HOST_BLOCKING_RUN": "1"} if side == "mindone" else None
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes)
        self.answer()
        once = self.run()
        self.first = time.perf_counter() - self.started
        self.seconds: list[float] = [] if WORKS[name].rounds else [once]

    def answer(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")

    def run(self) -> float:
        time.sleep(0.5)  # the other side's threads may spin for a while after their work
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.answer()["seconds"]

    def end(self) -> dict[str, Any]:
        self.process.stdin.close()
        last = self.answer()
        self.process.wait()
        return {"seconds": statistics.median(self.seconds), "all": self.seconds, "first": self.first, **last}


def measure(name: str, where: Path, mindone: str | None) -> dict[str, Any]:
    """Medians of a work's rounds by each side."""
    work = WORKS[name]
    home = where if work.layers is None else weights.folder(where, work.layers)
    pythons = {"ours": sys.executable, "theirs": sys.executable, "mindone": mindone}
    sides = {side: Side(side, name, home, python) for side, python in pythons.items() if python and getattr(work, side)}
    for i in range(work.rounds):
        for side in list(sides.values())[:: 1 if i % 2 == 0 else -1]:
            side.seconds.append(side.run())
    result: dict[str, Any] = {side: process.end() for side, process in sides.items()}
    for side, ratio in (("theirs", "ratio"), ("mindone", "ratio_mindone")):
        if side in sides:
            result[ratio] = result["ours"]["seconds"] / result[side]["seconds"]
    if work.images:
        for side in sides:
            result[side]["images_per_second"] = work.images / result[side]["seconds"]
    if work.flops:
        result["gflops"] = work.flops / result["ours"]["seconds"] / 1e9
    return result


def imports() -> dict[str, Any]:
    """Seconds of a whole process that only imports, median of five in turn."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(5):
        for side, line in (("ours", "import pixart_fn"), ("theirs", "from diffusers import PixArtAlphaPipeline")):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=True, capture_output=True)
            seconds[side].append(time.perf_counter() - start)
    medians = {side: {"seconds": statistics.median(runs), "all": runs} for side, runs in seconds.items()}
    return {**medians, "ratio": medians["ours"]["seconds"] / medians["theirs"]["seconds"]}


def disk(where: Path) -> dict[str, Any]:
    """Read every byte of the 24-layer encoder once, then once more: the bound of streaming it, cached or not."""
    file, buffer, rates = weights.folder(where, 24) / "text_encoder" / "model.safetensors", bytearray(2**24), []
    for cold in (True, False):
        with open(file, "rb", buffering=0) as source:
            if cold:
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            while source.readinto(buffer):
                pass
            rates.append(time.perf_counter() - start)
    return {"bytes": file.stat().st_size, "cold_seconds": rates[0], "again_seconds": rates[1]}


def machine() -> dict[str, Any]:
    """What the numbers were measured on, with PyTorch's rate of a 2048³ product in float32."""
    import torch

    a, seconds = torch.randn(2048, 2048), []
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": f"{len(cpu)} × {cpu[0]}",
        "gib": round(gib),
        "python": platform.python_version(),
        "torch_gflops": 2 * 2048**3 / min(seconds) / 1e9,
    }


def table(results: dict[str, Any]) -> str:
    """The rows of the first table of notebooks/about/benchmarks.md."""
    lines = ["| work | ours | diffusers | ratio | memory: ours, theirs |", "|---|---|---|---|---|"]
    for name, row in results.items():
        if "ours" not in row or "batch" in name:
            continue
        ratio = f"**{row['ratio']:.2f}**" if "ratio" in row else ""
        lines.append(_line(name, row["ours"], row.get("theirs", {}), ratio))
    return "\n".join(lines)


def _line(name: str, ours: dict[str, Any], theirs: dict[str, Any], ratio: str) -> str:
    """A row of seconds, their ratio and memory."""
    peaks = [f"{side['peak_gib']:.1f}" for side in (ours, theirs) if "peak_gib" in side]
    seconds = f"{theirs['seconds']:.2f} s" if theirs else ""
    cells = [name, f"{ours['seconds']:.2f} s", seconds, ratio, ", ".join(peaks) + " GiB" if peaks else ""]
    return "| " + " | ".join(cells) + " |"


def scaling(results: dict[str, Any]) -> str:
    """What the transformer's evaluations cost in FLOP/s: the second table."""
    rows = [(name, row) for name, row in results.items() if name.startswith("dit-") and "gflops" in row]
    lines = ["| guided evaluation | seconds | GFLOP/s |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {name} | {row['ours']['seconds']:.1f} | {row['gflops']:.0f} |" for name, row in rows)]
    )


def against_mindone(results: dict[str, Any]) -> str:
    """The third table."""
    lines = ["| work | ours | mindone | ratio | memory: ours, theirs |", "|---|---|---|---|---|"]
    for name, row in results.items():
        if "mindone" in row:
            lines.append(_line(name, row["ours"], row["mindone"], f"**{row['ratio_mindone']:.3f}**"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.partition("\n")[0])
    extra = {"machine": lambda where: machine(), "import": lambda where: imports(), "disk": disk}
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join([*extra, *WORKS])}; all by default")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "pixart_fn" / "bench")
    parser.add_argument("--mindone", metavar="PYTHON", help="of an environment with mindone, to measure it too")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of what was measured, and measure nothing"
    )
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if arguments.table:
        print(table(results), scaling(results), against_mindone(results), sep="\n\n")
        return
    for name in arguments.works or [*extra, *WORKS]:
        if name not in WORKS and name not in extra:
            parser.error(f"unknown work {name!r}; known: {', '.join([*extra, *WORKS])}")
        arguments.folder.mkdir(parents=True, exist_ok=True)
        print(f"{name} …", file=sys.stderr, flush=True)
        where = arguments.folder
        measured = extra[name](where) if name in extra else measure(name, where, arguments.mindone)
        results[name] = measured
        order = [each for each in (*extra, *WORKS) if each in results]
        results = {each: results[each] for each in order}
        text = json.dumps(results, indent=1) + "\n"
        atomic.write(RESULTS, lambda temporary, text=text: temporary.write_text(text))
        print(table({name: measured}).splitlines()[-1] if "ours" in measured else json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
