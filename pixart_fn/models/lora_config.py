"""What an adapter is: its settings, its weights, and which of a model's weights it changes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from .. import tree as tree_
from ..backend.stream import is_stored
from ..checks import check_number, check_switch, check_type, check_whole, first_few, kind, shown
from ..public import public_class
from ..types import Array, Tree
from . import lora_forms as forms
from .lora_forms import COLUMNS, FORMS, ROWS, Change

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
_LEAF = re.compile(r"(.+)\.((?:lora|hada|lokr)_\w+(?:\.weight)?|diff|dora_scale)")
"""The name of a module and of one of its weights."""


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
        dora: whether the length of each row of a weight is learned apart from its direction; an adapter from another
            tool may have the lengths of columns instead.
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
            From a file of LyCORIS also the weights of LoHa, LoKr and `diff`, under their names there.
        config: how they are used.
    """

    weights: Tree
    config: Config

    TREES: ClassVar[tuple[str, ...]] = ("weights",)

    def replace(self, **changes: Any) -> Adapter:
        """Return a copy in which these fields are replaced."""
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        found = _grouped(self.weights)
        plain = "DoRA" if self.config.dora else "rsLoRA" if self.config.rslora else "LoRA"
        kinds = {forms.form([each for each in leaves if each not in (ROWS, COLUMNS)]) for leaves in found.values()}
        what = "/".join(sorted(kinds - {""})).replace("LoRA", plain)
        return (
            f"Adapter({what or plain}, rank {self.config.rank}, alpha {self.config.alpha:g}, {len(found)} modules,"
            f" {tree_.size(self.weights):,} numbers)"
        )


def modules(adapter: Adapter) -> dict[str, Change]:
    """Return an adapter's weights by the name of the module.

    Args:
        adapter: to read.
    Returns:
        {"transformer_blocks.0.attn1.to_q": Change, …}.
    Raises:
        TypeError: it isn't an Adapter.
        ValueError: a weight is missing, unknown, or not of the rank that the configuration says.
    """
    check_type("adapter", adapter, Adapter, "an adapter, as px.lora.init or px.lora.load makes it")
    check_type("the adapter's config", adapter.config, Config, "a lora.Config")
    found = _grouped(adapter.weights)
    out = {}
    for name, leaves in found.items():
        parts = {what: leaf for what, leaf in leaves.items() if what not in (ROWS, COLUMNS)}
        lengths = [what for what in leaves if what not in parts]
        if not forms.form(parts) or len(lengths) != adapter.config.dora:
            raise ValueError(
                f"the adapter must hold {_wanted(leaves, adapter.config)} for each module, and holds"
                f" {first_few(leaves)} for {name or 'one without a name'}"
            )
        _check_rank(name, parts, adapter.config)
        magnitude = leaves[lengths[0]] if lengths else None
        out[name] = Change(parts, magnitude, COLUMNS in lengths, adapter.config.scale_at(name))
    if not out:
        raise ValueError("the adapter must have weights for at least one module, got none")
    return out


def _grouped(weights: Tree) -> dict[str, dict[str, Array]]:
    """Return the leaves by their names in a module, for each module; "" for what is in none."""
    out: dict[str, dict[str, Array]] = {}
    for path, leaf in tree_.items(weights):
        found = _LEAF.fullmatch(path)
        name, what = found.groups() if found else ("", path)
        out.setdefault(name, {})[what] = leaf
    return out


def _wanted(leaves: Iterable[str], config: Config) -> str:
    """Return the names of the weights of the form that some names are nearest to."""
    every = (one for sets in FORMS.values() for one in sets)
    near = max(every, key=lambda one: len(set(one) & set(leaves)))
    return ", ".join([*near, *([ROWS] if config.dora else [])])


def _check_rank(name: str, parts: Mapping[str, Array], config: Config) -> None:
    rank = config.rank_at(name)
    try:
        forms.shape(parts)
        fits_together = forms.rank(parts) in (None, rank)
    except ValueError:
        fits_together = False
    if not fits_together:
        sizes = [str(tuple(getattr(leaf, "shape", ()))) for leaf in parts.values()]
        raise ValueError(
            f"the adapter's {name} must have matrices of rank {rank}, as its config says, got {' and '.join(sizes)}"
        )


def places(tree: Tree, adapter: Adapter) -> dict[str, Change]:
    """Return an adapter's weights by the full name of the tree's weight that each changes.

    Args:
        tree: Params, or the tree of a transformer or of a text encoder.
        adapter: an adapter of it.
    Returns:
        {"transformer_blocks.0.attn1.to_q.weight": Change, …}.
    Raises:
        TypeError: adapter isn't an Adapter, or tree isn't such a tree.
        ValueError: the adapter holds other weights than its config says, changes what the tree hasn't or weights of
            another shape, or weights that are int8 or still in their file.
    """
    found = modules(adapter)
    leaves = weights(tree)
    named = {f"{_place(tree, found, name)}.weight": change for name, change in found.items()}
    if lacking := [name.removesuffix(".weight") for name in named if name not in leaves]:
        raise ValueError(
            f"the adapter changes {len(lacking)} of {len(named)} modules that the tree hasn't, so it belongs to another"
            f" model: {first_few(lacking, 3)}"
        )
    for name, change in named.items():
        _check_shapes(name, leaves[name], change)
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
            f"{name} is int8 or still in its file, so it can't be adapted; merge before the model is quantized, or make"
            " Tensors of what is in a file by px.load(stream=False)"
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


def _place(tree: Tree, found: Mapping[str, Change], name: str) -> str:
    """Return the name in the tree of a module of the adapter."""
    own = prefixes(found)
    if not isinstance(tree, dict):
        return name if own else f"{part(found)}.{name}"
    if len(own) > 1:
        raise ValueError("the adapter is for the transformer and the text encoder, so tree must be Params")
    return name.partition(".")[2] if own else name


def _check_shapes(name: str, leaf: Any, change: Change) -> None:
    check_adaptable(name, leaf)
    (O, I, *sides), parts = tuple(leaf.shape), change.parts
    tail = tuple(1 for _ in sides)
    wanted: dict[str, tuple[int, ...]] = {}
    if "lora_A.weight" in parts:
        rank = parts["lora_A.weight"].shape[0]
        wanted |= {"lora_A.weight": (rank, I, *sides), "lora_B.weight": (O, rank, *tail)}
    if change.magnitude is not None:
        which = COLUMNS if change.columns else ROWS
        wanted[which] = (1, I, *tail) if change.columns else (1, O, *tail) if tail else (O,)
        parts = {**parts, which: change.magnitude}
    for what, shape in wanted.items():
        if (found := tuple(parts[what].shape)) != shape:
            raise ValueError(
                f"the adapter's {what.removesuffix('.weight')} of {name} must have the shape {shape} for a weight"
                f" {(O, I, *sides)}, got {found}; it belongs to another model"
            )
    found = forms.shape(change.parts)
    if (found[0], math.prod(found[1:])) != (O, math.prod((I, *sides))):  # a convolution's may be one of a matrix
        raise ValueError(
            f"the adapter's change of {name} must have the shape {(O, I, *sides)} of the weight, got {found}; it"
            " belongs to another model"
        )
