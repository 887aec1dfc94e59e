"""From a recipe to a training: what is loaded, what fits together, and what is said before the work begins."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from helpers import authors as files
from helpers import tiny
from helpers.tolerances import assert_close
from reference import case
from safetensors.numpy import save_file

import pixart_fn as px
from pixart_fn import checkpoint, solvers, transformer, tree
from pixart_fn.backend.workers import Workers
from pixart_fn.checkpoint import lora
from pixart_fn.train import data, distill, job, losses, optim, recipe
from pixart_fn.types import Text

CHANGES = {"data.path": "data", "run.out": "out"}
CONFIG = transformer.Config(
    num_attention_heads=2, attention_head_dim=12, num_layers=2, cross_attention_dim=24, sample_size=64,
    caption_channels=32, use_additional_conditions=False,
)  # fmt: skip
NAMES = list(recipe.names())
STAGES = [name for name in NAMES if name.startswith("pixart-")]


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
    square = dataclasses.replace(dataset, latents=np.ones((2, 4, 8, 8), np.float32))
    asked = []
    replaced = {
        "square": square,
        "two": dataclasses.replace(dataset, latents=np.ones((2, 4, 64, 64), np.float32)),
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


@pytest.mark.parametrize("field", ["data.path", "data.prior"])
def test_squares_of_another_size_are_one_sentence(made, field):
    with pytest.raises(
        ValueError, match=r"'square' holds latents of 8 × 8, and this model's are of 64 × 64; take .* 8$"
    ):
        made("small", **{field: "square"})
    with pytest.raises(ValueError, match=r"take data of that size$"):  # an adapter is for the model as it is
        made("lora", **{field: "square"})
    made("small", **{"data.path": "square", "model.sample_size": 8})
    made("small", **{"data.path": "two"})


@pytest.mark.parametrize("version", ["alpha", "sigma"])
def test_the_authors_features_are_of_the_models_kind(made, monkeypatch, tmp_path, version):
    """Those of the other model have another VAE's scale; a file of another width says so itself."""
    files.write(tmp_path, version, False)
    params, sigma = tiny.params(CONFIG), version == "sigma"
    own = recipe.read(
        "lora",
        {**CHANGES, "data.path": str(tmp_path), "data.kind": version, "data.resolution": 256, "data.dropout": 0.0},
    )

    def start(width, scale):
        config = dataclasses.replace(CONFIG, caption_channels=width, sample_size=32)
        config = dataclasses.replace(
            params.config, transformer=config, vae=dataclasses.replace(tiny.VAE, scaling_factor=scale)
        )
        tree_ = transformer.init(px.key(0), config.transformer)
        loaded = params.replace(transformer=tree_, text_encoder=None, config=config)
        monkeypatch.setattr(checkpoint, "load", lambda *args, **options: loaded)
        return job.make(own)

    scale, other = (0.13025, 0.18215) if sigma else (0.18215, 0.13025)
    assert start(files.WIDTH, scale).batches(0).x0.shape == (16, 4, 32, 32)
    with pytest.raises(
        ValueError, match=f"another kind of model: its scaling factor of latents is {scale}, and this .*"
    ):
        start(files.WIDTH, other)
    with pytest.raises(ValueError, match=r"caption_feature in .* must be floats of \(1, T, 24\)"):
        start(24, scale)


def test_the_data_are_opened_and_shared_out_before_the_model_is_loaded(made, monkeypatch):
    monkeypatch.setattr(checkpoint, "load", None)
    for workers, changes, said in (
        (3, {}, "3 .3 workers × run.accumulate = 1., got 16"),
        (2, {"data.prior": "class", "data.batch_size": 2}, "4 .* × 2 for data.prior., got 2"),
    ):
        with pytest.raises(ValueError, match=f"data.batch_size must be a multiple of {said}"):
            job.make(recipe.read("small", {**CHANGES, **changes}), Workers(0, workers))
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"the preparation in 'data' holds no index\.json"):
        job.make(recipe.read("small", {**CHANGES, "model.start": "nowhere/either"}))


def test_what_the_end_could_not_replace_is_told_before_the_loop(made, tmp_path):
    for name in ("small", "lora"):
        made(name, **{"run.out": str(tmp_path)})
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / lora.DIFFUSERS).touch()
    (tmp_path / "pipeline" / "transformer").mkdir(parents=True)
    (tmp_path / "pipeline" / "transformer" / "other.safetensors").touch()
    for name, said in {"small": "holds other weights", "lora": "holds an adapter in diffusers' layout"}.items():
        with pytest.raises(FileExistsError, match=said):
            made(name, **{"run.out": str(tmp_path)})


@pytest.mark.parametrize("name", ["small", "lora", "dreambooth", "lcm", "lcm-lora"])
def test_each_can_be_tried_on_the_embedded_checkpoint(made, name):
    _, built, (start, _) = made(name, **{"model.start": "embedded"})
    assert start is None
    assert (built.params.transformer is None) == ("lora" not in name)  # the state has what is trained


@pytest.mark.parametrize(("name", "plain"), [("small", False), ("lcm", True), ("lcm-lora", True), (STAGES[0], True)])
def test_the_average_is_plain_where_the_authors_is(made, name, plain):
    own, built, _ = made(name)
    p = {"w": np.zeros(2, np.float32)}
    average = built.step.ema
    new = average.update({"w": np.ones(2, np.float32)}, average.init(p), p)[0]["w"]
    np.testing.assert_allclose(new, 1 - own.run.ema if plain else 0.9, rtol=1e-5)


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


def test_momentum_is_that_of_sgd():
    changes = {"optimiser.name": "sgd", "optimiser.momentum": 0.5, "optimiser.lr": 0.1, "optimiser.warmup": 0}
    changes |= {"optimiser.schedule": "constant", "optimiser.clip": 0.0, "optimiser.weight_decay": 0.0}
    optimiser = job._optimiser(recipe.read("small", {**CHANGES, **changes}))
    p = {"w": np.zeros((1, 2), np.float32)}
    g, state = {"w": np.ones((1, 2), np.float32)}, optimiser.init(p)
    for expected in (-0.1, -0.25):
        p, state, _ = optim.step(optimiser, p, g, state)
        np.testing.assert_allclose(p["w"], expected, rtol=1e-6)


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
