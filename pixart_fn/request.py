"""The arguments of a call, all checked and resolved before any work.

B pictures, L tokens, C latent channels, h/w latent and H/W pixel size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from PIL import Image

from . import rng, solvers
from .backend.arrays import as_float, as_tensor, check_mask, check_weights
from .checks import check_function, check_switch, check_whole, kind, shown
from .control import Control, as_controls, rows_of
from .guidance import Guidance, Scale, as_guidance, check_scale
from .models import sizes, vae
from .params import MODELS, Params
from .process.lock import exclusive
from .schedule import Schedule, check_grid
from .schedule import grid as schedule_grid
from .solvers.config import Wrap
from .types import Array, Grid, Key, Solver, StepInfo, Text, VarianceSolver

Picture = Image.Image
LONGEST = 2**14
"""Tokens of a prompt at most."""


class Sampling(NamedTuple):
    """The arguments that `generate` and `sample_latents` share, as they were given."""

    steps: int | None
    guidance: Guidance | Scale | None
    solver: Solver | str | None
    grid: Grid | None
    latents: Array | None
    check: bool
    on_step: Callable[[StepInfo], object] | None
    progress: bool
    controls: Control | Sequence[Control] | None = None


class Request(NamedTuple):
    """The checked arguments of a call, from which `stages.run` samples.

    `size` is (height, width) in pixels, `keys` is (B, 2), `shape` that of all latents, (B, C, h, w), and `latents` is
    where the sampling starts, or None for the keys' noise.
    """

    size: tuple[int, int]
    keys: Key
    schedule: Schedule
    grid: Grid
    solver: Solver
    wrap: Wrap
    shape: tuple[int, int, int, int]
    latents: Tensor | None
    guidance: Guidance
    check: bool
    on_step: Callable[[StepInfo], object] | None
    progress: bool
    controls: tuple[Control, ...] = ()

    @property
    def branches(self) -> int:
        """How many rows are evaluated together for each picture."""
        return 2 if self.guidance.compares else 1

    def start(self) -> Tensor:
        """Return where the sampling starts, (B, C, h, w)."""
        return Tensor.from_numpy(rng.normal(self.keys, self.shape)) if self.latents is None else self.latents

    @exclusive
    def part(self, rows: slice) -> Request:
        """Return the request of some of the pictures, which are the same as among all."""
        if rows == slice(0, len(self.keys)):
            return self
        keys, latents = self.keys[rows], None if self.latents is None else self.latents[rows]
        shape, guidance = (len(keys), *self.shape[1:]), self.guidance.part(rows)
        controls = tuple(rows_of(each, rows) for each in self.controls)
        return self._replace(keys=keys, shape=shape, latents=latents, guidance=guidance, controls=controls)


def request(params: Params, rows: int, key: Key, size: tuple[int, int], given: Sampling) -> Request:
    """Check and resolve the arguments that `generate` and `sample_latents` share.

    Args:
        params: from `load`, already checked.
        rows: B, the number of pictures.
        key: one key (2,), or (B, 2) with one key per picture.
        size: (height, width) in pixels, already checked.
        given: the other arguments, as they were given.
    Returns:
        The Request.
    Raises:
        TypeError: an argument has the wrong type; the sentence says what is valid.
        ValueError: an argument is outside its range; the sentence says what is valid.
    """
    check_switches(check=given.check, progress=given.progress)
    if given.on_step is not None:
        check_function("on_step", given.on_step, "StepInfo")
    keys = picture_keys(key, rows)
    guidance = check_guidance(params, given.guidance, rows)
    sampler = solvers.from_config(params.config.scheduler)
    grid = _grid(params, given, sampler)
    if given.solver is not None:  # in place of the checkpoint's solver together with its clipping
        sampler = solvers.Sampler(sampler.schedule, sampler.make_grid, solvers.named(given.solver))
    schedule, _, solver, wrap = sampler
    if isinstance(solver, VarianceSolver):
        check_variance(params, repr(solver))
    for name, scale in guidance.scales.items():
        for t in grid.t[:-1].tolist():
            check_scale(f"{name} at t = {t:g}", scale(t) if callable(scale) else scale, rows)
    shape = latent_shape(params, rows, size)
    latents = None if given.latents is None else _start(given.latents, shape)
    controls = as_controls(params.config.transformer, given.controls, shape)
    for check in solver.checks:
        check(grid, np.broadcast_to(np.float32(0), shape) if latents is None else latents)
    how = guidance, given.check, given.on_step, given.progress, controls
    return Request(size, keys, schedule, grid, solver, wrap, shape, latents, *how)


def _grid(params: Params, given: Sampling, sampler: solvers.Sampler) -> Grid:
    """Return the grid that is given, or the one of so many steps, or of the checkpoint's own number."""
    if given.grid is not None:
        grid = _own_grid(given.grid, sampler.schedule)
        if given.steps is not None:
            raise ValueError("steps and grid both say where to evaluate the model; leave one of them out")
        return grid
    call = params.config.call
    count = call.steps if given.steps is None else given.steps
    check_whole("steps", count, 1)
    if call.times is not None and count == len(call.times):
        return schedule_grid(sampler.schedule, call.times)
    return sampler.make_grid(int(count))


