"""What an adapter is: its settings, its weights, and which of a model's weights it changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from .. import tree as tree_
from ..backend.stream import is_stored
from ..checks import check_number, check_switch, check_type, check_whole, first_few, kind, shown
from ..public import public_class
from ..types import Array, Tree

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of both attentions."""
AUTHORS = (
    *ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "proj", "linear", "linear_1", "linear_2"
)  # fmt: skip
"""What PixArt's own trainer of LoRA adapts: every linear, and the patches' convolution."""
PARTS = ("transformer", "text_encoder")
"""The models of a pipeline that adapters are for."""
EMBEDDINGS = ("shared", "relative_attention_bias")
"""T5's tables, which are looked up rather than multiplied."""


@public_class
@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of LoRA (arXiv:2106.09685), DoRA (arXiv:2402.09353) or rsLoRA (arXiv:2312.03732).

    A target, or a name in a pattern, stands for the modules whose dotted name it is or ends, as in peft: "to_q" stands
    for "transformer_blocks.0.attn1.to_q". One that begins with "^" stands for the module of that whole name alone.

    Args:
        rank: r, the inner size of the product B A that is added to a weight, at least 1.
        alpha: the product is multiplied by alpha / rank; above 0.
        targets: the modules that are adapted; `AUTHORS` lists those of PixArt's own trainer.
        dora: whether the length of each row of a weight is learned apart from its direction.
        rslora: whether the product is multiplied by alpha / √rank instead.
        rank_pattern: the rank of modules that have another one, by name; of several names that fit, the first counts.
        alpha_pattern: the alpha of modules that have another one, likewise.
    Raises:
        TypeError: a field has the wrong type.
        ValueError: a field is out of its range.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: Sequence[str] = ATTENTION
    dora: bool = False
    rslora: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_whole("rank", self.rank, 1, 2**16)
        check_number("alpha", self.alpha, 0, 1e30, above=True)
        if isinstance(self.targets, str) or not isinstance(self.targets, Sequence):
            raise TypeError(f"targets must be a list of names such as 'to_q', got {shown(self.targets)}")
        if not self.targets or not all(isinstance(target, str) and target for target in self.targets):
            raise ValueError(f"targets must be at least one name such as 'to_q', got {shown(self.targets)}")
        check_switch("dora", self.dora)
        check_switch("rslora", self.rslora)
        for name in ("rank_pattern", "alpha_pattern"):
            pattern = getattr(self, name)
            check_type(name, pattern, Mapping, "a dict from names to numbers")
            for key, value in pattern.items():
                check_type(f"a name in {name}", key, str, "a string")
                if name == "rank_pattern":
                    check_whole(f"{name} of {shown(key)}", value, 1, 2**16)
                else:
                    check_number(f"{name} of {shown(key)}", value, 0, 1e30, above=True)
            object.__setattr__(self, name, dict(pattern))
        object.__setattr__(self, "targets", tuple(self.targets))

    def adapts(self, name: str) -> bool:
        """Return whether the module of this name is a target."""
        return any(fits(name, target) for target in self.targets)

    def rank_at(self, name: str) -> int:
        """Return the rank of the module of this name."""
        return next((rank for key, rank in self.rank_pattern.items() if fits(name, key)), self.rank)

    def alpha_at(self, name: str) -> float:
        """Return the alpha of the module of this name."""
        return next((alpha for key, alpha in self.alpha_pattern.items() if fits(name, key)), self.alpha)

    def scale_at(self, name: str) -> float:
        """Return what the product of the module of this name is multiplied by."""
        rank = self.rank_at(name)
        return self.alpha_at(name) / (math.sqrt(rank) if self.rslora else rank)


def fits(name: str, target: str) -> bool:
    """Return whether a target stands for the module of this name."""
    return name == target.removeprefix("^") or name.endswith(f".{target}")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """What is added to some of a model's weights; `init` makes it, or `load`.

    For `px.tree`, `px.value_and_grad` and optimisers it is a tree of its weights.

    Args:
        weights: nested as the model's tree, or as Params where it begins with "transformer" or "text_encoder". For each
            module of a linear (O, I): lora_A.weight (r, I), lora_B.weight (O, r), and with DoRA
            lora_magnitude_vector.weight (O,). For a convolution (O, C, k, k): (r, C, k, k), (O, r, 1, 1), (1, O, 1, 1).
        config: how they are used.
    """

    weights: Tree
    config: Config

    TREES: ClassVar[tuple[str, ...]] = ("weights",)

    def replace(self, **changes: Any) -> Adapter:
        """Return a copy in which these fields are replaced."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        what = "DoRA" if self.config.dora else "rsLoRA" if self.config.rslora else "LoRA"
        count = len({path.rpartition(".lora_")[0] for path in tree_.paths(self.weights)})
        return (
            f"Adapter({what}, rank {self.config.rank}, alpha {self.config.alpha:g}, {count} modules,"
            f" {tree_.size(self.weights):,} numbers)"
        )


class Factors(NamedTuple):
    """An adapter's weights for one module, and what their product is multiplied by."""

    A: Array
    B: Array
    magnitude: Array | None
    scale: float


