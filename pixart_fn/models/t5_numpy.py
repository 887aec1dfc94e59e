"""A small T5 encoder on a CPU, with NumPy: each prompt by itself, at its own length. Letters as in `t5`."""

from __future__ import annotations

import math

import numpy as np
from mindspore import Tensor

from .. import tree
from ..backend import jit
from ..backend import numpy_nn as nn
from ..backend.arrays import check_weights
from ..backend.autodiff import recording
from ..backend.numpy_nn import Floats
from ..types import NumPyArray, Tree
from .t5 import Config, buckets, shapes


def fits(p: Tree, config: Config) -> bool:
    """Whether an encoder is one for `encode`: small layers of plain float32 Tensors, on a CPU, without a gradient.

    Args:
        p: its tree.
        config: its configuration.
    Returns:
        Whether it is.
    """
    numbers = sum(math.prod(shape) for name, shape in shapes(config).items() if name.startswith("encoder.block.0."))
    return not recording() and numbers <= jit.SMALL and nn.computes(tree.leaves(p))


def encode(p: Tree, config: Config, ids: NumPyArray, mask: NumPyArray) -> Tensor:
    """Encode token ids as `t5.encode` does.

    Args:
        p: the encoder's tree.
        config: its configuration.
        ids: int (B, L).
        mask: int (B, L), with a real token in each row.
    Returns:
        (B, L, D) float32, zero where a token isn't real.
    Raises:
        ValueError: p doesn't hold the tensors of the configuration.
    """
    check_weights(p, shapes(config), "p")
    p = nn.arrays(p)
    blocks = p["encoder"]["block"]
    table = blocks[0]["layer"][0]["SelfAttention"]["relative_attention_bias"]["weight"]
    bias = table[buckets(config, ids.shape[1])].transpose(2, 0, 1)  # (A, L, L)

    def run(i: int) -> Floats:
        (real,) = mask[i].nonzero()
        x = p["shared"]["weight"][ids[i, real]]
        own = bias[:, real[:, None], real]
        for block in blocks:
            _block(block["layer"], config, x, own)
        states = np.zeros((ids.shape[1], config.d_model), np.float32)
        states[real] = _norm(p["encoder"]["final_layer_norm"], config, x)
        return states

    return Tensor.from_numpy(nn.in_threads(run, len(ids)))


def _block(p: Tree, config: Config, x: Floats, bias: Floats) -> None:
    """Go through a layer, which changes x (L, D); the bias is (A, L, L)."""
    attention, mlp = p[0]["SelfAttention"], p[1]["DenseReluDense"]
    h = _norm(p[0]["layer_norm"], config, x)
    q, k, v = (nn.split(nn.linear(attention[name], h), config.num_heads) for name in "qkv")
    x += nn.linear(attention["o"], nn.attend(q, k, v, bias))
    h = _norm(p[1]["layer_norm"], config, x)
    wide = nn.gelu_tanh(nn.linear(mlp["wi_0"], h))
    wide *= nn.linear(mlp["wi_1"], h)
    x += nn.linear(mlp["wo"], wide)


def _norm(p: Tree, config: Config, x: Floats) -> Floats:
    return nn.rms_norm(p, x, config.layer_norm_epsilon)
