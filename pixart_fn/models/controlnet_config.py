"""The configuration of a ControlNet, the names and shapes of its tensors, and its initial weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from mindspore import Tensor, ops

from .. import config as config_
from .. import tree
from ..backend.arrays import check_weights
from ..checks import check_type
from ..types import Json, Tree
from . import transformer_config

CLASS = "PixArtControlNetAdapterModel"
"""The name of the class in diffusers' research project."""
_BLOCK = "transformer_blocks.0."


@dataclass(frozen=True)
class Config:
    """The fields of controlnet/config.json, and the sizes that diffusers' research project doesn't write.

    Raises:
        ValueError: a field is out of its range.
    """

    num_layers: config_.Layers = 13
    """Copied blocks; the transformer has at least one more."""
    num_attention_heads: config_.Width = 16
    attention_head_dim: config_.Width = 72

    def __post_init__(self) -> None:
        config_.check(self, "controlnet")

    @classmethod
    def like(cls, base: transformer_config.Config, num_layers: int) -> Config:
        """Return the configuration of so many copied blocks of a transformer."""
        return cls(num_layers, base.num_attention_heads, base.attention_head_dim)

    @property
    def width(self) -> int:
        """D, the width of a patch in the blocks."""
        return self.num_attention_heads * self.attention_head_dim


def check_config(config: Config) -> None:
    """Raise a TypeError where it isn't the configuration of a ControlNet."""
    check_type("config", config, Config, "a controlnet.Config")


def check_base(config: Config, base: transformer_config.Config) -> None:
    """Raise where a ControlNet isn't for a transformer.

    Args:
        config: the ControlNet's configuration.
        base: the transformer's configuration.
    Raises:
        TypeError: one of them isn't such a configuration.
        ValueError: the transformer has other blocks, or too few.
    """
    check_config(config)
    transformer_config.check_config(base)
    own, others = ((each.num_attention_heads, each.attention_head_dim) for each in (config, base))
    if own != others:
        raise ValueError(
            f"the ControlNet is for blocks with {own[0]} heads of {own[1]}, and the transformer's have {others[0]} of "
            f"{others[1]}; take both from the same family"
        )
    if config.num_layers >= base.num_layers:
        raise ValueError(
            f"a ControlNet of {config.num_layers} blocks needs a transformer of at least {config.num_layers + 1}, since"
            f" it acts from the second on, and this one has {base.num_layers}"
        )


def read_config(json: Json) -> Config:
    """Make the configuration of a parsed controlnet/config.json.

    Args:
        json: the file's content, as diffusers' research project writes it for PixArtControlNetAdapterModel. Where it
            doesn't name the sizes of blocks, they are those of the released models.
    Returns:
        The configuration.
    Raises:
        TypeError: json is no dict.
        ValueError: a field is unknown, or has a value that isn't supported.
    """
    return config_.read(Config, json, fixed={}, component="controlnet")


def to_json(config: Config) -> Json:
    """Write a configuration as the config.json that diffusers' research project reads.

    Args:
        config: the ControlNet's configuration.
    Returns:
        The file's content; it names the sizes of blocks where they aren't those of the released models.
    Raises:
        TypeError: config isn't a Config.
    """
    check_config(config)
    released = Config()
    sizes = {name: value for name, value in asdict(config).items() if value != getattr(released, name)}
    return {"_class_name": CLASS, "num_layers": config.num_layers, **sizes}


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """List the tensors of a ControlNet.

    Args:
        config: the ControlNet's configuration.
    Returns:
        Each tensor's name in the checkpoint, and its shape.
    Raises:
        TypeError: config isn't a Config.
        ValueError: the width can't be divided as a transformer needs it.
    """
    check_config(config)
    A, K, D = config.num_attention_heads, config.attention_head_dim, config.width
    like = transformer_config.Config(A, K, num_layers=1, cross_attention_dim=D, use_additional_conditions=False)
    every = transformer_config.shapes(like).items()
    block = {name.removeprefix(_BLOCK): shape for name, shape in every if name.startswith(_BLOCK)}
    out: dict[str, tuple[int, ...]] = {}
    for i in range(config.num_layers):
        home = f"controlnet_blocks.{i}"
        ends = ("before_proj", "after_proj") if i == 0 else ("after_proj",)
        for end in ends:
            out |= {f"{home}.{end}.weight": (D, D), f"{home}.{end}.bias": (D,)}
        out |= {f"{home}.transformer_block.{name}": shape for name, shape in block.items()}
    return out


def init(base: Tree, base_config: transformer_config.Config, config: Config) -> Tree:
    """Make a ControlNet that changes nothing yet: copies of a transformer's first blocks between zero projections.

    Args:
        base: the transformer's tree, of Tensors.
        base_config: its configuration.
        config: the ControlNet's configuration.
    Returns:
        The tree (PIXART-δ, arXiv:2401.05252, sec. 4).
    Raises:
        TypeError: a configuration has the wrong type, or base holds something else than Tensors.
        ValueError: base isn't such a tree, the ControlNet isn't for this transformer, or it would copy blocks that
            compress their keys.
    """
    check_base(config, base_config)
    check_weights(base, transformer_config.shapes(base_config), "base")
    compressed = base_config.kv_compression.layers if base_config.kv_compression else ()
    if any(i < config.num_layers for i in compressed):
        raise ValueError(
            f"a ControlNet copies the first {config.num_layers} blocks, which mustn't compress their keys as block "
            f"{min(compressed)} does"
        )
    blocks = [dict(tree.items(block)) for block in base["transformer_blocks"][: config.num_layers]]

    def leaf(name: str, shape: tuple[int, ...]) -> Tensor:
        _, i, part, *rest = name.split(".")
        if part != "transformer_block":
            return ops.zeros(shape, blocks[0]["attn1.to_q.weight"].dtype)
        return blocks[int(i)][".".join(rest)].copy()

    return tree.nest({name: leaf(name, shape) for name, shape in shapes(config).items()})
