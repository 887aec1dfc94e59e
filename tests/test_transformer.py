"""Attention by heads and queries, and the rest by patches, as for large pictures, agree with diffusers and torch."""

from __future__ import annotations

import compare
import pytest
from reference.case import load

from pixart_fn import transformer


@pytest.fixture(params=[600, 100], ids=["heads", "queries"])
def parts(request, monkeypatch):
    """Few scores at a time; gives how many parts attention went in."""
    monkeypatch.setattr(transformer, "SCORES", request.param)
    monkeypatch.setattr(transformer, "ROWS", 10)
    seen, mix = [], transformer._mix

    def watched(q, k, v):
        seen.append(q.shape)
        return mix(q, k, v)

    monkeypatch.setattr(transformer, "_mix", watched)
    return seen


@pytest.mark.parametrize("name", ["transformer", "transformer_micro"])
def test_large_pictures_agree_with_diffusers(name, parts):
    case = load(name)
    for scenario in case.values:
        if scenario != "sampling":
            assert not compare.too_far(compare.forward_errors(name, case, scenario), compare.MODULE), scenario
    assert parts


def test_gradients_of_large_pictures_agree_with_torch(parts):
    case = load("gradients_transformer")
    errors = compare.gradient_errors("gradients_transformer", case, "apply")
    assert not compare.too_far(errors, compare.GRADIENT)
    assert parts


def test_more_pictures_than_rows_go_patch_by_patch(parts, monkeypatch):
    monkeypatch.setattr(transformer, "ROWS", 1)
    errors = compare.gradient_errors("gradients_transformer", load("gradients_transformer"), "apply")
    assert not compare.too_far(errors, compare.GRADIENT)
