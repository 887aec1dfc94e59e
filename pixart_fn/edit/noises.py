"""Between two noises and two prompts: variations of a picture, and the frames from one picture to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from .. import rng
from ..backend.arrays import as_float, as_numpy
from ..checks import as_numbers, check_number, check_whole, is_number, shown
from ..params import Params
from ..pipeline import Part, generate
from ..process.lock import exclusive
from ..public import public
from ..request import Picture, binned_size, check_params, check_switches, latent_shape, picture_size, texts
from ..types import Array, Key, NumPyArray, Text
from .drawing import Change, draw, drawing
from .options import Sized, filled, takes

if TYPE_CHECKING:
    from typing_extensions import Unpack

PARALLEL = 1e-4
"""The angle, in radians, from that of 0 or π, below which `slerp` goes straight."""
PICTURES = 10_000
"""The most pictures of a call."""


@public
def slerp(a: Array, b: Array, w: float | Sequence[float] | NDArray[np.float64]) -> Array:
    """Mix two noises so that their length is kept (spherical interpolation), for each picture alone.

    sin((1 - w) θ)/sin θ · a + sin(w θ)/sin θ · b, where θ is the angle between a and b (Shoemake 1985). If a and b lie
    on one line, this isn't defined, and they are mixed linearly.

    Args:
        a: floats (B, …), an array or a Tensor.
        b: of the shape of a.
        w: within [0, 1], a number or one for each of B pictures: 0 gives a, and 1 gives b.
    Returns:
        float32 of the shape of a, an array where a is one.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the shapes differ, a number isn't finite, or w isn't as described above.
    Example:
        >>> px.edit.slerp(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), 0.5).round(3)
        array([[0.707, 0.707]], dtype=float32)
    """
    first, second = (as_float(x, name).asnumpy().astype(np.float64) for name, x in (("a", a), ("b", b)))
    if first.ndim < 1 or first.shape != second.shape:
        raise ValueError(f"a and b must have one shape (B, …), got {first.shape} and {second.shape}")
    for name, values in (("a", first), ("b", second)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity among it")
    weights = _weights(w, len(first)).reshape(-1, *[1] * (first.ndim - 1))
    axes = tuple(range(1, first.ndim))
    lengths = [np.sqrt((x * x).sum(axes, keepdims=True)) for x in (first, second)]
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (first * second).sum(axes, keepdims=True) / (lengths[0] * lengths[1])
        theta = np.arccos(np.clip(cosine, -1, 1))
        own, other = np.sin((1 - weights) * theta) / np.sin(theta), np.sin(weights * theta) / np.sin(theta)
    bent = np.minimum(theta, np.pi - theta) > PARALLEL  # False where a length is 0, too
    result = np.where(bent, own, 1 - weights) * first + np.where(bent, other, weights) * second
    result = np.where(weights == 0, first, np.where(weights == 1, second, result)).astype(np.float32)
    return result if isinstance(a, np.ndarray) else Tensor.from_numpy(result)


@public
@takes(Sized)
def variations(
    params: Params, prompt: str, key: Key, n: int, amount: float = 0.3, **options: Unpack[Sized]
) -> Picture | Part:
    """Draw pictures that are similar to the one that `generate` draws with the key.

    Variation i starts from `slerp` between the key's noise and that of `split(key, n)[i]`. Noise that a stochastic
    solver adds is the same for all of them.

    Args:
        params: from `load`.
        prompt: one prompt.
        key: one key (2,).
        n: how many pictures.
        amount: how different they are, within [0, 1]: 0 draws the picture of the key n times, and 1 draws others.
        **options: negative_prompt, steps, guidance, solver, grid, height, width, binning, controls, output, clean,
            tokens, tile, check, memory, on_step and progress, as `generate` takes them.
    Returns:
        As from `generate`, with n pictures in a list; or an array or a Tensor.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above; or a stage's result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    check_params(params)
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a string, got {shown(prompt)}")
    key = _one_key(key)
    check_whole("n", n, 1, PICTURES)
    check_number("amount", amount, 0, 1)
    shape = latent_shape(params, n, _sizes(params, filled(Sized, options))[1])
    noise = np.broadcast_to(rng.normal(key, shape[1:]), shape)
    start = slerp(noise, rng.normal(rng.split(key, n), shape), float(amount))
    given: dict[str, Any] = {**options, "latents": start, "images_per_prompt": n}
    drawn: Any = generate(params, prompt, np.stack([key] * n), **given)
    return [drawn] if n == 1 and options.get("output", "pil") == "pil" else drawn


