"""What a pipeline is in memory: its weights, its configuration and its tokenizer."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

from . import tree
from .models import t5, transformer, vae
from .models.t5 import Config as T5Config
from .models.tokenizer import Tokenizer
from .models.transformer import Config as TransformerConfig
from .models.vae import EitherConfig as VAEConfig
from .types import Tree

MODELS = {"text_encoder": t5, "transformer": transformer, "vae": vae}
"""A pipeline's models, by the names of their fields in Params and Configs."""


TEXT_LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
"""The most tokens of a prompt that a pipeline's models were trained with."""


class Call(NamedTuple):
    """What a call takes where it doesn't say otherwise: what the checkpoint was trained or distilled for.

    Args:
        steps: the number of steps.
        guidance: the scale of classifier-free guidance; 1 for none.
        tokens: the most tokens of a prompt, or None for those of the pipeline's class.
        times: the times that so many steps visit, falling, in training steps; None for the scheduler's spacing.
        interval: (low, high), the times at which a scale alone guides, in training steps; None for all of them.
    """

    steps: int = 20
    guidance: float = 4.5
    tokens: int | None = None
    times: tuple[float, ...] | None = None
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Configs:
    """Everything static about a pipeline.

    Args:
        text_encoder: the text encoder's configuration; None for one that was left out and whose source has none.
        transformer: the transformer's configuration.
        vae: the VAE's configuration, or None likewise.
        scheduler: the content of the scheduler_config.json.
        pipeline: the name of the pipeline's class in diffusers.
        call: the defaults of a call.
    """

    text_encoder: T5Config | None
    transformer: TransformerConfig
    vae: VAEConfig | None
    scheduler: dict[str, Any]
    pipeline: str = "PixArtAlphaPipeline"
    call: Call = dataclasses.field(default_factory=Call)

    @property
    def tokens(self) -> int:
        """The most tokens of a prompt, unless a call says otherwise."""
        return TEXT_LENGTHS[self.pipeline] if self.call.tokens is None else self.call.tokens

    def __repr__(self) -> str:
        models = [f"{name}={getattr(self, name)!r}" for name in MODELS]
        return f"Configs({self.pipeline}, {self.scheduler.get('_class_name')},\n    " + ",\n    ".join(models) + ")"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Params:
    """A pipeline's weights, configuration and tokenizer.

    Args:
        text_encoder: the text encoder's weights, or None where they were left out.
        transformer: the transformer's weights.
        vae: the VAE's weights, or None where they were left out.
        config: the configuration of all of them.
        tokenizer: the text encoder's tokenizer, or None where the text encoder was left out.
    """

    text_encoder: Tree
    transformer: Tree
    vae: Tree
    config: Configs
    tokenizer: Tokenizer | None

    TREES: ClassVar[tuple[str, ...]] = ("text_encoder", "transformer", "vae")
    """The fields that are trees; for `px.tree`, Params is a tree of these."""

    def replace(self, **changes: Any) -> Params:
        """Return a copy in which these fields are replaced, as in `params.replace(transformer=new_tree)`."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        trees = {name: getattr(self, name) for name in self.TREES}
        sizes = [f"{name}={'None' if t is None else f'{tree.size(t) / 1e6:.1f}M'}" for name, t in trees.items()]
        return f"Params({self.config.pipeline}: {', '.join(sizes)})"
