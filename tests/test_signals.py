"""Ctrl-C and SIGTERM: a KeyboardInterrupt while something computes, and Python's own handlers at all other times."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import tiny
from helpers.handlers import BOTH, POSIX, handled
from jupyter_client.manager import AsyncKernelManager, start_new_async_kernel

import pixart_fn as px
from pixart_fn.process.lock import lock
from pixart_fn.process.signals import stoppable

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

pytestmark = POSIX


def draw():
    return px.generate(tiny.params(), "a cat", px.key(0), steps=3, output="numpy", progress=False)


@BOTH
def test_a_signal_while_it_computes_is_a_keyboard_interrupt_and_work_goes_on(number):
    whole = draw()

    def hit(info):
        with lock():  # as within a stage
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        px.generate(tiny.params(), "a cat", px.key(0), steps=3, progress=False, on_step=hit)
    assert np.array_equal(draw(), whole)


def double(x):
    return x + x


@pytest.mark.parametrize("own", [False, True])
def test_afterwards_the_handlers_are_those_from_before(own):
    if own:  # a graph of the caller's, which leaves a handler of MindSpore's
        ms.jit(double)(ms.Tensor([1.0]))
    draw()
    # MindSpore's own, which a graph leaves behind, would send a SIGTERM instead
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_a_handler_of_the_users_stays():
    with handled(signal.SIGTERM) as got, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert got == [signal.SIGTERM]


@BOTH
def test_a_handler_of_ctrl_c_of_the_users_gets_both(number):
    with handled(signal.SIGINT) as got:
        with lock():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        assert got == [signal.SIGINT]


# a later compilation, in the thread, would have Python forget which exception ended the script
WORKER = """
import threading, time
import pixart_fn as px
from pixart_fn.backend import jit
jit.FIRST_CALLS = 0
params = px.load()

def draw():
    while not stop.is_set():
        px.generate(params, "a cat", px.key(0), steps=2, progress=False)
        print("drawn", flush=True)

stop = threading.Event()
threading.Thread(target=draw).start()
try:
    time.sleep(100)
finally:
    stop.set()
    print("cleaned up", flush=True)
"""
IDLE = """
import time
import pixart_fn as px
px.encode_prompt(px.load(), "a cat")
print("idle", flush=True)
time.sleep(100)
"""


@pytest.mark.slow
def test_a_script_cleans_up_while_another_thread_computes():
    printed, status = stopped([sys.executable, "-c", WORKER], "drawn", signal.SIGTERM)
    assert "cleaned up" in printed and "KeyboardInterrupt" in printed and status == -signal.SIGINT


@pytest.mark.slow
def test_a_process_that_computes_nothing_ends_by_sigterm_as_any_other():
    assert stopped([sys.executable, "-c", IDLE], "idle", signal.SIGTERM)[1] == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.7, 1.2])
def test_the_command_can_be_interrupted_while_it_imports(seconds, tmp_path):
    words = ["generate", "a cat", "--out", str(tmp_path / "cat.png")]
    process = subprocess.Popen([sys.executable, "-m", "pixart_fn", *words], stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and "Traceback" not in process.stderr.read()


SCRIPT = """
import sys
import pixart_fn as px
params = px.load()
try:
    while True:
        px.generate(params, "a cat", px.key(0), steps=2, progress=False)
        print("drawn", flush=True)
finally:
    print("cleaned up", flush=True)
"""


def stopped(command, after, number):
    """Run a command, send the signal when a line contains `after`, and return what it printed and its status."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if after in line and number:
            time.sleep(0.2)
            process.send_signal(number)
            number = None
    return "".join(lines), process.wait(60)


@pytest.mark.slow
def test_a_script_cleans_up():
    printed, status = stopped([sys.executable, "-c", SCRIPT], "drawn", signal.SIGINT)
    assert "cleaned up" in printed and "KeyboardInterrupt" in printed
    assert status == -signal.SIGINT  # as a script of Python's ends after Ctrl-C


@pytest.mark.slow
@BOTH
def test_the_command_ends_with_130_and_leaves_no_file(number, tmp_path):
    words = ["generate", "a cat", "--n", "200", "--size", "64", "--steps", "2", "--out", str(tmp_path / "cat.png")]
    printed, status = stopped([sys.executable, "-m", "pixart_fn", *words], "cat-0.png", number)
    assert status == 130, printed
    assert "Traceback" not in printed
    assert all(path.suffix == ".png" and not path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.mark.slow
def test_a_notebooks_kernel_lives():
    async def run():
        manager, client = await start_new_async_kernel()
        try:
            return await cells(manager, client)
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    async def cells(manager: AsyncKernelManager, client):
        await client.execute_interactive("import pixart_fn as px\nparams = px.load()", timeout=120)
        draw = "px.generate(params, 'a cat', px.key(0), steps=2, progress=False)"
        await client.execute_interactive(draw, timeout=120)
        endless = asyncio.ensure_future(client.execute_interactive(f"while True: {draw}", timeout=120))
        await asyncio.sleep(2)
        await manager.interrupt_kernel()
        interrupted = await endless
        again = await client.execute_interactive(draw, timeout=120)
        return interrupted["content"].get("ename"), again["content"]["status"]

    assert asyncio.run(run()) == ("KeyboardInterrupt", "ok")
