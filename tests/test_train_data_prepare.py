"""Preparation: what is encoded, and that a stopped, shared or repeated one gives the same bytes."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from helpers.tolerances import assert_close
from PIL import Image

import pixart_fn as px
from pixart_fn.files import atomic
from pixart_fn.models.sizes import BINS
from pixart_fn.train.data import job, order, pictures, prepare, prepared, sources

CAPTIONS = (
    "a cute cat",
    "the big dog runs over a green field",
    "two birds",
    "",
    "a red apple",
    "an old guitar",
    "sing",
)
SIZES = ((20, 30), (16, 16), (40, 18), (7, 50), (33, 33), (16, 24), (90, 10))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> sources.Source:
    """Seven pictures, one of which isn't one, and one without a caption."""
    folder, random_ = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i, (caption, (height, width)) in enumerate(zip(CAPTIONS, SIZES, strict=True)):
        pixels = random_.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    (folder / "4.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(folder / "z.png")
    return sources.open(folder)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(job, "CHUNK", 2)


def run(source, out, **options):
    return prepare.run(source, tiny.params(), out, **{"batch": 2, "progress": False, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    """What an uninterrupted run has written."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "CHUNK", 2)
        report = run(source, folder)
    assert report.examples == 6 and report.complete
    assert [tuple(each) for each in report.skipped] == [
        ("z.png", "it has no caption: no z.txt beside it and no line of metadata"),
        ("4.png", "it is no picture that Pillow can read"),
    ]
    return folder


def test_the_folder_holds_what_the_stages_encode(source, whole):
    params, dataset = tiny.params(), prepared.open(whole)
    assert sorted(content(whole)) == [
        *(f"{i:06d}.safetensors" for i in range(4)), "index.json", "null.safetensors", "options.json", "skipped.jsonl",
    ]  # fmt: skip
    assert len(dataset) == 6 and dataset.sizes.tolist() == [[8, 8]] * 6 and dataset.scale == 0.5
    for i, k in enumerate((0, 1, 2, 3, 5, 6)):
        found, entry = dataset.example(i), source.entries[k]
        assert found.name == entry.name == f"{k}.png" and dataset.caption(i) == CAPTIONS[k]
        assert found.size == SIZES[k]
        seen = pictures.fit(pictures.decode(entry.read()), 16, 16)
        assert_close(found.mean * 0.5, px.encode_image(params, seen)[0].asnumpy(), 1e-3)
        x = seen.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        logvar = px.vae.encode(params.vae, params.config.vae, tiny.Tensor.from_numpy(x)).logvar.asnumpy()[0]
        assert_close(found.std, np.exp(logvar / 2), 1e-3)
        text = px.encode_prompt(params, CAPTIONS[k])
        real = text.states.asnumpy()[0][text.mask.asnumpy()[0] == 1]
        assert_close(found.states, real, 1e-3)
        assert dataset.lengths[i] == len(real)
    null = px.encode_prompt(params, "")
    assert_close(dataset.null.states[0], null.states.asnumpy()[0, : int(null.mask.sum())], 1e-5)
    lines = (whole / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["z.png", "4.png"]
    assert repr(dataset) == f"Prepared({str(whole)!r}: 6 examples of 1 size)"


def test_it_makes_batches(whole):
    batch = order.Batches(prepared.open(whole), 4, 0, dropout=0.5)(0)
    assert batch.x0.shape == (4, 4, 8, 8) and batch.text.states.shape == (4, 32, 32)
    assert np.isfinite(batch.x0).all()


class Stopped(BaseException):
    """As a KeyboardInterrupt is, which nothing may catch."""


@pytest.mark.parametrize("complete", [False, True])
def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(source, whole, tmp_path, monkeypatch, complete):
    """At a random write, before its file is there or right after, again and again."""
    write, chance = atomic.write, random.Random(complete)
    left, stops = 0, 0

    def stopping(path, save):
        nonlocal left
        left -= 1
        if left >= 0 or complete:
            write(path, save)
        if left < 0:
            raise Stopped

    monkeypatch.setattr(atomic, "write", stopping)
    for _ in range(20):
        try:
            run(source, tmp_path)
        except Stopped:
            left, stops = chance.randrange(1, 4), stops + 1
        else:
            break
    assert 2 < stops < 20 and content(tmp_path) == content(whole)


def test_a_finished_run_encodes_nothing_again(source, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.setattr(prepare, "encode_prompt", lambda *_, **__: pytest.fail("a caption is encoded again"))
    monkeypatch.setattr(prepare, "_moments", lambda *_: pytest.fail("a picture is encoded again"))
    report = run(source, tmp_path / "copy")
    assert report.complete and report.examples == 6 and content(tmp_path / "copy") == content(whole)


@pytest.mark.parametrize("parts", [2, 3])
def test_several_machines_write_the_same_bytes(source, whole, tmp_path, parts):
    reports = [run(source, tmp_path / "shared", shard=(i, parts), workers=i + 1) for i in range(parts)]
    assert [report.complete for report in reports] == [False] * (parts - 1) + [True]
    assert sum(report.examples for report in reports) == 6
    assert content(tmp_path / "shared") == content(whole)


def test_parts_in_several_folders_are_put_together(source, whole, tmp_path):
    for i in range(2):
        run(source, tmp_path / str(i), shard=(i, 2))
        with pytest.raises(FileNotFoundError, match="is not complete; the same command goes on"):
            prepared.open(tmp_path / str(i))
    shutil.copytree(tmp_path / "0", tmp_path / "1", dirs_exist_ok=True)
    assert run(source, tmp_path / "1").complete and content(tmp_path / "1") == content(whole)


def test_other_options_or_another_source_are_refused(source, whole, tmp_path):
    for change, sentence in (
        ({"dtype": "float32"}, "was begun with dtype = 'float16' .now 'float32'.; give the same, or another folder"),
        ({"size": 32, "clean": False}, r"begun with size = 16 \(now 32\), clean = True \(now False\); give"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run(source, whole, **change)
    fewer = sources.Source(source.kind, source.path, source.entries[:-1], source.skipped)
    with pytest.raises(ValueError, match=r"was begun with another source, examples = 7 \(now 6\)"):
        run(fewer, whole)
    other = tiny.params().replace(vae=tiny.without_zeros(px.vae.init(px.key(9), tiny.VAE)))
    with pytest.raises(ValueError, match="was begun with another text encoder or VAE; give the same"):
        prepare.run(source, other, whole, batch=2, progress=False)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds \.safetensors files but no options\.json; name another folder"):
        run(source, tmp_path)


def test_a_chunk_of_another_preparation_is_refused(source, whole, tmp_path):
    run(source, tmp_path / "other", dtype="float32", shard=(0, 4))
    shutil.copytree(whole, tmp_path / "mixed")
    shutil.copy(tmp_path / "other" / "000000.safetensors", tmp_path / "mixed")
    with pytest.raises(ValueError, match=r"000000\.safetensors is part of another preparation; delete it"):
        run(source, tmp_path / "mixed")
    with pytest.raises(ValueError, match=r"000000\.safetensors is part of another preparation; delete it"):
        prepared.open(tmp_path / "mixed").example(0)


def test_float32_is_exact(source, tmp_path):
    params = tiny.params()
    run(source, tmp_path, dtype="float32", shard=(0, 4))
    chunk = prepared.read_chunk(
        tmp_path / "000000.safetensors", json.loads((tmp_path / "options.json").read_text())["digest"]
    )
    text = px.encode_prompt(params, list(CAPTIONS[:2]))
    real = text.states.asnumpy()[text.mask.asnumpy() == 1]
    np.testing.assert_array_equal(chunk.tensors["states"].copy(), real)


def test_pictures_go_to_the_nearest_size_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setitem(BINS, 16, ((8, 24), (16, 16), (24, 8)))
    for name, size in {"a": (60, 20), "b": (20, 60), "c": (64, 60)}.items():
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a cat")
    # graphs of three more sizes would take seconds, and that a picture is encoded is tested above
    monkeypatch.setattr(prepare, "_moments", lambda params, x, name: np.zeros((2, 4, len(x) // 2, x.shape[1] // 2)))
    run(sources.open(tmp_path), tmp_path / "out", size="multi")
    dataset = prepared.open(tmp_path / "out")
    found = {each.name: each.mean.shape for each in map(dataset.example, range(3))}
    assert found == {"a.png": (4, 4, 12), "b.png": (4, 12, 4), "c.png": (4, 8, 8)}
    assert dataset.sizes.tolist() == [[4, 12], [12, 4], [8, 8]]
    batch = order.Batches(dataset, 2, 0, conditions=True)(0)
    (name,) = set(batch.names)
    assert batch.resolution.tolist() == [{"a.png": [20, 60], "b.png": [60, 20], "c.png": [60, 64]}[name]] * 2


def test_all_pictures_unreadable(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text("a cat")
    with pytest.raises(ValueError, match=r"none of the 2 pictures could be read \(a\.png: it is no picture that"):
        run(sources.open(tmp_path), tmp_path / "out")
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 2


def test_a_picture_that_has_gone_is_skipped(source, tmp_path):
    shutil.copytree(source.path, tmp_path / "in")
    own = sources.open(tmp_path / "in")
    (tmp_path / "in" / "0.png").unlink()
    (tmp_path / "in" / "1.png").write_bytes(b"\x89PNG")
    skipped = dict(run(own, tmp_path / "out").skipped)
    assert skipped["0.png"] == "its file can't be read (No such file or directory)"
    assert skipped["1.png"] == "its file can't be read (it was cut off after it was listed)"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": 17}, "height must be divisible by 4, got 17; nearest: 16, 20"),
        (
            {"size": "many"},
            "size, where it isn't a number of pixels, must be one of 'multi', 'multi-256', .*, got 'many'",
        ),
        ({"size": "multi"}, "size='multi' needs a model of 256, 512, 1024 or 2048 pixels, got 16"),
        ({"dtype": "bfloat16"}, "dtype must be one of 'float16', 'float32', got 'bfloat16'"),
        ({"batch": 0}, r"batch must be 1 … 65536, got 0; the nearest is 1"),
        ({"workers": 0}, r"workers must be 1 … 256, got 0; the nearest is 1"),
        ({"shard": (2, 2)}, r"i of shard=\(i, n\) must be 0 or 1, got 2; the nearest is 1"),
        ({"shard": 2}, r"shard must be \(i, n\), the i-th of n parts, got 2"),
        ({"progress": 1}, "progress must be True or False, got an int"),
        ({"source": "a folder"}, "source must be what sources.open returns, got 'a folder'"),
    ],
)
def test_wrong_arguments_come_before_any_work(source, tmp_path, change, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        prepare.run(**{"source": source, "params": tiny.params(), "out": tmp_path / "out", "progress": False, **change})
    assert not (tmp_path / "out").exists()


def test_models_that_are_left_out(source, tmp_path):
    for name, sentence in {"text_encoder": "params have no text encoder", "vae": "these params have no VAE"}.items():
        with pytest.raises(ValueError, match=sentence):
            prepare.run(source, tiny.params().replace(**{name: None}), tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: index.pop("files"),
        lambda index: index.update(files=[]),
        lambda index: index["options"].pop("digest"),
        lambda index: index["options"].update(scaling_factor="1"),
        lambda index: index["files"][0].update(file="../000000.safetensors"),
        lambda index: index["files"][0]["sizes"].pop(),
        lambda index: index["files"][0]["tokens"].__setitem__(0, -1),
        lambda index: index["files"][0]["sizes"].__setitem__(0, [8]),
    ],
)
def test_a_damaged_index_is_one_sentence(whole, tmp_path, damage):
    folder = shutil.copytree(whole, tmp_path / "copy")
    index = json.loads((folder / "index.json").read_text())
    damage(index)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json isn't what a preparation writes; delete it, and the same"):
        prepared.open(folder)


def test_what_was_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the preparation in .* holds no index\.json"):
        prepared.open(tmp_path)
    with pytest.raises(IndexError, match="there are 0 examples"):
        prepared.Prepared(tmp_path, {}, (), np.zeros(1, np.int64), np.zeros((0, 2)), np.zeros(0), 1.0, None).example(0)


def test_the_bar_counts_what_was_done_before(source, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "copy")
    for name in ("index.json", "000003.safetensors"):
        (tmp_path / "copy" / name).unlink()
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    run(source, tmp_path / "copy", progress=True)
    assert "6/7" in shown.getvalue() and "7/7" in shown.getvalue()
    assert content(tmp_path / "copy") == content(whole)
