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
    grid = schedule.rho_grid(STABLE_DIFFUSION, schedule.ays(STABLE_DIFFUSION, 10, table, last=0.029))
    assert np.abs(grid.t[:-1] - TIMES[table]).max() < 1
    assert_close(schedule.ays(PIXART, 10, table, first=14.615, last=0.029), np.array(schedule.AYS[table][:-1]))


@pytest.mark.parametrize("noise", [PIXART, STABLE_DIFFUSION, schedule.from_betas(schedule.squaredcos_cap_v2())])
@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 33, 1000])
def test_any_schedule_and_any_number_of_steps(noise, steps):
    """The authors' interpolation restated: log ρ, from the clean end, at equal distances of the place in the table."""
    nodes = np.log(schedule.AYS["sdxl"][::-1])
    log = np.interp(np.linspace(0, 1, steps + 1), np.linspace(0, 1, 11), nodes)[::-1]
    rhos = schedule.ays(noise, steps, "sdxl")
    assert_close(schedule.ays(noise, steps, "sdxl", first=14.615, last=0.029), np.exp(log)[:-1])
    line = np.polyfit(log, np.append(np.log(rhos), np.log(noise.rhos[0])), 1)
    assert_close(np.exp(np.polyval(line, log[:-1])), rhos)
    grid = schedule.rho_grid(noise, rhos)
    assert len(grid.t) == steps + 1 and grid.t[0] == 999 and (grid.alpha[-1], grid.sigma[-1]) == (1, 0)


def test_steps_between_the_nodes_by_hand():
    rhos = schedule.ays(PIXART, 20, first=14.615, last=0.029)
    assert_close(rhos[:3], np.array([14.615, (14.615 * 6.475) ** 0.5, 6.475]))
    assert_close(rhos[-2:], np.array([0.152, (0.152 * 0.029) ** 0.5]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"table": "sd1"}, "table must be one of 'sd', 'sdxl', got 'sd1'"),
        ({"first": 0.01}, "σ/α must fall from a finite first to a positive last, got 0.01 … "),
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