def modules(adapter: Adapter) -> dict[str, Factors]:
    """Return an adapter's weights by the name of the module.

    Args:
        adapter: to read.
    Returns:
        {"transformer_blocks.0.attn1.to_q": Factors, …}.
    Raises:
        TypeError: it isn't an Adapter.
        ValueError: a weight is missing, unknown, or not of the rank that the configuration says.
    """
    check_type("adapter", adapter, Adapter, "an adapter, as px.lora.init or px.lora.load makes it")
    check_type("the adapter's config", adapter.config, Config, "a lora.Config")
    found: dict[str, dict[str, Array]] = {}
    for path, leaf in tree_.items(adapter.weights):
        name, _, what = path.rpartition(".lora_")
        found.setdefault(name, {})[f"lora_{what}" if name else path] = leaf
    wanted = ["lora_A.weight", "lora_B.weight", *(["lora_magnitude_vector.weight"] if adapter.config.dora else [])]
    out = {}
    for name, leaves in found.items():
        if sorted(leaves) != sorted(wanted):
            raise ValueError(
                f"the adapter must hold {', '.join(wanted)} for each module, and holds {first_few(leaves)} for"
                f" {name or 'one without a name'}"
            )
        A, B, *rest = (leaves[each] for each in wanted)
        rank, shapes = adapter.config.rank_at(name), [tuple(getattr(leaf, "shape", ())) for leaf in (A, B)]
        if [len(each) for each in shapes] not in ([2, 2], [4, 4]) or {shapes[0][0], shapes[1][1]} != {rank}:
            raise ValueError(
                f"the adapter's {name} must have matrices of rank {rank}, as its config says, got {shapes[0]} and"
                f" {shapes[1]}"
            )
        out[name] = Factors(A, B, rest[0] if rest else None, adapter.config.scale_at(name))
    if not out:
        raise ValueError("the adapter must have weights for at least one module, got none")
    return out


def places(tree: Tree, adapter: Adapter) -> dict[str, Factors]:
    """Return an adapter's weights by the full name of the tree's weight that each changes.

    Args:
        tree: Params, or the tree of a transformer or of a text encoder.
        adapter: an adapter of it.
    Returns:
        {"transformer_blocks.0.attn1.to_q.weight": Factors, …}.
    Raises:
        TypeError: adapter isn't an Adapter, or tree isn't such a tree.
        ValueError: the adapter holds other weights than its config says, changes what the tree hasn't or weights of
            another shape, or weights that are int8 or still in their file.
    """
    found = modules(adapter)
    leaves = weights(tree)
    named = {f"{_place(tree, found, name)}.weight": factors for name, factors in found.items()}
    if lacking := [name.removesuffix(".weight") for name in named if name not in leaves]:
        raise ValueError(
            f"the adapter changes {len(lacking)} of {len(named)} modules that the tree hasn't, so it belongs to another"
            f" model: {first_few(lacking, 3)}"
        )
    for name, factors in named.items():
        _check_shapes(name, leaves[name], factors)
    return named


def weights(tree: Tree) -> dict[str, Any]:
    """Return all leaves of a tree by name, or raise a TypeError where it isn't one that adapters are for."""
    if not isinstance(tree, dict) and not set(PARTS) <= set(getattr(type(tree), "TREES", ())):
        raise TypeError(f"tree must be Params, or the tree of a transformer or a text encoder, got {kind(tree)}")
    return dict(tree_.items(tree))


def check_adaptable(name: str, leaf: Any) -> None:
    """Raise where a weight is none of a linear or a convolution in memory."""
    if name.split(".")[-2] in EMBEDDINGS:
        raise ValueError(f"{name} is a table that is looked up, which no adapter here changes")
    if is_stored(leaf):
        raise ValueError(
            f"{name} is int8 or still in its file, so it can't be adapted; px.load(stream=False) makes it a Tensor"
        )
    if len(getattr(leaf, "shape", ())) not in (2, 4):
        raise ValueError(f"{name} belongs to neither a linear nor a convolution, so it can't be adapted")


def part(names: Iterable[str]) -> str:
    """Return the model that names without a prefix belong to: T5's modules all lie in its "encoder"."""
    return "text_encoder" if all(name.startswith("encoder.") for name in names) else "transformer"


def prefixes(names: Iterable[str]) -> set[str]:
    """Return the models that names begin with; none where one of them doesn't begin so."""
    first = {name.split(".")[0] for name in names}
    return first if first <= set(PARTS) else set()


def _place(tree: Tree, found: Mapping[str, Factors], name: str) -> str:
    """Return the name in the tree of a module of the adapter."""
    own = prefixes(found)
    if not isinstance(tree, dict):
        return name if own else f"{part(found)}.{name}"
    if len(own) > 1:
        raise ValueError("the adapter is for the transformer and the text encoder, so tree must be Params")
    return name.partition(".")[2] if own else name


def _check_shapes(name: str, leaf: Any, factors: Factors) -> None:
    check_adaptable(name, leaf)
    shape, rank = tuple(leaf.shape), factors.A.shape[0]
    tail = (1, 1) if len(shape) == 4 else ()
    wanted = {"lora_A": (rank, *shape[1:]), "lora_B": (shape[0], rank, *tail)}
    found = {"lora_A": tuple(factors.A.shape), "lora_B": tuple(factors.B.shape)}
    if factors.magnitude is not None:
        wanted["lora_magnitude_vector"] = (1, shape[0], 1, 1) if tail else (shape[0],)
        found["lora_magnitude_vector"] = tuple(factors.magnitude.shape)
    for what in wanted:
        if found[what] != wanted[what]:
            raise ValueError(
                f"the adapter's {what} of {name} must have the shape {wanted[what]} for a weight {shape}, got"
                f" {found[what]}; it belongs to another model"
            )
