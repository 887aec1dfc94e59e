"""The training loop: it saves, it resumes, and it ends as an uninterrupted run does."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from helpers.tolerances import assert_close
from helpers.trees import assert_same, normal, numbers, tensors

from pixart_fn.files import safetensors
from pixart_fn.train import loop

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore import Tensor  # isort: skip

START = {"weight": normal(0, 3, 4), "bias": normal(1, 4)}


def test_the_rate_rises_stays_and_falls():
    lr = loop.warmup_stable_decay(2.0, 1000, warmup=10, decay=0.2)
    assert [lr(0), lr(4), lr(9), lr(500), lr(800)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0])
    assert [lr(900), lr(999), lr(5000)] == pytest.approx([1.0, 0.02, 0.02])
    rates = [lr(i) for i in range(1000)]
    assert sorted(rates[:10]) == rates[:10] and sorted(rates[800:], reverse=True) == rates[800:]


def quadratic(p, target) -> Tensor:
    error = p["weight"] - target
    return (error * error).sum() + (p["bias"] * p["bias"]).sum()


def trained(folder, steps: int, **options):
    target = tensors([normal(20 + i, 3, 4) for i in range(6)])
    lr = loop.warmup_stable_decay(0.1, 6, warmup=2)
    return loop.run(quadratic, tensors(START), lambda step: target[step], folder, steps=steps, lr=lr, **options)


def test_a_stopped_command_saves(tmp_path, monkeypatch):
    """Ctrl-C in the middle of a run: MindSpore turns it into a SIGTERM to itself."""
    for module, name in ((ms, "set_device"), (ms.runtime, "launch_blocking")):  # only before the first computation
        monkeypatch.setattr(module, name, lambda *_: None)
    before = signal.getsignal(signal.SIGTERM)
    loop.prepare()

    def stop(step: int):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return tensors(normal(step, 3, 4))

    try:
        with pytest.raises(SystemExit, match="the same command goes on from here"):
            loop.run(quadratic, tensors(START), stop, tmp_path, steps=6, lr=lambda step: 0.1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert loop.restore(tmp_path / "state.safetensors", tensors(START))[1].step == 2


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    params, state = trained(tmp_path / "whole", 6)
    _, early = trained(tmp_path / "parts", 3)
    assert early.step == 3
    resumed, resumed_state = trained(tmp_path / "parts", 6)
    assert resumed_state.step == state.step == 6
    assert_same(resumed, params)
    for part in ("m", "v", "ema"):
        assert_same(getattr(resumed_state, part), getattr(state, part))
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("whole", "parts")]
    steps, again = ([line.rsplit(",", 1)[0] for line in lines] for lines in logs)  # all but the seconds
    assert steps == again and [line.split(",")[0] for line in steps] == list("012345")


def test_a_finished_run_and_one_out_of_time_take_no_step(tmp_path):
    params, _ = trained(tmp_path, 2)
    again, state = trained(tmp_path, 2)
    assert_same(again, params)
    unmoved, state = trained(tmp_path, 6, minutes=0)
    assert state.step == 2
    assert_same(unmoved, params)


def test_a_run_saves_as_it_goes(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(loop, "save", lambda file, params, state: saved.append(state.step))
    trained(tmp_path, 3, save_every_minutes=0)
    assert saved == [1, 2, 3, 3]


STATES = {
    "no step": ({}, None, "doesn't say at which step it was written"),
    "a step that is a word": ({"step": "x"}, None, "doesn't say at which step it was written"),
    "a negative step": ({"step": "-1"}, None, "doesn't say at which step it was written"),
    "other tensors": ({"step": "1"}, {"params/weight": normal(0, 3, 4)}, "doesn't hold the tensors of its"),
    "nan": ({"step": "1"}, {"m/bias": np.full(4, np.nan, np.float32)}, "holds nan in m/bias, where only finite"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_isnt_one_is_one_sentence(tmp_path, case):
    metadata, changed, sentence = STATES[case]
    flat = {f"{part}/{name}": value for part in loop.PARTS for name, value in START.items()}
    flat = changed if case == "other tensors" else flat | (changed or {})
    safetensors.write_file(tmp_path / "state.safetensors", flat, dict.fromkeys(flat, "F32"), metadata)
    with pytest.raises(ValueError, match=rf"state\.safetensors.* {sentence}"):
        loop.restore(tmp_path / "state.safetensors", tensors(START))


def test_the_moving_average_starts_short(tmp_path):
    """ema ← d ema + (1 - d) p with d = min(decay, (1 + step) / (10 + step)): 1/10, then 2/11."""
    first, _ = trained(tmp_path, 1)
    second, state = trained(tmp_path, 2, decay=0.15)
    for name, start in START.items():
        once = 0.1 * start + 0.9 * numbers(first)[name]
        assert_close(numbers(state.ema)[name], 0.15 * once + 0.85 * numbers(second)[name])
