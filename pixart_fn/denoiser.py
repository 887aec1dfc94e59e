"""From params, text and guidance to a denoiser: what a solver asks at every step.

B pictures, L tokens, C latent channels, h/w latent size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from mindspore import Tensor, ops

from . import guidance, solvers
from .backend.arrays import as_float, as_numpy
from .checks import check_switch, kind
from .models import transformer
from .params import Params
from .public import public
from .request import Guide, as_text, check_guide, check_params, has_perturbed, is_one, picture_size
from .schedule import Schedule
from .types import Array, Denoiser, Text


@public
def text_denoiser(
    params: Params,
    text: Text,
    negative: Text | None = None,
    guidance_scale: guidance.Scale = 4.5,
    height: int | None = None,
    width: int | None = None,
    schedule: Schedule | None = None,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    pag_scale: guidance.Scale = 0.0,
    pag_layers: Sequence[int] | None = None,
    compat: str = "diffusers",
    learned_variance: bool = False,
) -> Denoiser:
    """What a solver asks: (x_t (B, C, h, w), t) → x0, guided by text; both branches are evaluated in one batch.

    x_t may be a Tensor or a NumPy array; x0 is of the same kind.

    Args:
        params: from `load`.
        text: B rows, from `encode_prompt`.
        negative: B rows, or one for all; None where guidance_scale is 1.
        guidance_scale: w, a number, one a picture, or a function of t that gives either.
        height, width: what micro-conditions say, in pixels; models without them don't look at it.
        schedule: of the noise; None takes the checkpoint's.
        interval: (low, high) in training-time units: guide where low ≤ t ≤ high, and evaluate the prompt alone
            elsewhere.
        rescale: φ of `guidance.classifier_free` within [0, 1], in what the model predicts.
        pag_scale: of perturbed-attention guidance, which evaluates a third branch; 0 is none.
        pag_layers: the blocks that are perturbed, from 0; None takes the middle one.
        compat: "original" guides three of the four channels, as PixArt-α's own DDPM sampler does, and reads the
            negative text under the prompt's mask, for which it must hold as many tokens (`encode_prompt(…, tokens=L)`).
        learned_variance: whether to leave the model's variance after x0, for `solvers.ddpm("learned_range")`.
    Raises:
        TypeError, ValueError: an argument isn't as above, or, when it is called, x_t has another shape.
    """
    check_params(params)
    check_switch("learned_variance", learned_variance)
    if not (schedule is None or isinstance(schedule, Schedule)):
        raise TypeError(f"schedule must be a Schedule, as px.schedule.from_betas makes, got {kind(schedule)}")
    text = as_text(params, "text", text)
    guide = Guide(guidance_scale, interval, rescale, pag_scale, pag_layers, compat)
    check_guide(params, guide, len(text.mask))
    negative = None if negative is None else as_text(params, "negative", negative, len(text.mask))
    size = picture_size(params, height, width)
    return guided_denoiser(params, text, negative, guide, size, schedule, learned_variance)


def guided_denoiser(
    params: Params,
    text: Text,
    negative: Text | None,
    guide: Guide,
    size: tuple[int, int],
    schedule: Schedule | None,
    learned_variance: bool,
) -> Denoiser:
    """`text_denoiser` of arguments that are checked."""
    schedule = schedule or solvers.from_config(params.config.scheduler)[0]
    B, model = len(text.mask), _model(params, schedule, size, learned_variance)
    context = _captions(params, text)
    alone, worse = model(context, ()), None
    if has_perturbed(guide):
        middle = (params.config.transformer.num_layers // 2,)
        worse = model(context, middle if guide.pag_layers is None else tuple(guide.pag_layers))
    if is_one(guide) and worse is None:
        return _checked(alone, params, B)
    if is_one(guide):

        def pair(x: Array, t: float) -> tuple[Array, Array]:
            return (alone(x, t),) * 2
    else:
        together = model(_captions(params, _stack(text, _negative(text, negative, guide))), ())

        def pair(x: Array, t: float) -> tuple[Array, Array]:
            x0 = together(ops.cat((x, x), 0), t)
            return x0[:B], x0[B:]

    guided = _guided(pair, worse, guide, schedule)
    inside = guided if guide.interval is None else guidance.interval(guided, alone, *guide.interval)
    return _checked(inside, params, B)


def _guided(pair: guidance.Pair, worse: Denoiser | None, guide: Guide, schedule: Schedule) -> Denoiser:
    """Classifier-free guidance, and perturbed-attention guidance where there is a denoiser for it."""
    channels = 3 if guide.compat == "original" else None

    def denoise(x: Array, t: float) -> Array:
        branches = pair(x, t)
        of_text = guidance.classifier_free(
            lambda *_: branches, guide.scale, rescale=guide.rescale, schedule=schedule, channels=channels
        )
        if worse is None:
            return of_text(x, t)
        return guidance.perturbed(of_text, lambda x, t: (branches[0], worse(x, t)), guide.pag_scale)(x, t)

    return denoise


def _model(
    params: Params, schedule: Schedule, size: tuple[int, int], learned_variance: bool
) -> Callable[[transformer.Captions, Sequence[int]], Denoiser]:
    """(captions, perturbed blocks) → the denoiser of that text alone."""
    conditions = _conditions(params, *size)

    def single(context: transformer.Captions, perturbed: Sequence[int]) -> Denoiser:
        def model(x: Array, t: float) -> Array:
            rows = len(x)
            times = Tensor.from_numpy(np.full(rows, t, np.float32))
            given = {name: Tensor(np.repeat(row, rows, 0)) for name, row in conditions.items()}
            tree, config = params.transformer, params.config.transformer
            return transformer.evaluate(tree, config, x, times, context, **given, perturbed=perturbed)

        return guidance.denoiser(model, schedule, learned_variance=learned_variance)

    return single


def _checked(denoise: Denoiser, params: Params, rows: int) -> Denoiser:
    """The denoiser that takes a NumPy array too, and refuses an x_t of another shape than the text's and model's."""
    config = params.config.transformer

    def checked(x: Array, t: float) -> Array:
        transformer.check_latents(config, x)
        if x.shape[0] != rows:
            raise ValueError(f"x_t has {x.shape[0]} rows and the text has {rows}; they must be as many")
        if isinstance(x, np.ndarray):
            return as_numpy(denoise(as_float(x, "x_t"), t)).astype(x.dtype)
        return denoise(x, t)

    return checked


def repeat(text: Text, n: int) -> Text:
    """Each row n times in a row."""
    return text if n == 1 else Text(*(ops.repeat_interleave(part, n, 0) for part in text))


def _captions(params: Params, text: Text) -> transformer.Captions:
    return transformer.captions(params.transformer, params.config.transformer, *text)


def _negative(text: Text, negative: Text | None, guide: Guide) -> Text:
    """One row of negative text for each row of text."""
    B, L = text.mask.shape
    if negative is None:
        raise ValueError(f"guidance_scale {guide.scale} needs a negative text; encode_prompt(params, '') makes one")
    negative = repeat(negative, B) if len(negative.mask) == 1 else negative
    if guide.compat != "original":
        return negative
    if negative.mask.shape[1] < L:
        raise ValueError(
            f"compat='original' reads the negative text under the prompt's mask, so it needs {L} tokens, "
            f"got {negative.mask.shape[1]}; encode_prompt(params, '', tokens={L}) gives them"
        )
    return Text(negative.states[:, :L], text.mask)


def _conditions(params: Params, height: int, width: int) -> dict[str, np.ndarray]:
    """One row of micro-conditions, where the model has them."""
    if not params.config.transformer.conditions:
        return {}
    size = np.array([[height, width]], np.float32)
    return {"resolution": size, "aspect_ratio": size[:, :1] / size[:, 1:]}


def _stack(first: Text, second: Text) -> Text:
    """The rows of both, padded to the longer."""
    L = max(first.mask.shape[1], second.mask.shape[1])

    def pad(part: Tensor) -> Tensor:
        missing = L - part.shape[1]
        if not missing:
            return part
        return ops.cat((part, ops.zeros((part.shape[0], missing, *part.shape[2:]), part.dtype)), 1)

    return Text(*(ops.cat((pad(a), pad(b)), 0) for a, b in zip(first, second, strict=True)))
