"""Schedules against their values by hand, and wrong arguments of optimisers."""

from __future__ import annotations

import math

import pytest
from helpers import bad_optim
from test_bad_input import complaint, name_of

from pixart_fn.train import optim


def values(schedule, *steps: int) -> list[float]:
    return [schedule(step) for step in steps]


def test_a_constant_is_one_number():
    assert values(optim.constant(0.3), 0, 1, 10**6) == [0.3] * 3


def test_a_warm_up_rises_in_equal_parts_and_stays():
    assert values(optim.warmup_constant(8.0, 4), 0, 1, 2, 3, 4, 1000) == [2, 4, 6, 8, 8, 8]
    assert values(optim.warmup_constant(8.0, 1), 0, 1) == [8, 8]


def test_the_linear_fall_ends_with_its_share():
    schedule = optim.warmup_linear(8.0, 14, 4, end=0.25)
    assert values(schedule, 0, 1, 3, 4, 9, 14, 15, 1000) == pytest.approx([2, 4, 8, 8, 5, 2, 2, 2])
    assert values(optim.warmup_linear(8.0, 200), 0, 99, 100, 150, 200) == pytest.approx([0.08, 8, 8, 4, 0])


def test_the_cosine_fall_ends_with_its_share():
    schedule = optim.warmup_cosine(8.0, 16, 4, end=0.5)
    quarter = 4 + 4 * (1 + math.cos(math.pi / 4)) / 2
    assert values(schedule, 0, 3, 4, 7, 10, 16, 17) == pytest.approx([2, 8, 8, quarter, 6, 4, 4])
    assert values(optim.warmup_cosine(8.0, 200), 0, 99, 100, 150, 200) == pytest.approx([0.08, 8, 8, 4, 0])


def test_the_stable_rate_falls_in_the_last_part():
    schedule = optim.warmup_stable_decay(8.0, 1000, 4, 0.5)
    assert values(schedule, 0, 1, 3, 4, 499, 500, 750, 999, 2000) == pytest.approx([2, 4, 8, 8, 8, 8, 4, 0.08, 0.08])
    assert values(optim.warmup_stable_decay(8.0, 1000), 0, 99, 750, 875) == pytest.approx([0.08, 8, 8, 4])


@pytest.mark.parametrize("make", [optim.warmup_linear, optim.warmup_cosine, optim.warmup_stable_decay])
def test_a_run_without_steps_has_a_rate(make):
    assert all(0 <= value <= 8 for value in values(make(8.0, 0), 0, 1, 100))
    assert all(0 <= value <= 8 for value in values(make(8.0, 10, 20), 0, 9, 10, 20, 100))


@pytest.mark.parametrize("row", bad_optim.ROWS, ids=lambda row: name_of(row.function))
def test_a_wrong_argument_is_one_sentence(row):
    (row.call or row.function)(**row.right)
    wrong = {
        f"{name} {label}": complaint(row, name, bad) for name in row.wrong for label, bad in row.wrong[name].items()
    }
    assert not {label: each for label, each in wrong.items() if each}


def test_arguments_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="momentum must be above 0 where nesterov is True, got 0"):
        optim.sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match="warmup_init must be False where lr is given, got True"):
        optim.adafactor(0.1, warmup_init=True)
    params = {"a": bad_optim.LEAVES["a"]}
    with pytest.raises(ValueError, match="ema_state must be None where ema is None"):
        optim.step(bad_optim.OPTIMISER, params, params, bad_optim.OPTIMISER.init(params), ema_state=params)
