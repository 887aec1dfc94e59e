"""What the package warns of: shown at the user's line, collected in one thread, and silenced in several at once."""

from __future__ import annotations

import threading
import warnings

import pytest

from pixart_fn.process import notes


def asks() -> None:
    notes.warn("a sentence", stacklevel=2)


def test_a_warning_points_at_the_line_that_called():
    with pytest.warns(UserWarning, match="a sentence") as caught:
        asks()
    (found,) = caught
    assert found.filename == __file__


def test_what_is_collected_is_shown_nowhere_else_and_each_thread_has_its_own():
    others: list[str] = []

    def another() -> None:
        with notes.collected() as found:
            notes.warn("of another thread", stacklevel=1)
        others.extend(found)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with notes.collected() as mine:
            asks()
            thread = threading.Thread(target=another)
            thread.start()
            thread.join()
            asks()
    assert (mine, others) == (["a sentence"] * 2, ["of another thread"])
    with pytest.warns(UserWarning):
        asks()


def test_threads_that_are_silent_at_once_leave_the_filters_as_they_were():
    """Whoever comes first goes first here, which two blocks of `catch_warnings` would leave silent for good."""
    before, one, two = list(warnings.filters), notes.ignored(), notes.ignored()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn("unheard", UserWarning, stacklevel=1)
    assert not caught
    two.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.warns(UserWarning):
        asks()
