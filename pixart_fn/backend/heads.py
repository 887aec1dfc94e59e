"""Attention as functions, and the transformer block around a self-attention.

B batch, L and M tokens, N patches, D width, A heads, K = D/A head width. All but `attention_block` run inside a
`jit.block`. Products of matrices are in their inputs' dtype; softmax is float32 in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import mindspore as ms
from mindspore import Tensor, ops

from ..types import Tree
from . import jit, nn

FLASH_WIDTH = 16
"""Flash attention takes heads whose width is a multiple of this."""
SCORES = nn.DEVICE.scores
"""Numbers in the scores of a block's self-attention that are in memory at a time: 128 MiB on a CPU."""
ROWS = 2**11
"""Tokens of all pictures that go through the rest of a block at a time, where its self-attention goes in parts."""

Tensors: TypeAlias = tuple[Tensor, ...]


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int, scale: float) -> Tensor:
    """softmax(scale · q kᵀ + bias) v for each head (arXiv:1706.03762, eq. 1).

    Args:
        q: (B, L, A·K).
        k: (B, M, A·K).
        v: (B, M, A·K).
        bias: broadcastable to (B, A, L, M) float32, or None.
        heads: A.
        scale: of the products, 1/√K in most models.
    Returns:
        (B, L, A·K).
    """
    return attend(split(q * scale, heads), split(k, heads), split(v, heads), bias)[0]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """`attention` of heads that are split, with a q that is scaled, and what its gradient needs beside it.

    Args:
        q: (B, A, L, K).
        k: (B, A, M, K).
        v: (B, A, M, K).
        bias: broadcastable to (B, A, L, M) float32, or None.
    Returns:
        (B, L, A·K), and the softmax (B, A, L, M), or where flash attention never holds it the first again.
    """
    if flash(q.dtype) and (bias is None or bias.shape[1:3] == (1, 1)):
        h = join(mix_flash(q, k, v, bias))
        return h, h
    h, weights = mix(q, k, v, bias)
    return join(h), weights


