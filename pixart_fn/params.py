"""What a pipeline is in memory: its weights, its configuration and its tokenizer."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from . import tree
from .models import t5, transformer, vae
from .models.t5 import Config as T5Config
from .models.tokenizer import Tokenizer
from .models.transformer import Config as TransformerConfig
from .models.vae import Config as VAEConfig
from .types import Tree

MODELS = {"text_encoder": t5, "transformer": transformer, "vae": vae}
"""A pipeline's models by their fields in Params and Configs."""


@dataclasses.dataclass(frozen=True, repr=False)
class Configs:
    """Everything static about a pipeline: its models, the scheduler_config.json as it stands, and its diffusers class.

    A model that was left out keeps its configuration where the source has one, and is None otherwise.
    """

    text_encoder: T5Config | None
    transformer: TransformerConfig
    vae: VAEConfig | None
    scheduler: dict[str, Any]
    pipeline: str = "PixArtAlphaPipeline"

    def __repr__(self) -> str:
        models = [f"{name}={getattr(self, name)!r}" for name in MODELS]
        return f"Configs({self.pipeline}, {self.scheduler.get('_class_name')},\n    " + ",\n    ".join(models) + ")"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Params:
    """A pipeline's weights (a tree per model, None where it was left out), configuration and tokenizer."""

    text_encoder: Tree
    transformer: Tree
    vae: Tree
    config: Configs
    tokenizer: Tokenizer | None

    TREES: ClassVar[tuple[str, ...]] = ("text_encoder", "transformer", "vae")
    """The fields that are trees: `px.tree` takes Params as a tree of these."""

    def replace(self, **changes: Any) -> Params:
        """A copy with other fields, such as `params.replace(transformer=new_tree)`."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        trees = {name: getattr(self, name) for name in self.TREES}
        sizes = [f"{name}={'None' if t is None else f'{tree.size(t) / 1e6:.1f}M'}" for name, t in trees.items()]
        return f"Params({self.config.pipeline}: {', '.join(sizes)})"
