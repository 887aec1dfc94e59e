"""The choice of arithmetic: what it says, what it refuses, and, where the CPU has AMX, what it changes."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from helpers import tiny
from helpers.tolerances import relative_error

import pixart_fn as px
from pixart_fn.backend import jit, precision

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


@pytest.fixture(autouse=True)
def back_to_float32():
    yield
    px.precision("float32")


def test_float32_is_the_default_and_asking_changes_nothing():
    assert px.precision() == px.precision("float32") == "float32"


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'bf16-math', 'tf32', got 'bf16'"):
        px.precision("bf16")


def test_without_amx_bf16_math_is_refused(monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: False)
    with pytest.raises(ValueError, match="needs a CPU with AMX"):
        px.precision("bf16-math")
    assert px.precision() == "float32"


def test_on_a_gpu_tf32_is_chosen_and_bf16_math_refused(monkeypatch):
    with pytest.raises(ValueError, match="tf32 is arithmetic of a GPU, and this process computes on CPU"):
        px.precision("tf32")
    chosen = []
    monkeypatch.setattr(precision, "in_use", lambda: "GPU")
    monkeypatch.setattr(precision, "allow_tf32", chosen.append)
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    with pytest.raises(ValueError, match="bf16-math is arithmetic of a CPU, and this process computes on GPU"):
        px.precision("bf16-math")
    assert px.precision("tf32") == "tf32" and px.precision("float32") == "float32"
    assert chosen == [True, False]


def onednn_mode() -> int:
    mode = ctypes.c_int(-1)
    assert precision._onednn().dnnl_get_default_fpmath_mode(ctypes.byref(mode)) == 0
    return mode.value


def test_the_choice_reaches_onednn_and_compiles_graphs_of_its_own(monkeypatch):
    monkeypatch.setattr(precision, "has_amx", lambda: True)
    params = tiny.params()

    def encode():
        return px.encode_prompt(params, "a cat").states.asnumpy()

    before = encode()
    compiled = jit.compilations()
    px.precision("bf16-math")
    assert onednn_mode() == 1
    encode()
    assert jit.compilations() > compiled
    px.precision("float32")
    assert onednn_mode() == 0
    compiled = jit.compilations()
    np.testing.assert_array_equal(encode(), before)
    assert jit.compilations() == compiled


def test_bf16_math_rounds_products_or_is_refused():
    @jit.block
    def product(p, x, config):
        return ms.ops.matmul(x, p)

    a, b = (px.rng.normal(px.key(i), (256, 256)) for i in (0, 1))
    exact = a.astype(float) @ b
    plain = relative_error(product(ms.Tensor(b), ms.Tensor(a)).asnumpy(), exact)
    if not precision.has_amx():
        with pytest.raises(ValueError, match="needs a CPU with AMX"):
            px.precision("bf16-math")
        assert plain < 1e-6
        return
    px.precision("bf16-math")
    rounded = relative_error(product(ms.Tensor(b), ms.Tensor(a)).asnumpy(), exact)
    assert plain < 1e-6 and 1e-4 < rounded < 1e-2
