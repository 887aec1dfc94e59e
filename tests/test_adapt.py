"""Textual inversion and DreamBooth's pictures, against NumPy, finite differences, and (live) transformers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import tiny, trees
from PIL import Image
from safetensors.numpy import load_file, save_file

from pixart_fn import checkpoint, rng, tree
from pixart_fn.backend.autodiff import value_and_grad
from pixart_fn.models import t5
from pixart_fn.models import tokenizer as tk
from pixart_fn.picture import read_settings
from pixart_fn.settings import call
from pixart_fn.train import adapt

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

TOKEN = "<my-cat>"


def ids(params, prompt: str) -> list[int]:
    (row,), (mask,) = tk.encode(params.tokenizer, [prompt], 40)
    return row[: mask.sum()].tolist()


def table(params) -> np.ndarray:
    return params.text_encoder["shared"]["weight"].asnumpy()


# --- textual inversion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_a_new_token_starts_as_the_mean_of_what_it_is_said_to_be(n):
    p = tiny.params()
    V = len(table(p))
    added = adapt.add_token(p, TOKEN, "cat mat", vectors=n)
    words = ids(p, "cat mat")[:-1]
    np.testing.assert_allclose(table(added)[V:], np.repeat(table(p)[words].mean(0)[None], n, 0), rtol=1e-6)
    np.testing.assert_array_equal(table(added)[:V], table(p))
    assert added.config.text_encoder == dataclasses.replace(p.config.text_encoder, vocab_size=V + n)
    assert ids(added, "a <my-cat> sits")[1:2] == [V] and TOKEN not in p.tokenizer.specials
    assert added.tokenizer.specials[TOKEN] == tk.AddedToken(TOKEN, V, special=False)  # as in transformers' add_tokens
    names = [TOKEN, "<my-cat>_1", "<my-cat>_2"][:n]
    prompt = adapt.write_prompt(added, "a <my-cat> sits")
    assert prompt == f"a {' '.join(names)} sits"
    found = ids(added, prompt)
    assert [i for i in found if i >= V] == list(range(V, V + n))
    assert adapt.write_prompt(added, "a cat sits") == "a cat sits"
    assert all(a is b for a, b in zip(tree.leaves(added.transformer), tree.leaves(p.transformer), strict=True))


def test_rows_to_spare_are_used_first():
    """T5 has 28, in which no id of the vocabulary lies."""
    p = tiny.params()
    V = len(table(p))
    more = ms.Tensor(np.vstack([table(p), np.ones((2, 32), np.float32)]))
    config = dataclasses.replace(p.config.text_encoder, vocab_size=V + 2)
    spare = p.replace(
        text_encoder={**p.text_encoder, "shared": {"weight": more}},
        config=dataclasses.replace(p.config, text_encoder=config),
    )
    one = adapt.add_token(spare, TOKEN, "cat")
    assert len(table(one)) == V + 2 and (table(one)[V + 1] == 1).all()
    two = adapt.add_token(one, "<my-dog>", np.full((3, 32), 2, np.float32))
    assert len(table(two)) == V + 4 and (table(two)[V + 1 :] == 2).all()
    assert {name: len(adapt.token_rows(two, name)[name]) for name in (TOKEN, "<my-dog>")} == {TOKEN: 1, "<my-dog>": 3}


def test_only_the_new_rows_are_a_tree_and_go_back_in_their_place():
    p = adapt.add_token(adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2), "<my-dog>", "dog")
    rows = adapt.token_rows(p, TOKEN) | adapt.token_rows(p, "<my-dog>")
    assert {name: leaf.shape for name, leaf in rows.items()} == {TOKEN: (2, 32), "<my-dog>": (1, 32)}
    trees.assert_same(adapt.with_token_rows(p, rows), p)
    before = table(p).copy()
    changed = adapt.with_token_rows(p, tree.map(lambda leaf: leaf + 1, rows))
    np.testing.assert_array_equal(table(changed)[:-3], before[:-3])
    np.testing.assert_array_equal(table(changed)[-3:], before[-3:] + 1)
    np.testing.assert_array_equal(table(p), before)
    half = p.replace(text_encoder=tree.map(lambda leaf: leaf.astype(ms.float16), p.text_encoder))
    assert adapt.token_rows(half, TOKEN)[TOKEN].dtype == ms.float32
    assert adapt.with_token_rows(half, rows).text_encoder["shared"]["weight"].dtype == ms.float16


def test_the_gradient_of_the_rows_is_that_of_finite_differences():
    p = adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2)
    rows, w = adapt.token_rows(p, TOKEN), trees.normal(1, *table(p).shape)

    def f(rows):
        changed = adapt.with_token_rows(p, rows).text_encoder["shared"]["weight"]
        return (changed**3 * ms.Tensor(w)).sum()

    _, gradients = value_and_grad(f)(rows)
    values = rows[TOKEN].asnumpy().astype(np.float64)
    np.testing.assert_allclose(gradients[TOKEN].asnumpy(), 3 * values**2 * w[-2:], rtol=1e-5)


@pytest.mark.slow
def test_the_rows_learn_through_the_text_encoder():
    p = adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2)
    found = tk.encode(p.tokenizer, [adapt.write_prompt(p, "a <my-cat> sits on <my-cat>"), "a dog"], 16)
    rows, w = adapt.token_rows(p, TOKEN), ms.Tensor(trees.normal(3, 2, 16, 32) * found[1][..., None])

    def f(rows):
        encoder = adapt.with_token_rows(p, rows).text_encoder
        return (t5.encode(encoder, p.config.text_encoder, *map(ms.Tensor, found)) * w).sum()

    _, gradients = value_and_grad(f)(rows)
    slope = float((gradients[TOKEN] ** 2).sum().asnumpy())
    assert gradients[TOKEN].asnumpy().any(1).all()
    step = 0.01 / slope**0.5
    ends = [float(f(tree.map(lambda a, g, s=s: a + s * step * g, rows, gradients)).asnumpy()) for s in (1, -1)]
    assert abs((ends[0] - ends[1]) / (2 * step) / slope - 1) < 0.01  # float32's differences


def test_vectors_of_a_token_follow_each_other():
    """A tokenizer from elsewhere may have a token of such a name that isn't one of them."""
    p = tiny.params()
    for token in ("<x>", "<y>", "<z>"):
        p = adapt.add_token(p, token, "cat")
    *two, z = p.tokenizer.added
    apart = dataclasses.replace(p.tokenizer, added=(*two, dataclasses.replace(z, content="<x>_1")))
    assert adapt.token_rows(p.replace(tokenizer=apart), "<x>")["<x>"].shape == (1, 32)
    with pytest.raises(ValueError, match="token must not be named as a further vector of '<x>', got '<x>_1'"):
        adapt.add_token(p, "<x>_1", "cat")


