"""Guidance: from a model to a denoiser, and from denoisers to a guided one. Solvers see only x0.

- `Guidance` is a value: which scale, where, and how else. `guided` makes one denoiser of its branches by it.
- `combine`, `rescale`, `perturbed_attention` and `first_channels` are the formulas, functions of values.
- `denoiser` and `variance_denoiser` turn a model's output into x0.
- `compose`, `interval`, `clip` and `threshold` turn denoisers into a denoiser.

Write your own: a denoiser of two denoisers, which `px.sample` takes as any other. Here the scale falls from 5 to 1:

    conditional = px.text_denoiser(params, text, guidance=1)
    unconditional = px.text_denoiser(params, px.encode_prompt(params, ""), guidance=1)


    def denoise(x, t):
        return px.guidance.combine(conditional(x, t), unconditional(x, t), 1 + t / 250)
"""

from typing import TYPE_CHECKING

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

_NOW = {
    "classifier_free": "guidance.guided(scale, conditional, pair)",
    "perturbed": "guidance.guided(px.Guidance(scale, pag_scale=…), conditional, pair, perturbed)",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name: str) -> object:
        now = f"; it is now {_NOW[name]}" if name in _NOW else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{now}")
