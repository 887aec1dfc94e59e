"""From a loss of (predict, batch, key) to one of the weights: what `train.make_step` differentiates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mindspore as ms
import numpy as np
from mindspore import Tensor

from .. import tree
from ..backend import nn
from ..backend.arrays import as_numpy, as_tensor, check_weights
from ..checkpoint import lora
from ..checks import check_function, check_option, check_switch, check_type
from ..models import controlnet, transformer
from ..process.lock import exclusive
from ..public import public
from ..types import Text, Tree
from .batch import Batch, Metrics, Predict, size

Objective: TypeAlias = Callable[..., tuple[Tensor, Metrics]]
"""(weights, batch, key, times_state=None) → (scalar, metrics)."""

DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


@public
def predictor(
    p: Tree, config: transformer.Config, batch: Batch, *, recompute: bool = True, dtype: str = "float32"
) -> Predict:
    """Make a model of (x_t, t) from a transformer and a batch's text.

    Args:
        p: the transformer's tree, of float32 Tensors.
        config: its configuration.
        batch: whose text, resolution and aspect ratio the model sees.
        recompute: as in `transformer.apply`.
        dtype: in which the transformer computes, "float32", "float16" or "bfloat16"; in a half its weights are cast
            anew at each call, so that gradients are those of the float32 weights.
    Returns:
        (x_t (B, C, h, w), t (B,)) → (B, out_channels, h, w) float32.
    Raises:
        TypeError, ValueError: an argument isn't as described above; when it is called, as `transformer.apply`.
    """
    _check(config, recompute, dtype)
    check_weights(p, transformer.shapes(config), "p")
    check_type("batch", batch, Batch, "a Batch")
    return _network(_cast(p, dtype), config, batch, recompute)


def _cast(p: Tree, dtype: str) -> Tree:
    kind = DTYPES[dtype]
    return p if dtype == "float32" else tree.map(lambda leaf: leaf.astype(kind), p)


def _network(p: Tree, config: transformer.Config, batch: Batch, recompute: bool) -> Predict:
    """A model of (x_t, t) of weights that are cast already."""
    inputs = _inputs(batch)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return transformer.apply(p, config, x, t, *inputs, recompute=recompute)

    return predict


def _inputs(batch: Batch) -> tuple[Any, ...]:
    """A batch's text states, mask, resolution and aspect ratio."""
    text, mask = as_tensor(batch.text.states, "text.states"), as_tensor(batch.text.mask, "text.mask")
    sizes = [each if each is None else as_tensor(each, "a size") for each in (batch.resolution, batch.aspect_ratio)]
    return text, mask, *sizes


@public
def of_transformer(
    config: transformer.Config, loss: Callable[..., Any], *, recompute: bool = True, dtype: str = "float32"
) -> Objective:
    """Make the loss of a transformer's weights.

    Args:
        config: the transformer's configuration.
        loss: (predict, batch, key) → (scalar, metrics), such as `losses.diffusion` makes.
        recompute: as in `transformer.apply`.
        dtype: in which the transformer computes, as in `predictor`.
    Returns:
        (p, batch, key) → (scalar, metrics), with times_state= where the loss takes it.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_function("loss", loss, "predict, batch, key")
    _check(config, recompute, dtype)

    def objective(p: Tree, batch: Batch, key: Any, **more: Any) -> tuple[Tensor, Metrics]:
        result: tuple[Tensor, Metrics] = loss(
            predictor(p, config, batch, recompute=recompute, dtype=dtype), batch, key, **more
        )
        return result

    return objective


@public
def of_lcm(
    p: Tree,
    config: transformer.Config,
    loss: Callable[..., Any],
    null: Text,
    *,
    adapter: bool = False,
    recompute: bool = True,
    dtype: str = "float32",
) -> Objective:
    """Make the loss of a transformer, or of an adapter on it, that is distilled from the transformer.

    Args:
        p: the teacher's tree, which stays as it is.
        config: the configuration of both.
        loss: (student, target, teacher, null, batch, key) → (scalar, metrics), such as `distill.lcm` makes.
        null: the encoded empty prompt, one row.
        adapter: whether a `px.lora.Adapter` is trained, for LCM-LoRA, rather than a whole transformer.
        recompute: as in `transformer.apply`.
        dtype: in which all networks compute, as in `predictor`.
    Returns:
        (weights, batch, key, target=) → (scalar, metrics), where target is the moving average of the weights.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    check_function("loss", loss, "student, target, teacher, null, batch, key")
    check_type("null", null, Text, "a Text, as px.encode_prompt(params, '') gives")
    check_switch("adapter", adapter)
    _check(config, recompute, dtype)
    check_weights(p, transformer.shapes(config), "p")
    teacher = exclusive(_cast)(p, dtype)  # once, since it stays as it is
    base = p if adapter else None  # or p would be kept beside a teacher in halves

    def predict(weights: Tree, batch: Batch) -> Predict:
        return predictor(weights, config, batch, recompute=recompute, dtype=dtype)

    def objective(weights: Tree, batch: Batch, key: Any, target: Tree) -> tuple[Tensor, Metrics]:
        student, averaged = (each if base is None else lora.apply(base, each) for each in (weights, target))
        without = batch._replace(text=_repeated(null, size(batch)))
        frozen = (_network(teacher, config, each, recompute) for each in (batch, without))
        result: tuple[Tensor, Metrics] = loss(predict(student, batch), predict(averaged, batch), *frozen, batch, key)
        return result

    return objective


