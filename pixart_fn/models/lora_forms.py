"""The forms of an adapter's change of a weight: LoRA's product, LyCORIS's LoHa and LoKr (arXiv:2309.14859), and `diff`.

O and I are a matrix's outputs and inputs, r the rank. A convolution (O, C, k, k) counts as a matrix with I = C·k·k.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ..types import Array

_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_FIRST = (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
_SECOND = (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"), ("lokr_t2", "lokr_w2_a", "lokr_w2_b"))
FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "LoRA": (("lora_A.weight", "lora_B.weight"),),
    "LoHa": (_HADA, (*_HADA, "hada_t1", "hada_t2")),
    "LoKr": tuple((*first, *second) for first, second in itertools.product(_FIRST, _SECOND)),
    "diff": (("diff",),),
}
"""The names of the weights of each form, of which LoHa and LoKr have several."""
ROWS, COLUMNS = "lora_magnitude_vector.weight", "dora_scale"
"""DoRA's lengths: of a weight's rows, as peft has them; or of its columns, as OneTrainer's and LyCORIS's default is."""


class Change(NamedTuple):
    """What an adapter holds for one module: the parts of its form, DoRA's lengths, and what the product is times."""

    parts: Mapping[str, Array]
    magnitude: Array | None
    columns: bool
    scale: float


def form(names: Collection[str]) -> str:
    """Return the form whose weights have these names, or "" where none has."""
    return next((each for each, sets in FORMS.items() if any(set(one) == set(names) for one in sets)), "")


def rank(parts: Mapping[str, Any]) -> int | None:
    """Return the inner size of a product, by which alpha is divided.

    Args:
        parts: whatever has a shape, by the names of a form.
    Returns:
        r, or None for a form without one: `diff`, and LoKr of two whole matrices, whose product isn't scaled.
    """
    inner = next((name for name in ("lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts), None)
    return None if inner is None else int(parts[inner].shape[0])


def shape(parts: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a change.

    Args:
        parts: whatever has a shape, by the names of a form.
    Returns:
        (O, I), or of a convolution also (O, C, k, k).
    Raises:
        ValueError: the shapes don't fit together.
    """
    sizes = {name: tuple(getattr(leaf, "shape", ())) for name, leaf in parts.items()}
    if "diff" in sizes:
        return sizes["diff"]
    if "lora_A.weight" in sizes:
        A, B = sizes["lora_A.weight"], sizes["lora_B.weight"]
        if (len(A), len(B)) not in ((2, 2), (4, 4)) or A[0] != B[1]:
            raise ValueError(f"lora_A.weight {A} and lora_B.weight {B}")
        return (B[0], *A[1:])
    if "hada_w1_a" in sizes:
        first, second = _inner(sizes, "hada_w1", "hada_t1"), _inner(sizes, "hada_w2", "hada_t2")
        if first != second:
            raise ValueError(f"two products of {first} and {second}")
        return first
    first, second = _inner(sizes, "lokr_w1", ""), _inner(sizes, "lokr_w2", "lokr_t2")
    if len(first) != 2 or len(second) < 2:
        raise ValueError(f"factors of {first} and {second}")
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def product(parts: Mapping[str, Any]) -> Any:
    """Compute a change before it is scaled.

    LoRA's is B A; LoHa's (A₁B₁) ∘ (A₂B₂); LoKr's W₁ ⊗ W₂, where each of both may itself be a product.

    Args:
        parts: arrays or Tensors by the names of a form; what is done to them can be differentiated.
    Returns:
        (O, I), of the same kind.
    """
    if "diff" in parts:
        return _flat(parts["diff"])
    if "lora_A.weight" in parts:
        return _flat(parts["lora_B.weight"]) @ _flat(parts["lora_A.weight"])
    if "hada_w1_a" in parts:
        return _factor(parts, "hada_w1", "hada_t1") * _factor(parts, "hada_w2", "hada_t2")
    first, second = _factor(parts, "lokr_w1", ""), _factor(parts, "lokr_w2", "lokr_t2")
    (a, c), (b, d) = first.shape, second.shape
    return (first.reshape(a, 1, c, 1) * second.reshape(1, b, 1, d)).reshape(a * b, c * d)


def _inner(sizes: Mapping[str, tuple[int, ...]], name: str, core: str) -> tuple[int, ...]:
    """Return the shape of what `_factor` computes; a convolution's may have its last three sides in one."""
    if name in sizes:
        return sizes[name]
    a, b, t = sizes[f"{name}_a"], sizes[f"{name}_b"], sizes.get(core)
    if t is None and len(a) == 2 and len(b) >= 2 and a[1] == b[0]:
        return (a[0], *b[1:])
    if t is not None and len(a) == len(b) == 2 and len(t) == 4 and t[:2] == (a[0], b[0]):
        return (a[1], b[1], *t[2:])
    raise ValueError(f"{name}_a {a} and {name}_b {b}" + (f" and {core} {t}" if t else ""))


def _factor(parts: Mapping[str, Any], name: str, core: str) -> Any:
    """Return a matrix that is there, or the product that stands for it: a b, or Σᵢⱼ t[i, j] a[i] b[j] (Tucker)."""
    if name in parts:
        return _flat(parts[name])
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    if core not in parts:
        return a @ _flat(b)
    t = parts[core]
    inner = (a.T @ _flat(t)).reshape(a.shape[1], t.shape[1], math.prod(t.shape[2:]))  # (O, r, k·k)
    return (b.T @ inner).reshape(a.shape[1], -1)


def _flat(leaf: Any) -> Any:
    return leaf.reshape(leaf.shape[0], -1)
