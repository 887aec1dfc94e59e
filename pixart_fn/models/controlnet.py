"""ControlNet-Transformer: a picture's edges or the like steer the transformer (PIXART-δ, arXiv:2401.05252, fig. 5).

B batch, C latent channels, h/w latent size, N patches, D width, L text tokens. Copies of the first blocks see the
control, each what the one before gave; what a projection makes of that is added before the transformer's next block.
Names are those of diffusers' research project, numerics those of the authors' ControlPixArtHalf.
"""

from __future__ import annotations

from typing import NamedTuple

from mindspore import Tensor

from ..backend import jit, nn, stream
from ..backend.arrays import as_float, as_tensor, check_weights
from ..checks import check_switch
from ..process.lock import exclusive
from ..public import public
from ..types import Tree
from . import transformer
from .controlnet_config import Config as Config
from .controlnet_config import check_base as check_base
from .controlnet_config import check_config as check_config
from .controlnet_config import init as init
from .controlnet_config import read_config as read_config
from .controlnet_config import shapes as shapes
from .controlnet_config import to_json as to_json
from .transformer_checks import check_conditions, check_times


class Control(NamedTuple):
    """A control and a text as the copied blocks see them: the same at every step of a sampling."""

    blocks: list[Tree]
    """The ControlNet's, without what its captions have used."""
    captions: transformer.Captions
    embedded: Tensor
    """The control's patches and their positions, (B, N, D)."""


@public
@exclusive
def apply(
    p: Tree,
    config: Config,
    base: Tree,
    base_config: transformer.Config,
    x: Tensor,
    t: Tensor,
    text: Tensor,
    mask: Tensor,
    control: Tensor,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    recompute: bool = True,
) -> Tensor:
    """Evaluate a transformer on noisy latents under a control.

    Args:
        p: the ControlNet's tree.
        config: its configuration.
        base: the transformer's tree.
        base_config: its configuration.
        x: (B, C, h, w), floating-point, h and w multiples of the patch size.
        t: (B,), in training-time units 0 … 999; fractions are fine.
        text: (B, L, caption_channels), floating-point.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
        control: (B, C, h, w), floating-point: the latents of the picture that steers, scaled as x is.
        resolution: as in `transformer.apply`.
        aspect_ratio: as in `transformer.apply`.
        recompute: as in `transformer.apply`.
    Returns:
        (B, out_channels, h, w) float32, as `transformer.apply`.
    Raises:
        TypeError: a configuration or an input has the wrong type.
        ValueError: p or base doesn't hold the tensors of its configuration, the ControlNet isn't for this transformer,
            or an input isn't as described above.
    """
    check_base(config, base_config)
    check_weights(p, shapes(config), "p")
    check_weights(base, transformer.shapes(base_config), "base", stored=True)
    check_switch("recompute", recompute)
    transformer.check_latents(base_config, x)
    x, t, mask = as_float(x, "x"), as_tensor(t, "t"), as_tensor(mask, "mask")
    check_times(t, len(x))
    conditions = check_conditions(base_config, len(x), resolution, aspect_ratio)
    control = check_control(control, x)
    if mask.ndim != 2 or len(mask) != len(x):
        raise ValueError(f"mask must have the shape ({len(x)}, L), a row for each of x, got {tuple(mask.shape)}")
    context = transformer.captions(base, base_config, text, mask)
    own = prepare(p, base, base_config, control, text, mask)
    return _evaluate(own, base, base_config, (x, t.float(), *conditions), context, recompute)


def check_control(control: Tensor, x: Tensor) -> Tensor:
    """Return a control as a float32 Tensor.

    Args:
        control: an array or a Tensor.
        x: the noisy latents, (B, C, h, w).
    Returns:
        The control, (B, C, h, w).
    Raises:
        TypeError: it is neither an array nor a Tensor of floating-point numbers.
        ValueError: it hasn't the shape of x.
    """
    control = as_float(control, "control")
    if tuple(control.shape) != tuple(x.shape):
        raise ValueError(f"control must have the shape {tuple(x.shape)} of x, got {tuple(control.shape)}")
    return control