def _repeated(text: Text, n: int) -> Text:
    states, mask = (as_numpy(each) for each in text)
    return Text(np.repeat(states[:1], n, 0), np.repeat(mask[:1], n, 0))


@public
def of_adapter(
    p: Tree,
    config: transformer.Config,
    loss: Callable[..., Any],
    *,
    recompute: bool = True,
    dtype: str = "float32",
) -> Objective:
    """Make the loss of an adapter's weights on a transformer that stays as it is.

    Args:
        p: the transformer's tree.
        config: its configuration.
        loss: (predict, batch, key) → (scalar, metrics), such as `losses.diffusion` makes.
        recompute: as in `transformer.apply`.
        dtype: in which the transformer computes, as in `predictor`.
    Returns:
        (adapter, batch, key) → (scalar, metrics), with times_state= where the loss takes it; adapter is a
        `px.lora.Adapter`.
    Raises:
        TypeError, ValueError: an argument isn't as described above.
    """
    inner = of_transformer(config, loss, recompute=recompute, dtype=dtype)
    check_weights(p, transformer.shapes(config), "p")

    def objective(adapter: lora.Adapter, batch: Batch, key: Any, **more: Any) -> tuple[Tensor, Metrics]:
        return inner(lora.apply(p, adapter), batch, key, **more)

    return objective


@public
def of_controlnet(
    p: Tree,
    config: transformer.Config,
    own: controlnet.Config,
    loss: Callable[..., Any],
    *,
    recompute: bool = True,
    dtype: str = "float32",
) -> Objective:
    """Make the loss of a ControlNet's weights on a transformer that stays as it is (PIXART-δ, arXiv:2401.05252).

    Args:
        p: the transformer's tree.
        config: its configuration.
        own: the ControlNet's.
        loss: (predict, batch, key) → (scalar, metrics), such as `losses.diffusion` makes.
        recompute: as in `transformer.apply`.
        dtype: in which both compute, as in `predictor`.
    Returns:
        (weights, batch, key) → (scalar, metrics), with times_state= where the loss takes it; weights are the
        ControlNet's tree, and batch.control is what it follows.
    Raises:
        TypeError, ValueError: an argument isn't as described above; when it is called, as `controlnet.apply`.
    """
    check_function("loss", loss, "predict, batch, key")
    _check(config, recompute, dtype)
    controlnet.check_base(own, config)
    check_weights(p, transformer.shapes(config), "p")
    base = exclusive(_cast)(p, dtype)  # once, since it stays as it is

    def objective(weights: Tree, batch: Batch, key: Any, **more: Any) -> tuple[Tensor, Metrics]:
        check_type("batch", batch, Batch, "a Batch")
        if batch.control is None:
            raise ValueError("batch.control must be the latents that the ControlNet follows, got None")
        small, inputs = _cast(weights, dtype), _inputs(batch)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            text, mask, *sizes = inputs
            followed = as_tensor(batch.control, "batch.control")
            return controlnet.apply(small, own, base, config, x, t, text, mask, followed, *sizes, recompute=recompute)

        result: tuple[Tensor, Metrics] = loss(predict, batch, key, **more)
        return result

    return objective


def _check(config: transformer.Config, recompute: bool, dtype: str) -> None:
    transformer.check_config(config)
    check_switch("recompute", recompute)
    check_option("dtype", dtype, list(DTYPES))
    if dtype == "bfloat16" and not nn.DEVICE.bfloat16:
        here = nn.DEVICE.name
        raise ValueError(f"dtype can't be 'bfloat16' here, since MindSpore has no products in bfloat16 on a {here}")
