"""Blocks whose end signals wait for: none is lost, each is handled once, and the handlers from before come back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers.handlers import BOTH, POSIX, handled

from pixart_fn.process.signals import _action, deferred, stoppable

pytestmark = POSIX
FLAGS = slice(136, 140)  # of a struct sigaction of Linux, behind the handler and the mask


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
