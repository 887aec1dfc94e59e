"""Threads: what computes at once gives what it gives alone, waits for the lock, and runs `on_step` without it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px
from pixart_fn.process.lock import _STATE, lock

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it


def calls(params):
    """Calls of every kind, each of which gives an array."""
    config, draw = params.config, np.random.default_rng(0)
    channels, f = config.vae.latent_channels, px.vae.factor(config.vae)
    small, large = (draw.standard_normal((1, channels, n, n)).astype(np.float32) for n in (4, 8))
    picture = draw.random((4 * f, 4 * f, 3)).astype(np.float32)
    text = px.encode_prompt(params, "a dog")

    def loss(p):
        y = px.transformer.apply(p, config.transformer, Tensor(small), Tensor(np.float32([400])), *text)
        return (y * y).mean()

    def gradients():
        return np.concatenate([g.asnumpy().ravel() for g in px.tree.leaves(px.grad(loss)(params.transformer))])

    return {
        "generate": lambda: px.generate(
            params, "a cat", px.key(3), steps=2, height=8 * f, width=8 * f, output="numpy", progress=False
        ),
        "decode a small one": lambda: px.decode_latents(params, small).asnumpy(),
        "decode a large one": lambda: px.decode_latents(params, large).asnumpy(),
        "encode": lambda: px.encode_image(params, picture).asnumpy(),
        "text": lambda: px.encode_prompt(params, ["a red apple", "two birds"]).states.asnumpy(),
        "gradients": gradients,
    }


def together(params, threads, each, wanted=""):
    """The names of the calls that gave another result in threads than alone; an exception goes through."""
    made = {name: call for name, call in calls(params).items() if name.startswith(wanted)}
    alone = {name: call() for name, call in made.items()}

    def work(i):
        names = random.Random(i).choices(list(made), k=each)
        return [name for name in names if not np.array_equal(made[name](), alone[name])]

    with ThreadPoolExecutor(threads) as pool:
        return [name for names in pool.map(work, range(threads)) for name in names]


def test_two_threads_give_what_one_gives():
    assert together(tiny.params(), 2, 20, "decode") == []


@pytest.mark.slow
def test_threads_of_the_embedded_checkpoint_give_what_one_gives():
    assert together(px.load(), 4, 12) == []


def is_free() -> bool:
    """Whether another thread could take the lock now."""

    def take():
        taken = _STATE.lock.acquire(blocking=False)
        if taken:
            _STATE.lock.release()
        return taken

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result()


def test_the_lock_is_free_in_on_step_and_in_the_body_of_a_loop_over_iterate():
    seen = []
    px.generate(tiny.params(), "a cat", px.key(0), steps=2, progress=False, on_step=lambda info: seen.append(is_free()))
    grid = px.solvers.from_config(tiny.params().config.scheduler).make_grid(2)
    seen += [is_free() for _ in px.iterate(px.key(0), lambda x, t: x, "euler", grid, np.ones((1, 2)))]
    assert seen == [True] * 4


def test_the_lock_is_held_in_a_denoiser_and_taken_twice_by_one_thread():
    grid, held = px.solvers.from_config(tiny.params().config.scheduler).make_grid(1), []

    def denoise(x, t):
        held.append(not is_free())
        return x

    px.sample(px.key(0), denoise, "euler", grid, np.ones((1, 2)))
    with lock():
        px.sample(px.key(0), denoise, "euler", grid, np.ones((1, 2)))
        held.append(not is_free())
    assert held == [True] * 3 and is_free()


def test_waiting_in_the_main_thread_can_be_interrupted():
    free, held = threading.Event(), threading.Event()

    def hold():
        with lock():
            held.set()
            free.wait(20)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with pytest.raises(KeyboardInterrupt), lock():
            pytest.fail("another thread holds the lock")
    finally:
        free.set()
        other.join()
    assert is_free()


def test_a_child_by_fork_says_at_once_that_it_cannot_compute():
    px.encode_prompt(tiny.params(), "a cat")  # or MindSpore has no workers yet
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            px.encode_prompt(tiny.params(), "a cat")
        except RuntimeError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        deadline = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        assert "forked" in said.read()


SPAWNED = """
import multiprocessing, sys
import pixart_fn as px
sys.path.insert(0, {helpers!r})
from helpers import tiny

def draw(seed):
    return float(px.generate(tiny.params(), "a cat", px.key(seed), steps=2, progress=False, output="numpy").sum())

if __name__ == "__main__":
    here = draw(0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(draw, [0, 0]) == [here, here]
    print("equal")
"""


@pytest.mark.slow
def test_spawned_processes_give_what_this_one_gives(tmp_path):
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED.format(helpers=os.path.dirname(__file__)), encoding="utf-8")
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "equal", result.stderr
