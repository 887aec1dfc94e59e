"""Align Your Steps: the tables against the times that were published beside them, and steps between their nodes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn import schedule

PIXART = schedule.from_betas(schedule.linear())
STABLE_DIFFUSION = schedule.from_betas(schedule.scaled_linear(1000, 0.00085, 0.012))
TIMES = {
    "sd": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
    "sdxl": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
}


@pytest.mark.parametrize("table", TIMES)
def test_the_tables_lie_at_the_published_times(table):
    """The authors name times of Stable Diffusion's schedule too; ρ to three digits lies within one of them."""
    grid = schedule.rho_grid(STABLE_DIFFUSION, schedule.ays(STABLE_DIFFUSION, 10, table))
    assert np.abs(grid.t[:-1] - TIMES[table]).max() < 1
    assert tuple(schedule.ays(PIXART, 10, table)[1:].round(12)) == schedule.AYS[table][1:-1]


@pytest.mark.parametrize("noise", [PIXART, STABLE_DIFFUSION, schedule.from_betas(schedule.squaredcos_cap_v2())])
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 33, 1000])
def test_any_schedule_and_any_number_of_steps(noise, steps):
    """The authors' interpolation restated: log ρ, from the clean end, at equal distances of the place in the table."""
    nodes = np.array([noise.rhos[-1], *schedule.AYS["sdxl"][1:-1], max(0.029, noise.rhos[0])])
    log = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, 11), np.log(nodes[::-1]))
    rhos = schedule.ays(noise, steps, "sdxl")
    assert_close(rhos, np.exp(log)[::-1][:-1])
    grid = schedule.rho_grid(noise, rhos)
    assert len(grid.t) == steps + 1 and grid.t[0] == 999 and (grid.alpha[-1], grid.sigma[-1]) == (1, 0)


def test_ends_of_one_s_own():
    rhos = schedule.ays(PIXART, 20, first=14.615, last=0.01)
    assert_close(rhos[:3], np.array([14.615, (14.615 * 6.475) ** 0.5, 6.475]))
    assert_close(rhos[-2:], np.array([0.152, 0.00152**0.5]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"table": "sd1"}, "table must be one of 'sd', 'sdxl', got 'sd1'"),
        (
            {"first": 6.0},
            r"first must be above 6.475 and last below 0.152, between which the table 'sd' lies, got 6 … 0.029",
        ),
        ({"last": 0.2}, r"first must be above 6.475 and last below 0.152, .* got 157.407 … 0.2"),
        ({"steps": 0}, "steps must be 1 … 1000000, got 0"),
    ],
)
def test_what_makes_no_grid(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        schedule.ays(PIXART, **{"steps": 10, **options})


@pytest.mark.reference
def test_the_tables_are_those_of_diffusers():
    from diffusers.schedulers import AysSchedules

    for table, name in (("sd", "StableDiffusion"), ("sdxl", "StableDiffusionXL")):
        assert [*schedule.AYS[table][:-1], 0.0] == AysSchedules[f"{name}Sigmas"]
        assert TIMES[table] == AysSchedules[f"{name}Timesteps"]
