"""From denoisers to a denoiser. B pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from ..checks import check_function, check_number, kind, shown
from ..public import public
from ..schedule import Schedule, check_schedule
from ..types import Array, Denoiser, NumPyArray
from .combination import combination, in_space
from .formulas import away, column, first_channels, rescale, shape_of
from .how import Guidance, as_guidance
from .kinds import Weaker, ZeroStar
from .value import Scale, as_interval, check_scale, scale_at

Result = TypeVar("Result", Array, "tuple[Array, Array]")
"""What a denoiser gives: x0, or (x0, variance) where it is a VarianceDenoiser."""

Pair: TypeAlias = Callable[[Array, float], tuple[Result, Array]]
"""(x_t, t) → (what the denoiser gives with the condition, x0 without it), ideally evaluated in one batch of 2B."""


def both(conditional: Callable[[Array, float], Result], unconditional: Denoiser) -> Pair[Result]:
    """Make a pair from two denoisers, evaluated one after the other.

    Args:
        conditional: the denoiser with the condition; it may be a VarianceDenoiser.
        unconditional: the denoiser without it, or with a negative text.
    Returns:
        (x_t, t) → what both give.
    Raises:
        TypeError: one of them isn't a function of (x, t).
    """
    check_function("conditional", conditional, "x, t")
    check_function("unconditional", unconditional, "x, t")
    return lambda x, t: (conditional(x, t), unconditional(x, t))


@public
def guided(
    guidance: Guidance | Scale,
    conditional: Callable[[Array, float], Result],
    pair: Pair[Result] | None = None,
    worse: Denoiser | None = None,
    *,
    schedule: Schedule | None = None,
) -> Callable[[Array, float], Result]:
    """Guide a denoiser as a Guidance says.

    With the momentum of a `Projected`, the denoiser remembers a running difference from one t to the next lower one. It
    forgets it when t rises again to the time before the last one or above, as when another sampling begins on the same
    grid, or when `dpm_adaptive` repeats a step. If samplings take turns, or one begins at a lower t than another ended,
    make a denoiser for each.

    Args:
        guidance: a Guidance, or its scale alone.
        conditional: the denoiser with the condition, evaluated alone where `pair` isn't; of a VarianceDenoiser the
            variance is kept as it is.
        pair: evaluates both branches; `both` makes it of two denoisers. Where the scale is 1 it isn't evaluated.
        worse: the denoiser of the worse model with the condition: with perturbed attention, without some blocks, or of
            a weaker model of one's own. Without a worse branch in the guidance it isn't evaluated.
        schedule: where given, rescaling works on what its model predicts, as in the paper, rather than on x0; a
            `ZeroStar` needs it for the velocity.
    Returns:
        A denoiser of the kind of `conditional`, which raises a TypeError where what `pair` gives isn't two values of
        the shape of x.
    Raises:
        TypeError: guidance is neither a Guidance nor a scale, or another argument has the wrong type.
        ValueError: what the guidance needs is None.
    """
    guidance = as_guidance(guidance)
    check_function("conditional", conditional, "x, t")
    if schedule is not None:
        check_schedule(schedule)
    for name, each in (("pair", pair), ("worse", worse)):
        if each is not None:
            check_function(name, each, "x, t")
    method, branch = guidance.method, guidance.branch
    needs = {"pair": (pair, guidance.compares), "worse": (worse, branch is not None)}
    for name, (given, needed) in (needs | {"schedule": (schedule, isinstance(method, ZeroStar))}).items():
        if needed and given is None:
            raise ValueError(f"{guidance!r} needs {name}, which is None")
    if not guidance.compares and branch is None:
        return conditional
    denoise = _guided(guidance, conditional, pair if guidance.compares else None, _inside(branch, worse), schedule)
    if isinstance(method, ZeroStar) and schedule is not None and method.zero_from is not None:
        denoise = interval(_still(conditional, schedule), denoise, method.zero_from, math.inf)
    return denoise if guidance.interval is None else interval(denoise, conditional, *guidance.interval)


def _guided(
    guidance: Guidance,
    conditional: Callable[[Array, float], Result],
    pair: Pair[Result] | None,
    worse: Callable[[Array, float], Array | None],
    schedule: Schedule | None,
) -> Callable[[Array, float], Result]:
    """Make the denoiser of `guided` from what it has checked, without intervals."""
    combined, name = combination(guidance.method, schedule), [*guidance.scales][-1]

    def denoise(x: Array, t: float) -> Result:
        result, unconditional = (conditional(x, t), None) if pair is None else _checked_pair(pair(x, t), x)
        poor = worse(x, t)
        return _on_x0(result, lambda x0: change(x, t, x0, unconditional, poor))

    def change(x: Array, t: float, x0: Array, unconditional: Array | None, poor: Array | None) -> Array:
        changed = x0
        if unconditional is not None:
            changed = combined(x, t, x0, unconditional, scale_at("the scale of guidance", guidance.scale, t, _rows(x)))
        if guidance.rescale:
            space = "x0" if schedule is None else schedule.prediction
            changed = in_space(space, schedule, x, t, lambda a, b: rescale(a, b, guidance.rescale), changed, x0)
        if guidance.compat == "original":
            changed = first_channels(changed, x0)
        if poor is None:
            return changed
        return away(changed, x0, poor, scale_at(name, guidance.scales[name], t, _rows(x)))

    return denoise


def _inside(branch: Weaker | None, worse: Denoiser | None) -> Callable[[Array, float], Array | None]:
    """Make (x_t, t) → x0 of the worse model, or None where it isn't evaluated."""
    return lambda x, t: None if branch is None or worse is None or not branch.evaluated(t) else worse(x, t)


