"""Guidance: from a model to a denoiser, and from denoisers to a guided one. Solvers see only x0.

- `Guidance` holds the settings of guidance. `guided` makes one denoiser from a Guidance and several denoisers.
- `Projected` and `ZeroStar` are other methods to combine the predictions for the text and for the negative text.
- `Perturb`, `Skip` and `Blur` change the model to a worse one, to move away from; `Weaker` takes a model of your own.
- `combine`, `adaptive_projected`, `zero_star`, `away`, `rescale` and `first_channels` are the formulas, as functions of
  predictions.
- `denoiser` and `variance_denoiser` turn a model's output into x0.
- `compose`, `interval`, `clip` and `threshold` make a denoiser from other denoisers.

To write your own guidance, write a denoiser that calls two denoisers. Here the scale falls from 5 to 1:

    conditional = px.text_denoiser(params, text, guidance=1)
    unconditional = px.text_denoiser(params, px.encode_prompt(params, ""), guidance=1)


    def denoise(x, t):
        return px.guidance.combine(conditional(x, t), unconditional(x, t), 1 + t / 250)

Auto-guidance moves away from what a smaller or less trained model gives for the same text:

    weaker = px.text_denoiser(weaker_params, text, guidance=1)
    how = px.Guidance(1, worse=px.guidance.Weaker(2.0, interval=(200, 800)))
    denoise = px.guidance.guided(how, conditional, worse=weaker)
"""

from typing import TYPE_CHECKING

from .denoisers import Pair, Result, both, clip, compose, guided, interval, threshold
from .formulas import adaptive_projected, away, combine, first_channels, rescale, zero_star
from .how import COMPATS, Guidance, as_guidance
from .kinds import Blur, Perturb, Projected, Skip, Weaker, ZeroStar
from .model import denoiser, variance_denoiser
from .value import Scale, check_scale

__all__ = [
    "COMPATS",
    "Blur",
    "Guidance",
    "Pair",
    "Perturb",
    "Projected",
    "Result",
    "Scale",
    "Skip",
    "Weaker",
    "ZeroStar",
    "adaptive_projected",
    "as_guidance",
    "away",
    "both",
    "check_scale",
    "clip",
    "combine",
    "compose",
    "denoiser",
    "first_channels",
    "guided",
    "interval",
    "rescale",
    "threshold",
    "variance_denoiser",
    "zero_star",
]

_NOW = {
    "classifier_free": "guidance.guided(scale, conditional, pair)",
    "perturbed": "guidance.guided(px.Guidance(scale, pag_scale=…), conditional, pair, perturbed)",
    "perturbed_attention": "guidance.away(guided, conditional, worse, s)",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that is here

    def __getattr__(name: str) -> object:
        now = f"; it is now {_NOW[name]}" if name in _NOW else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{now}")
