"""Recipes: every field is checked and means something, and those of the package are what the papers say."""

from __future__ import annotations

import dataclasses
import math

import pytest

from pixart_fn.train import recipe

GIVEN = {"data": {"path": "data"}, "run": {"out": "out"}}
CHANGES = {"data.path": "data", "run.out": "out"}
NAMES = list(recipe.names())
STAGES = [name for name in NAMES if name.startswith("pixart-")]


# --- what a recipe may say --------------------------------------------------------------------------------------------


def test_a_file_is_read_and_changed(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        '[data]\npath = "a"\n[run]\nout = "b"\nsteps = 5\n[samples]\nprompts = ["é"]\n[model]\ntrain = "lora"\n',
        "utf-8",
    )
    made = recipe.read(file, {"run.steps": 7, "lora.rank": 4})
    assert (made.run.steps, made.lora.rank, made.samples.prompts) == (7, 4, ("é",))
    content = {"data": {"path": "a"}, "run": {"out": "b", "steps": 7}, "samples": {"prompts": ["é"]}}
    assert made == recipe.make(content | {"lora": {"rank": 4}, "model": {"train": "lora"}})


WRONG = {
    "no path": ({"run": {"out": "b"}}, "the recipe must say data.path"),
    "no folder": ({"data": {"path": "a"}}, "the recipe must say run.out"),
    "section": ({"runs": {}}, "the recipe has no section 'runs'; the sections are model, lora, data, loss, "),
    "no section": ({"run": 3}, "run of the recipe must be a section of fields, got 3"),
    "field": ({"run": {"step": 3}}, "the recipe, [run] config: unknown field 'step' = 3 (nearest: 'steps')"),
    "kind": ({"run": {"steps": 2.5}}, "steps must be a whole number within 0 … 2147483648, got 2.5"),
    "range": ({"data": {"dropout": 1.5}}, "dropout must be a finite number within 0 … 1, got 1.5"),
    "NaN": ({"optimiser": {"clip": math.nan}}, "clip must be a finite number of at least 0, got nan"),
    "choice": ({"optimiser": {"name": "adam"}}, "name must be 'adamw' or 'lion' or 'came' or 'adafactor' or 'sgd'"),
    "a DiT unnamed": ({"model": {"init": "dit"}}, 'must say model.dit where model.init is "dit", and only there'),
    "a DiT unused": ({"model": {"dit": "x"}}, 'must say model.dit where model.init is "dit", and only there'),
    "an adapter of noise": ({"model": {"train": "lora", "init": "random"}}, 'needs model.init = "start"'),
    "LCM's weighting": (
        {"loss": {"kind": "lcm", "weighting": "snr"}},
        "loss.weighting of the recipe means nothing here",
    ),
    "LCM's average": ({"loss": {"kind": "lcm"}, "run": {"ema": 0}}, "needs a moving average: run.ema above 0"),
    "many sizes": ({"data": {"multiscale": True}}, "data.multiscale of the recipe means nothing here: it is for the a"),
    "a prior": ({"data": {"prior": "x", "kind": "sigma"}}, "needs a prepared folder as data.path too"),
    "no resolution": ({"data": {"kind": "sigma", **GIVEN["data"]}, "run": GIVEN["run"]}, "must say data.resolution, "),
    "sheets": ({"samples": {"every": 5}}, "the recipe must say samples.prompts where samples.every is above 0"),
    "parts": (
        {"run": {"accumulate": 3}},
        "data.batch_size of the recipe must be a multiple of 3 (run.accumulate), got 1",
    ),
    "an odd batch": (
        {"data": {"prior": "x", "batch_size": 3}},
        "must be a multiple of 2 (run.accumulate, twice since ",
    ),
    "a β of 1": ({"optimiser": {"b1": 1.0}}, "b1 must be None or a finite number within 0 … 1, below 1, got 1.0"),
}
MEANINGLESS = {  # a field, what makes it meaningless, and what else gives it a meaning
    "loss.learned_variance": (True, {"loss.kind": "lcm"}, {}),
    "loss.noise_offset": (0.1, {"loss.kind": "lcm"}, {}),
    "loss.times": ("uniform", {"loss.kind": "lcm"}, {}),
    "loss.gamma": (5.0, {"loss.weighting": "snr"}, {"loss.weighting": "min_snr"}),
    "loss.guidance": (5.5, {}, {"loss.kind": "lcm"}),
    "loss.ddim_steps": (50, {}, {"loss.kind": "lcm"}),
    "lora.rank": (16, {}, {"model.train": "lora"}),
    "lora.targets": (["to_q"], {}, {"model.train": "lora"}),
    "run.save": ("pipeline", {"model.train": "lora"}, {}),
    "model.transformer": ("x", {"model.train": "lora"}, {}),
    "model.sample_size": (64, {"model.train": "lora"}, {}),
    "model.interpolation_scale": (1.0, {"model.train": "lora"}, {}),
    "model.conditions": (False, {"model.train": "lora"}, {}),
    "data.resolution": (512, {}, {"data.kind": "alpha"}),
    "data.real_prompt_ratio": (1.0, {"data.kind": "alpha", "data.resolution": 512}, {"data.kind": "sigma"}),
    "data.prior_weight": (1.0, {}, {"data.prior": "class"}),
    "optimiser.b1": (0.9, {"optimiser.name": "sgd"}, {"optimiser.name": "adafactor"}),
    "optimiser.b2": (0.99, {"optimiser.name": "adafactor"}, {"optimiser.name": "lion"}),
    "optimiser.eps": (1e-8, {"optimiser.name": "came"}, {"optimiser.name": "adamw"}),
    "optimiser.momentum": (0.9, {"optimiser.name": "adamw"}, {"optimiser.name": "sgd"}),
}


