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
from . import transformer, transformer_blocks
from .controlnet_config import Config as Config
from .controlnet_config import check_base as check_base
from .controlnet_config import check_config as check_config
from .controlnet_config import init as init
from .controlnet_config import read_config as read_config
from .controlnet_config import shapes as shapes
from .controlnet_config import to_json as to_json
from .transformer_checks import check_conditions, check_times


class Prepared(NamedTuple):
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
    added = residuals(own, base, base_config, x, t.float(), context, *conditions, recompute=recompute)
    ways = transformer.Ways(residuals=added, recompute=recompute)
    return transformer.evaluate(base, base_config, x, t, context, *conditions, ways=ways)


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
) -> Prepared:
    """Compute what the copied blocks see of the control and of the text: once for each prompt, for every step.

    Args:
        p: the ControlNet's tree.
        base: the transformer's tree, which embeds the control and projects the text.
        base_config: its configuration.
        control: (B, C, h, w) float32.
        text: (B, L, caption_channels), floating-point.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
    Returns:
        A Prepared, for `residuals`.
    Raises:
        TypeError, ValueError: as `transformer.captions`.
    """
    blocks = [block["transformer_block"] for block in p["controlnet_blocks"]]
    own = {"caption_projection": base["caption_projection"], "transformer_blocks": blocks}
    captions = transformer.captions(own, base_config, text, mask)
    without = transformer_blocks.without_captions
    small = [{**block, "transformer_block": without(block["transformer_block"])} for block in p["controlnet_blocks"]]
    return Prepared(small, captions, transformer.embedded(base, base_config, control))


@exclusive
def residuals(
    control: Prepared,
    base: Tree,
    base_config: transformer.Config,
    x: Tensor,
    t: Tensor,
    context: transformer.Captions,
    resolution: Tensor | None = None,
    aspect_ratio: Tensor | None = None,
    *,
    recompute: bool = True,
) -> tuple[Tensor, ...]:
    """Compute what a control adds to what enters the transformer's blocks, for its argument `residuals`.

    They may be multiplied by a number, and those of several ControlNets added up.

    Args:
        control: what `prepare` gave.
        base: the transformer's tree.
        base_config: its configuration.
        x: (B, C, h, w) float32.
        t: (B,) float32.
        context: what `transformer.captions` gave of the transformer.
        resolution: as in `transformer.apply`.
        aspect_ratio: as in `transformer.apply`.
        recompute: as in `transformer.apply`.
    Returns:
        As many Tensors as the ControlNet has blocks, each (B, N, D).
    """
    conditions = check_conditions(base_config, len(x), resolution, aspect_ratio)
    _, modulation = transformer.conditioned(base, t, *conditions)
    ways = transformer.Ways(recompute=recompute)
    plan = transformer_blocks.plan(ways, base_config, *x.shape[2:])
    (first,) = stream.each([transformer_blocks.without_captions(base["transformer_blocks"][0])])
    text = context.keys[0], context.values[0], context.bias
    x, _ = transformer_blocks.block(plan, 0, first, transformer.embedded(base, base_config, x), modulation, text)
    state, out = control.embedded, []
    for i, block in enumerate(control.blocks):
        text = control.captions.keys[i], control.captions.values[i], control.captions.bias
        seen = x + _project(block["before_proj"], state) if i == 0 else state
        # the copies compress no keys
        state = transformer_blocks.plain.run(
            block["transformer_block"], seen, modulation, text, config=base_config, recompute=recompute
        )
        out.append(_project(block["after_proj"], state))
    return tuple(out)


@jit.block
def _project(p: Tree, x: Tensor, config: None) -> Tensor:
    return nn.linear(p, x)
