"""Where words act: how much each part of a picture attends to each token of its prompt.

B rows, N patches, A heads, L tokens, W words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from .. import solvers
from ..backend.arrays import as_float
from ..checks import check_number, shown
from ..models import transformer
from ..models.transformer_checks import check_blocks
from ..params import Params
from ..process.lock import exclusive
from ..public import public
from ..request import as_text, check_params, factor
from ..types import Array, Text
from .reading import Word


@public
@exclusive
def attention(params: Params, text: Text, x: Array, t: float, *, blocks: Sequence[int] | None = None) -> Tensor:
    """Find how much each patch of a noisy picture attends to each token, in the mean of blocks and heads.

    Args:
        params: from `load`.
        text: the prompts, B rows.
        x: noisy latents (B, C, h, w), such as the x of a StepInfo with the t of the next, or α z + σ ε of any z.
        t: the time, in training steps.
        blocks: the transformer's blocks, from 0; None for all.
    Returns:
        float32 (B, rows, columns, L) of the patches, which sums to 1 over L.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
    """
    check_params(params)
    text = as_text(params, "text", text)
    config = params.config.transformer
    transformer.check_latents(config, x)
    check_number("t", t, 0, solvers.from_config(params.config.scheduler).schedule.steps - 1)
    chosen = range(config.num_layers) if blocks is None else blocks
    check_blocks(config, "blocks", chosen)
    if not len(chosen):
        raise ValueError("blocks must name at least one block, got none")
    B, _, h, w = x.shape
    size = np.array([[h, w]], np.float32).repeat(B, 0) * factor(params)
    conditions = (Tensor(size), Tensor(size[:, :1] / size[:, 1:])) if config.conditions else ()
    times, names = Tensor.from_numpy(np.full(B, t, np.float32)), [f"block{i}/cross" for i in chosen]
    _, seen = transformer.apply(params.transformer, config, as_float(x, "x"), times, *text, *conditions, collect=names)
    mean = ops.stack([each.mean(1) for each in seen.values()]).mean(0)  # (B, N, L)
    return mean.reshape(B, h // config.patch_size, w // config.patch_size, -1)


@public
@exclusive
def maps(attentions: Sequence[Array], words: Sequence[Word]) -> NDArray[np.float32]:
    """Average attention over steps, and over the tokens of each word, as DAAM does (arXiv:2210.04885, sec. 2.2).

    Args:
        attentions: of each step (B, rows, columns, L), from `attention`.
        words: from `words`.
    Returns:
        (B, W, rows, columns) within [0, 1].
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no step or no word, shapes differ, or a word has a place that isn't there.
    """
    if not isinstance(attentions, Sequence) or not attentions:
        raise TypeError(f"attentions must be a list of at least one array, got {shown(attentions)}")
    steps = [as_float(each, "each of attentions").asnumpy() for each in attentions]
    if steps[0].ndim != 4 or any(each.shape != steps[0].shape for each in steps):
        got = [each.shape for each in steps]
        raise ValueError(f"attentions must all have one shape (B, rows, columns, L), got {shown(got)}")
    L = steps[0].shape[3]
    if not isinstance(words, Sequence) or not words or not all(isinstance(word, Word) for word in words):
        raise TypeError(f"words must be a list of at least one Word, as px.prompts.words gives, got {shown(words)}")
    for word in words:
        if not 0 <= word.start < word.stop <= L:
            raise ValueError(f"words must lie within the {L} tokens of attentions, got {word}")
    mean = np.stack(steps).mean(0, dtype=np.float64)
    each = [mean[..., word.start : word.stop].mean(-1) for word in words]
    return np.stack(each, 1, dtype=np.float32)
