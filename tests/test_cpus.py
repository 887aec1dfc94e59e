"""The choice of CPUs: all of them alone, and those that others leave otherwise."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn.process import cpus
from pixart_fn.process.cpus import Usage, choose
from pixart_fn.process.lock import lock


def look(busy, own, chosen, turn=0, ended=0.0):
    """`choose` after one second in which each CPU was busy, and this process's threads used the CPUs, so long.

    ended: the seconds of threads that have ended meanwhile.
    """
    nothing = Usage(0.0, dict.fromkeys(range(len(busy)), 5.0), 3.0, {})
    process = 3.0 + sum(seconds for seconds, _ in own) + ended
    after = Usage(1.0, {k: 5.0 + seconds for k, seconds in enumerate(busy)}, process, dict(enumerate(own)))
    return choose(nothing, after, chosen, turn)


def test_alone_it_has_all_cpus():
    assert look([0.9, 0.8], [(0.9, 0), (0.8, 1)], (0, 1)) == (0, 1)
    assert look([0.9, 0.2], [(0.9, 0)], (0,)) == (0, 1)  # the neighbour has gone, but for a little


def test_beside_a_neighbour_it_withdraws():
    assert look([1.0, 1.0], [(1.0, 0), (0.1, 1)], (0, 1)) == (0,)
    assert look([1.0, 1.0], [(0.1, 0), (1.0, 1)], (0, 1)) == (1,)
    assert look([1.0, 1.0, 1.0, 0.0], [(1.0, 0)], (0, 1, 2, 3)) == (0, 3)


def test_a_thread_that_moved_between_cpus_is_no_neighbour():
    assert look([0.5, 0.5], [(1.0, 1)], (0, 1)) == (0, 1)


def test_a_thread_that_has_ended_is_no_neighbour():
    assert look([0.9, 0.9], [(0.9, 0)], (0, 1), ended=0.9) == (0, 1)
    assert look([1.0, 1.0], [(0.3, 0)], (0, 1), ended=0.2) in {(0,), (1,)}  # a neighbour has the rest


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 7)), max_size=4),
    st.integers(0, 10**6),
    st.floats(0, 2),
)
def test_it_always_chooses_at_least_one_of_its_cpus(busy, own, turn, ended):
    n = len(busy)
    chosen = look(busy, [(seconds, cpu % n) for seconds, cpu in own], tuple(range(n)), turn, ended)
    assert chosen and set(chosen) <= set(range(n)) and list(chosen) == sorted(chosen)


@pytest.mark.parametrize("turns", [(0, 1), (0, 2), (7, 7)])
def test_two_processes_settle_on_different_cpus_and_stay(turns):
    chosen = [(0, 1), (0, 1)]
    for round in range(12):
        i, other = round % 2, 1 - round % 2  # one looks, then the other
        load = [[1 / len(each) if k in each else 0.0 for k in (0, 1)] for each in chosen]
        busy = [min(sum(both), 1.0) for both in zip(*load, strict=True)]
        share = [busy[k] * load[i][k] / (load[i][k] + load[other][k] or 1) for k in (0, 1)]
        chosen[i] = look(busy, [(share[k], k) for k in (0, 1)], chosen[i], turns[i])
    assert sorted(chosen) == [(0,), (1,)]


def test_cpus_that_a_container_numbers_otherwise_are_left_alone(monkeypatch):
    monkeypatch.setattr(cpus, "workers", lambda: [1, 2])
    monkeypatch.setattr(cpus, "_usage", lambda own: Usage(0.0, {0: 1.0}, 0.0, {}))
    monkeypatch.setattr(cpus._STATE, "usage", None)
    monkeypatch.setattr(cpus._STATE, "chosen", ())
    cpus._look([4, 7])
    assert cpus._STATE.chosen == () and cpus._STATE.usage is None


class Machine:
    """Two CPUs, on which this process computes with two workers beside a neighbour that takes CPU 1 at times."""

    def __init__(self, monkeypatch):
        self.now, self.busy, self.own, self.cpus, self.placed = 100.0, [0.0, 0.0], 0.0, {0, 1}, {}
        monkeypatch.setattr(cpus, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(cpus, "workers", lambda: [1, 2])
        monkeypatch.setattr(cpus, "_place", lambda thread, cpus: self.placed.update({thread: set(cpus)}))
        monkeypatch.setattr(cpus, "_usage", lambda _: self.usage())
        monkeypatch.setattr(cpus, "_STATE", cpus._State())
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: self.cpus, raising=False)
        monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)

    def usage(self):
        busy = dict(zip(sorted(self.cpus), self.busy, strict=True))
        return Usage(self.now, busy, self.own, {1: (self.own, min(self.cpus))})

    def pass_by(self, seconds, own, neighbour):
        self.now += seconds
        self.own += own * seconds
        self.busy[0] += own * seconds
        self.busy[1] += neighbour * seconds

    def compute(self, times, block, pause=0.0, beside=0.0, between=0.0):
        """Compute for some seconds with pauses after them; return how many CPUs each block has.

        beside, between: the share of CPU 1 that the neighbour takes meanwhile, and in the pauses.
        """
        had = []
        for _ in range(times):
            with cpus.shared():
                had.append(len(cpus._STATE.chosen))
                self.pass_by(block, 1.0, beside)
            self.pass_by(pause, 0.0, between)
        return had


@pytest.mark.parametrize(("block", "pause"), [(0.1, 0.0), (0.1, 0.02), (1.0, 1.0), (10.0, 0.6), (10.0, 60.0)])
def test_beside_a_neighbour_that_stays_it_withdraws_after_a_second(block, pause, monkeypatch):
    machine = Machine(monkeypatch)
    had = machine.compute(30, block, pause, beside=1.0, between=1.0)
    settled = 1 + round(1.0 / block)
    assert had[0] == 2 and set(had[settled:]) == {1}
    machine.compute(12, 0.1)
    assert machine.compute(1, 0.1) == [2]  # the neighbour has gone


@pytest.mark.parametrize(("block", "pause"), [(0.1, 0.45), (0.3, 0.3), (1.0, 1.4), (10.0, 60.0)])
def test_a_neighbour_that_computes_in_turns_with_it_is_left_nothing(block, pause, monkeypatch):
    assert set(Machine(monkeypatch).compute(30, block, pause, between=1.0)) == {2}


def test_after_a_pause_in_which_the_neighbour_went_it_has_all_cpus(monkeypatch):
    machine = Machine(monkeypatch)
    assert machine.compute(20, 0.1, beside=1.0)[-1] == 1
    machine.pass_by(60, 0.0, 0.0)
    assert machine.compute(1, 0.1) == [2]


def test_other_cpus_are_no_error_and_more_cpus_are_left_to_the_system(monkeypatch):
    machine = Machine(monkeypatch)
    assert machine.compute(20, 0.1, beside=1.0)[-1] == 1
    machine.cpus, machine.now = {2, 3}, machine.now + 1
    assert machine.compute(1, 0.1) == [2] and (machine.placed[1], machine.placed[2]) == ({2}, {3})
    machine.compute(20, 0.1, beside=1.0)
    machine.cpus, machine.now = {0, 1, 2, 3}, machine.now + 1
    assert machine.compute(1, 0.1) == [0] and machine.placed[1] == machine.placed[2] == {0, 1, 2, 3}


linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system doesn't say which CPUs there are")


@linux
def test_the_calling_thread_has_its_cpus_back_afterwards(monkeypatch):
    own = os.sched_getaffinity(0)
    monkeypatch.setattr(cpus, "_look", lambda _: None)
    monkeypatch.setattr(cpus._STATE, "chosen", (min(own),))
    with lock():
        assert os.sched_getaffinity(0) == {min(own)}
        with lock():
            assert os.sched_getaffinity(0) == {min(own)}
    assert os.sched_getaffinity(0) == own


@linux
def test_the_switch_leaves_all_to_the_operating_system(monkeypatch):
    own = os.sched_getaffinity(0)
    monkeypatch.setenv(cpus.SWITCH, "free")
    monkeypatch.setattr(cpus._STATE, "chosen", (min(own),))
    with lock():
        assert os.sched_getaffinity(0) == own
    monkeypatch.setenv(cpus.SWITCH, "mine")
    with pytest.raises(ValueError, match="PIXART_FN_CPUS must be 'shared' or 'free', got 'mine'"), lock():
        pass


@linux
@pytest.mark.parametrize("in_another", [False, True], ids=["in this thread", "in one that has ended"])
def test_what_is_used_is_read_from_the_system(in_another):
    def compute():
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    before = cpus._usage(sorted(os.sched_getaffinity(0)))
    if in_another:
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
        task = Path(f"/proc/self/task/{thread.native_id}")  # which the system takes away a little later
        while task.exists():
            time.sleep(0.001)
    else:
        compute()
    after = cpus._usage(sorted(os.sched_getaffinity(0)))
    used = sum(seconds - before.own.get(thread, (0.0, 0))[0] for thread, (seconds, _) in after.own.items())
    assert 0.1 < after.process - before.process < 1.0
    assert used < 0.1 if in_another else 0.1 < used < 1.0
    assert sum(after.busy.values()) - sum(before.busy.values()) > 0.1
