"""A small transformer's blocks with their weights laid out for many evaluations on a CPU.

Letters as in `transformer`. A small block's time is that of many short operations, so the three products that make
queries, keys and values are one here, matrices are stored the way that oneDNN takes a short product fastest, and the
graph is given Tensors instead of a tree. Each number is the sum of the same products as in `transformer_blocks`.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from mindspore import Tensor, float32, ops
from numpy.typing import NDArray

from .. import tree
from ..backend import device, heads, jit, nn
from ..backend.autodiff import recording
from ..types import Tree
from . import transformer_pull
from .transformer_config import Config

Layout: TypeAlias = tuple[Tensor, ...]
"""A block's table (6, D), then matrix (I, O) and bias (O,) of what makes queries, keys and values (D, 3·D), of what
leaves self-attention, of the queries of cross-attention, of what leaves it, and of the MLP's two halves. Queries are
scaled by 1/√K."""


def lay_out(p: Tree, config: Config) -> list[Layout] | None:
    """Lay the blocks' weights out, where that is worth a copy of them.

    Args:
        p: the transformer's tree.
        config: its configuration.
    Returns:
        A Layout for each block; None where blocks aren't small, hold other weights than float32 Tensors or
        compress their keys, or where a gradient is recorded or the device is no CPU.
    """
    if recording() or not device.is_cpu() or config.kv_compression is not None:
        return None
    leaves = [leaf for block in p["transformer_blocks"] for leaf in tree.leaves(block)]
    if not all(type(leaf) is Tensor and leaf.dtype == float32 for leaf in leaves):
        return None
    if sum(math.prod(leaf.shape) for leaf in leaves) > jit.SMALL * len(p["transformer_blocks"]):
        return None
    return [_block(block, config.attention_head_dim**-0.5) for block in p["transformer_blocks"]]


def _block(p: Tree, scale: float) -> Layout:
    to, across, mlp = p["attn1"], p["attn2"], p["ff"]["net"]
    kinds = [_scaled(to["to_q"], scale), _read(to["to_k"]), _read(to["to_v"])]
    matrices, biases = zip(*kinds, strict=True)
    pairs = [
        (np.concatenate(matrices), np.concatenate(biases)),
        _read(to["to_out"][0]),
        _scaled(across["to_q"], scale),
        _read(across["to_out"][0]),
        _read(mlp["0"]["proj"]),
        _read(mlp["2"]),
    ]
    return p["scale_shift_table"], *(Tensor.from_numpy(x) for W, b in pairs for x in (np.ascontiguousarray(W.T), b))


def _read(p: Tree) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return p["weight"].asnumpy(), p["bias"].asnumpy()


def _scaled(p: Tree, scale: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    W, b = _read(p)
    return W * np.float32(scale), b * np.float32(scale)


@jit.block
def run(p: Layout, x: Tensor, modulation: Tensor, text: tuple[Tensor, ...], config: Config) -> Tensor:
    """Go through a block: as `transformer_blocks.block` where nothing of it is changed or collected.

    Args:
        p: its layout.
        x: (B, N, D).
        modulation: (B, 6·D).
        text: keys and values, each (B, A, L, K), and the bias of the text.
        config: the transformer's configuration.
    Returns:
        (B, N, D).
    """
    table, to_qkv, bias_qkv, to_out, bias_out, to_q, bias_q, *others = p
    from_text, bias_text, wide, bias_wide, narrow, bias_narrow = others
    B, N, _ = x.shape
    A, K = config.num_attention_heads, config.attention_head_dim
    shared = transformer_pull.modulations({"scale_shift_table": table}, modulation)
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = shared

    h = nn.modulate(nn.layer_norm(x, config.norm_eps), scale, shift)  # (B, N, D)
    qkv = _linear(h, to_qkv, bias_qkv).reshape(B, N, 3 * A, K)
    q, k, v = ops.split(ops.transpose(qkv, (0, 2, 1, 3)), A, axis=1)  # (B, A, N, K) each
    h, _ = heads.attend(q, k, v, None)
    x = x + nn.along_tokens(gate, x) * _linear(h, to_out, bias_out)

    keys, values, bias = text
    h, _ = heads.attend(heads.split(_linear(x, to_q, bias_q), A), keys, values, bias)
    x = x + _linear(h, from_text, bias_text)

    h = nn.modulate(nn.layer_norm(x, config.norm_eps), scale_mlp, shift_mlp)
    h = nn.gelu_tanh(_linear(h, wide, bias_wide))  # (B, N, 4·D)
    return x + nn.along_tokens(gate_mlp, x) * _linear(h, narrow, bias_narrow)


def _linear(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """x (B, N, I) times a matrix (I, O), plus a bias (O,): (B, N, O)."""
    y = ops.MatMul()(x.reshape(-1, x.shape[-1]), matrix)
    # as `nn.along_tokens`: for so few rows BiasAdd takes half as long again
    return (y + ops.tile(bias.reshape(1, -1), (y.shape[0], 1))).reshape((*x.shape[:-1], matrix.shape[1]))
