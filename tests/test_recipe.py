"""Recipes: every field is checked, those of the package are what the papers say, and each comes to a training."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from helpers import tiny
from helpers.tolerances import assert_close
from reference import case
from safetensors.numpy import save_file

import pixart_fn as px
from pixart_fn import checkpoint, solvers, transformer, tree
from pixart_fn.checkpoint import lora
from pixart_fn.train import data, distill, job, losses, optim, recipe
from pixart_fn.types import Text

GIVEN = {"data": {"path": "data"}, "run": {"out": "out"}}
CHANGES = {"data.path": "data", "run.out": "out"}
CONFIG = transformer.Config(
    num_attention_heads=2, attention_head_dim=12, num_layers=2, cross_attention_dim=24, sample_size=64,
    caption_channels=32, use_additional_conditions=False,
)  # fmt: skip
NAMES = list(recipe.names())
STAGES = [name for name in NAMES if name.startswith("pixart-")]


# --- what a recipe may say --------------------------------------------------------------------------------------------


def test_a_file_is_read_and_changed(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[data]\npath = "a"\n[run]\nout = "b"\nsteps = 5\n[samples]\nprompts = ["é"]\n', "utf-8")
    made = recipe.read(file, {"run.steps": 7, "lora.rank": 4})
    assert (made.run.steps, made.lora.rank, made.samples.prompts) == (7, 4, ("é",))
    assert made == recipe.make(
        {"data": {"path": "a"}, "run": {"out": "b", "steps": 7}, "samples": {"prompts": ["é"]}, "lora": {"rank": 4}}
    )


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
    "LCM's weighting": ({"loss": {"kind": "lcm", "weighting": "snr"}}, "weighting, noise_offset and times of [loss]"),
    "LCM's average": ({"loss": {"kind": "lcm"}, "run": {"ema": 0}}, "needs a moving average: run.ema above 0"),
    "many sizes": ({"data": {"multiscale": True}}, "data.multiscale and data.real_prompt_ratio of the recipe are for"),
    "a prior": ({"data": {"prior": "x", "kind": "sigma"}}, "needs a prepared folder as data.path too"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence(name):
    content, sentence = WRONG[name]
    if not name.startswith("no "):
        content = content | {section: {**GIVEN[section], **content.get(section, {})} for section in GIVEN}
    with pytest.raises(ValueError) as raised:
        recipe.make(content)
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_mistaken_name_is_told_the_nearest(tmp_path):
    for name, near in {"run.stesp": "run.steps", "lr": "optimiser.lr", "samples.guidence": "samples.guidance"}.items():
        with pytest.raises(ValueError, match=f"a recipe has no field '{name}'; the nearest is '{near}'"):
            recipe.read("small", {**CHANGES, name: 1})
    with pytest.raises(FileNotFoundError, match="there is no recipe 'smal'; the nearest is 'small'"):
        recipe.read("smal")
    with pytest.raises(FileNotFoundError, match=r"there is no recipe 'xyz'; write a \.toml file, or take dreambooth, "):
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


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A recipe's name → the Recipe and the Job that it comes to with a tiny model; no network, no file but the DiT."""
    golden = case.load("dit")
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    save_file(golden.weights, tmp_path / "diffusion_pytorch_model.safetensors")
    params = tiny.params(CONFIG)
    null = px.encode_prompt(params, "")
    latents, text = np.ones((2, 4, 4, 6), np.float32), Text(*(np.repeat(each.asnumpy(), 2, 0) for each in null))
    dataset = dataclasses.replace(data.arrays(latents, text, null=null), scale=tiny.VAE.scaling_factor)
    asked = []
    replaced = {
        "scaling": dataclasses.replace(dataset, scale=0.18215),
        "channels": dataclasses.replace(dataset, latents=np.ones((2, 16, 4, 6), np.float32)),
        "width": dataclasses.replace(dataset, texts=Text(np.ones((2, 3, 8), np.float32), np.ones((2, 3), np.int32))),
    }
    monkeypatch.setattr(checkpoint, "load", lambda *args, **options: asked.append((*args, options)) or params)
    monkeypatch.setattr(data.prepared, "open", lambda path: replaced.get(path, dataset))

    def make(name, **changes):
        more = {"model.dit": str(tmp_path)} if "dit" in name else {}
        own = recipe.read(name, {**CHANGES, "data.batch_size": 2, **more, **changes})
        return own, job.make(own), asked[-1]

    return make