def test_an_encoder_that_is_int8_takes_a_token():
    p = tiny.params()
    small = p.replace(text_encoder=t5.quantize(p.text_encoder))
    added = adapt.add_token(small, TOKEN, "cat")
    assert np.abs(table(added)[:-1] - table(p)).max() < 0.02 * np.abs(table(p)).max()


def test_save_writes_a_token_and_load_reads_it(tmp_path):
    p = adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2)
    checkpoint.save(p, tmp_path / "a")
    again = checkpoint.load(tmp_path / "a")
    assert again.tokenizer == p.tokenizer and again.config == p.config
    trees.assert_same(again.text_encoder, p.text_encoder)
    assert ids(again, "a <my-cat> sits") == ids(p, "a <my-cat> sits")
    trees.assert_same(adapt.token_rows(again, TOKEN), adapt.token_rows(p, TOKEN))


def test_the_embedding_alone_is_saved_as_diffusers_does(tmp_path):
    p = adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2)
    rows = tree.map(lambda leaf: leaf * 3, adapt.token_rows(p, TOKEN))
    adapt.save_embedding(rows, tmp_path / "a.safetensors")
    ((name, stored),) = load_file(tmp_path / "a.safetensors").items()
    assert name == TOKEN and stored.shape == (2, 32)
    again = adapt.load_embedding(tmp_path / "a.safetensors")
    trees.assert_same(again, rows)
    trees.assert_same(adapt.token_rows(adapt.add_token(tiny.params(), TOKEN, again[TOKEN]), TOKEN), rows)
    save_file({"x": np.ones(32, np.float32)}, tmp_path / "one.safetensors")  # diffusers takes one vector so too
    assert adapt.load_embedding(tmp_path / "one.safetensors")["x"].shape == (1, 32)


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("<My-cat>", "token must be a name in lower case"),
        ("my cat", "without white space"),
        ("a.b", "or a full stop"),
        ("", "token must be a name"),
        ("</s>", "must be new to the vocabulary, which has '</s>'"),
        ("▁", "must be new to the vocabulary"),
        ("bi", "must be new to the vocabulary, which has '▁bi'"),
    ],
)
def test_a_token_that_cant_be_is_one_sentence(token, sentence):
    with pytest.raises(ValueError, match=sentence):
        adapt.add_token(tiny.params(), token, "cat")