@exclusive
def prepare(
    p: Tree, base: Tree, base_config: transformer.Config, control: Tensor, text: Tensor, mask: Tensor
) -> Control:
    """Compute what the copied blocks see of the control and of the text: once for each prompt, for every step.

    Args:
        p: the ControlNet's tree.
        base: the transformer's tree, which embeds the control and projects the text.
        base_config: its configuration.
        control: (B, C, h, w) float32.
        text: (B, L, caption_channels), floating-point.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
    Returns:
        A Control, for `step`.
    Raises:
        TypeError, ValueError: as `transformer.captions`.
    """
    blocks = [block["transformer_block"] for block in p["controlnet_blocks"]]
    own = {"caption_projection": base["caption_projection"], "transformer_blocks": blocks}
    captions = transformer.captions(own, base_config, text, mask)
    position = transformer.positions(base_config, *control.shape[2:])
    embedded = transformer._embed(base["pos_embed"]["proj"], control, position, config=base_config)
    small = [
        {**block, "transformer_block": transformer._without_captions(block["transformer_block"])}
        for block in p["controlnet_blocks"]
    ]
    return Control(small, captions, embedded)


def step(
    control: Control,
    config: transformer.Config,
    i: int,
    x: Tensor,
    modulation: Tensor,
    state: Tensor | None,
    *,
    recompute: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Steer what enters a block of the transformer.

    Args:
        control: what `prepare` gave.
        config: the transformer's configuration.
        i: the block, from 0; the ControlNet acts from the second one on.
        x: what would enter it, (B, N, D).
        modulation: of the time, (B, 6·D).
        state: what `step` gave for the block before; None at first.
        recompute: as in `transformer.apply`.
    Returns:
        What enters the block, (B, N, D), and the state for the next one.
    """
    if not 0 < i <= len(control.blocks):
        return x, state
    block = control.blocks[i - 1]
    seen = _added(block["before_proj"], x, control.embedded) if state is None else state
    text = control.captions.keys[i - 1], control.captions.values[i - 1], control.captions.bias
    state = transformer._block(block["transformer_block"], seen, modulation, text, config=config, recompute=recompute)
    return _added(block["after_proj"], x, state), state


@jit.block
def _added(p: Tree, x: Tensor, state: Tensor, config: None) -> Tensor:
    """x + what a projection makes of the control's state: (B, N, D)."""
    return x + nn.linear(p, state)


def _evaluate(
    control: Control,
    base: Tree,
    config: transformer.Config,
    inputs: tuple[Tensor, ...],
    context: transformer.Captions,
    recompute: bool,
) -> Tensor:
    """`transformer.evaluate` with a `step` before each block."""
    x, *numbers = inputs
    sinusoids = tuple(transformer.sinusoid(each.reshape(-1)) for each in numbers)
    condition, modulation = transformer._condition(stream.tensors(base["adaln_single"]), sinusoids)
    h, w = x.shape[2:]
    x = transformer._embed(base["pos_embed"]["proj"], x, transformer.positions(config, h, w), config=config)
    compressing, narrow = transformer._compressing(config, h, w)
    state = None
    blocks = stream.each(map(transformer._without_captions, base["transformer_blocks"]))
    for i, (weights, keys, values) in enumerate(zip(blocks, context.keys, context.values, strict=True)):
        x, state = step(control, config, i, x, modulation, state, recompute=recompute)
        text = keys, values, context.bias
        if i in compressing:
            x = transformer._compressed_block(weights, x, modulation, text, config=narrow)
        else:
            x = transformer._block(weights, x, modulation, text, config=config, recompute=recompute)
    head = {"scale_shift_table": base["scale_shift_table"], "proj_out": stream.tensors(base["proj_out"])}
    return transformer.unpatchify(transformer._head(head, x, condition, config=config), config, h, w)
