"""What evaluations buy: how a solver's traits are found, and that what is counted is what was asked of the model."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import evaluations

from pixart_fn import solvers
from pixart_fn.train import solvers as measured


@pytest.mark.parametrize(
    ("name", "traits"),
    [("ddim", (1, False)), ("heun", (2, False)), ("pndm", (1, False)), ("ddpm", (1, True)), ("dpmpp_sde", (2, True))],
)
def test_traits(name, traits):
    assert measured.traits(solvers.SOLVERS[name]()) == traits


def test_evaluations_are_those_of_the_model(monkeypatch):
    calls = evaluations(monkeypatch)
    prompts = ["a cute cat", "the big dog"]
    n, z = measured.measure(tiny.params(), solvers.heun(), 3, prompts, output="latents")
    assert n == len(calls) == 5 and calls[0][0] == 4  # both branches of two prompts; one evaluation to σ = 0
    assert z.shape == (2, 4, 8, 8) and np.isfinite(z).all()
