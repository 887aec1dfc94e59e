"""Ctrl-C and SIGTERM: a KeyboardInterrupt while something computes, and Python's own handlers at all other times."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import tiny
from jupyter_client.manager import AsyncKernelManager, start_new_async_kernel

import pixart_fn as px
from pixart_fn.process.lock import lock
from pixart_fn.process.signals import _action, deferred, stoppable

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
FLAGS = slice(136, 140)  # of a struct sigaction of Linux, behind the handler and the mask
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


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


@contextlib.contextmanager
def handled(number):
    """Set a handler that remembers what it gets, and set the one from before in the end."""
    got = []
    before = signal.signal(number, lambda number, frame: got.append(number))
    try:
        yield got
    finally:
        signal.signal(number, before)


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


@BOTH
def test_what_is_short_is_finished_first(number):
    finished = []
    with pytest.raises(KeyboardInterrupt), stoppable():
        with deferred():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            finished.append(True)
        pytest.fail("nothing was raised")
    assert finished and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_the_users_wait_too_and_each_is_called_once():
    called = []

    def stop(number, frame):
        called.append(number)
        assert frame.f_code is not None
        raise SystemExit(number)

    numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        with pytest.raises(SystemExit), stoppable():
            with deferred():
                for number in numbers * 2:
                    signal.raise_signal(number)
                assert not called
            pytest.fail("nothing was raised")
        assert called == numbers and all(signal.getsignal(number) is stop for number in numbers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_handler_that_the_block_sets_stays():
    def other(number, frame):
        raise AssertionError

    before = signal.getsignal(signal.SIGTERM)
    try:
        with deferred():
            signal.signal(signal.SIGTERM, other)
        assert signal.getsignal(signal.SIGTERM) is other
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_wait_once_the_block_says_so():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred() as waiting:
        try:
            waiting.off()
            signal.raise_signal(signal.SIGINT)
            done.append("not reached")
        finally:
            waiting.on = True
            signal.raise_signal(signal.SIGINT)
            done.append("cleaned up")
    assert done == ["cleaned up"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


@contextlib.contextmanager
def raising(*numbers):
    """Set handlers that note each signal and raise, and set those from before in the end."""
    got = []

    def handle(number, frame):
        got.append(number)
        raise InterruptedError(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield got, handle
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_while_handlers_are_put_back_leaves_those_from_before_and_loses_none(monkeypatch):
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    real, left = signal.signal, [signal.SIGINT]

    with raising(*numbers) as (got, handle):

        def interrupted(number, handler):
            found = real(number, handler)
            if handler is handle and number == signal.SIGINT and left:
                signal.raise_signal(left.pop())
            return found

        monkeypatch.setattr(signal, "signal", interrupted)
        with pytest.raises(InterruptedError), deferred():
            signal.raise_signal(signal.SIGUSR1)
        monkeypatch.undo()
        assert got == [signal.SIGUSR1, signal.SIGINT] and not left
        assert [signal.getsignal(number) for number in numbers] == [handle] * 3


@pytest.mark.parametrize("cleans", [False, True])
def test_signals_at_any_time_leave_the_handlers_from_before_and_are_all_handled(cleans):
    numbers, random, got, state = [signal.SIGALRM, signal.SIGUSR1], np.random.default_rng(0), [], {"raises": False}
    kept, sent, cleaned = [], 0, 0

    def handle(number, frame):
        got.append(number)
        if state["raises"]:
            raise InterruptedError(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        for _ in range(3000):
            try:
                state["raises"] = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))
                with deferred() as waiting:
                    try:
                        if cleans:
                            waiting.off()
                        sent += 1
                        signal.raise_signal(signal.SIGUSR1)
                    finally:
                        waiting.on = True
                        cleaned += 1
                state["raises"] = False
            except InterruptedError as error:
                state["raises"] = False
                kept.append(error)  # as a notebook does, with all that its frames hold
            while signal.getitimer(signal.ITIMER_REAL)[0]:
                time.sleep(1e-5)
            assert [signal.getsignal(number) for number in numbers] == [handle] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert got.count(signal.SIGALRM) == 3000 and cleaned >= sent > 1000 and len(kept) > 1000
    # where signals don't wait, one that raises may come as the handler of another begins, as ever in Python
    assert got.count(signal.SIGUSR1) == sent or (cleans and got.count(signal.SIGUSR1) > 0.9 * sent)


def test_a_process_that_is_forked_inside_a_block_gets_its_signals():
    def leave(number, frame):
        os._exit(7)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with deferred():
            if (process := os.fork()) == 0:
                signal.raise_signal(signal.SIGTERM)
                os._exit(0)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7


def test_what_ended_the_block_is_told_beside_the_signal():
    with pytest.raises(KeyboardInterrupt) as raised, deferred():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the disk is full")
    assert isinstance(raised.value.__context__, ValueError)


def test_flags_of_the_system_stay():
    with handled(signal.SIGALRM):
        signal.siginterrupt(signal.SIGALRM, False)
        before = _action(signal.SIGALRM).raw[FLAGS]
        with deferred():
            assert _action(signal.SIGALRM).raw[FLAGS] != before
        assert _action(signal.SIGALRM).raw[FLAGS] == before


ANSWERED = """
import signal
from pixart_fn.process.signals import deferred, prepare
prepare()
try:
    with deferred(), deferred():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    print("interrupted", flush=True)
signal.signal(signal.SIGINT, lambda *_: None)
with deferred():
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
print("still there", flush=True)
"""


def test_a_sigterm_that_may_be_mindspores_answer_to_ctrl_c_ends_no_process_and_one_before_it_does():
    process = subprocess.run([sys.executable, "-c", ANSWERED], stdout=subprocess.PIPE, text=True, check=False)
    assert (process.stdout, process.returncode) == ("interrupted\n", -signal.SIGTERM)


def test_other_threads_change_no_handler():
    before, seen = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)), []

    def work():
        with stoppable(), deferred():
            seen.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


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
