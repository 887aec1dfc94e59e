"""Forward parity with diffusers and transformers, from the goldens in reference/ (reference/make.py writes them)."""

from __future__ import annotations

import pytest
from helpers import compare
from reference.case import load

SCENARIOS = [
    *(("t5", "short"), ("t5", "long"), ("t5_narrow", "beyond")),
    *(("transformer", "square"), ("transformer", "oblong")),
    *(("transformer_micro", "square"), ("transformer_micro", "oblong"), ("transformer_plain", "square")),
    *(("vae", "square"), ("vae", "oblong"), ("vae_deep", "oblong")),
]


@pytest.mark.parametrize(("name", "scenario"), SCENARIOS)
def test_module_agrees_with_the_reference(name, scenario):
    assert not compare.too_far(compare.forward_errors(name, load(name), scenario), compare.MODULE)


def test_twenty_guided_steps_follow_the_reference():
    errors = compare.forward_errors("transformer", load("transformer"), "sampling")
    assert len(errors) == 20
    assert not compare.too_far(errors, compare.SAMPLING)


@pytest.mark.parametrize("name", sorted({name for name, _ in SCENARIOS}))
def test_shapes_name_every_tensor_of_the_reference(name):
    case, module = load(name), compare.module_of(name)
    expected = {name: value.shape for name, value in case.weights.items()}
    assert module.shapes(module.read_config(case.config)) == expected
