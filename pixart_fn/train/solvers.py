"""How good a solver is for so many evaluations: its error to a fine solution, and the nouns that are recognised.

    python -m pixart_fn.train.solvers --data emoji --evaluations 6 12 24 --out solvers.json

The file holds, for each solver, lists of [evaluations for a picture, value]: "error", ‖z - z*‖/‖z*‖ of latents against
200 steps of DPM-Solver++ 3M from the same noise (deterministic solvers), and "r1", the judge's R@1 over its hundred
nouns.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import rng, solvers
from .. import schedule as schedule_
from ..checkpoint import load
from ..files import atomic
from ..params import Params
from ..pipeline import generate
from ..sample import iterate
from ..types import Denoiser, Grid, Key, Solver, SolverState, StepInfo
from .emoji import captions, data, judge, nouns

SKIPPED = {"dpm_multistep", "dpm_singlestep", "euler", "lcm", "dpm_adaptive"}
"""Families whose members are measured, DDIM's other name, what needs a distilled model, what chooses its own steps."""
REFERENCE_STEPS = 200


def traits(solver: Solver) -> tuple[int, bool]:
    """Take two steps on numbers, to see what a solver does.

    Args:
        solver: any.
    Returns:
        (evaluations per step, whether it adds noise).
    """
    schedule = schedule_.from_betas(schedule_.linear())
    grid, ends = schedule_.grid(schedule, [700, 500, 300]), []
    for seed in (0, 1):
        infos = list(islice(iterate(rng.key(seed), lambda x, t: 0.9 * x, solver, grid, np.ones((1, 1))), 2))
        ends.append(float(infos[-1].x[0, 0]))
    return infos[-1].evaluations, ends[0] != ends[1]


def counted(solver: Solver) -> tuple[Solver, list[int]]:
    """Let a solver count its evaluations.

    Args:
        solver: any.
    Returns:
        The same solver, and a list that each of its steps adds its evaluations to.
    """
    counts: list[int] = []

    def step(key: Key, denoise: Denoiser, grid: Grid, i: int, state: Any) -> tuple[SolverState, StepInfo]:
        state, info = solver.step(key, denoise, grid, i, state)
        counts.append(info.evaluations)
        return state, info

    return solver._replace(step=step), counts


def measure(
    params: Params, solver: Solver, steps: int, prompts: list[str], **options: Any
) -> tuple[float, NDArray[np.float32]]:
    """Draw pictures of prompts, each with a key of its own.

    Args:
        params: from `load`.
        solver: to measure.
        steps: of the solver.
        prompts: one for each picture.
        options: further arguments of `generate`.
    Returns:
        (evaluations for each picture, what `generate` gives for all prompts).
    """
    solver, counts = counted(solver)
    keys, made = rng.split(rng.key(0), len(prompts)), []
    for i in range(0, len(prompts), 10):
        part = slice(i, i + 10)
        made.append(generate(params, prompts[part], keys[part], steps=steps, solver=solver, progress=False, **options))
    return sum(counts) / len(made), np.concatenate([m if isinstance(m, np.ndarray) else m.asnumpy() for m in made])


def main(arguments: list[str] | None = None) -> None:
    """The command: measure every solver and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that pixart_fn.train.emoji.render wrote")
    parser.add_argument("--model", help="a folder or id; the embedded one by default")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    atomic.target(args.out)
    params, glyphs = load(args.model), data.load(args.data)
    index = judge.build(glyphs)
    prompts = [captions.with_article(noun) for noun in nouns.NOUNS]
    few = prompts[::5]
    reference = measure(params, solvers.dpmpp_3m(), REFERENCE_STEPS, few, output="latents")[1]
    table: dict[str, dict[str, list[list[float]]]] = {}
    for name in tqdm(sorted({*solvers.SOLVERS} - SKIPPED), unit="solver"):
        stages, adds_noise = traits(solvers.SOLVERS[name]())
        row: dict[str, list[list[float]]] = {"r1": []} if adds_noise else {"error": [], "r1": []}
        for budget in args.evaluations:
            steps = max(1, budget // stages)
            if "error" in row:
                n, z = measure(params, solvers.SOLVERS[name](), steps, few, output="latents")
                row["error"].append([n, float(np.linalg.norm(z - reference) / np.linalg.norm(reference))])
            n, pixels = measure(params, solvers.SOLVERS[name](), steps, prompts, output="numpy")
            pictures = np.round(pixels * 255).astype(np.uint8)
            row["r1"].append([n, judge.report(index, pictures, nouns.noun_ids(glyphs)).r1])
        table[name] = row
    atomic.write(args.out, lambda temporary: temporary.write_text(json.dumps(table, indent=1), "utf-8"))


if __name__ == "__main__":
    main()
