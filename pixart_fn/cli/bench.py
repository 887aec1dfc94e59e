"""`pixart-fn bench`: how fast this machine draws and trains, in a minute."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np

from ..backend import runtime
from ..process.notes import ignored
from . import machine
from .console import document, note, result
from .importing import importing
from .verb import Computing

if TYPE_CHECKING:
    from ..params import Params

PROMPT = "a cute cat"
ROUNDS = 3
"""Runs after the first one, of which the median counts."""
SIDE = 1024
"""Of the square matrices of the product."""
EXAMPLES = 16
"""In a step of training, as in the recipe `small`."""


class Row(NamedTuple):
    """A line of the table: what was measured, the number, its unit, and what it is about."""

    name: str
    value: float
    unit: str
    about: str


@click.command(cls=Computing)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers and the machine as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and the numbers.")
def bench(as_json: bool, quiet: bool) -> None:
    """Measure how fast this machine draws and trains with the embedded checkpoint.

    It takes about a minute. The first picture and the first step of a process take longer, since blocks are compiled;
    the other numbers are medians. Close other programs before, since they make it slower.
    """
    if not quiet:
        note("this takes about a minute")
    with ignored():
        rows = measure()
    found = machine.facts()
    if as_json:
        listed = {
            row.name.replace(" ", "_"): {"value": row.value, "unit": row.unit, "about": row.about} for row in rows
        }
        document({"versions": machine.versions(), "machine": found, "measured": listed})
        return
    wide = max(len(row.name) for row in rows) + 2
    for row in rows:
        result(f"{row.name:<{wide}}{row.value:>8.{3 if row.unit == 's' else 0}f} {row.unit:<9}{row.about}")
    result(f"{'device':<{wide}}{found['device']}, {found['cpu']}, {found['cpus_allowed'] or found['cpus']} CPUs")


def measure() -> list[Row]:
    """Measure all, one after the other."""
    seconds, (load, generate, decode) = _once(_import)
    rows = [Row("import", seconds, "s", "MindSpore and the package")]
    seconds, params = _once(load)
    side = params.config.transformer.sample_size
    rows.append(Row("load", seconds, "s", "the embedded checkpoint"))

    def draw(**options: Any) -> Any:
        from .. import rng

        return generate(params, PROMPT, rng.key(0), progress=False, **options)

    first, later = _timed(draw)
    steps = f"{params.config.call.steps} steps"
    rows += [
        Row("first picture", first, "s", f"{steps}, the first of a process"),
        Row("later picture", later, "s", steps),
    ]
    latents = draw(output="latents", steps=1)
    rows.append(Row("decode", _timed(lambda: decode(params, latents))[1], "s", "latents to a picture"))
    first, later = _timed(_step(params, side))
    about = f"{EXAMPLES} examples, AdamW"
    rows += [Row("first step", first, "s", f"of training: {about}, with the compilation")]
    rows += [Row("training step", later, "s", about)]
    seconds = _timed(_product())[1]
    return [*rows, Row("product", 2e-9 * SIDE**3 / seconds, "GFLOP/s", f"matrices of {SIDE} x {SIDE}, float32")]


def _once(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def _timed(work: Callable[..., Any]) -> tuple[float, float]:
    """Return the seconds of the first run, and the median of those after it."""
    first = _once(work)[0]
    return first, statistics.median(_once(work)[0] for _ in range(ROUNDS))


def _import() -> tuple[Callable[..., Any], ...]:
    with importing():
        runtime.ready()
        from ..checkpoint import load
        from ..pipeline import generate
        from ..stages import decode_latents

    def decode(params: Params, latents: Any) -> Any:
        return decode_latents(params, latents).asnumpy()

    return load, generate, decode


def _step(params: Params, side: int) -> Callable[[], Any]:
    """Return a step of training of the whole transformer on latents of noise."""
    from .. import rng
    from ..schedule import from_betas, linear
    from ..stages import encode_prompt
    from ..train import losses, objective, optim, state, step
    from ..train.batch import Batch

    config = params.config.transformer
    loss = losses.diffusion(from_betas(linear()), learned_variance=config.out_channels == 2 * config.in_channels)
    optimiser = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-4))
    one = step.make(objective.of_transformer(config, loss, recompute=False), optimiser)
    now = state.init(params.transformer, optimiser, rng.key(0))
    x0 = rng.normal(rng.key(1), (EXAMPLES, config.in_channels, side, side))
    batch = Batch(x0, encode_prompt(params, [PROMPT] * EXAMPLES))

    def run() -> None:
        nonlocal now
        now, _ = one(now, batch, donate=True)

    return run


def _product() -> Callable[[], Any]:
    from mindspore import Tensor, ops

    from ..process.lock import lock

    a = Tensor(np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32))

    def run() -> Any:
        with lock():
            return ops.matmul(a, a).asnumpy()

    return run