def _still(conditional: Callable[[Array, float], Result], schedule: Schedule) -> Callable[[Array, float], Result]:
    """Make the denoiser at whose x0 the velocity is zero: α x. The variance is the conditional one."""
    return lambda x, t: _on_x0(conditional(x, t), lambda x0: schedule.alpha(float(t)) * x)


def interval(
    inside: Callable[[Array, float], Result], outside: Callable[[Array, float], Result], low: float, high: float
) -> Callable[[Array, float], Result]:
    """Use one denoiser where low ≤ t ≤ high and another elsewhere (arXiv:2404.07724).

    With the guided denoiser inside and the conditional one outside, a step outside evaluates the model only once.

    Args:
        inside: a denoiser.
        outside: another one.
        low: in training-time units, at most high.
        high: in training-time units.
    Returns:
        A denoiser.
    Raises:
        TypeError: low or high is not a number, or one of the denoisers not a function of (x, t).
        ValueError: low is above high, or one of them is NaN.
    Example:
        >>> denoise = px.guidance.interval(lambda x, t: x, lambda x, t: 0 * x, 200, 800)
        >>> denoise(np.array([1.0]), 500.0), denoise(np.array([1.0]), 900.0)
        (array([1.]), array([0.]))
    """
    as_interval((low, high))
    check_function("inside", inside, "x, t")
    check_function("outside", outside, "x, t")

    def denoise(x: Array, t: float) -> Result:
        check_number("t", t)
        return inside(x, t) if low <= t <= high else outside(x, t)

    return denoise


def compose(base: Denoiser, parts: Sequence[tuple[Denoiser, Scale]]) -> Denoiser:
    """Add the directions of several prompts: x0 = x0_base + Σ w_k (x0_k - x0_base) (arXiv:2206.01714, eq. 11).

    A negative w_k steers away. With one part this is classifier-free guidance.

    Args:
        base: the unconditional denoiser, or that of a negative prompt.
        parts: denoisers with their weights: each a number, one number per picture, or a function of t.
    Returns:
        A denoiser.
    Raises:
        TypeError: a weight is none of these, a denoiser isn't a function of (x, t), or parts no list of pairs.
        ValueError: there is no part.
    Example:
        >>> denoise = px.guidance.compose(lambda x, t: 0 * x, [(lambda x, t: x, 0.5), (lambda x, t: x, 2.0)])
        >>> denoise(np.array([1.0]), 500.0)
        array([2.5])
    """
    check_function("base", base, "x, t")
    if not isinstance(parts, Sequence) or not all(isinstance(part, (tuple, list)) and len(part) == 2 for part in parts):
        raise TypeError(f"parts must be a list of (denoiser, weight), got {shown(parts)}")
    if not parts:
        raise ValueError("compose needs at least one denoiser with its weight, got no parts")
    for part, weight in parts:
        check_function("a denoiser of parts", part, "x, t")
        check_scale("a weight", weight)

    def denoise(x: Array, t: float) -> Array:
        origin = base(x, t)
        x0 = origin
        for part, weight in parts:
            w = column("a weight", scale_at("a weight", weight, t, _rows(x)), x)
            x0 = x0 + w * (part(x, t) - origin)
        return x0

    return denoise


