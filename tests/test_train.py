"""Training: the loop against arithmetic in NumPy, the batches against closed forms, the recipe end to end."""

from __future__ import annotations

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tolerances import assert_close
from helpers.trees import assert_same, normal, numbers, tensors

import pixart_fn as px
from pixart_fn import rng, schedule, t5, transformer, tree, vae
from pixart_fn.files import safetensors
from pixart_fn.models import tokenizer
from pixart_fn.train import loop, optim, state, step
from pixart_fn.train.emoji import autoencoder, captions, data, latents, text_to_image

import mindspore as ms  # isort: skip - after pixart_fn, which silences it
from mindspore import Tensor  # isort: skip

TINY_VAE = vae.Config(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
TINY_T5 = t5.Config(vocab_size=200, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
TINY_TRANSFORMER = transformer.Config(
    num_attention_heads=2,
    attention_head_dim=8,
    out_channels=4,
    num_layers=1,
    cross_attention_dim=16,
    sample_size=8,
    patch_size=4,
    caption_channels=16,
)


# --- autoencoder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glyphs() -> data.Glyphs:
    """Four concepts by three sets, each a patch of noise."""
    pictures = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 4), np.uint8).repeat(4, 1).repeat(4, 2)
    fields = {"subgroup": "tool", "tags": ["thing"], "unique_tags": [], "weight": 1.0, "flip": True}
    concepts = [{"label": label, **fields} for label in ("key", "hammer", "guitar", "clock")]
    sets = [(data.PRIMARY, "cartoon"), ("twemoji", "flat"), (data.LINES, "line drawing")]
    rows = [{"concept": i % 4, "set": sets[i // 4][0], "style": sets[i // 4][1]} for i in range(12)]
    return data.glyphs(pictures, rows, concepts)


@pytest.fixture
def tiny(monkeypatch) -> None:
    """The recipe with models of a few thousand numbers."""
    monkeypatch.setattr(autoencoder, "CONFIG", TINY_VAE)
    monkeypatch.setattr(text_to_image, "T5", TINY_T5)
    monkeypatch.setattr(text_to_image, "TRANSFORMER", TINY_TRANSFORMER)
    monkeypatch.setattr(latents, "CHUNK", 16)
    # A process may choose its device only before it computes anything, and other tests have.
    monkeypatch.setattr(ms, "set_device", lambda device: None)
    monkeypatch.setattr(ms.runtime, "launch_blocking", lambda: None)


def trembling(p):
    """Weights none of which is zero."""
    shaken = [leaf.asnumpy() + 0.1 * normal(i, *leaf.shape) for i, leaf in enumerate(tree.leaves(p))]
    return tensors(tree.unflatten(p, shaken))


def test_crops_and_whole_pictures_are_a_function_of_seed_and_step(glyphs):
    shapes = [autoencoder.pictures(0, step, glyphs).shape for step in range(4)]
    assert shapes == [(16, 64, 64, 3)] * 3 + [(4, 128, 128, 3)]
    np.testing.assert_array_equal(autoencoder.pictures(0, 7, glyphs), autoencoder.pictures(0, 7, glyphs))
    assert not np.array_equal(autoencoder.pictures(0, 7, glyphs), autoencoder.pictures(0, 11, glyphs))
    assert not np.array_equal(autoencoder.pictures(0, 7, glyphs), autoencoder.pictures(1, 7, glyphs))


def test_to_tensor_spans_minus_one_to_one():
    pictures = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    assert autoencoder.to_tensor(pictures).asnumpy().tolist() == [[[[-1.0]], [[pytest.approx(-0.6)]], [[1.0]]]]


def reconstruction(error: np.ndarray) -> float:
    """The sum of `autoencoder.reconstruction`, in float64."""
    total = np.abs(error).mean() + 2 * (error**2).mean()
    for size in (1, 2, 4):
        B, C, H, W = error.shape
        e = error.reshape(B, C, H // size, size, W // size, size).mean((3, 5))
        total += 0.35 * (np.abs(np.diff(e, axis=2)).mean() + np.abs(np.diff(e, axis=3)).mean())
    return total


def test_the_autoencoders_loss_is_the_sum_that_it_says(tiny, monkeypatch):
    x, x_hat, small = normal(0, 4, 3, 16, 16), normal(1, 4, 3, 16, 16), normal(4, 1, 3, 8, 8)
    mean, logvar = normal(2, 4, 4, 8, 8), normal(3, 4, 4, 8, 8)
    asked = []
    fake = SimpleNamespace(
        encode=lambda *_: SimpleNamespace(mean=Tensor(mean), logvar=Tensor(logvar)),
        decode=lambda p, config, z: asked.append(z.asnumpy()) or Tensor(small if len(z) == 1 else x_hat),
        sample=lambda keys, moments: moments.mean,
    )
    monkeypatch.setattr(autoencoder, "vae", fake)
    # KL(N(m, s²) ‖ N(0, 1)) = (m² + s² - 1 - log s²) / 2
    kl = ((mean.astype(float) ** 2 + np.exp(logvar.astype(float)) - 1 - logvar) / 2).mean()
    half = x[:1].astype(float).reshape(1, 3, 8, 2, 8, 2).mean((3, 5))
    expected = reconstruction(x_hat.astype(float) - x) + 1e-3 * kl + 0.25 * reconstruction(small - half)
    assert float(autoencoder.loss({}, Tensor(x), rng.key(0))[0]) == pytest.approx(expected, rel=1e-5)
    (averaged,) = (z for z in asked if len(z) == 1)
    np.testing.assert_allclose(averaged, mean[:1].reshape(1, 4, 4, 2, 4, 2).mean((3, 5)), atol=1e-6)


@pytest.mark.slow
def test_whitening_moves_the_latents_and_nothing_else(tiny, glyphs):
    p = trembling(vae.init(rng.key(0), TINY_VAE))
    pictures = np.concatenate([autoencoder.pictures(0, step, glyphs) for step in range(2)])
    white = autoencoder.whiten(p, pictures)
    x = autoencoder.to_tensor(pictures)
    old, new = vae.encode(p, TINY_VAE, x), vae.encode(white, TINY_VAE, x)
    z = new.mean.asnumpy()
    np.testing.assert_allclose(z.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std((0, 2, 3)), 1, atol=1e-4)
    std = old.mean.asnumpy().std((0, 2, 3)).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(np.exp(new.logvar.asnumpy() / 2) * std, np.exp(old.logvar.asnumpy() / 2), rtol=1e-3)
    picture = vae.decode(p, TINY_VAE, old.mean[:2]).asnumpy()
    assert_close(vae.decode(white, TINY_VAE, new.mean[:2]).asnumpy(), picture, 1e-4)  # two roundings by a wide std


# --- latents ----------------------------------------------------------------------------------------------------------


def run_main(module, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    module.main()


def save_weights(p, file) -> None:
    from safetensors.numpy import save_file

    save_file(numbers(p), file)


@pytest.fixture
def encoded_folder(tiny, glyphs, tmp_path, monkeypatch):
    """Two chunks of encoded pictures, the autoencoder beside them."""
    save_weights(trembling(vae.init(rng.key(0), TINY_VAE)), tmp_path / "vae.safetensors")
    monkeypatch.setattr(data, "load", lambda folder: glyphs)
    arguments = ("--data", "glyphs", "--autoencoder", tmp_path / "vae.safetensors", "--out", tmp_path / "latents")
    run_main(latents, monkeypatch, *arguments, "--n", 16, "--size", 16)
    (first,) = (tmp_path / "latents").glob("*.npz")
    content = first.read_bytes()
    run_main(latents, monkeypatch, *arguments, "--n", 32, "--size", 16)
    assert first.read_bytes() == content and len(list((tmp_path / "latents").glob("*.npz"))) == 2
    return tmp_path


def test_latents_are_the_encoded_pictures_of_the_data(encoded_folder, glyphs):
    found = latents.load(encoded_folder / "latents")
    assert found.latents.shape == (32, 4, 8, 8) and found.latents.dtype == np.float32
    p = autoencoder.read(encoded_folder / "vae.safetensors")
    for start in (0, 16):  # as the chunks were drawn
        pictures, said = data.batch(0, start, 16, glyphs, 16, latents.CAPTIONS, **latents.OPTIONS)
        expected = vae.encode(p, TINY_VAE, autoencoder.to_tensor(pictures)).mean.asnumpy()
        assert_close(found.latents[start : start + 16].astype(np.float16), expected)
        assert found.captions[start : start + 16] == said


@pytest.mark.parametrize(
    ("option", "named"), [(("--size", 32), "size"), (("--autoencoder", "other"), "autoencoder"), ((), "data")]
)
def test_latents_of_other_things_are_refused(encoded_folder, glyphs, monkeypatch, option, named):
    """Whatever is left to make: a set of two would be read as one."""
    save_weights(trembling(vae.init(rng.key(1), TINY_VAE)), encoded_folder / "other")
    if not option:
        monkeypatch.setattr(data, "load", lambda folder: glyphs._replace(concept=glyphs.concept[::-1]))
    monkeypatch.chdir(encoded_folder)
    arguments = ("--data", "glyphs", "--autoencoder", "vae.safetensors", "--out", "latents", "--n", 48, "--size", 16)
    with pytest.raises(ValueError, match=f"the examples in latents were made with another {named}; name another"):
        run_main(latents, monkeypatch, *arguments, *option)
    (encoded_folder / "latents" / "made_of.json").unlink()
    with pytest.raises(ValueError, match=r"latents holds \.npz files but no made_of\.json"):
        run_main(latents, monkeypatch, *arguments)


def test_no_latents(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no latents; python -m pixart_fn\.train\.emoji\.latents --out"):
        latents.load(tmp_path)


# --- text to image ----------------------------------------------------------------------------------------------------

LINEAR = schedule.from_betas(schedule.linear())


def dataset(n: int = 6, k: int = 3) -> text_to_image.Dataset:
    """Distinct latents and captions: row i, caption j is the id 10 + 10 i + j and then </s>."""
    ids = np.zeros((n, k, 5), np.int32)
    ids[..., 0] = 10 + 10 * np.arange(n)[:, None] + np.arange(k)
    ids[..., 1] = 1
    return text_to_image.Dataset(normal(5, n, 4, 8, 8), ids, (ids > 0).astype(np.int32))


def drawn(seed: int, n: int) -> SimpleNamespace:
    batch = text_to_image.draw(rng.key(seed), dataset(), LINEAR, n)
    return SimpleNamespace(**{name: getattr(batch, name).asnumpy() for name in batch._fields})


def test_a_batch_is_a_function_of_the_key_alone():
    first, again, other = drawn(0, 8), drawn(0, 8), drawn(1, 8)
    for name in text_to_image.Batch._fields:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert getattr(first, name).dtype == (np.int32 if name in ("ids", "mask") else np.float32)
    assert not np.array_equal(first.x, other.x)


def test_a_batch_is_noised_data_with_its_own_captions():
    """x_t = α x0 + σ ε with ε of unit variance that says nothing of x0."""
    batch, known = drawn(0, 64), dataset()
    alpha, sigma = (f(batch.t.astype(float)).reshape(-1, 1, 1, 1) for f in (LINEAR.alpha, LINEAR.sigma))
    clean, noise = batch.x0, (batch.x - alpha * batch.x0) / sigma
    seen = set()
    for x0, ids in zip(clean, batch.ids, strict=True):
        row = int(np.argmin([np.abs(x0 - other).max() for other in known.latents]))
        np.testing.assert_array_equal(x0, known.latents[row])
        if ids[0] != 1:
            assert ids[0] // 10 == row + 1
            seen.add(int(ids[0]))
    assert len(seen) > 12, "every caption of a picture is used"
    assert abs(float(noise.mean())) < 0.03 and abs(float(noise.std()) - 1) < 0.03
    assert abs(np.corrcoef(noise.ravel(), clean.ravel())[0, 1]) < 0.03


def test_one_caption_in_ten_is_empty():
    batch = drawn(0, 4000)
    empty = batch.ids[:, 0] == 1
    assert abs(empty.mean() - text_to_image.DROPOUT) < 0.015
    assert (batch.ids[empty] == [1, 0, 0, 0, 0]).all() and (batch.mask[empty] == [1, 0, 0, 0, 0]).all()
    assert (batch.mask == (batch.ids > 0)).all()


def test_times_are_whole_and_spread_as_the_power_says():
    t = drawn(0, 4000).t
    assert (t == np.floor(t)).all() and t.min() >= 0 and t.max() <= LINEAR.steps - 1
    for limit in (100, 500, 900):  # P(T u^p < limit) = (limit / T)^(1/p); each stratum holds one
        share = (limit / LINEAR.steps) ** (1 / text_to_image.TIME_POWER)
        assert (t < limit).sum() == pytest.approx(4000 * share, abs=1)


def test_the_weights_are_snr_plus_one_up_to_a_limit():
    batch = drawn(0, 500)
    snr = np.exp(2 * LINEAR.lam(batch.t.astype(float)))
    np.testing.assert_allclose(batch.weight, np.minimum(snr, 5.0) + 1, rtol=1e-5)
    assert (batch.weight < 1.001).any() and (batch.weight == 6).any()


def test_the_loss_is_the_weighted_mean_of_squares(tiny, monkeypatch):
    x0, out, weight = normal(0, 3, 4, 8, 8), normal(1, 3, 4, 8, 8), np.array([1, 0.5, 0], np.float32)
    monkeypatch.setattr(text_to_image, "t5", SimpleNamespace(encode=lambda *_: None))
    monkeypatch.setattr(text_to_image, "transformer", SimpleNamespace(apply=lambda *_: Tensor(out)))
    batch = text_to_image.Batch(None, Tensor(x0), None, Tensor(weight), None, None)
    per_picture = ((out.astype(float) - x0) ** 2).reshape(3, -1).mean(1)
    p = {"text_encoder": {"shared": {"weight": Tensor(np.zeros((9, 16), np.float32))}}, "transformer": None}
    found, _ = text_to_image.loss(p, batch, None)
    assert float(found) == pytest.approx((per_picture * weight).mean(), rel=1e-5)


def test_the_vocabulary_knows_its_captions_and_t5s_special_pieces():
    said = [captions.with_article(noun) for noun in ("cat", "dog", "apple", "guitar", "house")] * 20
    words = text_to_image.vocabulary(said, 60)
    ids, mask = tokenizer.encode(words, ["a cat", ""], text_to_image.LENGTH)
    assert ids[1].tolist() == [1] + [0] * 23 and mask.sum(1).tolist()[1] == 1
    assert 2 not in ids and (words.pad, words.eos, words.unk) == ("<pad>", "</s>", "<unk>")
    encoded = latents.Encoded(normal(0, 2, 4, 8, 8), [["a cat", "A  cat"], ["a dog", "an apple"]])
    found = text_to_image.dataset(encoded, words)
    assert found.ids.shape == found.mask.shape == (2, 2, text_to_image.LENGTH)
    np.testing.assert_array_equal(found.ids[0, 0], ids[0])
    np.testing.assert_array_equal(found.ids[0, 1], ids[0])  # captions are cleaned as prompts are


@pytest.mark.slow
def test_both_models_learn_a_batch(tiny, tmp_path):
    batch = text_to_image.draw(rng.key(0), dataset(), LINEAR, 8)
    start = text_to_image.init(rng.key(0), TINY_T5.vocab_size)
    before = float(text_to_image.loss(start, batch, None)[0])
    optimiser = optim.adamw(1e-2)
    one, begin = step.make(text_to_image.loss, optimiser), state.init(start, optimiser, rng.key(0))
    params = loop.run(one, begin, lambda i: batch, tmp_path, steps=12, progress=False).params
    assert float(text_to_image.loss(params, batch, None)[0]) < 0.9 * before
    changed = {name for name, leaf in numbers(params).items() if not np.array_equal(leaf, numbers(start)[name])}
    assert {name.split(".")[0] for name in changed} == {"text_encoder", "transformer"}
    assert changed >= {name for name in numbers(params) if name.startswith("transformer")}


@pytest.mark.slow
def test_the_recipe_ends_in_a_pipeline_that_draws(encoded_folder, monkeypatch, capsys):
    monkeypatch.setattr(text_to_image, "LENGTH", 80)  # a small vocabulary spells words out
    run_main(
        text_to_image, monkeypatch, "--latents", encoded_folder / "latents", "--autoencoder",
        encoded_folder / "vae.safetensors", "--out", encoded_folder / "run", "--save", encoded_folder / "model",
        "--steps", 2, "--batch", 4,
    )  # fmt: skip
    params = px.load(encoded_folder / "model")
    assert params.config.text_encoder.vocab_size == params.tokenizer.size  # fewer than TINY_T5 has
    assert params.config.call == text_to_image.CALL
    picture = px.generate(params, "a hammer", px.key(0), steps=2, progress=False)
    assert picture.size == (16, 16)
    stored, metadata = safetensors.open_with_metadata(encoded_folder / "run" / "state.safetensors")
    assert metadata["step"] == "2"
    for name, leaf in numbers(params.transformer).items():
        average = stored[f"ema.leaves.transformer.{name}"].copy()
        np.testing.assert_array_equal(leaf, average.astype(np.float16), err_msg=name)
    goes_on = (
        "--latents", encoded_folder / "latents", "--autoencoder", encoded_folder / "model", "--out",
        encoded_folder / "on", "--start", encoded_folder / "model", "--steps", 0, "--save", encoded_folder / "same",
    )  # fmt: skip
    run_main(text_to_image, monkeypatch, *goes_on)
    assert_same(px.load(encoded_folder / "same").transformer, params.transformer)
    monkeypatch.setattr(text_to_image, "T5", dataclasses.replace(TINY_T5, num_layers=2))
    with pytest.raises(SystemExit):
        run_main(text_to_image, monkeypatch, *goes_on)
    assert "--start must hold models of the size of T5 and TRANSFORMER" in capsys.readouterr().err