@public
@takes(Sized)
def interpolate(
    params: Params, prompt: str | Sequence[str], key: Key, n: int, **options: Unpack[Sized]
) -> Picture | Part:
    """Draw pictures on the way from one prompt, or one key, to the next.

    The first and the last picture are what `generate` draws with the first and the last prompt and key. Between two
    prompts the states of the text are mixed, where the state of its last token is repeated for the shorter prompt.
    Between two keys the noise is mixed (`slerp`). Noise that a stochastic solver adds is that of the key before.

    Args:
        params: from `load`.
        prompt: one prompt for all frames, or K that follow each other.
        key: one key (2,) for all frames, or (K, 2) that follow each other. There are at least two of prompts or keys.
        n: the number of frames, at least K.
        **options: as in `variations`; negative_prompt is one string.
    Returns:
        A list of n PIL pictures; or an array or a Tensor of n rows.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above; or a stage's result isn't finite.
        MemoryError: one picture doesn't fit into memory.
    """
    check_params(params)
    prompts, keys = texts("prompt", prompt), np.atleast_2d(rng.check_key(key))
    ways = max(len(prompts), len(keys))
    if ways == 1 or not {len(prompts), len(keys)} <= {1, ways}:
        got = f"got {len(prompts)} and {len(keys)}"
        raise ValueError(f"prompt and key must be two or more, or one beside two or more of the other, {got}")
    check_whole("n", n, ways, PICTURES)
    given = filled(Sized, options)
    if not isinstance(given["negative_prompt"], str):
        raise TypeError(f"negative_prompt must be a string, got {shown(given['negative_prompt'])}")
    place = np.arange(n) * (ways - 1) / (n - 1)
    first = np.minimum(place.astype(int), ways - 2)
    own = keys[place.astype(int) if len(keys) > 1 else np.zeros(n, int)]
    wanted, drawn = _sizes(params, given)
    plan = drawing(params, prompts, own, drawn, drawn, given | {"images_per_prompt": 1}, results=n, wanted=wanted)
    start = None
    if len(keys) > 1:
        noise = rng.normal(keys, (ways, *plan.plan.shape[1:]))
        start = slerp(noise[first], noise[first + 1], place - first)
    return draw(plan, start, Change(text=lambda text: _frames(text, first, place - first)), False)


@exclusive
def _frames(text: Text, first: NDArray[np.int_], weights: NDArray[np.float64]) -> Text:
    """Return the text of each frame: between row `first` and the next by a weight within [0, 1]."""
    if len(text.mask) == 1:
        return text
    states, mask = (as_numpy(part) for part in text)
    frames = [_between(states[i : i + 2], mask[i : i + 2], float(w)) for i, w in zip(first, weights, strict=True)]
    return Text(*(Tensor.from_numpy(np.stack(parts)) for parts in zip(*frames, strict=True)))


def _between(states: NumPyArray, mask: NumPyArray, w: float) -> tuple[NumPyArray, NumPyArray]:
    """Mix two rows of states and of their mask; at the ends they are the rows themselves."""
    if w in (0, 1):
        return states[int(w)], mask[int(w)]
    # the transformer can't half attend to a token that only one prompt has; repeating the end says least that is new
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
    a, b = (
        np.where(np.arange(mask.shape[1])[:, np.newaxis] > n, row[n], row) for row, n in zip(states, last, strict=True)
    )
    return ((1 - w) * a + w * b).astype(np.float32), mask.max(0)


def _sizes(params: Params, options: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of the pictures and the size that is drawn, (height, width) in pixels."""
    check_switches(binning=options["binning"])
    height, width = options["height"], options["width"]
    return binned_size(params, height, width) if options["binning"] else (picture_size(params, height, width),) * 2


def _weights(w: float | Sequence[float] | NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    if is_number(w):
        check_number("w", w, 0, 1)
    numbers = np.full(rows, w, float) if is_number(w) else as_numbers("w", cast("Sequence[float]", w))
    if numbers.shape != (rows,) or not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError(f"w must be a number within [0, 1], or one for each picture ({rows}), got {shown(w)}")
    return numbers


def _one_key(key: Key) -> Key:
    if rng.check_key(key).ndim != 1:
        raise ValueError(f"key must be one key of shape (2,), got shape {key.shape}")
    return key
