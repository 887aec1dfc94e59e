"""The training loop: it saves, it resumes, and it ends as an uninterrupted run does."""

from __future__ import annotations

import json
import os
import signal
import threading

import numpy as np
import pytest
from helpers.tolerances import assert_close
from helpers.trees import assert_same, normal, numbers, tensors

from pixart_fn import rng
from pixart_fn.files import safetensors
from pixart_fn.train import loop, optim, record, state, step

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

START = {"weight": normal(0, 3, 4), "bias": normal(1, 4)}
RATE = optim.warmup_stable_decay(0.1, 6, warmup=2)
OPTIMISER = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(RATE, weight_decay=0.01))
AVERAGE = optim.ema(0.9)


def test_the_rate_rises_stays_and_falls():
    lr = optim.warmup_stable_decay(2.0, 1000, warmup=10, decay=0.2)
    assert [lr(0), lr(4), lr(9), lr(500), lr(800)] == pytest.approx([0.2, 1.0, 2.0, 2.0, 2.0])
    assert [lr(900), lr(999), lr(5000)] == pytest.approx([1.0, 0.02, 0.02])
    rates = [lr(i) for i in range(1000)]
    assert sorted(rates[:10]) == rates[:10] and sorted(rates[800:], reverse=True) == rates[800:]


def quadratic(p, target, key):
    error = p["weight"] - target.mean(0)
    noise = Tensor(rng.normal(key, (len(target), 4)).mean(0))
    return (error * error).sum() + (p["bias"] * (p["bias"] + noise)).sum(), {"extra": error.sum()}


def begin():
    return state.init(tensors(START), OPTIMISER, rng.key(7), ema=AVERAGE)


def trained(folder, steps: int, batches=None, **options):
    targets = tensors([normal(20 + i, 2, 3, 4) for i in range(6)])
    one = step.make(quadratic, OPTIMISER, ema=AVERAGE)
    return loop.run(one, begin(), batches or (lambda i: targets[i]), folder, steps=steps, progress=False, **options)