def test_each_stage_comes_to_its_model(made):
    """The positions of α as it was released, and those of Σ, which span the same at every size (facts 10)."""
    scales = {
        "pixart-alpha-1-dit-256": (32, 1), "pixart-alpha-2-align-256": (32, 1), "pixart-alpha-3-aesthetic-512": (64, 1),
        "pixart-alpha-3-aesthetic-1024": (128, 2), "pixart-sigma-256": (32, 0.5), "pixart-sigma-512": (64, 1),
        "pixart-sigma-1024": (128, 2),
    }  # fmt: skip
    assert set(scales) == set(STAGES)
    for name, expected in scales.items():
        own, built, (start, options) = made(name)
        config = built.params.config.transformer
        assert (config.sample_size, config.scale) == expected
        assert config.conditions == (name == "pixart-alpha-3-aesthetic-1024")
        assert start == own.model.start and options.get("transformer") == own.model.transformer
        assert options["text_encoder"] is None and options["vae"] is None  # nothing needs them
        assert set(dict(tree.items(built.state.params))) == set(transformer.shapes(config))
        assert (built.batches(0).resolution is not None) == config.conditions


@pytest.mark.parametrize("name", sorted({*NAMES} - {*STAGES}))
def test_each_other_recipe_comes_to_a_training(made, name):
    changes = {"data.prior": "class"} if name == "dreambooth" else {}
    own, built, (_, options) = made(name, **changes)
    assert isinstance(built.state.params, lora.Adapter) == (own.model.train == "lora")
    assert (built.state.ema is not None) == (own.run.ema > 0)
    loss, _ = job._loss(own, CONFIG, solvers.from_config(built.params.config.scheduler).schedule)
    assert isinstance(loss, distill.LCM if "lcm" in name else losses.Diffusion)
    drawn_with = built.params.config.scheduler["_class_name"]
    assert drawn_with == ("LCMScheduler" if "lcm" in name else "DPMSolverMultistepScheduler")
    batch = built.batches(0)
    assert len(batch.x0) == 2 and (batch.weight is not None) == (name == "dreambooth")
    needed = name in ("small", "dreambooth", "lcm")  # of which a whole pipeline is written, or pictures are drawn
    assert ("text_encoder" in options) == (not needed)
    if own.model.train == "lora":
        assert own.lora.targets == lora.AUTHORS


@pytest.mark.parametrize("field", ["data.path", "data.prior"])
def test_data_of_another_kind_of_model_is_one_sentence(made, field):
    for name, said in {
        "scaling": "its scaling factor of latents is 0.18215, and this model's 0.5",
        "channels": "its number of latent channels is 16, and this model's 4",
        "width": "its width of text is 8, and this model's 32",
    }.items():
        with pytest.raises(ValueError, match=f"'{name}' was prepared with another kind of model: {said}; prepare it"):
            made("small", **{field: name})


def test_the_optimiser_is_the_recipes():
    """The first step of AdamW in closed form: warm-up and decay; after clipping, only ε sees the gradient's size."""
    changes = {"optimiser.lr": 0.4, "optimiser.warmup": 4, "optimiser.eps": 0.004}
    p, g = {"w": np.float32([[3, -4]])}, {"w": np.float32([[30, -40]])}
    for clip, seen in ((0.01, [[0.006, -0.008]]), (0, [[30, -40]])):
        own = recipe.read("pixart-alpha-3-aesthetic-512", {**CHANGES, **changes, "optimiser.clip": clip})
        optimiser = job._optimiser(own)
        new, _, _ = optim.step(optimiser, p, g, optimiser.init(p))
        seen = np.array(seen)
        expected = p["w"] - 0.1 * (seen / (abs(seen) + 0.004) + 0.03 * p["w"])
        np.testing.assert_allclose(new["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("schedule", job.SCHEDULES)
def test_the_rate_has_the_schedules_shape(schedule):
    rate = job.SCHEDULES[schedule](2.0, 5, 100)
    assert [rate(0), rate(4)] == pytest.approx([0.4, 2])
    assert (rate(99) == 2) == (schedule == "constant") and (rate(50) < 2) == (schedule in ("linear", "cosine"))


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_every_optimiser_takes_what_a_recipe_says(name):
    """Also without a warm-up, which the schedules don't have."""
    optimiser = job._optimiser(recipe.read("small", {**CHANGES, "optimiser.name": name, "optimiser.warmup": 0}))
    p = {"w": np.ones((2, 3), np.float32)}
    new, _, _ = optim.step(optimiser, p, p, optimiser.init(p))
    assert (new["w"] < 1).all()


def test_what_is_written_draws_as_it_was_trained(made):
    """The prediction that the loss was of, and LCM's few steps; the betas are the start's."""
    _, built, _ = made("small", **{"loss.prediction": "v"})
    sampler = solvers.from_config(built.params.config.scheduler)
    assert sampler.schedule.prediction == "v"
    _, built, _ = made("lcm", **{"loss.ddim_steps": 20})
    sampler = solvers.from_config(built.params.config.scheduler)
    start = solvers.from_config(tiny.params(CONFIG).config.scheduler).schedule
    assert_close(sampler.schedule.alpha(np.arange(1000)), start.alpha(np.arange(1000)), 1e-6)
    assert sampler.make_grid(2).t[:2].tolist() == [999, 499]
    assert built.params.config.scheduler["original_inference_steps"] == 20
