"""Objectives: which weights each network of a distillation computes with, and in which type."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn import tree
from pixart_fn.checkpoint import lora
from pixart_fn.train import objective
from pixart_fn.train.batch import Batch
from pixart_fn.types import Text

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

CONFIG, P = tiny.TRANSFORMER, tiny.params().transformer
BATCH = Batch(np.ones((2, 4, 8, 8), np.float32), Text(np.ones((2, 3, 32), np.float32), np.ones((2, 3), np.int32)))
NULL = Text(np.zeros((1, 5, 32), np.float32), np.ones((1, 5), np.int32))


@pytest.mark.parametrize("adapter", [False, True])
def test_the_teacher_of_lcm_is_cast_once(monkeypatch, adapter):
    """The student and its average are cast at each step; the teacher is the start in halves, and always the same."""
    seen = []
    monkeypatch.setattr(
        objective.transformer, "apply", lambda p, config, x, t, text, *rest, **_: seen.append((p, text))
    )
    casts, cast = [], objective._cast
    monkeypatch.setattr(objective, "_cast", lambda p, dtype: casts.append(dtype) or cast(p, dtype))

    def loss(*arguments):
        for network in arguments[:4]:
            network(None, None)
        return None, {}

    aim = objective.of_lcm(P, CONFIG, loss, NULL, adapter=adapter, dtype="float16")
    assert casts == ["float16"]
    first = lora.init(px.key(0), P, lora.Config(rank=2, alpha=2.0)) if adapter else P
    weights, average = tree.map(lambda leaf: leaf + 1, first), tree.map(lambda leaf: leaf + 2, first)
    for _ in range(2):
        aim(weights, BATCH, None, target=average)
    assert len(casts) == 5 and len(seen) == 8
    student, averaged, teacher, without = seen[4:]
    assert teacher[0] is without[0] is seen[2][0]
    for expected, (found, _) in zip(
        [lora.apply(P, each) if adapter else each for each in (weights, average)] + [P, P], seen[4:], strict=True
    ):
        ours, theirs = (dict(tree.items(each))["transformer_blocks.0.attn1.to_q.weight"] for each in (found, expected))
        assert ours.dtype == ms.float16
        assert np.array_equal(ours.asnumpy(), theirs.asnumpy().astype(np.float16))
    assert [each[1].shape for each in (student, averaged, teacher, without)] == [(2, 3, 32)] * 3 + [(2, 5, 32)]
