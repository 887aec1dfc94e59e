"""Training a ControlNet: its loss, its data, its recipe; and what measures whether a picture follows edges."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import compare, tiny
from PIL import Image, ImageDraw

import pixart_fn as px
from pixart_fn import checkpoint, edges, rng, schedule, tree
from pixart_fn.checkpoint import controlnet
from pixart_fn.models.controlnet import shapes
from pixart_fn.train import data, init, job, losses, make_step, objective, optim, recipe
from pixart_fn.train.batch import Batch
from pixart_fn.train.emoji import control
from pixart_fn.types import Text

CONFIG = controlnet.Config(1, 2, 16)
LOSS = losses.diffusion(schedule.from_betas(schedule.linear()))
RANDOM = np.random.default_rng(0)
LATENTS, STATES = (RANDOM.standard_normal(shape).astype(np.float32) for shape in ((4, 4, 8, 8), (4, 5, 32)))
TEXTS = Text(STATES, np.ones((4, 5), np.int32))
KEY = px.split(px.key(0), 3)[0]
BATCH = Batch(LATENTS[:2], Text(*(each[:2] for each in TEXTS)), control=LATENTS[2:])


def new():
    params = tiny.params()
    return controlnet.init(params.transformer, params.config.transformer, CONFIG)


def aim():
    return objective.of_controlnet(tiny.params().transformer, tiny.TRANSFORMER, CONFIG, LOSS)


def test_a_new_one_has_the_transformer_s_loss():
    plain, _ = objective.of_transformer(tiny.TRANSFORMER, LOSS)(tiny.params().transformer, BATCH, rng.key(3))
    value, metrics = aim()(new(), BATCH, rng.key(3))
    assert float(value) == float(plain) and metrics["losses"].shape == (2,)


@pytest.mark.slow
def test_one_is_trained_alone():
    base, optimiser = tiny.params().transformer, optim.adamw(3e-3)
    before = {name: leaf.asnumpy().copy() for name, leaf in tree.items(base)}
    plain, _ = aim()(new(), BATCH, rng.key(3))
    state, step = init(new(), optimiser, rng.key(0)), make_step(aim(), optimiser)
    for _ in range(6):
        state, _ = step(state, BATCH)
    assert {name: leaf.shape for name, leaf in tree.items(state.params)} == shapes(CONFIG)
    value, _ = aim()(state.params, BATCH, rng.key(3))
    assert float(value) < float(plain)
    for name, leaf in tree.items(base):
        np.testing.assert_array_equal(leaf.asnumpy(), before[name])


def test_a_batch_without_a_control_is_refused():
    with pytest.raises(ValueError, match=r"batch\.control must be the latents that the ControlNet follows, got None"):
        aim()(new(), BATCH._replace(control=None), rng.key(0))


def arrays(latents=LATENTS, names=("a.png", "b.png", "c.png", "d.png")):
    return data.arrays(latents, TEXTS, names=names, null=Text(STATES[:1], TEXTS.mask[:1]))


def test_pictures_come_with_their_own_controls():
    pictures = data.order.Batches(arrays(), 3, 7, dropout=0.5)
    batches = data.controls.controlled(pictures, arrays(-LATENTS, ("a.jpg", "b.jpg", "c.jpg", "d.jpg")))
    for step in range(5):
        batch, plain = batches(step), pictures(step)
        np.testing.assert_array_equal(batch.control, -batch.x0)
        np.testing.assert_array_equal(batch.text.states, plain.text.states)
        assert batch.names == plain.names
    with pytest.raises(ValueError, match=r"same pictures, which are 4 of \[\[8, 8\]\], scaled by 1, got 4 of \[\[4, 8"):
        data.controls.controlled(pictures, arrays(LATENTS[:, :, :4]))
    turned = data.controls.controlled(pictures, arrays(names=("b.png", "a.png", "d.png", "c.png")))
    with pytest.raises(ValueError, match="of the same sources in the same order, got '"):
        turned(0)


def prepared(folder, **options):
    """What is known of a folder that was prepared so."""
    return SimpleNamespace(folder=folder, options={"source": "a", **options})


@pytest.mark.parametrize(
    ("own", "other", "sentence"),
    [
        (prepared("a", edges="canny"), prepared("b"), "these are edges: are the two exchanged"),
        (prepared("a"), prepared("a"), "controls must be another folder than pictures"),
        (prepared("a"), prepared("b", edges="canny", source="b"), "must be the edges of the same pictures"),
    ],
)
def test_folders_that_do_not_belong_together_are_refused(own, other, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.controls._check_folders(own, other)


@pytest.fixture
def pictures(tmp_path):
    """A folder of four pictures with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(noise).resize((20, 16), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a cute cat")
    return data.sources.open(folder)


@pytest.mark.slow
def test_edges_are_prepared_and_a_recipe_trains_on_them(pictures, tmp_path, monkeypatch):
    params = tiny.params()
    for name in (None, "canny"):
        data.prepare.run(pictures, params, tmp_path / str(name), dtype="float32", edges=name, progress=False)
    first = data.prepared.open(tmp_path / "canny").example(0).mean
    fitted = data.pictures.fit(Image.open(tmp_path / "pictures" / "0.png"), 16, 16)
    expected = px.encode_image(params, edges.canny(fitted)).asnumpy()[0] / tiny.VAE.scaling_factor
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-5)
    made = controlnet.control(params, (new(), CONFIG), edges.canny(fitted))
    np.testing.assert_allclose(made.latents.asnumpy()[0] / tiny.VAE.scaling_factor, first, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: params)
    changes = {
        **{"data.path": str(tmp_path / "None"), "data.control": str(tmp_path / "canny"), "data.batch_size": 2},
        **{"run.out": str(tmp_path / "out"), "run.steps": 2, "optimiser.lr": 0.01},
    }
    own = recipe.read("controlnet", changes)
    state = job.run(own, progress=False)
    made, config = controlnet.load(tmp_path / "out" / "controlnet")
    assert config == CONFIG
    for name, leaf in tree.items(state.params):
        np.testing.assert_array_equal(dict(tree.items(made))[name].asnumpy(), leaf.asnumpy())
    assert np.abs(made["controlnet_blocks"][0]["after_proj"]["weight"].asnumpy()).max() > 0
    again = recipe.read("controlnet", {**changes, "model.controlnet": str(tmp_path / "out" / "controlnet")})
    begun = job.make(dataclasses.replace(again, run=dataclasses.replace(again.run, out=str(tmp_path / "more"))))
    assert compare.rel(tree.leaves(begun.state.params)[0], tree.leaves(made)[0]) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.control": None}, "trains a ControlNet, which needs data.control and data.path, two prepared folders"),
        ({"model.init": "random"}, 'trains controlnet, which needs model.init = "start"'),
        ({"model.train": "lora"}, 'data.control of .* means nothing here: it is for model.train = "controlnet"'),
        ({"model.controlnet": "c", "model.copied": 3}, "model.copied of .* it is for a new ControlNet, without"),
        ({"samples.every": 5, "samples.prompts": ["a"]}, "samples.every of .* since a ControlNet needs edges"),
        ({"model.sample_size": 8}, "model.sample_size of .* since an adapter or a ControlNet is written alone"),
        ({"loss.kind": "lcm", "run.ema": 0.9}, 'trains a ControlNet, which needs loss.kind = "diffusion"'),
    ],
)  # fmt: skip
def test_a_recipe_that_contradicts_itself_is_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe.read("controlnet", {"data.path": "data", "run.out": "out", **changes})


def test_the_agreement_is_1_within_two_pixels_and_falls_beyond():
    square = np.full((64, 64, 3), 255, np.uint8)
    square[16:48, 16:48] = 0
    given = edges.canny(square)
    found = [control.agreement(np.roll(square, k, 1), given) for k in range(0, 9, 2)]
    assert found[:2] == [1, 1] and 1 > found[2] > 0.4 and found[-1] < 0.6
    assert control.agreement(np.full_like(square, 255), given) == 0
    assert control.agreement(square, Image.new("L", (64, 64))) == 0


@pytest.mark.slow
def test_what_the_embedded_one_draws_follows_the_edges():
    """A burrito, which lies from top left to bottom right without edges, and here the other way."""
    params, picture = px.load(), Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).line((36, 92, 92, 36), fill=(200, 160, 110), width=48)
    given = edges.canny(picture)
    steered = controlnet.control(params, controlnet.load(), given)
    found = [
        control.agreement(np.asarray(px.generate(params, "a burrito", KEY, steps=6, controls=each)), given)
        for each in (None, steered)
    ]
    assert found[1] > found[0] + 0.3, found
