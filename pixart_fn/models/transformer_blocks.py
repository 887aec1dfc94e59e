"""The blocks of a transformer, in the ways in which they can be evaluated.

Letters as in `transformer`. The plain block reads top to bottom in `_before_attention` and `_after_attention`; the
others differ in their keys, their queries or their self-attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from ..backend import heads, nn
from ..types import Tree
from . import compression, transformer_pull
from .transformer_config import Config

Tensors: TypeAlias = tuple[Tensor, ...]


class Ways(NamedTuple):
    """How the blocks of a network are evaluated; each field is an argument of `transformer.apply`."""

    perturbed: Collection[int] = ()
    skipped: Collection[int] = ()
    blurred: Collection[int] = ()
    blur_sigma: float = math.inf
    residuals: Sequence[Tensor] = ()
    collect: Collection[str] = ()
    recompute: bool = True


USUAL = Ways()


class Plan(NamedTuple):
    """Ways for one size of pictures."""

    ways: Ways
    config: Config
    blur: Tree
    """What blurs queries, where any are: "rows" (rows, rows) and "columns" (columns, columns)."""
    compressing: Collection[int]
    """The blocks that compress their keys and values."""
    narrow: compression.Block | None
    """What their graph is made for."""


def plan(ways: Ways, config: Config, h: int, w: int) -> Plan:
    """Resolve how blocks are evaluated.

    Args:
        ways: checked already.
        config: the transformer's configuration.
        h: height of the latents.
        w: width of the latents.
    Returns:
        The Plan.
    Raises:
        ValueError: the picture has too few patches for keys that are compressed.
    """
    rows, columns, how = h // config.patch_size, w // config.patch_size, config.kv_compression
    blur = None
    if ways.blurred:
        sides = {"rows": rows, "columns": columns}
        blur = {name: Tensor.from_numpy(blur_matrix(n, ways.blur_sigma)) for name, n in sides.items()}
    if how is None:
        return Plan(ways, config, blur, (), None)
    compression.check_size(how, (rows, columns))
    own = config.num_attention_heads, config.attention_head_dim, config.norm_eps
    narrow = compression.Block(*own, how.sampling, how.factor, rows, columns)
    return Plan(ways, config, blur, how.layers, narrow)


def block(
    plan: Plan, i: int, p: Tree, x: Tensor, modulation: Tensor, text: Tensors
) -> tuple[Tensor, dict[str, Tensor]]:
    """Go through a block.

    Args:
        plan: how.
        i: the block, from 0.
        p: its weights, `without_captions`.
        x: (B, N, D).
        modulation: (B, 6·D).
        text: keys and values, each (B, A, L, K), and the bias of the text.
    Returns:
        (B, N, D), and what is collected of the block by its name.
    """
    ways, names = plan.ways, (f"block{i}", f"block{i}/self", f"block{i}/cross")
    if 0 < i <= len(ways.residuals):
        x = x + ways.residuals[i - 1]
    if i in ways.skipped:
        return _kept(ways, names, x)
    if i in ways.perturbed:
        return _kept(ways, names, plain.run(p, x, modulation, text, config=plan.config, alone=True))
    compresses, blurs = i in plan.compressing, i in ways.blurred
    graphs = _KINDS[compresses, blurs]
    p, own = ({**p, "blur": plan.blur} if blurs else p), (plan.narrow if compresses else plan.config)
    if names[1] in ways.collect or names[2] in ways.collect:
        return _kept(ways, names, *graphs.watched(p, x, modulation, text, config=own))
    return _kept(ways, names, graphs.run(p, x, modulation, text, config=own, recompute=ways.recompute))


def _kept(ways: Ways, names: Sequence[str], x: Tensor, *maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return x, {name: value for name, value in zip(names, (x, *maps), strict=False) if name in ways.collect}


def without_captions(p: Tree) -> Tree:
    """A block without what `transformer.captions` has used."""
    cross = {name: p["attn2"][name] for name in ("to_q", "to_out")}
    return {"scale_shift_table": p["scale_shift_table"], "attn1": p["attn1"], "attn2": cross, "ff": p["ff"]}


def blur_matrix(n: int, sigma: float) -> NDArray[np.float32]:
    """Write a Gaussian blur along n patches as a matrix; beyond the ends it sees a mirror.

    Args:
        n: patches along a side.
        sigma: the deviation in patches; infinite for the mean.
    Returns:
        (n, n) float32, whose rows sum to 1.
    """
    if math.isinf(sigma):
        return np.full((n, n), 1 / n, np.float32)
    far = math.ceil(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-far, far + 1) / sigma) ** 2)
    out = np.zeros((n, n))
    period = max(2 * (n - 1), 1)
    for i in range(n):
        at = np.abs(np.arange(i - far, i + far + 1)) % period
        np.add.at(out[i], np.minimum(at, period - at) if n > 1 else at * 0, weights / weights.sum())
    return out.astype(np.float32)


# --- what is compiled -------------------------------------------------------------------------------------------------


def _before_attention(
    p: Tree, x: Tensor, modulation: Tensor, config: Config | compression.Block
) -> tuple[Tensors, Tensors]:
    """Modulated queries, keys and values of x (B, N, D): each (B, N, D); and what the gradient needs."""
    shift, scale, _, _, _, _ = transformer_pull.modulations(p, modulation)
    normal, inverse = nn.normalized(x, config.norm_eps)
    h = nn.modulate(normal, scale, shift)  # (B, N, D)
    to = p["attn1"]
    return (nn.linear(to["to_q"], h), nn.linear(to["to_k"], h), nn.linear(to["to_v"], h)), (normal, inverse)


def _after_attention(
    p: Tree, x: Tensor, h: Tensor, modulation: Tensor, text: Tensors, config: Config
) -> tuple[Tensor, Tensors]:
    """x + gated self-attention h, then + cross-attention to the text, then + gated MLP: (B, N, D)."""
    _, _, gate, shift, scale, gate_mlp = transformer_pull.modulations(p, modulation)
    update = nn.linear(p["attn1"]["to_out"][0], h)  # (B, N, D)
    x = x + nn.along_tokens(gate, x) * update

    keys, values, bias = text  # (B, A, L, K), (B, A, L, K), (B, 1, 1, L)
    q = nn.linear(p["attn2"]["to_q"], x) * config.attention_head_dim**-0.5  # (B, N, D)
    q = heads.split(q, config.num_attention_heads)  # (B, A, N, K)
    h, weights = heads.attend(q, keys, values, bias)  # (B, N, D), (B, A, N, L)
    x = x + nn.linear(p["attn2"]["to_out"][0], h)  # neither norm nor gate

    normal, inverse = nn.normalized(x, config.norm_eps)
    wide = nn.linear(p["ff"]["net"]["0"]["proj"], nn.modulate(normal, scale, shift))  # (B, N, 4·D)
    active, slope = nn.gelu_tanh_slope(wide)
    change = nn.linear(p["ff"]["net"]["2"], active)
    kept = (update, q, weights, h, normal, inverse, active, slope, change)
    return x + nn.along_tokens(gate_mlp, x) * change, kept


def _before_compressed(p: Tree, x: Tensor, modulation: Tensor, config: compression.Block) -> tuple[Tensors, Tensors]:
    """`_before_attention` where keys and values are compressed to (B, M, D)."""
    (q, k, v), kept = _before_attention(p, x, modulation, config)
    return (q, compression.compress(p["attn1"], k, config), compression.compress(p["attn1"], v, config)), kept


def _before_blurred(p: Tree, x: Tensor, modulation: Tensor, config: Config) -> tuple[Tensors, Tensors]:
    """`_before_attention` where queries are blurred over the picture."""
    (q, k, v), kept = _before_attention(p, x, modulation, config)
    return (_blur(p["blur"], q), k, v), kept


def _before_compressed_blurred(
    p: Tree, x: Tensor, modulation: Tensor, config: compression.Block
) -> tuple[Tensors, Tensors]:
    (q, k, v), kept = _before_compressed(p, x, modulation, config)
    return (_blur(p["blur"], q), k, v), kept


def _blur(blur: Tree, x: Tensor) -> Tensor:
    """Blur (B, N, D) along the rows and the columns of the picture."""
    (B, _, D), rows, columns = x.shape, blur["rows"].shape[0], blur["columns"].shape[0]
    x = ops.matmul(ops.cast(blur["rows"], x.dtype), x.reshape(B, rows, columns * D))
    x = ops.matmul(ops.cast(blur["columns"], x.dtype), x.reshape(B * rows, columns, D))
    return x.reshape(B, rows * columns, D)


_READ = ("scale_shift_table", "attn1")


def _graphs(before: Callable[..., tuple[Tensors, Tensors]], *more: str) -> heads.AttentionBlock:
    own = transformer_pull.pull if before is _before_attention else None
    return heads.attention_block(before, _after_attention, own, (*_READ, *more), transformer_pull.maps)


plain = _graphs(_before_attention)
_KINDS = {
    (False, False): plain,
    (True, False): _graphs(_before_compressed),
    (False, True): _graphs(_before_blurred, "blur"),
    (True, True): _graphs(_before_compressed_blurred, "blur"),
}
"""By whether a block compresses its keys, and whether it blurs its queries."""
