"""Guidance: from a model to a denoiser, and from denoisers to a guided one. Solvers see only x0.

- `Guidance` is a value: which scale, where, and how else. `guided` makes one denoiser of its branches by it.
- `combine`, `rescale`, `perturbed_attention` and `first_channels` are the formulas, functions of values.
- `denoiser` and `variance_denoiser` turn a model's output into x0.
- `compose`, `interval`, `clip` and `threshold` turn denoisers into a denoiser.
"""

from .denoisers import Pair, Result, both, clip, compose, guided, interval, threshold
from .formulas import combine, first_channels, perturbed_attention, rescale
from .model import denoiser, variance_denoiser
from .value import COMPATS, Guidance, Scale, as_guidance, check_scale

__all__ = [
    "COMPATS",
    "Guidance",
    "Pair",
    "Result",
    "Scale",
    "as_guidance",
    "both",
    "check_scale",
    "clip",
    "combine",
    "compose",
    "denoiser",
    "first_channels",
    "guided",
    "interval",
    "perturbed_attention",
    "rescale",
    "threshold",
    "variance_denoiser",
]
