"""Plots: what is drawn is what was given."""

from __future__ import annotations

import builtins
import math

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from pixart_fn import plots, schedule

matplotlib.use("Agg")
LINEAR = schedule.from_betas(schedule.linear())


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def lines(ax):
    return {line.get_label(): line.get_xydata() for line in ax.get_lines()}


def test_schedules():
    cosine = schedule.from_betas(schedule.squaredcos_cap_v2())
    pure = schedule.zero_terminal_snr(LINEAR)
    axes = plots.schedules({"linear": LINEAR, "cosine": cosine, "pure": pure})
    for ax, curve in zip(axes, ("alpha", "sigma", "lam"), strict=True):
        drawn = lines(ax)
        assert set(drawn) == {"linear", "cosine", "pure"}
        np.testing.assert_array_equal(drawn["cosine"][:, 1], getattr(cosine, curve)(np.arange(1000)))
    assert np.isnan(lines(axes[2])["pure"][-1, 1])  # λ = -∞


def test_grids():
    grid = schedule.grid(LINEAR, [900, 500, 100])
    axes = plots.grids({"mine": grid, "sigmas": schedule.rho_grid(LINEAR, schedule.karras(LINEAR, 5))})
    first = axes[0].get_lines()[0].get_xydata()
    np.testing.assert_array_equal(first, [[900, 0], [500, 0], [100, 0], [0, 0]])
    np.testing.assert_allclose(axes[1].get_lines()[0].get_xdata(), LINEAR.lam(grid.t[:-1]))
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["mine", "sigmas"]


def test_a_strip_of_pictures():
    pictures = np.random.default_rng(0).random((3, 4, 4, 3))
    axes = plots.strip({"x_t": pictures, "x0": pictures[:2]}, titles=["999", "500", "1"])
    assert axes.shape == (2, 3)
    np.testing.assert_array_equal(axes[0, 2].get_images()[0].get_array(), pictures[2])
    assert not axes[1, 2].get_images() and axes[0, 1].get_title() == "500" and axes[1, 0].get_ylabel() == "x0"


def test_work():
    ax = plots.work({"heun": [(20, 0.1), (10, 0.4)], "ddim": [(10, 0.5)]})
    np.testing.assert_array_equal(lines(ax)["heun"], [[10, 0.4], [20, 0.1]])
    assert ax.get_yscale() == "log" and plots.work({"a": [(1, 0.3)]}, ylabel="R@1").get_yscale() == "linear"


def test_without_matplotlib_a_sentence_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install '\.\[notebooks\]'"):
        plots.work({})


def records(losses, **more):
    return [
        {"step": i + 1, "loss": loss, "norm": 1.0, "examples_per_second": 3.0, **more} for i, loss in enumerate(losses)
    ]


HARD = ["$^$", "_private", "a $b$ c", "猫"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_texts_whatever_they_hold(tmp_path):
    """No formula, and none is left out of a legend."""
    named = {name: records([1.0, 0.5]) for name in HARD}
    noise = schedule.from_betas(schedule.linear())
    drawn = [
        plots.training(named)[0],
        plots.work({name: [(1, 0.5)] for name in HARD}),
        plots.schedules(dict.fromkeys(HARD, noise))[0],
    ]
    for ax in drawn:
        shown = [text.get_text().strip("\u200b").replace(r"\$", "$") for text in ax.get_legend().get_texts()]
        assert shown == HARD
    drawn += [
        plots.grids(dict.fromkeys(HARD, schedule.grid(noise, [500.0])))[0],
        plots.strip({name: np.ones((1, 2, 2, 3)) for name in HARD}, HARD)[0][0],
        plots.words(HARD, np.ones((4, 2, 2)))[0],
    ]
    for ax in drawn:
        ax.figure.savefig(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("numbers", [(10**400, 1.0), (1e308, -1e308), (0.0, -1.0), (math.inf, 1.0), (math.nan, 1.0)])
def test_numbers_of_any_size_are_drawn_or_left_out(tmp_path, numbers):
    named = [{"step": i, "loss": each, "norm": each} for i, each in enumerate(numbers)]
    plots.training({"a": named})[0].figure.savefig(tmp_path / "a.png")


def test_what_no_axis_holds_is_one_sentence():
    with pytest.raises(TypeError, match="must be a list of records of steps"):
        plots.training({"a": [{"step": 10**400}]})
    with pytest.raises(TypeError, match=r"must be a list of \(evaluations, value\)"):
        plots.work({"a": [(10**400, 1.0)]})
    with pytest.raises(ValueError, match="a point whose numbers are finite and above 0"):
        plots.work({"a": [(1, math.nan)], "b": [(0, 1.0)]})


def test_a_training():
    noisy = [1 + (-1) ** i * 0.5 for i in range(300)]
    axes = plots.training({"mine": records(noisy), "other": records([2.0, None, 2.0], norm=None)})
    pale, strong, other, straight = axes[0].get_lines()
    np.testing.assert_array_equal(pale.get_xydata(), [[i + 1, loss] for i, loss in enumerate(noisy)])
    assert strong.get_label() == "mine" and straight.get_label() == "other"
    average = strong.get_ydata()
    assert average[0] == 1.5 and abs(average[100:] - 1).max() < 0.06  # over ten steps
    assert np.isnan(other.get_ydata()[1]) and straight.get_ydata().tolist() == [2, 2, 2]
    assert np.isnan(axes[1].get_lines()[3].get_ydata()).all()
    assert [ax.get_title() for ax in axes] == ["loss", "gradient norm", "examples / s"]
    assert [ax.get_yscale() for ax in axes] == ["linear", "log", "linear"]
    assert axes[0].get_legend() and not plots.training({"one": records([1.0])})[0].get_legend()


def test_one_spike_of_a_training_doesn_t_flatten_the_rest():
    axes = plots.training({"mine": records([1e6, *np.linspace(2, 1, 999)])})
    assert axes[0].get_ylim()[1] < 1e6 and axes[0].get_ylim()[0] <= 1


def test_words_over_a_picture():
    maps, picture = np.random.default_rng(0).random((8, 4, 5)), np.random.default_rng(1).random((8, 10, 3))
    axes = plots.words(list("abcdefgh"), maps, picture)
    assert [ax.get_title() for ax in axes] == list("abcdefgh") and len(axes[0].figure.axes) == 8
    under, over = axes[7].get_images()
    np.testing.assert_allclose(under.get_array(), picture.mean(-1))
    np.testing.assert_array_equal(over.get_array(), maps[7])
    assert under.get_extent() == over.get_extent() == [0, 10, 8, 0]
    assert over.get_clim() == (0, maps[7].max()) and under.get_clim() == (0, 1) and over.get_alpha() < 1
    (alone,) = plots.words(["a"], np.zeros((1, 4, 5)))
    (over,) = alone.get_images()
    assert over.get_alpha() == 1 and over.get_clim() == (0, 1) and over.get_extent() == [0, 5, 4, 0]
    own = matplotlib.pyplot.subplots(1, 1)[1]
    assert plots.words(["a"], maps[:1], axes=[own]) == [own]