def _own_grid(grid: Grid, schedule: Schedule) -> Grid:
    """Return the grid, which must lie on the model's schedule, since the denoiser takes α and σ from that."""
    check_grid(grid)
    noisy = grid.sigma > 0
    if not np.allclose(grid.alpha[noisy], schedule.alpha(grid.t[noisy]), rtol=0, atol=1e-6):
        raise ValueError("grid has another schedule than the model's; px.solvers.from_config gives the model's own")
    return grid


def check_params(params: Params) -> None:
    """Raise a TypeError or ValueError where params aren't as `load` gives them: trees that fit their configurations."""
    if not isinstance(params, Params):
        raise TypeError(f"params must be what px.load() returns, got {type(params).__name__}")
    for name, model in MODELS.items():
        weights, config = getattr(params, name), getattr(params.config, name)
        if weights is None and name != "transformer":
            continue
        if weights is None or config is None:
            raise ValueError(f"params.{name} is {'None' if weights is None else 'not None but has no configuration'}")
        wide = getattr(model, "WIDE", None)
        check_weights(weights, model.shapes(config), f"params.{name}", stored=name != "vae", wide=wide)


def as_text(params: Params, name: str, text: Text, rows: int | None = None) -> Text:
    """Turn a Text, which may be made by hand, into float32 states and an int32 mask, both Tensors.

    Args:
        params: from `load`.
        name: the argument's name, for errors.
        text: states (B, L, C) of any float dtype and mask (B, L) of numbers or truth values, arrays or Tensors.
        rows: if given, B must be this number or 1.
    Returns:
        The Text.
    Raises:
        TypeError: text isn't two arrays of these types.
        ValueError: the arrays have other shapes, a state isn't finite, or the mask has other values than 0 and 1.
    """
    if not (isinstance(text, tuple) and len(text) == 2):
        hint = "px.encode_prompt(params, 'a cat') makes one"
        raise TypeError(f"{name} must be a Text of states and mask, got {type(text).__name__}; {hint}")
    states, mask = as_float(text[0], f"{name}.states"), as_tensor(text[1], f"{name}.mask")
    width = params.config.transformer.caption_channels
    if states.ndim != 3 or states.shape[2] != width or 0 in states.shape:
        raise ValueError(f"{name}.states must have the shape (B, L, {width}), got {tuple(states.shape)}")
    if tuple(mask.shape) != tuple(states.shape[:2]):
        raise ValueError(
            f"{name}.mask must have the shape {tuple(states.shape[:2])} of its states, got {tuple(mask.shape)}"
        )
    if rows is not None and len(mask) not in (1, rows):
        raise ValueError(f"{name} must have one row, or {rows} as text has, got {len(mask)}")
    check_mask(mask, f"{name}.mask")
    if not np.isfinite(states.asnumpy()).all():
        raise ValueError(f"{name}.states must be finite, got NaN or infinity among them")
    return Text(states, mask.int())


def check_guidance(params: Params, guidance: Guidance | Scale | None, rows: int) -> Guidance:
    """Return the guidance, or the checkpoint's own, after the checks that need params and the number of pictures.

    A scale alone guides at the times that the checkpoint says.
    """
    call, whole = params.config.call, everywhere(params, guidance)
    inherits = call.interval is not None and whole.compares and not isinstance(guidance, Guidance)
    guidance = replace(whole, interval=call.interval) if inherits else whole
    guidance.check(rows, params.config.transformer.num_layers)
    return guidance


def everywhere(params: Params, guidance: Guidance | Scale | None) -> Guidance:
    """Return the guidance, or one with the checkpoint's own scale, where a scale alone guides at all times."""
    return as_guidance(params.config.call.guidance if guidance is None else guidance)


def text_length(params: Params, tokens: int | None) -> int:
    """Return the most tokens that a prompt may have, checked; None takes the checkpoint's own."""
    if tokens is None:
        return params.config.tokens
    check_whole("tokens", tokens, 1, LONGEST)
    return int(tokens)


def check_variance(params: Params, reader: str) -> None:
    """Raise a ValueError where the model predicts no variance, although `reader` needs one."""
    config = params.config.transformer
    if config.out_channels == config.in_channels:
        raise ValueError(f"{reader} reads a learned variance, which this model doesn't predict")


def check_switches(**switches: bool) -> None:
    """Raise a TypeError where an argument isn't True or False."""
    for name, value in switches.items():
        check_switch(name, value)


