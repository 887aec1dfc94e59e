"""What each check lets through and what it says: nothing else decides what an option may be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pixart_fn.checks import check_number, check_option, check_whole, kind


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_numbers_within_a_range(value):
    check_number("eta", value, 0, 1)


@pytest.mark.parametrize(
    ("value", "options", "sentence"),
    [
        (1.5, (0, 1), r"eta must be within \[0, 1\], got 1.5"),
        (-0.1, (0, 1), r"eta must be within \[0, 1\], got -0.1"),
        (math.nan, (0, 1), r"eta must be within \[0, 1\], got nan"),
        (-1, (0,), "eta must be a finite number of at least 0, got -1"),
        (math.inf, (0,), "eta must be a finite number of at least 0, got inf"),
        (math.nan, (0, math.inf), "eta must be a number of at least 0, got nan"),
        (math.inf, (), "eta must be a finite number, got inf"),
        (-math.inf, (), "eta must be a finite number, got -inf"),
    ],
)
def test_numbers_outside_a_range(value, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        check_number("eta", value, *options)


def test_an_open_end_is_outside():
    check_number("first", 1e-300, 0, above=True)
    check_number("last", math.inf, 0, math.inf)
    with pytest.raises(ValueError, match=r"^first must be a finite number above 0, got 0$"):
        check_number("first", 0, 0, above=True)
    with pytest.raises(ValueError, match=r"^quantile must be within \(0, 1\], got 0$"):
        check_number("quantile", 0, 0, 1, above=True)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0.5", "'0.5'"),
        (True, "True"),
        (None, "None"),
        ([0.5], "a list"),
        (np.ones(2), "an ndarray"),
        (1j, "a complex"),
    ],
)
def test_what_is_no_number(value, said):
    assert kind(value) == said
    with pytest.raises(TypeError, match=f"^eta must be a number, got {said}$"):
        check_number("eta", value, 0, 1)
    with pytest.raises(TypeError, match=f"^order must be a whole number, got {said}$"):
        check_whole("order", value, 1, 3)


@pytest.mark.parametrize(
    ("value", "options", "sentence"),
    [
        (0, (1, 3), "order must be 1, 2 or 3, got 0; the nearest is 1"),
        (4, (1, 3), "order must be 1, 2 or 3, got 4; the nearest is 3"),
        (4, (2, 3), "order must be 2 or 3, got 4; the nearest is 3"),
        (5, (1, 4), "order must be 1 … 4, got 5; the nearest is 4"),
        (0, (1,), "order must be at least 1, got 0"),
    ],
)
def test_whole_numbers_outside_a_range(value, options, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        check_whole("order", value, *options)


def test_whole_numbers_within_a_range():
    for value in (1, np.int32(2), 3):
        check_whole("order", value, 1, 3)
    check_whole("order", 10**30, 1)
    with pytest.raises(TypeError, match="order must be a whole number, got a float"):
        check_whole("order", 2.0, 1, 3)


@pytest.mark.parametrize("value", [None, [], ["a"], {}, np.array(["a", "b"]), 0, "A"])
def test_options_are_strings(value):
    check_option("final", "a", ("a", "b"))
    with pytest.raises(ValueError, match="final must be one of 'a', 'b', got "):
        check_option("final", value, ("a", "b"))
