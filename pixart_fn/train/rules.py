"""Which fields of a recipe mean something beside which others: one that doesn't is an error, and never ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .recipe import Recipe

OF_OPTIMISERS = {
    "adamw": ("b1", "b2", "eps"),
    "lion": ("b1", "b2"),
    "came": ("b1", "b2"),
    "adafactor": ("b1",),
    "sgd": ("momentum",),
}
"""The fields of [optimiser] that each takes beside those that all take."""


class Rule(NamedTuple):
    """When fields mean something.

    Args:
        fields: such as "loss.gamma", or a whole section such as "lora.".
        holds: whether they mean something in a recipe.
        words: when they do.
    """

    fields: tuple[str, ...]
    holds: Callable[[Recipe], bool]
    words: str


RULES = (
    Rule(("lora.",), lambda r: r.model.train == "lora", 'model.train = "lora"'),
    Rule(
        ("model.transformer", "model.sample_size", "model.interpolation_scale", "model.conditions", "run.save"),
        lambda r: r.model.train == "transformer",
        'model.train = "transformer", since an adapter or a ControlNet is written alone, for model.start as it is',
    ),
    Rule(
        ("model.controlnet", "model.copied", "data.control"),
        lambda r: r.model.train == "controlnet",
        'model.train = "controlnet"',
    ),
    Rule(("model.copied",), lambda r: r.model.controlnet is None, "a new ControlNet, without model.controlnet"),
    Rule(
        ("samples.", "data.prior"),
        lambda r: r.model.train != "controlnet",
        "a transformer or an adapter, since a ControlNet needs edges of its own for each picture",
    ),
    Rule(
        ("loss.learned_variance", "loss.weighting", "loss.gamma", "loss.noise_offset", "loss.times"),
        lambda r: r.loss.kind == "diffusion",
        'loss.kind = "diffusion"',
    ),
    Rule(("loss.gamma",), lambda r: r.loss.weighting == "min_snr", 'loss.weighting = "min_snr"'),
    Rule(("loss.guidance", "loss.ddim_steps"), lambda r: r.loss.kind == "lcm", 'loss.kind = "lcm"'),
    Rule(
        ("data.resolution", "data.multiscale"),
        lambda r: r.data.kind != "prepared",
        'the authors\' features, data.kind = "alpha" or "sigma"',
    ),
    Rule(("data.real_prompt_ratio",), lambda r: r.data.kind == "sigma", 'data.kind = "sigma"'),
    Rule(("data.prior_weight",), lambda r: r.data.prior is not None, "data.prior"),
)


def check_controlnet(recipe: Recipe, where: str) -> None:
    """Raise a ValueError where a recipe trains a ControlNet and what it needs for that is missing.

    Args:
        recipe: whose fields are each within their range.
        where: what an error calls it.
    """
    if recipe.model.train != "controlnet":
        return
    if recipe.data.control is None or recipe.data.kind != "prepared":
        raise ValueError(
            f"{where} trains a ControlNet, which needs data.control and data.path, two prepared folders: of edges, as "
            "`pixart-fn prepare --edges canny` writes them, and of the pictures"
        )
    if recipe.loss.kind != "diffusion":
        raise ValueError(f'{where} trains a ControlNet, which needs loss.kind = "diffusion"')


def check(recipe: Recipe, where: str, given: Iterable[str]) -> None:
    """Raise where a field is given that means nothing beside the others.

    Args:
        recipe: whose fields are each within their range.
        where: what an error calls it.
        given: the fields that its author wrote, such as "loss.gamma".
    Raises:
        ValueError: one means nothing.
    """
    takes = OF_OPTIMISERS[recipe.optimiser.name]
    others = {name for names in OF_OPTIMISERS.values() for name in names if name not in takes}
    for field in given:
        for rule in RULES:
            named = field in rule.fields or f"{field.partition('.')[0]}." in rule.fields
            if named and not rule.holds(recipe):
                raise ValueError(f"{field} of {where} means nothing here: it is for {rule.words}")
        section, _, name = field.partition(".")
        if section == "optimiser" and name in others:
            raise ValueError(
                f'{field} of {where} means nothing here: of these, optimiser.name = "{recipe.optimiser.name}" takes'
                f" {', '.join(takes)}"
            )