@pytest.mark.parametrize("field", MEANINGLESS)
def test_a_field_that_means_nothing_is_one_sentence(field):
    """Also where it says what it would be anyway: who writes it believes that it does something."""
    value, wrong, right = MEANINGLESS[field]
    with pytest.raises(ValueError, match=rf"^{field} of small means nothing here: .*$"):
        recipe.read("small", {**CHANGES, **wrong, field: value})
    recipe.read("small", {**CHANGES, **(right and wrong), **right, field: value})


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(name):
    content, sentence = WRONG[name]
    if not name.startswith("no "):
        content = content | {section: {**GIVEN[section], **content.get(section, {})} for section in GIVEN}
    with pytest.raises(ValueError) as raised:
        recipe.make(content)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_field_of_the_file_can_be_taken_out():
    changes = {**CHANGES, "optimiser.name": "lion"}
    with pytest.raises(
        ValueError, match=r"optimiser\.eps of .* means nothing here: of these, .* \"lion\" takes b1, b2$"
    ):
        recipe.read("dreambooth", changes)
    made = recipe.read("dreambooth", {**changes, "optimiser.eps": None})
    assert (made.optimiser.name, made.optimiser.eps) == ("lion", None)
    assert recipe.read("small", {**CHANGES, "run.steps": None, "lora.rank": None}).run.steps == recipe.Run().steps


def test_a_mistaken_name_is_told_the_nearest(tmp_path):
    for name, near in {"run.stesp": "run.steps", "lr": "optimiser.lr", "samples.guidence": "samples.guidance"}.items():
        with pytest.raises(ValueError, match=f"a recipe has no field '{name}'; the nearest is '{near}'"):
            recipe.read("small", {**CHANGES, name: 1})
    with pytest.raises(FileNotFoundError, match="there is no recipe 'smal'; the nearest is 'small'"):
        recipe.read("smal")
    with pytest.raises(
        FileNotFoundError, match=r"there is no recipe 'xyz'; write a \.toml file, or take controlnet, dreambooth, "
    ):
        recipe.read("xyz")
    file = tmp_path / "a.toml"
    file.write_text("[run\n")
    with pytest.raises(ValueError, match=r"a\.toml isn't TOML: "):
        recipe.read(file)


def test_every_field_is_described():
    listed = {each.name: each for each in recipe.fields()}
    assert len(listed) == sum(len(dataclasses.fields(cls)) for cls in recipe.SECTIONS.values()) > 50
    assert all(each.help and each.kind for each in listed.values())
    assert listed["run.steps"].kind == "whole number within 0 … 2147483648"
    assert listed["optimiser.name"].kind == '"adamw", "lion", "came", "adafactor", "sgd"'
    assert (listed["model.start"].kind, listed["model.start"].text) == ("text", True)
    assert (listed["lora.targets"].kind, listed["lora.targets"].text) == ("list of texts", False)


# --- the recipes of the package ---------------------------------------------------------------------------------------


def test_the_stages_have_the_papers_values():
    """Facts 23 and the authors' configurations."""
    for name in STAGES:
        made = recipe.read(name, CHANGES)
        own, sigma = made.optimiser, "sigma" in name
        assert (own.name, own.lr, own.clip, own.warmup) == ("came" if sigma else "adamw", 2e-5, 0.01, 1000)
        assert (own.weight_decay, own.eps) == ((0, None) if sigma else (0.03, 1e-10))
        assert (made.data.dropout, made.run.ema, made.loss) == (0.1, 0.9999, recipe.Loss())
    assert recipe.read("dreambooth", CHANGES).optimiser.lr == 5e-6
    for name, rank in {"lcm": None, "lcm-lora": 32}.items():
        made = recipe.read(name, CHANGES)
        assert (made.loss.huber, made.loss.ddim_steps, made.loss.guidance, made.run.ema) == (1e-3, 50, 5.5, 0.95)
        assert made.model.train == ("lora" if rank else "transformer") and made.lora.rank == (rank or 16)


def test_a_recipe_says_neither_where_nor_of_what():
    for name in NAMES:
        with pytest.raises(ValueError, match=f"{name} must say data.path"):
            recipe.read(name)
        with pytest.raises(ValueError, match=f"{name} must say run.out"):
            recipe.read(name, {"data.path": "data"})
    assert all(line.endswith(".") and "#" not in line for line in recipe.names().values())


def test_what_must_stay_when_a_run_goes_on():
    given = {"data": {"path": "a"}, "run": {"out": "b"}}
    first = recipe.identity(recipe.make(given))
    free = {"data": {"path": "c"}, "run": {"out": "d", "steps": 7, "accumulate": 2, "recompute": False}}
    assert recipe.identity(recipe.make(free)) == first
    for section, field, value in (("optimiser", "lr", 0.5), ("data", "dropout", 0.2), ("run", "seed", 1)):
        other = {**given, section: {**given.get(section, {}), field: value}}
        assert {k for k, v in recipe.identity(recipe.make(other)).items() if v != first[k]} == {f"{section}.{field}"}