def test_mistakes_of_textual_inversion_are_one_sentence(tmp_path):
    p = tiny.params()
    added = adapt.add_token(p, TOKEN, "cat")
    with pytest.raises(ValueError, match=r"init must be words or vectors \(n, 32\).*got \(1, 31\)"):
        adapt.add_token(p, TOKEN, np.ones((1, 31), np.float32))
    with pytest.raises(ValueError, match="vectors must be 1, as many as init has, or left out, got 2"):
        adapt.add_token(p, TOKEN, np.ones((1, 32), np.float32), vectors=2)
    with pytest.raises(ValueError, match="init must be finite numbers"):
        adapt.add_token(p, TOKEN, np.full((1, 32), np.nan, np.float32))
    with pytest.raises(ValueError, match="init must be words of the vocabulary, such as 'cat', got ''"):
        adapt.add_token(p, TOKEN, "")
    with pytest.raises(ValueError, match="must be new to the vocabulary, which has '<my-cat>'"):
        adapt.add_token(added, TOKEN, "cat")
    with pytest.raises(ValueError, match="token must be one that add_token has added, got 'cat'"):
        adapt.token_rows(added, "cat")
    with pytest.raises(ValueError, match=r"rows of '<my-cat>' must have the shape \(1, 32\), got \(2, 32\)"):
        adapt.with_token_rows(added, {TOKEN: ms.Tensor(np.ones((2, 32), np.float32))})
    with pytest.raises(ValueError, match="params must have a text encoder"):
        adapt.add_token(p.replace(text_encoder=None, tokenizer=None), TOKEN, "cat")
    save_file({"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"must hold the vectors \(n, D\) of one token .*got 'a' \(2,\), 'b'"):
        adapt.load_embedding(tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"rows must be for one token, since diffusers reads one"):
        adapt.save_embedding({"a": np.ones((1, 2)), "b": np.ones((1, 2))}, tmp_path / "two.safetensors")


@pytest.mark.reference
def test_transformers_reads_a_token_that_save_writes(tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, T5EncoderModel

    p = adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2)
    p = adapt.with_token_rows(p, tree.map(lambda leaf: leaf + 0.5, adapt.token_rows(p, TOKEN)))
    checkpoint.save(p, tmp_path / "a")
    prompt = adapt.write_prompt(p, "a cute <my-cat> sits")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "a" / "tokenizer")(prompt, return_tensors="pt")
    assert tokens.input_ids[0].tolist() == ids(p, prompt)
    model = T5EncoderModel.from_pretrained(tmp_path / "a" / "text_encoder").eval()
    with torch.no_grad():
        states = model(**tokens).last_hidden_state.numpy()
    ours = t5.encode(
        p.text_encoder, p.config.text_encoder, *(tokens[k].numpy() for k in ("input_ids", "attention_mask"))
    )
    np.testing.assert_allclose(ours.asnumpy(), states, atol=1e-5)


@pytest.mark.reference
def test_diffusers_reads_the_embedding(tmp_path):
    pytest.importorskip("torch")
    from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin, load_textual_inversion_state_dicts
    from transformers import AutoTokenizer

    p = adapt.add_token(tiny.params(), TOKEN, "cat", vectors=2)
    adapt.save_embedding(adapt.token_rows(p, TOKEN), tmp_path / "learned_embeds.safetensors")
    checkpoint.save(tiny.params(), tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a" / "tokenizer")
    stored = load_textual_inversion_state_dicts([str(tmp_path)])
    tokens, embeddings = TextualInversionLoaderMixin._retrieve_tokens_and_embeddings([None], stored, tokenizer)
    tokens, embeddings = TextualInversionLoaderMixin._extend_tokens_and_embeddings(tokens, embeddings, tokenizer)
    assert tokens == [TOKEN, "<my-cat>_1"]
    np.testing.assert_array_equal([e.numpy() for e in embeddings], adapt.token_rows(p, TOKEN)[TOKEN].asnumpy())


# --- DreamBooth -------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The keys that pictures are drawn from, without drawing them: a picture shows its key's last byte."""
    keys = []

    def generate(params, prompt, key, images_per_prompt, **options):
        assert prompt == ["a cat"] and len(key) == images_per_prompt <= adapt.AT_ONCE
        keys.extend(key.tolist())
        return [Image.new("RGB", (4, 4), (int(row[0]) % 256, 0, 0)) for row in key]

    monkeypatch.setattr(adapt, "generate", generate)
    return keys


def test_class_pictures_are_drawn_once_and_resumed(tmp_path, drawn):
    p, key = tiny.params(), rng.key(7)
    keys = rng.split(key, 11)
    files = adapt.class_pictures(p, "a cat", 9, key, tmp_path / "new" / "cats", steps=3, progress=False)
    assert drawn == keys[:9].tolist()
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(9)]
    for i, file in enumerate(files):
        assert Image.open(file).getpixel((0, 0))[0] == int(keys[i][0]) % 256
        assert file.with_suffix(".txt").read_text("utf-8") == "a cat\n"
    files[4].unlink()
    drawn.clear()
    more = adapt.class_pictures(p, "a cat", 11, key, tmp_path / "new" / "cats", steps=3, progress=False)
    assert drawn == keys[[4, 9, 10]].tolist() and len(more) == 11
    settings = read_settings(more[4])
    assert settings == {
        **{"prompt": "a cat", "seed": 7, "steps": 3, "guidance": 4.5, "clean": True, "negative": ""},
        **{"index": 4, "n": 11},
    }
    assert call(settings) == (
        "px.generate(px.load(), 'a cat', px.split(px.key(7), 11)[4], negative_prompt='', steps=3, guidance=4.5)"
    )
    with pytest.raises(ValueError, match=r"out holds 00000.png, which was drawn with steps = 3, and now it is 4; g"):
        adapt.class_pictures(p, "a cat", 11, key, tmp_path / "new" / "cats", steps=4)
    with pytest.raises(ValueError, match="drawn with seed = 7, and now it is None"):
        adapt.class_pictures(p, "a cat", 11, keys[0], tmp_path / "new" / "cats", steps=3)


def test_a_stopped_call_loses_no_more_than_what_is_drawn_together(tmp_path, drawn, monkeypatch):
    p, save = tiny.params(), adapt.save_picture

    def stop(picture, file, **settings):
        if file.name == "00010.png":
            raise KeyboardInterrupt
        save(picture, file, **settings)

    monkeypatch.setattr(adapt, "save_picture", stop)
    with pytest.raises(KeyboardInterrupt):
        adapt.class_pictures(p, "a cat", 20, rng.key(0), tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.png"))) == 10
    monkeypatch.setattr(adapt, "save_picture", save)
    drawn.clear()
    adapt.class_pictures(p, "a cat", 20, rng.key(0), tmp_path, progress=False)
    assert drawn == rng.split(rng.key(0), 20)[10:].tolist()


@pytest.mark.slow
def test_a_class_picture_is_what_generate_draws(tmp_path):
    from pixart_fn.pipeline import generate

    p, key = tiny.params(), rng.key(3)
    options = {"steps": 2, "guidance": 2.0, "height": 16, "width": 16, "negative_prompt": "a dog", "progress": False}
    files = adapt.class_pictures(p, "a cat", 2, key, tmp_path, **options)
    alone = generate(p, "a cat", rng.split(key, 2)[1], **options)
    np.testing.assert_array_equal(np.asarray(Image.open(files[1])), np.asarray(alone))
    assert read_settings(files[1])["negative"] == "a dog"
