"""Inversion: the noise that a picture comes from, to draw it again with another prompt."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor

from .. import rng
from ..backend.arrays import as_float
from ..denoiser import repeat
from ..guidance import Guidance, Scale
from ..params import Params
from ..process.lock import lock
from ..public import public
from ..request import Sampling, as_text, check_params, factor, picture_size, request
from ..schedule import reverse
from ..stages import sample_latents
from ..types import Array, Grid, Solver, StepInfo, Text
from .drawing import check_direction, check_momentum


@public
def invert(
    params: Params,
    latents: Array,
    text: Text,
    *,
    negative: Text | None = None,
    guidance: Guidance | Scale = 1.0,
    steps: int | None = None,
    solver: Solver | str = "ddim",
    grid: Grid | None = None,
    check: bool = True,
    memory: float | None = None,
    on_step: Callable[[StepInfo], object] | None = None,
    progress: bool = True,
) -> Tensor:
    """Find the noise from which a deterministic solver draws given latents (DDIM, arXiv:2010.02502, sec. 4.3).

    The solver goes over the grid from clean to noisy (`schedule.reverse`). `generate(…, latents=noise)` with the same
    solver, steps and guidance then draws nearly the same picture, and with another prompt an edited one. More steps
    make the error smaller, and guidance makes it larger. In 25 steps with the embedded checkpoint, the error is
    smallest with "pndm", and then rises from "kdpm2" to "heun", "dpmpp_2m" and "ddim"; "unipc" and "dpm_singlestep"
    don't lead back to the picture.

    Args:
        params: from `load`.
        latents: of the picture, floats (B, C, h, w), as `encode_image` gives them.
        text: what the picture shows, from `encode_prompt`, B rows or one for all.
        negative: what to steer away from, B rows or one row for all; None encodes the empty prompt.
        guidance: a `px.Guidance`, or its scale alone, as in `generate`; 1 turns it off.
        steps: the number of steps of the solver, at least 1; None takes the checkpoint's own.
        solver: a Solver or the name of one, which must be deterministic.
        grid: the nodes from noisy to clean, in place of `steps` of the checkpoint's spacing.
        check: whether to raise an error where a result isn't finite.
        memory: the most bytes that this process may take, as in `generate`.
        on_step: a function that is called with the StepInfo of each step, as in `generate`.
        progress: whether to show a bar.
    Returns:
        The noise, float32 (B, C, h, w).
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, or a result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    check_params(params)
    with lock():
        z, C = as_float(latents, "latents"), params.config.transformer.in_channels
        if z.ndim != 4 or z.shape[1] != C or not len(z):
            raise ValueError(f"latents must have the shape (B, {C}, h, w), got {tuple(z.shape)}")
        text = as_text(params, "text", text)
        if len(text.mask) not in (1, len(z)):
            raise ValueError(f"text must have one row, or {len(z)} as latents has, got {len(text.mask)}")
        text = repeat(text, len(z)) if len(text.mask) == 1 else text
    key, f = rng.key(0), factor(params)
    size = picture_size(params, z.shape[2] * f, z.shape[3] * f)
    plan = request(params, len(z), key, size, Sampling(steps, guidance, solver, grid, z, check, on_step, progress))
    check_direction(plan.grid)
    check_momentum(plan.guidance, "is that of going from noisy to clean")
    return sample_latents(
        params, text, key, negative=negative, guidance=guidance, height=size[0], width=size[1], solver=solver,
        grid=reverse(plan.grid), latents=z, check=check, memory=memory, on_step=on_step, progress=progress,
    )  # fmt: skip
