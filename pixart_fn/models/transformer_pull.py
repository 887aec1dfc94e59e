"""The gradient of a transformer's block, by hand: `transformer` has the block, whose lines are gone back here.

Letters as in `transformer`. A name that begins with d is the cotangent of what the rest of it names.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from mindspore import Tensor, ops

from ..backend import heads, nn, pullbacks
from ..types import Tree

Kept: TypeAlias = tuple[Tensor, ...]
"""What the block computed and its gradient needs."""


def modulations(p: Tree, modulation: Tensor) -> Any:
    """Shift, scale and gate of self-attention, then of the MLP, each (B, 1, D), from what all blocks share (B, 6·D)."""
    table = p["scale_shift_table"] + modulation.reshape(modulation.shape[0], 6, -1)  # (B, 6, D)
    return ops.split(table, 1, axis=1)


def maps(kept: Kept) -> Kept:
    """The softmax of self-attention and of cross-attention, of what a block keeps."""
    return kept[5], kept[9]


def pull(p: Tree, inputs: tuple[Any, ...], kept: Kept, dy: Tensor, config: Any) -> tuple[Any, ...]:
    """Go back through a block.

    Args:
        p: the block's weights, without those of the captions.
        inputs: x (B, N, D), the modulation (B, 6·D), and keys, values and bias of the text.
        kept: what `_before_attention`, the self-attention and `_after_attention` keep.
        dy: the cotangent of the block's output, (B, N, D).
        config: the transformer's configuration.
    Returns:
        The gradients of p, x, the modulation and the text.
    """
    x, modulation, text = inputs
    normal, inverse, q, k, v, weights, h = kept[:7]
    dx, dh, after, dafter, dtext = _pull_after(p, x, modulation, text, kept[6:], dy, config)
    A = config.num_attention_heads
    y, dy = heads.split(h, A), heads.split(dh, A)  # (B, A, N, K)
    dq, dk, dv, _ = pullbacks.mix(q, k, v, weights, y, dy)
    dbefore, before, dshared = _pull_before(p, modulation, normal, inverse, (dq, dk, dv), config)
    table = ops.cat((*dshared, *dafter), 1)  # (B, 6, D)
    gradient = {
        "scale_shift_table": ops.ReduceSum()(table, 0),
        "attn1": {"to_q": before[0], "to_k": before[1], "to_v": before[2], "to_out": [after[0]]},
        "attn2": {"to_q": after[1], "to_out": [after[2]]},
        "ff": {"net": {"0": {"proj": after[3]}, "2": after[4]}},
    }
    return gradient, dx + dbefore, table.reshape(modulation.shape), dtext


def _pull_before(
    p: Tree, modulation: Tensor, normal: Tensor, inverse: Tensor, dprojected: Kept, config: Any
) -> tuple[Tensor, tuple[Tree, ...], Kept]:
    """Back through the projections and the norm: dx, the gradients of to_q, to_k and to_v, dshift and dscale."""
    shift, scale, _, _, _, _ = modulations(p, modulation)
    h = nn.modulate(normal, scale, shift)
    dq, dk, dv = (heads.join(d) for d in dprojected)  # (B, N, D)
    dq = dq * config.attention_head_dim**-0.5
    through_q, to_q = pullbacks.linear(p["attn1"]["to_q"], h, dq)
    through_k, to_k = pullbacks.linear(p["attn1"]["to_k"], h, dk)
    through_v, to_v = pullbacks.linear(p["attn1"]["to_v"], h, dv)
    dh = through_q + through_k + through_v
    dx, dshift, dscale = _pull_modulated(normal, inverse, scale, dh)
    return dx, (to_q, to_k, to_v), (dshift, dscale)


def _pull_after(
    p: Tree, x: Tensor, modulation: Tensor, text: Kept, kept: Kept, dy: Tensor, config: Any
) -> tuple[Tensor, Tensor, tuple[Tree, ...], Kept, Kept]:
    """Back through MLP, cross-attention and to_out.

    It gives dx, dh, the gradients of attn1.to_out, attn2.to_q, attn2.to_out, ff.net.0 and ff.net.2, then those of the
    gate, the MLP's shift, scale and gate, then those of the text.
    """
    h, update, q, weights, seen, normal, inverse, active, slope, change = kept
    _, _, gate, shift, scale, gate_mlp = modulations(p, modulation)
    net, cross, A = p["ff"]["net"], p["attn2"], config.num_attention_heads

    dgate_mlp = pullbacks.sum_tokens(dy * change)
    dactive, net_2 = pullbacks.linear(net["2"], active, dy * nn.along_tokens(gate_mlp, dy))
    dmodulated, net_0 = pullbacks.linear(net["0"]["proj"], nn.modulate(normal, scale, shift), dactive * slope)
    through_norm, dshift, dscale = _pull_modulated(normal, inverse, scale, dmodulated)
    dx = dy + through_norm

    keys, values, _ = text
    dseen, cross_out = pullbacks.linear(cross["to_out"][0], seen, dx)
    seen, dseen = heads.split(seen, A), heads.split(dseen, A)
    dq, dkeys, dvalues, dscores = pullbacks.mix(q, keys, values, weights, seen, dseen)
    B, _, _, L = dscores.shape
    dbias = pullbacks.sum_tokens(dscores.reshape(B, -1, L)).reshape(B, 1, 1, L)
    attended = x + nn.along_tokens(gate, x) * update
    dq = heads.join(dq) * config.attention_head_dim**-0.5
    through_q, cross_q = pullbacks.linear(cross["to_q"], attended, dq)
    dx = dx + through_q

    dgate = pullbacks.sum_tokens(dx * update)
    dh, out = pullbacks.linear(p["attn1"]["to_out"][0], h, dx * nn.along_tokens(gate, dx))
    return dx, dh, (out, cross_q, cross_out, net_0, net_2), (dgate, dshift, dscale, dgate_mlp), (dkeys, dvalues, dbias)


def _pull_modulated(normal: Tensor, inverse: Tensor, scale: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Back through `nn.modulate` and the norm before it: dx (B, N, D), dshift and dscale (B, 1, D)."""
    dnormal = dy * nn.along_tokens(1.0 + scale, dy)
    dx = pullbacks.layer_norm(normal, inverse, dnormal)
    return dx, pullbacks.sum_tokens(dy), pullbacks.sum_tokens(dy * normal)
