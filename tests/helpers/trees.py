"""Trees of arrays and of Tensors, to make and to compare."""

from __future__ import annotations

import numpy as np

from pixart_fn import tree

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensors(arrays):
    return tree.map(Tensor, arrays)


def numbers(t) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf.asnumpy() if isinstance(leaf, Tensor) else leaf) for name, leaf in tree.items(t)}


def assert_same(ours, theirs) -> None:
    ours, theirs = numbers(ours), numbers(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