def steps_of(folder) -> list[dict]:
    """The records without what time decides."""
    return [
        {name: value for name, value in each.items() if name not in ("seconds", "examples_per_second")}
        for each in record.read(folder).steps
    ]


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    whole = trained(tmp_path / "whole", 6)
    assert trained(tmp_path / "parts", 3).step == 3
    resumed = trained(tmp_path / "parts", 6)
    assert resumed.step == whole.step == 6
    assert_same(resumed.params, whole.params)
    assert_same(resumed.average, whole.average)
    contents = [(tmp_path / name / "state.safetensors").read_bytes() for name in ("whole", "parts")]
    assert contents[0] == contents[1]
    assert steps_of(tmp_path / "whole") == steps_of(tmp_path / "parts")
    assert [each["step"] for each in steps_of(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]


def test_what_was_recorded_after_the_last_save_is_recorded_once(tmp_path):
    """As after a kill: the log is ahead of the state."""
    trained(tmp_path, 3)
    log = tmp_path / "metrics.jsonl"
    ahead = [json.dumps({"step": i, "loss": 0.0}) for i in (4, 5)]
    log.write_text("\n".join([*log.read_text().splitlines(), *ahead, '{"step": 6, "lo']))
    trained(tmp_path, 6)
    assert [each["step"] for each in steps_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_stopped_command_saves_when_the_step_has_ended(tmp_path):
    """Ctrl-C in the middle of a run: MindSpore turns it into a SIGTERM to itself."""

    def stop(i: int):
        if i == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return Tensor(normal(i, 2, 3, 4))

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, 6, stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert state.restore(tmp_path / "state.safetensors", begin()).step == 2


def test_two_signals_at_once_save_before_they_are_raised(tmp_path):
    """Not only when the exception is forgotten, which a notebook keeps."""
    both = {signal.SIGINT, signal.SIGTERM}

    def stop(i: int):
        if i == 2:
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            for number in both:
                signal.pthread_kill(threading.main_thread().ident, number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        return Tensor(normal(i, 2, 3, 4))

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt) as kept:
            trained(tmp_path, 6, stop)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert kept.tb and state.restore(tmp_path / "state.safetensors", begin()).step == 2


def leave(*_):
    """What a job's own handler of SIGTERM often does."""
    raise SystemExit(143)


@pytest.mark.parametrize("own", [None, leave])
def test_a_stop_within_a_step_waits_for_its_end_and_records_it(tmp_path, own):
    one = step.make(quadratic, OPTIMISER, ema=AVERAGE)

    def stopped(now, batch, donate=False):
        if now.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return one(now, batch, donate)

    before = signal.getsignal(signal.SIGTERM)
    if own is not None:
        signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(KeyboardInterrupt if own is None else SystemExit):
            loop.run(stopped, begin(), lambda i: Tensor(normal(i, 2, 3, 4)), tmp_path, steps=3, progress=False)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [each["step"] for each in steps_of(tmp_path)] == [1, 2]
    assert state.restore(tmp_path / "state.safetensors", begin()).step == 2


def test_a_finished_run_and_one_out_of_time_take_no_step(tmp_path):
    last = numbers(trained(tmp_path, 2).params)
    assert_same(trained(tmp_path, 2).params, last)
    unmoved = trained(tmp_path, 6, minutes=0)
    assert unmoved.step == 2
    assert_same(unmoved.params, last)


def test_a_run_saves_as_it_goes(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(state, "save", lambda file, now, identity: saved.append(now.step))
    trained(tmp_path, 3, save_every_minutes=0)
    assert saved == [1, 2, 3, 3]


def test_a_loss_that_is_nan_says_where_and_leaves_the_state_before_it(tmp_path):
    def batches(i: int):
        return Tensor(normal(i, 2, 3, 4) * (np.nan if i == 2 else 1))

    with pytest.raises(step.NotFinite, match=r"step 2 gives the loss nan .*state\.safetensors holds the state before"):
        trained(tmp_path, 6, batches)
    assert state.restore(tmp_path / "state.safetensors", begin()).step == 2


def test_what_watches_sees_every_step_and_its_metrics(tmp_path):
    seen = []
    trained(tmp_path, 3, on_step=lambda now, metrics: seen.append((now.step, sorted(metrics))))
    assert seen == [(i, ["extra", "loss", "norm"]) for i in (1, 2, 3)]


STATES = {
    "no step": ({"step": ""}, {}, "doesn't say at which step it was written"),
    "a step that is a word": ({"step": "x"}, {}, "doesn't say at which step it was written"),
    "another key": ({"key": "1 2"}, {}, "of a run with another key; go on with the same seed"),
    "a number that is a word": ({"number optimiser.1.step": "x"}, {}, "doesn't hold the number optimiser.1.step"),
    "other tensors": ({}, {"other": normal(0, 3, 4)}, "doesn't hold the tensors of its"),
    "nan": ({}, {"params.bias": np.full(4, np.nan, np.float32)}, "holds nan in params.bias, where only finite"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_isnt_one_is_one_sentence(tmp_path, case):
    more, changed, sentence = STATES[case]
    file = tmp_path / "state.safetensors"
    state.save(file, begin())
    stored, metadata = safetensors.open_with_metadata(file)
    flat = {name: leaf.copy() for name, leaf in stored.items()} | changed
    safetensors.write_file(file, flat, dict.fromkeys(flat, "F32"), metadata | more)
    with pytest.raises(ValueError, match=rf"state\.safetensors.* {sentence}"):
        state.restore(file, begin())


def test_the_moving_average_starts_short(tmp_path):
    """ema ← d ema + (1 - d) p with d = min(decay, (1 + step) / (10 + step)): 1/10, then 2/11."""
    first = numbers(trained(tmp_path, 1).params)
    last = trained(tmp_path, 2)
    for name, start in START.items():
        once = 0.1 * start + 0.9 * first[name]
        assert_close(numbers(last.average)[name], 2 / 11 * once + 9 / 11 * numbers(last.params)[name])


LOGS = {
    "empty": ("", "must begin with a header"),
    "no header": ('{"step": 1}\n', "must begin with a header"),
    "no record": ('{"header": {}}\n{"loss": 1}\n', "line 2 of .* must be the record of a step"),
    "no JSON": ('{"header": {}}\nloss 1\n', "line 2 of .* isn't JSON"),
}


@pytest.mark.parametrize("case", LOGS)
def test_metrics_that_arent_ours_are_one_sentence(tmp_path, case):
    content, sentence = LOGS[case]
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        record.read(tmp_path)


def test_a_run_that_goes_on_as_another_is_refused(tmp_path):
    trained(tmp_path, 2, identity={"optimiser.lr": 0.1, "data.batch_size": 2})
    with pytest.raises(ValueError, match=r"is of a run with optimiser\.lr = 0\.1, not 0\.2; go on as it began"):
        trained(tmp_path, 3, identity={"optimiser.lr": 0.2, "data.batch_size": 2})
    assert trained(tmp_path, 3, identity={"optimiser.lr": 0.1, "data.batch_size": 2}).step == 3


def test_a_second_process_in_the_folder_is_refused(tmp_path):
    def start_another(now, metrics):
        with pytest.raises(ValueError, match="another process trains in"):
            trained(tmp_path, 2)

    trained(tmp_path, 1, on_step=start_another)


def test_an_update_that_fails_half_way_is_not_saved(tmp_path):
    """Its parameters are those of the next step already, and its moments are not."""
    saved = trained(tmp_path, 2, save_every_minutes=0)
    file = (tmp_path / "state.safetensors").read_bytes()

    def rate(i: int) -> float:
        return 0.1 if i < 1 else 1 / 0

    broken = optim.chain(optim.adamw(0.1), optim.scale_by_learning_rate(rate))
    one, start = step.make(quadratic, broken), state.init(tensors(START), broken, rng.key(7))
    with pytest.raises(ZeroDivisionError):
        loop.run(one, start, lambda i: Tensor(normal(i, 2, 3, 4)), tmp_path / "b", steps=3, progress=False)
    assert not (tmp_path / "b" / "state.safetensors").exists()
    assert saved.step == 2 and (tmp_path / "state.safetensors").read_bytes() == file


def test_what_was_saved_before_a_nan_is_kept(tmp_path):
    trained(tmp_path, 2)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(step.NotFinite):
        trained(tmp_path, 6, lambda i: Tensor(normal(i, 2, 3, 4) * (np.nan if i == 3 else 1)))
    assert (tmp_path / "state.previous.safetensors").read_bytes() == before
    assert state.restore(tmp_path / "state.safetensors", begin()).step == 3


def test_a_second_nan_leaves_what_was_kept(tmp_path):
    trained(tmp_path, 2)
    before = (tmp_path / "state.safetensors").read_bytes()
    for _ in range(2):
        with pytest.raises(step.NotFinite):
            trained(tmp_path, 6, lambda i: Tensor(normal(i, 2, 3, 4) * (np.nan if i == 3 else 1)))
    assert (tmp_path / "state.previous.safetensors").read_bytes() == before


@pytest.mark.parametrize("also", ["links", "copies"])
def test_a_nan_is_told_where_nothing_can_be_linked(tmp_path, monkeypatch, also):
    """As on some network drives; and on a full disk a copy can't be made either."""

    def refused(*paths, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    if also == "copies":
        monkeypatch.setattr("shutil.copy2", refused)
    trained(tmp_path, 2)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(step.NotFinite, match=r"holds the state before this step"):
        trained(tmp_path, 6, lambda i: Tensor(normal(i, 2, 3, 4) * (np.nan if i == 3 else 1)))
    previous = tmp_path / "state.previous.safetensors"
    assert previous.read_bytes() == before if also == "links" else not previous.exists()
    assert state.restore(tmp_path / "state.safetensors", begin()).step == 3


def test_numbers_of_a_state_come_back_as_they_were(tmp_path):
    now = begin().replace(times={"seen": False, "so far": True, "best": -0.0, "count": -3})
    state.save(tmp_path / "state.safetensors", now)
    found = state.restore(tmp_path / "state.safetensors", now).times
    assert repr(found) == repr(now.times)