def texts(name: str, prompt: str | Sequence[str]) -> list[str]:
    """Return one prompt or several as a list of at least one string."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, Sequence) or not len(prompt) or not all(isinstance(each, str) for each in prompt):
        raise TypeError(f"{name} must be a string or a list of at least one string, got {shown(prompt)}")
    return list(prompt)


def picture_keys(key: Key, n: int) -> Key:
    """Return one key for each of n pictures, (n, 2); a single key is split where n is more than 1."""
    key = rng.check_key(key)
    if key.ndim == 1:
        return key[None] if n == 1 else rng.split(key, n)
    if len(key) != n:
        raise ValueError(f"key must be one key or one for each picture ({n}), got {len(key)}")
    return key


def picture_size(params: Params, height: int | None, width: int | None) -> tuple[int, int]:
    """Return the (height, width) in pixels to draw at, checked; None takes the model's own."""
    height, width = _sides(params, height, width)
    sizes.check(height, width, factor(params) * params.config.transformer.patch_size)
    return height, width


def binned_size(params: Params, height: int | None, width: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the picture's size, which may be any, and the bin's size to draw at; without bins they are equal."""
    table = sizes.bin_for(params.config.transformer.sample_size, factor(params))
    if table is None:
        return (picture_size(params, height, width),) * 2
    height, width = _sides(params, height, width)
    sizes.check(height, width, 1)
    return (height, width), sizes.nearest_bin(height, width, table)


def latent_shape(params: Params, rows: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the shape (B, C, h, w) of the latents of pictures whose size is in pixels."""
    f = factor(params)
    return rows, params.config.transformer.in_channels, size[0] // f, size[1] // f


def factor(params: Params) -> int:
    """Return how many pixels a latent covers in each direction; without a VAE it is 8, as in every released one."""
    return 8 if params.config.vae is None else vae.factor(params.config.vae)


def pixels(pictures: Picture | Array | Sequence[Picture | Array]) -> Tensor:
    """Return pictures as a float32 Tensor (B, H, W, 3) in [0, 1]."""
    if isinstance(pictures, Tensor):
        x = as_float(pictures, "pictures")
    elif isinstance(pictures, Sequence):
        parts = [_picture(each) for each in pictures]
        if not parts or any(part.shape != parts[0].shape for part in parts):
            raise ValueError(f"pictures must be one or more of the same size, got {[p.shape[:2] for p in parts]}")
        x = Tensor.from_numpy(np.stack(parts))
    else:
        x = Tensor.from_numpy(_picture(pictures))
    x = x.expand_dims(0) if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[3] != 3 or 0 in x.shape:
        raise ValueError(f"pictures must have the shape (H, W, 3) or (B, H, W, 3), got {tuple(x.shape)}")
    values = x.asnumpy()
    low, high = float(values.min()), float(values.max())  # MindSpore's min and max ignore NaN
    if not (low >= 0 and high <= 1):
        raise ValueError(f"pictures must be within [0, 1], or uint8, got {low:g} … {high:g}")
    return x


def vae_config(params: Params) -> vae.EitherConfig:
    """Return the VAE's configuration; raise a ValueError where there is no VAE."""
    if params.vae is None or params.config.vae is None:
        raise ValueError("these params have no VAE; load them with vae=True or a path, or ask for output='latents'")
    return params.config.vae


def _picture(picture: Picture | Array) -> NDArray[np.float32]:
    """Return one picture, or an array of several, as float32 in [0, 1]."""
    if isinstance(picture, Image.Image):
        if picture.mode not in ("RGB", "L"):
            raise ValueError(
                f"pictures must be RGB or grey (L), got {picture.mode}; picture.convert('RGB') makes it so"
            )
        picture = np.asarray(picture.convert("RGB"))
    if not isinstance(picture, np.ndarray):
        raise TypeError(f"pictures must be PIL pictures, arrays or a Tensor, got {kind(picture)}")
    if picture.dtype == np.uint8:
        values: NDArray[np.float32] = picture.astype(np.float32) / np.float32(255)
        return values
    if picture.dtype.kind != "f":
        raise TypeError(f"pictures must be uint8 or floating-point numbers, got {picture.dtype}")
    return np.ascontiguousarray(picture, np.float32)


def _sides(params: Params, height: int | None, width: int | None) -> tuple[int, int]:
    own = params.config.transformer.sample_size * factor(params)
    return own if height is None else height, own if width is None else width


def _start(latents: Array, shape: tuple[int, ...]) -> Tensor:
    """Return the latents that a caller gave, checked, as a Tensor."""
    x = as_tensor(latents, "latents")
    dtype = str(x.dtype).lower()
    if tuple(x.shape) != shape or dtype != "float32":
        raise ValueError(f"latents must be float32 of shape {shape}, got {dtype} of shape {tuple(x.shape)}")
    if not np.isfinite(x.asnumpy()).all():
        raise ValueError("latents must be finite, got NaN or infinity among them")
    return x