def mix(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ + bias) v, whose scores are in memory as a whole.

    Args:
        q: (…, L, K).
        k: (…, M, K).
        v: (…, M, K).
        bias: broadcastable to (…, L, M) float32, or None.
    Returns:
        (…, L, K), and the softmax (…, L, M), of v's dtype.
    """
    scores = ops.cast(ops.BatchMatMul(transpose_b=True)(q, k), ms.float32)  # (…, L, M)
    if bias is not None:
        scores = scores + bias
    weights = ops.cast(ops.Softmax(-1)(scores), v.dtype)
    return ops.BatchMatMul()(weights, v), weights


def flash(dtype: ms.Type) -> bool:
    """Whether attention in this dtype never holds its scores: on Ascend, whose kernel takes no float32.

    MindSpore has no such kernel for GPUs, where attention goes in parts as on the CPU.
    """
    return nn.DEVICE.flash and dtype != ms.float32


def mix_flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """`mix` by Ascend's flash attention (arXiv:2205.14135).

    Args:
        q: (B, A, L, K) float16 or bfloat16.
        k: (B, A, M, K).
        v: (B, A, M, K).
        bias: (B, 1, 1, M), which hides the tokens where it is below 0, or None.
    Returns:
        (B, A, L, K).
    """
    B, heads, L, K = q.shape
    padding = (0, -K % FLASH_WIDTH)  # zeros change neither scores nor the K channels that are kept
    hidden = None if bias is None else ops.broadcast_to(bias < 0, (B, 1, L, k.shape[2]))
    wide = [ops.pad(x, padding) if K % FLASH_WIDTH else x for x in (q, k, v)]
    return ops.flash_attention_score(*wide, heads, attn_mask=hidden, input_layout="BNSD")[:, :, :, :K]


def split(x: Tensor, heads: int) -> Tensor:
    """(B, L, A·K) → (B, A, L, K) with A = heads."""
    B, L, width = x.shape
    return ops.transpose(x.reshape(B, L, heads, width // heads), (0, 2, 1, 3))


def join(x: Tensor) -> Tensor:
    """(B, A, L, K) → (B, L, A·K)."""
    B, _, L, _ = x.shape
    return ops.transpose(x, (0, 2, 1, 3)).reshape(B, L, -1)


class AttentionBlock(NamedTuple):
    """A compiled block of a transformer around a self-attention."""

    run: Callable[..., Tensor]
    """(p, x, condition, context, config=…, alone=False, recompute=True) → (B, N, D)."""
    watched: Callable[..., Tensors]
    """(p, x, condition, context, config=…) → (B, N, D), and the maps of attention."""


def attention_block(
    before: Callable[..., tuple[Tensors, Tensors]],
    after: Callable[..., tuple[Tensor, Tensors]],
    pull: Callable[..., tuple[Any, ...]] | None,
    read_before: Sequence[str],
    maps: Callable[[Tensors], Tensors],
) -> AttentionBlock:
    """Compile a transformer's block, given what it does before and after its self-attention.

    It is one graph. Where the scores would be more than SCORES numbers it is three: `before`, then attention of a few
    heads or a few queries at a time, then `after` of about ROWS tokens at a time, so that memory doesn't grow with N².

    Args:
        before: (p, x, condition, config) → q (B, N, D), k and v (B, M, D), and what `pull` needs of it; in MindSpore's
            compiled subset of Python.
        after: (p, x, h, condition, context, config) → (B, N, D), each token by itself, and what `pull` needs of it;
            h (B, N, D) is what the self-attention gave. Written likewise.
        pull: the gradient of the whole, as `jit.block` takes it; it is given what `before` keeps, then q, k and v with
            their heads split and q scaled, the softmax and h, then what `after` keeps. None for MindSpore's own.
        read_before: the names in p of all that `before` reads.
        maps: picks the maps of attention from all that is kept.
    Returns:
        The block, for x (B, N, D), a Tensor `condition`, a tuple of Tensors `context`, and a config with
        num_attention_heads and attention_head_dim. Where `alone`, each token sees itself alone: self-attention gives v.
        For `recompute` see `jit.block`; the parts of a large picture are computed again in any case, and what is
        watched isn't computed in parts.
    """

    keeping = _keeping(before, after)

    @jit.block
    def plain(p: Tree, x: Tensor, condition: Tensor, context: Tensors, config: Any) -> Tensor:
        return keeping(p, x, condition, context, config)[0]

    @jit.block
    def each_alone(p: Tree, x: Tensor, condition: Tensor, context: Tensors, config: Any) -> Tensor:
        (_, _, v), _ = before(p, x, condition, config)
        return after(p, x, v, condition, context, config)[0]

    @jit.block
    def watched(p: Tree, x: Tensor, condition: Tensor, context: Tensors, config: Any) -> Tensors:
        y, kept = keeping(p, x, condition, context, config)
        return (y, *maps(kept))

    whole = plain if pull is None else jit.block(keeping, pull)
    in_parts = _in_parts(before, after, read_before)

    def call(p: Tree, x: Tensor, *others: Any, config: Any, alone: bool = False, recompute: bool = True) -> Tensor:
        if alone:
            return each_alone(p, x, *others, config=config)
        if flash(x.dtype):
            return plain(p, x, *others, config=config)
        if not in_one_graph(x, config):
            return in_parts(p, x, *others, config)
        y: Tensor = whole(p, x, *others, config=config, recompute=recompute)
        return y

    return AttentionBlock(call, watched)


def in_one_graph(x: Tensor, config: Any) -> bool:
    """Whether the scores of the self-attention of x (B, N, D) are few enough to be in memory together."""
    B, N, _ = x.shape
    return bool(B * config.num_attention_heads * N * N <= SCORES)


def _keeping(
    before: Callable[..., tuple[Tensors, Tensors]], after: Callable[..., tuple[Tensor, Tensors]]
) -> Callable[..., tuple[Tensor, Tensors]]:
    """The whole of a block, and all that its gradient needs."""

    def keeping(p: Tree, x: Tensor, condition: Tensor, context: Tensors, config: Any) -> tuple[Tensor, Tensors]:
        projected, kept = before(p, x, condition, config)
        q, k, v = _scaled(projected, config)
        h, weights = attend(q, k, v, None)
        y, more = after(p, x, h, condition, context, config)
        return y, (*kept, q, k, v, weights, h, *more)

    return keeping


def _in_parts(
    before: Callable[..., tuple[Tensors, Tensors]],
    after: Callable[..., tuple[Tensor, Tensors]],
    read_before: Sequence[str],
) -> Callable[..., Tensor]:
    """`attention_block` as three graphs."""

    @jit.block
    def first(p: Tree, x: Tensor, condition: Tensor, config: Any) -> Tensors:
        return _scaled(before(p, x, condition, config)[0], config)

    @jit.block
    def last(p: Tree, x: Tensor, h: Tensor, condition: Tensor, context: Tensors, config: Any) -> Tensor:
        return after(p, x, join(h), condition, context, config)[0]

    def call(p: Tree, x: Tensor, condition: Tensor, context: Tensors, config: Any) -> Tensor:
        q, k, v = first({name: p[name] for name in read_before}, x, condition, config=config)
        rows = max(1, ROWS // len(x))
        parts = zip(_parts(x, 1, rows), _parts(_mix_in_parts(q, k, v), 2, rows), strict=True)
        return ops.cat([last(p, *part, condition, context, config=config) for part in parts], 1)

    return call


def _scaled(projected: Tensors, config: Any) -> Tensors:
    """Queries, keys and values as `attend` takes them, from (B, N, D) each."""
    q, k, v = projected
    A = config.num_attention_heads
    return split(q * config.attention_head_dim**-0.5, A), split(k, A), split(v, A)


def _mix_in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`mix` of q (B, A, N, K) and k and v (B, A, M, K).

    It takes some heads at a time, and some queries where the scores of one head are too many.
    """
    B, A, N, K = q.shape
    M = k.shape[2]
    heads = max(1, SCORES // (N * M))
    sets = zip(*(_parts(x.reshape(B * A, -1, K), 0, heads) for x in (q, k, v)), strict=True)
    out = [ops.cat([_mix(queries, k, v) for queries in _parts(q, 1, SCORES // M)], 1) for q, k, v in sets]
    return ops.cat(out, 0).reshape(B, A, N, K)


@jit.block
def _mix(q: Tensor, k: Tensor, v: Tensor, config: Any) -> Tensor:
    return mix(q, k, v, None)[0]


def _parts(x: Tensor, axis: int, size: int) -> tuple[Tensor, ...]:
    """x in parts of at most `size` along an axis, as equal as can be."""
    n = x.shape[axis]
    return ops.split(x, -(-n // -(-n // size)), axis) if size < n else (x,)
