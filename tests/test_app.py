"""The page without its server: what is offered, what is refused, how a drawing is stopped, and what is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import tiny
from mindspore import Tensor
from PIL import Image, ImageOps

from pixart_fn import picture, rng, tree
from pixart_fn.app import Limits, choices, serving, styles, wish, words
from pixart_fn.app import drawing as drawing_
from pixart_fn.app.drawing import Cancelled, Done, Model, Step, steps
from pixart_fn.app.gallery import Keeper, Kept
from pixart_fn.app.jobs import Busy, Jobs
from pixart_fn.app.preview import Preview, as_url
from pixart_fn.checkpoint import controlnet, lora
from pixart_fn.models import sizes
from pixart_fn.process.notes import warn
from pixart_fn.settings import adapters, digest, listed

WISH = wish.Wish("a cat", "", styles.NONE, (16, 16), "", 2, 1.0, 7, 1)
PREVIEW = Preview(np.linspace(-1, 1, 15).reshape(5, 3))


def changed(weights):
    """The same tree with other numbers, where a new ControlNet or adapter changes nothing."""
    return tree.map(lambda leaf: Tensor(rng.normal(rng.key(leaf.size), leaf.shape) * 0.2, leaf.dtype), weights)


def grey(size: tuple[int, int], value: int) -> Image.Image:
    return Image.new("RGB", (size[1], size[0]), (value,) * 3)


def test_the_sizes_are_the_checkpoints_own_table():
    released = tiny.params(tiny.RELEASED_SIZE, tiny.RELEASED_FACTOR)
    assert choices.offered(released, 2048**2) == list(sizes.BINS[256])
    assert choices.own(released, choices.offered(released, 2048**2)) == (256, 256)
    with pytest.raises(ValueError, match=r"limits\.pixels must be at least \d+ for this model, got 5"):
        choices.offered(released, 5)


def test_without_a_table_each_size_can_be_drawn_and_has_about_as_many_pixels():
    table = choices.offered(tiny.params(), 2048**2)
    assert (16, 16) in table
    assert all(h % 4 == w % 4 == 0 and 0.7 < h * w / 256 < 1.4 for h, w in table)
    assert choices.label((16, 16)) == "16 × 16, square"
    assert choices.label((12, 24)) == "24 × 12, wide 2.00 : 1"


def test_the_styles_have_the_names_of_the_authors_demo():
    names = "(No style)/Cinematic/Photographic/Anime/Manga/Digital Art/Pixel art/Fantasy art/Neonpunk/3D Model"
    assert list(styles.STYLES) == names.split("/")
    assert styles.styled(styles.NONE, "a {prompt}", "fog") == ("a {prompt}", "fog")
    prompt, negative = styles.styled("Manga", "a cat", "fog")
    assert "a cat" in prompt and "{" not in prompt and negative.startswith("fog, ")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "x" * 2001}, "the prompt must have at most 2000 characters, got 2001"),
        ({"negative": "x" * 2001}, "the negative prompt must have at most 2000"),
        ({"size": (4096, 4096)}, "at most 4194304 pixels"),
        ({"steps": 101}, "the number of steps must be 1 … 100, got 101"),
        ({"n": 5}, "the number of pictures must be 1 … 4, got 5"),
        ({"solver": "best"}, "the solver must be one of"),
        ({"seed": -1}, "the seed must be"),
        ({"strength": 1.5}, "the strength must be"),
        ({"guidance": float("nan")}, "guidance must be"),
    ],
)
def test_what_is_beyond_the_limits_is_refused(change, sentence):
    wish.check_wish(WISH, Limits())
    with pytest.raises(ValueError, match=sentence):
        wish.check_wish(WISH._replace(**change), Limits())


def test_limits_are_checked():
    assert {each.name for each in dataclasses.fields(Limits)} >= {"pixels", "steps", "pictures", "prompt", "waiting"}
    with pytest.raises(ValueError, match="waiting must be 1 … 1000, got 0"):
        Limits(waiting=0)
    with pytest.raises(TypeError, match="steps must be a whole number"):
        Limits(steps=2.5)


def test_a_visitor_draws_once_at_a_time_and_only_so_many_wait():
    jobs = Jobs(2)
    first, second = jobs.begin("a"), jobs.begin("b")
    assert jobs.draws("a") and not jobs.draws("c")
    with pytest.raises(Busy, match="being drawn already"):
        jobs.begin("a")
    with pytest.raises(Busy, match="2 drawings wait already"):
        jobs.begin("c")
    assert jobs.stop("a") and first.is_set() and not second.is_set()
    jobs.end("a")
    assert not jobs.stop("a") and not jobs.begin("c").is_set()


def test_drawings_come_one_after_the_other_and_one_that_waits_can_be_stopped():
    jobs, turns = Jobs(9), []
    for visitor in "abcd":
        jobs.begin(visitor)
    assert list(jobs.ahead("a")) == []
    third, fourth = jobs.ahead("c"), jobs.ahead("d")
    assert (next(third), next(fourth)) == (2, 3)
    waiting = threading.Thread(target=lambda: turns.extend(third))
    waiting.start()
    for visitor in "ab":
        jobs.end(visitor)
    waiting.join(5)
    assert turns in ([1], []) and next(fourth) == 1
    jobs.stop("d")
    assert list(fourth) == []


@pytest.mark.slow
def test_a_drawing_shows_each_step_and_then_what_generate_draws():
    from pixart_fn import generate, key

    model = Model(tiny.params(), PREVIEW)
    *shown, done = steps(model, WISH, threading.Event())
    assert [each.number for each in shown] == [1, 2] and all(isinstance(each, Step) for each in shown)
    assert shown[0].pixels.shape == (1, 8, 8, 3) and not np.array_equal(shown[0].pixels, shown[1].pixels)
    alone = generate(model.params, "a cat", key(7), steps=2, guidance=1.0, height=16, width=16, progress=False)
    assert isinstance(done, Done) and np.array_equal(np.asarray(done.pictures[0]), np.asarray(alone))


@pytest.fixture
def endless(monkeypatch):
    """A model whose drawing has as many steps as are taken, without computing anything."""

    def generate(params, prompts, key, *, steps, on_step, **how):
        latents = rng.normal(key, (1, 4, 2, 2))
        for _ in range(steps):
            on_step(SimpleNamespace(x0=latents))
        return [grey((16, 16), steps)]

    monkeypatch.setattr(drawing_, "generate", generate)
    return Model(None, PREVIEW)


def test_a_drawing_stops_after_its_step_and_the_next_one_works(endless):
    stop = threading.Event()
    drawing = steps(endless, WISH._replace(steps=10**9), stop)
    next(drawing)
    stop.set()
    with pytest.raises(Cancelled):
        for each in drawing:
            assert isinstance(each, Step)
    assert isinstance(list(steps(endless, WISH, threading.Event()))[-1], Done)


def test_what_nobody_takes_any_more_is_stopped(endless):
    stop = threading.Event()
    drawing = steps(endless, WISH._replace(steps=10**9), stop)
    next(drawing)
    (thread,) = [each for each in threading.enumerate() if each.name == "pixart_fn.app"]
    drawing.close()
    assert stop.is_set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_drawing_has_its_own_warnings_and_leaves_those_of_the_process_alone(monkeypatch):
    """Also where the one before it was cancelled and is still in its last step."""
    may_end = threading.Event()

    def generate(params, prompts, key, *, steps, on_step, **how):
        warn(f"{steps} steps", stacklevel=1)
        on_step(SimpleNamespace(x0=rng.normal(key, (1, 4, 2, 2))))
        if steps == 9:
            may_end.wait(5)
            warn("too late", stacklevel=1)
        return [grey((16, 16), steps)]

    monkeypatch.setattr(drawing_, "generate", generate)
    before = list(warnings.filters), warnings.showwarning
    cancelled = steps(Model(None, PREVIEW), WISH._replace(steps=9), threading.Event())
    next(cancelled)
    cancelled.close()
    (thread,) = [each for each in threading.enumerate() if each.name == "pixart_fn.app"]
    *_, done = steps(Model(None, PREVIEW), WISH, threading.Event())
    may_end.set()
    thread.join(5)
    assert done.notes == ["2 steps"]
    assert (list(warnings.filters), warnings.showwarning) == before


def test_edges_and_adapters_have_the_names_that_the_command_gives_them(tmp_path):
    (tmp_path / "b.safetensors").write_bytes(b"style")
    base = adapters([("a", "0" * 64, 2.0)])
    given = WISH._replace(control=grey((16, 16), 9), control_scale=0.5, lora=str(tmp_path / "b.safetensors"))
    files = wish.attached(given)
    found = wish.settings_of(given, files, {"controlnet": "own/er", **base}, 0)
    assert found.items() >= {
        "control": files["control"].name, "control_sha256": hashlib.sha256(files["control"].content).hexdigest(),
        "controlnet": "own/er", "control_scale": 0.5, "binning": False,
        "lora": ["a", "b.safetensors"], "lora_sha256": ["0" * 64, hashlib.sha256(b"style").hexdigest()],
        "lora_weight": [2.0, 1.0],
    }.items()  # fmt: skip
    assert wish.settings_of(WISH, {}, {"controlnet": "own/er", **base}, 0).items() >= base.items()
    assert "px.controlnet.load('own/er')" in picture.call(found)


def drawn(given: wish.Wish, loaded: dict[str, object], model: Model, keeper: Keeper) -> Kept:
    """Draw one picture and keep it, as the page does."""
    files = wish.attached(given)
    *_, done = steps(model, given, threading.Event())
    (kept,) = keeper.keep([(done.pictures[0], wish.settings_of(given, files, loaded, 0))], files)
    return kept


@pytest.fixture
def again(tmp_path, monkeypatch):
    """Run the call that `show` prints of what was kept, where nothing lies but what the page has for the download."""
    import pixart_fn as px

    def run(kept: Kept):
        call = picture.call(picture.read_settings(kept.file))
        for each in kept.beside:
            shutil.copy(each, tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(px, "load", tiny.params)
        return np.asarray(eval(call, {"px": px})), call

    return run


@pytest.mark.slow
def test_an_inpainted_picture_can_be_drawn_again_from_the_files_beside_it(again):
    drawn_from = ImageOps.fit(Image.effect_noise((40, 20), 80).convert("RGB"), (16, 16))
    layer = Image.new("RGBA", (40, 20))
    layer.paste((10, 20, 250, 255), (15, 0, 25, 20))
    given = WISH._replace(source=drawn_from, mask=wish.painted([layer], (16, 16)), strength=1.0)
    assert np.asarray(given.mask)[:, 8].all() and not np.asarray(given.mask)[:, 0].any()
    keeper = Keeper()
    kept = drawn(given, {}, Model(tiny.params(), PREVIEW), keeper)
    assert np.array_equal(again(kept)[0], np.asarray(Image.open(kept.file)))
    keeper.close()


@pytest.mark.slow
def test_edges_and_adapters_are_stored_as_the_command_stores_them_and_drawn_again(again, tmp_path, monkeypatch):
    config = controlnet.Config(1, tiny.TRANSFORMER.num_attention_heads, tiny.TRANSFORMER.attention_head_dim)
    net = changed(controlnet.init(tiny.params().transformer, tiny.TRANSFORMER, config)), config
    monkeypatch.setattr(controlnet, "load", lambda source: net if source == "own/er" else None)
    rows = []
    for number, name in enumerate(("first", "second")):
        adapter = lora.init(rng.key(number), tiny.params(), lora.Config(rank=2))
        file = tmp_path / f"{name}.safetensors"
        lora.save(changed(adapter), file, layout="diffusers")
        rows.append((str(file) if number == 0 else file.name, digest(str(file)), 0.5 - number))
    base = lora.merge(tiny.params(), lora.load(rows[0][0]), rows[0][2])
    given = WISH._replace(control=Image.effect_noise((16, 16), 80).convert("RGB"), control_scale=0.5)
    given = given._replace(lora=str(tmp_path / "second.safetensors"), weight=rows[1][2])
    keeper, loaded = Keeper(), {"controlnet": "own/er", **adapters(rows[:1])}
    kept = drawn(given, loaded, Model(base, PREVIEW, net), keeper)
    pixels, call = again(kept)
    assert np.array_equal(pixels, np.asarray(Image.open(kept.file))) and "scale=0.5" in call
    assert listed(kept.settings) == rows and {"control", "control_sha256", "controlnet"} <= {*kept.settings}
    plain = drawn(WISH, loaded, Model(base, PREVIEW, net), keeper)
    assert "controlnet" not in plain.settings and not np.array_equal(np.asarray(Image.open(plain.file)), pixels)
    keeper.close()


def test_nothing_painted_is_no_mask_and_what_is_cut_off_is_said():
    assert wish.painted([Image.new("RGBA", (40, 20))], (16, 16)) is None
    edge = Image.new("RGBA", (40, 20))
    edge.paste((1, 1, 1, 255), (0, 0, 4, 20))
    with pytest.raises(ValueError, match="outside of the part of the picture that is drawn"):
        wish.painted([edge], (16, 16))


def test_the_linear_map_is_applied_to_each_latent():
    z = np.random.default_rng(0).standard_normal((2, 4, 3, 5)).astype(np.float32) * 0.2
    wanted = np.einsum("kchw,cd->khwd", z.astype(np.float64), PREVIEW.weights[:4]) + PREVIEW.weights[4]
    np.testing.assert_allclose(PREVIEW.pixels(z), wanted.clip(0, 1), atol=1e-12)
    assert as_url([*PREVIEW.pixels(z)]).startswith("data:image/jpeg;base64,/9j/")


def test_what_visitors_write_is_no_html():
    settings = wish.settings_of(WISH._replace(prompt="<script>x</script>"), {}, {}, 0)
    assert "<script" not in words.details(settings) and "&lt;script" in words.details(settings)
    assert "<b>" not in words.said("<b>")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"host": None}, "host must be a string"),
        ({"port": 0}, "port must be 1 … 65535"),
        ({"limits": 3}, "limits must be a pixart_fn.app.Limits"),
        ({"controlnet": 3}, "net must be"),
        ({"loaded": {"steps": 3}}, "no other settings than model"),
        ({"share": True}, "serve has no argument 'share'"),
    ],
)
def test_what_serve_cannot_use_is_refused_before_the_page_is_built(options, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        serving.serve(tiny.params(), **options)


def test_a_missing_gradio_and_a_taken_port_are_sentences(monkeypatch):
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install '\.\[app\]'"):
        serving.page(tiny.params())
    with serving.socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="can't listen at 127"):
            serving.check_free(*taken.getsockname())


def test_the_map_is_learned_from_the_vae(monkeypatch):
    from pixart_fn.app import preview as preview_

    monkeypatch.setattr(preview_, "_tiny", lambda params: None)
    known = preview_._smooth(16)
    small = known.reshape(4, 8, 2, 8, 2, 3).mean((2, 4))

    def encoded(params, pictures):
        from mindspore import Tensor

        z = small.transpose(0, 3, 1, 2) * 3 - 1
        return Tensor(np.concatenate([z, z[:, :1] ** 2], 1).astype(np.float32))

    monkeypatch.setattr(preview_, "encode_image", encoded)
    found = preview_.preview(tiny.params())
    np.testing.assert_allclose(found.pixels(encoded(None, None)), small, atol=1e-5)
