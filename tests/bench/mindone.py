"""mindone on a CPU, for which it isn't made: what MindSpore has on Ascend alone is replaced by calls that it has.

Only what PixArt's transformer and the VAE's decoder ask for, with random weights. The package is copied first, as two
of the calls are methods of Tensor, which a graph looks up elsewhere than in Python: those change in the copy's text.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops

from pixart_fn.files.folder import replace

CHUNKS = re.compile(r"\(\s*(self\.scale_shift_table\[None\] \+ .*?)\s*\)\.chunk\(\d, dim=1\)", re.DOTALL)


def transformer(home: Path, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    """PixArt-XL/2 in graph mode."""
    prepare(home)
    from mindone.diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    net = PixArtTransformer2DModel(
        sample_size=64, interpolation_scale=1, caption_channels=4096, norm_elementwise_affine=False
    ).set_train(False)
    size = {"resolution": None, "aspect_ratio": None}
    tensors = {name: Tensor(value) for name, value in inputs.items()}
    return lambda: net(**tensors, added_cond_kwargs=size, return_dict=False)[0].asnumpy()


def decoder(home: Path, z: np.ndarray) -> Callable[[], Any]:
    """Stable Diffusion's VAE in graph mode."""
    prepare(home)
    from mindone.diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    widths = (128, 256, 512, 512)
    types = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    net = AutoencoderKL(block_out_channels=widths, layers_per_block=2, latent_channels=4, **types).set_train(False)
    latents = Tensor(z)
    return lambda: net.decode(latents, return_dict=False)[0].asnumpy()


def prepare(home: Path) -> None:
    """Import the copy, with graph mode and everything replaced."""
    ms.set_context(mode=ms.GRAPH_MODE)
    for f in (arange, cat, stack, split, meshgrid, softmax, outer, randn, baddbmm, einsum):
        setattr(mint, f.__name__, f)
    for name in ("reshape", "sin", "cos", "exp", "matmul", "bmm", "sigmoid", "clamp", "zeros", "ones"):
        setattr(mint, name, getattr(ops, name))
    for f in (gelu, interpolate):
        setattr(mint.nn.functional, f.__name__, f)
    for layer in (LayerNorm, GroupNorm, Linear, SiLU, Dropout, Conv2d):
        setattr(mint.nn, layer.__name__, layer)
    installed = Path(importlib.util.find_spec("mindone").origin).parent
    copy = home / "mindone-on-cpu"
    if not copy.is_dir():
        replace(copy, "mindone", partial(changed, installed))
    sys.path.insert(0, str(copy))
    from mindone.diffusers.models import attention_processor

    attention_processor.Attention.prepare_attention_mask = prepare_attention_mask


def changed(installed: Path, folder: Path) -> None:
    """Write the package's copy into a folder."""
    shutil.copytree(installed, folder / "mindone")
    for file in ("attention.py", "transformers/pixart_transformer_2d.py"):
        path = folder / "mindone" / "diffusers" / "models" / file
        path.write_text(CHUNKS.sub(r"ms.ops.split(\1, 1, 1)", path.read_text()))


# --- functions --------------------------------------------------------------------------------------------------------


def arange(start, end=None, step=1, dtype=None):
    if end is None:
        start, end = 0, start
    x = ops.arange(start, end, step)
    return x if dtype is None else x.astype(dtype)


def cat(tensors, dim=0):
    return ops.cat(tensors, dim)


def stack(tensors, dim=0):
    return ops.stack(tensors, dim)


def split(x, size, dim=0):
    return ops.split(x, size, dim)


def meshgrid(*tensors, indexing="ij"):
    return ops.meshgrid(*tensors, indexing=indexing)


def softmax(x, dim=-1):
    return ops.softmax(x, dim)


def outer(a, b):
    return a.reshape(-1, 1) * b.reshape(1, -1)


def randn(*shape):
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def baddbmm(bias, a, b, beta=1, alpha=1):
    return bias.reshape(-1, bias.shape[-2], bias.shape[-1]) + ops.bmm(a, b)


def einsum(equation, x):
    return ops.transpose(x, (0, 5, 1, 3, 2, 4))  # "nhwpqc->nchpwq" is the only one


def gelu(x, approximate="none"):
    return ops.gelu(x, approximate)


def interpolate(x, size=None, scale_factor=None, mode="nearest"):
    return ops.interpolate(x, (2 * x.shape[2], 2 * x.shape[3]), mode="nearest")  # a factor of 2 is the only one


def prepare_attention_mask(self, mask, length, batch, out_dim=3):
    if mask is None:
        return mask
    B, _, L = mask.shape
    return ops.broadcast_to(mask.reshape(B, 1, 1, L), (B, self.heads, 1, L)).reshape(B * self.heads, 1, L)


# --- layers -----------------------------------------------------------------------------------------------------------


class LayerNorm(nn.Cell):
    def __init__(self, width, eps=1e-5, elementwise_affine=True, bias=True, dtype=None):
        super().__init__()
        self.norm, self.one, self.zero = ops.LayerNorm(-1, -1, epsilon=eps), ops.ones((width,)), ops.zeros((width,))

    def construct(self, x):
        return self.norm(x, self.one, self.zero)[0]


class GroupNorm(nn.Cell):
    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True, dtype=None):
        super().__init__()
        self.groups, self.eps = num_groups, eps
        self.weight, self.bias = Parameter(ops.ones((num_channels,))), Parameter(ops.zeros((num_channels,)))

    def construct(self, x):
        return ops.group_norm(x, self.groups, self.weight, self.bias, self.eps)


class Linear(nn.Cell):
    def __init__(self, channels_in, channels_out, bias=True, dtype=None):
        super().__init__()
        self.weight = Parameter(randn(channels_out, channels_in) * channels_in**-0.5)
        self.bias = Parameter(ops.zeros((channels_out,))) if bias else None
        self.dense = ops.Dense()

    def construct(self, x):
        return self.dense(x, self.weight, self.bias)


class SiLU(nn.Cell):
    def construct(self, x):
        return x * ops.sigmoid(x)


class Dropout(nn.Cell):
    def __init__(self, p=0.0):
        super().__init__()

    def construct(self, x):
        return x


class Conv2d(nn.Cell):
    def __init__(self, channels_in, channels_out, kernel_size, stride=1, padding=0, bias=True, dtype=None):
        super().__init__()
        k = kernel_size if isinstance(kernel_size, int) else kernel_size[0]
        self.weight = Parameter(randn(channels_out, channels_in, k, k) * (channels_in * k * k) ** -0.5)
        self.bias = Parameter(ops.zeros((channels_out,)))
        self.conv = ops.Conv2D(channels_out, k, pad_mode="pad", pad=padding, stride=stride)

    def construct(self, x):
        return ops.bias_add(self.conv(x, self.weight), self.bias)
