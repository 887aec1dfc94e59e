"""Timesteps: by hand, those of diffusers, one step, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.strategies import schedules
from hypothesis import given
from hypothesis import strategies as st

from pixart_fn import schedule, solvers

LINEAR = schedule.from_betas(schedule.linear())


def test_the_twenty_timesteps_of_pixart():
    assert schedule.timesteps(LINEAR, 20).tolist() == [*range(999, 500, -50), *range(500, 0, -50)]


@pytest.mark.parametrize(
    ("spacing", "steps", "offset", "skip_zero", "expected"),
    [
        ("leading", 4, 0, False, [750, 500, 250, 0]),
        ("leading", 4, 1, False, [751, 501, 251, 1]),
        ("leading", 4, 1, True, [801, 601, 401, 201]),
        ("trailing", 3, 0, False, [999, 666, 332]),
        ("leading", 3, 0, True, [750, 500, 250]),
        ("linspace", 2, 0, False, [999, 0]),
        ("linspace", 2, 0, True, [999, 500]),
        ("linspace", 3, 0, False, [999, 500, 0]),
    ],
)
def test_spacings_by_hand(spacing, steps, offset, skip_zero, expected):
    assert schedule.timesteps(LINEAR, steps, spacing, offset=offset, skip_zero=skip_zero).tolist() == expected


@pytest.mark.parametrize("spacing", schedule.SPACINGS)
@pytest.mark.parametrize("skip_zero", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_one_step_is_the_noisiest_time(spacing, skip_zero, whole):
    """From pure noise no other time is right."""
    options = {"skip_zero": skip_zero, "whole": whole}
    t = schedule.timesteps(LINEAR, 1, spacing, offset=1, **options)
    assert t.tolist() == [999] and t.dtype == (np.int64 if whole else np.float64)
    cosine = schedule.from_betas(schedule.squaredcos_cap_v2())
    (t,) = schedule.timesteps(cosine, 1, spacing, lam_min=-5.1, **options).tolist()
    assert cosine.lam(float(t)) >= -5.1 > cosine.lam(float(t + 1))


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"steps": 2.5}, TypeError, "steps of linspace spacing must be a whole number, got a float"),
        ({"steps": True}, TypeError, "steps of linspace spacing must be a whole number, got True"),
        ({"steps": 5, "offset": 0.5}, TypeError, r"offset \(steps_offset\) must be a whole number, got a float"),
        ({"steps": 5, "offset": -1}, ValueError, r"offset \(steps_offset\) must be at least 0, got -1"),
        ({"steps": 5, "lam_min": math.nan}, ValueError, r"lam_min must be within \[-inf, 4\.60512\], got nan"),
        ({"steps": 5, "lam_min": 4.7, "spacing": "trailing"}, ValueError, "lam_min must be within .*, got 4.7"),
        ({"steps": 1001, "spacing": "trailing"}, ValueError, "steps of trailing spacing must be 1 … 1000, got 1001"),
    ],
)
def test_what_makes_no_timesteps(options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        schedule.timesteps(LINEAR, **options)


@pytest.mark.parametrize(("offset", "steps"), [(1, 1000), (100, 10)])
def test_an_offset_keeps_within_the_training_times(offset, steps):
    sentence = rf"offset \(steps_offset\) must keep the times within \[0, 999\]; with {offset}, {steps} steps go from"
    with pytest.raises(ValueError, match=sentence):
        schedule.timesteps(LINEAR, steps, "leading", offset=offset, skip_zero=False)
    assert len(schedule.timesteps(LINEAR, 10, "leading", offset=99, skip_zero=False)) == 10


@given(schedules(), st.sampled_from(schedule.SPACINGS), st.booleans(), st.integers(1, 100))
def test_timesteps_fall_within_the_training_times(noise, spacing, skip_zero, steps):
    t = schedule.timesteps(noise, steps, spacing, skip_zero=skip_zero)
    assert t.dtype == np.int64 and t.shape == (steps,)
    assert np.all(np.diff(t) < 0) and t[0] < noise.steps and t[-1] >= 0


def test_every_possible_number_of_steps():
    for spacing in schedule.SPACINGS:
        for skip_zero in (False, True):
            most = 1000 if spacing == "trailing" else 1000 - skip_zero
            for steps in range(1, most + 1, 1 if spacing == "trailing" else 37):
                t = schedule.timesteps(LINEAR, steps, spacing, skip_zero=skip_zero)
                assert len(t) == steps and np.all(np.diff(t) < 0) and t[-1] >= 0


@pytest.mark.parametrize("steps", [0, -1, 1000])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=rf"steps of linspace spacing must be 1 … 999, got {steps}"):
        schedule.timesteps(LINEAR, steps)


def test_lowest_lambda_cuts_the_noisy_end_off():
    cosine = schedule.from_betas(schedule.squaredcos_cap_v2())
    t = schedule.timesteps(cosine, 10, lam_min=-5.1)
    assert cosine.lam(float(t[0])) >= -5.1 > cosine.lam(float(t[0] + 1))


def test_the_authors_times_are_fractions():
    """PixArt's own DPM-Solver: 999 - 49.95 k, down to t = 0 with what noise is left there."""
    t = schedule.timesteps(LINEAR, 20, whole=False)
    np.testing.assert_allclose(t, 999 - 49.95 * np.arange(20), rtol=1e-14)
    grid = schedule.grid(LINEAR, t, final="sigma_min")
    assert grid.t[-1] == 0 and grid.sigma[-1] == LINEAR.sigma(0)


@pytest.mark.reference
def test_timesteps_are_those_of_diffusers():
    """Every class, spacing and offset; up to 1000 steps in strides."""
    diffusers = pytest.importorskip("diffusers")
    for name in ("DPMSolverMultistepScheduler", "DDIMScheduler", "DDPMScheduler"):
        for spacing in schedule.SPACINGS:
            for offset in (0, 1):
                options = {"timestep_spacing": spacing, "steps_offset": offset, "clip_sample": False}
                if name.startswith("DPM"):
                    del options["clip_sample"]
                theirs = getattr(diffusers, name)(**options)
                make_grid = solvers.from_config({"_class_name": name, **options}).make_grid
                # Over 900 steps of "leading" with an offset leave [0, T - 1]; diffusers fails at the first of them.
                for steps in (*range(2, 101), *range(101, 900, 23)):  # one step is the test above's
                    theirs.set_timesteps(steps)
                    expected = theirs.timesteps.numpy()
                    if expected[-1] == -1:  # the rounding of arange adds a time before the first in "trailing"
                        expected = expected[:-1]
                    assert make_grid(steps).t[:-1].tolist() == expected.tolist(), (name, spacing, offset, steps)
