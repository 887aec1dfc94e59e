"""Threads that share a call's work: all parts are done, errors come out, and they outlive the main thread."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pixart_fn.process.threads import shared


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_map_gives_each_part_in_order_by_at_most_so_many_threads(n):
    seen = set()
    with shared(n) as each:
        for parts in (range(40), range(1), range(0)):
            assert each(lambda i: (seen.add(threading.get_ident()), i * i)[1], parts) == [i * i for i in parts]
    assert len(seen) <= n and not [t for t in threading.enumerate() if t.ident in seen - {threading.get_ident()}]


def test_errors_of_any_thread_are_raised_and_the_next_map_works():
    with shared(3) as each:
        for bad in range(6):
            with pytest.raises(ZeroDivisionError):
                each(lambda i, bad=bad: 1 // (i - bad), range(6))
        assert each(str, range(3)) == ["0", "1", "2"]


def test_an_interrupted_caller_ends_the_others():
    done, caller = [], threading.get_ident()

    def f(i):
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        done.append(i)

    with shared(2) as each, pytest.raises(KeyboardInterrupt):
        each(f, range(10**6))
    assert len(done) < 10**6


SCRIPT = """
import atexit, threading, time
from pixart_fn.process.threads import shared

def work():
    time.sleep(0.2)
    with shared(2) as each:
        print(each(abs, [-1, -2, -3]))

threading.Thread(target=work).start()
atexit.register(work)
"""


def test_they_work_after_the_end_of_the_main_thread():
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert found.stdout == "[1, 2, 3]\n" * 2 and found.stderr == ""
