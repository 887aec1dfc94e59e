"""Blocks against plain NumPy and finite differences, and what must raise instead of giving a silent zero."""

from __future__ import annotations

import numpy as np
import pytest

from pixart_fn import tree
from pixart_fn.backend import autodiff, jit, nn

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@jit.block
def gated_linear(p, x, y, config):
    h = nn.linear(p["inner"], x)
    return h * y, nn.silu(h)


def numbers(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


@jit.block
def difference(p, x, config):
    return x * (p["a"] - p["b"])


def half(x):
    return x.astype(ms.float16)


@pytest.fixture
def point():
    flat = {"p.inner.weight": numbers(3, 4), "p.inner.bias": numbers(3), "x": numbers(2, 4), "y": numbers(2, 3)}
    return tree.nest({name: ms.Tensor(value) for name, value in flat.items()})


def total(point):
    product, activated = gated_linear(point["p"], point["x"], point["y"])
    return (product * product).sum() + activated.sum()


def test_a_block_computes_what_it_says(point):
    product, activated = gated_linear(point["p"], point["x"], point["y"])
    inner = point["p"]["inner"]
    h = point["x"].asnumpy() @ inner["weight"].asnumpy().T + inner["bias"].asnumpy()
    np.testing.assert_allclose(product.asnumpy(), h * point["y"].asnumpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(activated.asnumpy(), h / (1 + np.exp(-h)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b, x: ({"b": b, "a": a}, x),
        lambda a, b, x: ({"a": a, "b": b, "c": x}, x),
        lambda a, b, x: ({"a": a[:1], "b": b}, x),
        lambda a, b, x: ({"a": half(a), "b": half(b)}, half(x)),
        lambda a, b, x: ({"a": ms.Parameter(a), "b": ms.Parameter(b)}, x),
        lambda a, b, x: ({"a": x, "b": a}, b),
    ],
    ids=["order", "another leaf", "shape", "dtype", "parameters", "values"],
)
def test_what_differs_in_anything_finds_a_graph_of_its_own(change):
    a, b, x = (ms.Tensor(numbers(2, 3, seed=seed)) for seed in range(3))
    for _ in range(2):
        for p, y in (({"a": a, "b": b}, x), change(a, b, x)):
            expected = y.asnumpy() * (p["a"].asnumpy() - p["b"].asnumpy())
            np.testing.assert_array_equal(difference(p, y).asnumpy(), expected)


def test_a_second_call_does_without_mindspores_search(monkeypatch):
    a, b, x = (ms.Tensor(numbers(4, 3, seed=seed)) for seed in range(3))
    first = difference({"a": a, "b": b}, x)
    run = jit._compiled(difference.__wrapped__, None, None, 1, "float32").run
    monkeypatch.setattr(run, "jitted", None)
    np.testing.assert_array_equal(difference({"a": a, "b": b}, x).asnumpy(), first.asnumpy())


def test_every_leaf_and_input_has_its_gradient(point):
    value, gradients = autodiff.value_and_grad(total)(point)
    assert float(value) == pytest.approx(float(total(point)), rel=1e-6)
    leaves = tree.leaves(point)
    for i, (name, gradient) in enumerate(tree.items(gradients)):
        direction = numbers(*leaves[i].shape, seed=1)

        def at(h, i=i, direction=direction):
            moved = [ms.Tensor(x.asnumpy() + h * direction) if j == i else x for j, x in enumerate(leaves)]
            return float(total(tree.unflatten(point, moved)))

        slope = (at(np.float32(1e-2)) - at(np.float32(-1e-2))) / 2e-2
        assert float((gradient.asnumpy() * direction).sum()) == pytest.approx(slope, rel=2e-3, abs=1e-3), name


def test_a_tree_of_one_leaf_has_its_whole_gradient():
    x = ms.Tensor(numbers(2, 3))
    _, gradient = autodiff.value_and_grad(lambda x: (x**3).sum())(x)
    np.testing.assert_allclose(gradient.asnumpy(), 3 * x.asnumpy() ** 2, rtol=1e-6)


def test_a_leaf_that_the_value_ignores_has_a_zero_gradient(point):
    _, gradients = autodiff.value_and_grad(lambda p: (p["x"] ** 2).sum())(point)
    assert not gradients["y"].asnumpy().any()
    np.testing.assert_allclose(gradients["x"].asnumpy(), 2 * point["x"].asnumpy())


def test_aux_comes_back_untouched(point):
    (value, aux), _ = autodiff.value_and_grad(lambda p: (total(p), "aux"), has_aux=True)(point)
    assert aux == "aux" and float(value) == pytest.approx(float(total(point)))


def test_grad_is_the_second_half_of_value_and_grad(point):
    for ours, theirs in zip(
        tree.leaves(autodiff.grad(total)(point)), tree.leaves(autodiff.value_and_grad(total)(point)[1]), strict=True
    ):
        np.testing.assert_array_equal(ours.asnumpy(), theirs.asnumpy())


def test_second_derivatives_raise():
    p = {"inner": {"weight": ms.Tensor(numbers(3, 4))}}
    y = ms.Tensor(numbers(2, 3))

    def f(x):
        return (gated_linear(p, x, y)[1]).sum()

    with pytest.raises(RuntimeError, match="second derivatives"):
        ms.grad(lambda x: (ms.grad(f)(x) ** 2).sum())(ms.Tensor(numbers(2, 4)))


def test_what_leaves_the_differentiable_world_raises():
    with pytest.raises(RuntimeError, match="the picture can't be differentiated; use the latents"):
        ms.grad(lambda x: (autodiff.refuse_recording("the picture", "use the latents"), x.sum())[1])(
            ms.Tensor(numbers(2))
        )


def test_leaves_must_be_float_tensors():
    with pytest.raises(TypeError, match=r"float Tensors as leaves, got Int32 \(2,\) at 'ids'"):
        autodiff.value_and_grad(lambda p: p["x"].sum())(
            {"x": ms.Tensor(numbers(2)), "ids": ms.Tensor(np.zeros(2, np.int32))}
        )
    with pytest.raises(TypeError, match="got ndarray at 'x'"):
        autodiff.value_and_grad(lambda p: p["x"].sum())({"x": numbers(2)})


def test_the_value_must_be_a_scalar():
    with pytest.raises(ValueError, match="scalar Tensor"):
        autodiff.value_and_grad(lambda p: p["x"] * 2)({"x": ms.Tensor(numbers(2))})