def threshold(
    denoise: Callable[[Array, float], Result], quantile: float = 0.995, largest: float = 1.0
) -> Callable[[Array, float], Result]:
    """Dynamic thresholding: clip x0 to ±s and divide by s, the quantile of a picture's |x0| within [1, largest].

    For pixels in [-1, 1] (Imagen, arXiv:2205.11487, sec. 2.3); latents live elsewhere.

    Args:
        denoise: a denoiser.
        quantile: within (0, 1].
        largest: at least 1; 1 clips to [-1, 1].
    Returns:
        A denoiser of the same kind.
    Raises:
        TypeError: quantile or largest is not a number, or denoise not a function of (x, t).
        ValueError: one of them is outside its range.
    """
    check_function("denoise", denoise, "x, t")
    check_number("quantile", quantile, 0, 1, above=True)
    check_number("largest", largest, 1)

    def shrink(x0: Array) -> Array:
        sizes = _numpy(abs(x0)).reshape(x0.shape[0], -1)
        s = np.clip(np.quantile(sizes.astype(np.float64), quantile, axis=1), 1, largest)
        return _clipped(x0 / column("s", s, x0) if largest > 1 else x0, 1.0)

    return lambda x, t: _on_x0(denoise(x, t), shrink)


def clip(denoise: Callable[[Array, float], Result], largest: float = 1.0) -> Callable[[Array, float], Result]:
    """Clip x0 to ±largest: for pixels, as `threshold`.

    Args:
        denoise: a denoiser.
        largest: above 0.
    Returns:
        A denoiser of the same kind.
    Raises:
        TypeError: largest is not a number, or denoise not a function of (x, t).
        ValueError: it is not above 0.
    """
    check_function("denoise", denoise, "x, t")
    check_number("largest", largest, 0, above=True)
    return lambda x, t: _on_x0(denoise(x, t), lambda x0: _clipped(x0, largest))


def _on_x0(result: Result, change: Callable[[Array], Array]) -> Result:
    """Change x0 and leave the variance that may stand beside it."""
    return (change(result[0]), result[1]) if isinstance(result, tuple) else change(result)


def _checked_pair(values: tuple[Result, Array], x: Array) -> tuple[Result, Array]:
    """What a pair gives for x, which must not be one array, whose rows Python would take for the two values."""
    if isinstance(values, tuple) and len(values) == 2:
        x0 = values[0][0] if isinstance(values[0], tuple) else values[0]
        if shape_of(x0) == shape_of(values[1]) == shape_of(x):
            return values
    several = isinstance(values, tuple)
    got = f"the shapes {[*map(shape_of, values)]}" if several else f"{kind(values)} {shape_of(values) or ''}".strip()
    raise TypeError(
        f"pair must give a tuple of two values, with the condition and without, each of the shape {shape_of(x)} of x,"
        f" got {got}; guidance.both makes a pair of two denoisers"
    )


def _rows(x: Array) -> int | None:
    shape = shape_of(x)
    return shape[0] if shape else None


def _clipped(x0: Array, largest: float) -> Array:
    """x0 within ±largest, where NaN stays NaN: MindSpore's own clip turns it into a number."""
    clipped = x0.clip(-largest, largest)
    return clipped if isinstance(x0, np.ndarray) else clipped + 0.0 * x0


def _numpy(x: Array) -> NumPyArray:
    return x if isinstance(x, np.ndarray) else x.asnumpy()
