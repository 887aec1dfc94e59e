"""The authors' features, written as their extraction scripts do, read; and every mistake in them as one sentence."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from helpers import authors as files

from pixart_fn.train.data import authors, order
from pixart_fn.types import Text

CASES = [("alpha", False), ("alpha", True), ("sigma", False), ("sigma", True)]
NULL = Text(np.zeros((1, 1, files.WIDTH), np.float32), np.ones((1, 1), np.int32))


def opened(root, version="alpha", multiscale=False, resolution=256, **options):
    return authors.open(root, version, resolution, multiscale=multiscale, width=files.WIDTH, **options)


@pytest.mark.parametrize(("version", "multiscale"), CASES)
@pytest.mark.parametrize("joined", [True, False])
def test_features_are_read_as_they_were_written(tmp_path, version, multiscale, joined):
    written = files.write(tmp_path, version, multiscale, joined=joined)
    dataset = opened(tmp_path, version, multiscale)
    assert len(dataset) == 3 and dataset.scale == {"alpha": 0.18215, "sigma": 0.13025}[version]
    texts = files.FOLDERS[version, multiscale][1]
    for i, (path, height, width, _) in enumerate(files.ROWS):
        for choice, folder in ((0.0, texts), (0.49, texts), (0.5, texts if version == "alpha" else files.LONG)):
            found = dataset.example(i, choice)
            np.testing.assert_array_equal(found.states, written[path][folder].astype(np.float32))
        np.testing.assert_array_equal(found.mean, written[path]["mean"].astype(np.float32))
        np.testing.assert_array_equal(found.std, written[path]["std"].astype(np.float32))
        assert found.mean.dtype == found.states.dtype == np.float32
        assert found.size == (height, width) and found.name == path
        assert found.mean.shape == (4, *dataset.sizes[i])
    assert dataset.sizes.tolist() == ([[32, 32], [44, 22], [26, 38]] if multiscale else [[32, 32]] * 3)


def test_features_make_batches(tmp_path):
    written = files.write(tmp_path, "sigma", True)
    dataset = opened(tmp_path, "sigma", True)
    batches = order.Batches(dataset, 1, 0, null=NULL, dropout=0.5, sample=False, conditions=True)
    for step in range(6):
        batch = batches(step)
        (name,) = batch.names
        np.testing.assert_allclose(batch.x0[0], 0.13025 * written[name]["mean"].astype(np.float32), rtol=1e-6)
        assert batch.text.states.shape == (1, 300, files.WIDTH)
    texts = {batches(step).text.states.tobytes() for step in range(30)}
    assert len(texts) == 7, "the empty prompt, and the two captions of each"
    with pytest.raises(ValueError, match="dropout needs null="):
        order.Batches(dataset, 1, 0)


@pytest.mark.parametrize(("version", "limit"), [("alpha", 4), ("sigma", 4.5)])
def test_what_is_taller_than_the_limit_is_left_out(tmp_path, version, limit):
    heights = [int(40 * limit), int(40 * limit) + 2]
    rows = [(f"{n}.png", height, 40, 3) for n, height in enumerate(heights)] + [("wide.png", 10, 90, 3)]
    files.write(tmp_path, version, False, rows=rows)
    dataset = opened(tmp_path, version)
    assert [row.path.name for row in dataset.rows] == ["0.png", "wide.png"]
    assert [tuple(each) for each in dataset.skipped] == [
        ("1.png", f"its height / width of {limit + 0.05:g} is above {limit:g}")
    ]


def test_how_often_the_prompt_is_the_users(tmp_path):
    files.write(tmp_path, "sigma", False, rows=files.ROWS[:1])
    batches = order.Batches(opened(tmp_path, "sigma", real_prompt_ratio=0.2), 1, 0, dropout=0.0)
    seen = [batches(step).text.states[0, 0, 0] for step in range(200)]
    shares = sorted(seen.count(each) / 200 for each in set(seen))
    assert len(shares) == 2 and abs(shares[0] - 0.2) < 0.08
    only = opened(tmp_path, "sigma", real_prompt_ratio=1.0)
    assert len(only.texts) == 1
    with pytest.raises(
        ValueError, match=r"real_prompt_ratio must be 1 for 'alpha', which has no other captions, got 0\.5"
    ):
        opened(tmp_path, real_prompt_ratio=0.5)


def test_two_pictures_never_share_a_file(tmp_path):
    """Σ's extraction names files without folders, and another picture of the name would get the first's features."""
    files.write(tmp_path, "sigma", False, rows=[("a/0.png", 8, 8, 3), ("b/1.png", 8, 8, 3)], joined=False)
    assert opened(tmp_path, "sigma").example(0, 0.0).size == (8, 8)
    files.write(tmp_path, "sigma", False, rows=[("a/0.png", 8, 8, 3), ("b/0.png", 8, 8, 3)], joined=False)
    with pytest.raises(FileNotFoundError, match=r"a_0\.npy"):
        opened(tmp_path, "sigma").example(0, 0.0)


def test_without_a_mask_all_tokens_are_real(tmp_path):
    files.write(tmp_path, "alpha", False)
    states = np.ones((1, 9, files.WIDTH), np.float32)
    np.savez(tmp_path / "caption_feature_wmask" / "a_0.npz", caption_feature=states)
    np.testing.assert_array_equal(opened(tmp_path).example(0, 0.0).states, states[0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ratio": 1.1}, r"ratio in entry 1 of .*data_info\.json must be height / width = 512 / 256 = 2, got 1\.1"),
        ({"ratio": "2"}, r"ratio in entry 1 of .*data_info\.json must be height / width"),
        ({"ratio": float("nan")}, r"ratio in entry 1 of .*data_info\.json must be height / width"),
        ({"ratio": 10**400}, r"ratio in entry 1 of .*data_info\.json must be height / width"),
        ({"width": 0}, r"width in entry 1 of .*data_info\.json must be a whole number of pixels, got 0"),
        ({"height": 1.5}, r"height in entry 1 of .*data_info\.json must be a whole number of pixels, got 1\.5"),
        ({"height": 10**400}, r"height in entry 1 of .*data_info\.json must be a whole number"),
        ({"path": "../0.png"}, r"path in entry 1 of .*data_info\.json must name a file in its own folder or below"),
        ({"prompt": None}, r"prompt in entry 1 of .*data_info\.json must be a text, got None"),
        ({"sharegpt4v": ""}, r"sharegpt4v in entry 1 of .*data_info\.json is empty; real_prompt_ratio=1 does without"),
        *(({name: ...}, f"entry 1 of .*data_info.json has no '{name}'") for name in files.row("0.png", 1, 1)),
    ],
)
def test_a_mistake_in_the_list_is_one_sentence_with_its_place(tmp_path, change, sentence):
    files.write(tmp_path, "sigma", False)
    rows = json.loads((tmp_path / "data_info.json").read_text())
    rows[1] = {name: value for name, value in {**rows[1], **change}.items() if value is not ...}
    (tmp_path / "data_info.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=sentence) as raised:
        opened(tmp_path, "sigma")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize("content", ["[]", "{}", "[1]", "[", "3"])
def test_what_is_no_list(tmp_path, content):
    files.write(tmp_path, "alpha", False)
    (tmp_path / "partition" / "data_info.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"data_info\.json (must hold a JSON list|isn't valid JSON|must be a JSON object)"
    ):
        opened(tmp_path)


def test_folders_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no data_info\.json, nor does a folder partition in it"):
        opened(tmp_path)
    files.write(tmp_path, "alpha", False)
    with pytest.raises(FileNotFoundError, match="there is no folder img_vae_fatures_512_multiscale/ms in"):
        opened(tmp_path, multiscale=True, resolution=512)
    with pytest.raises(ValueError, match="resolution must be one of 256, 512, 1024, 2048, got 384"):
        opened(tmp_path, multiscale=True, resolution=384)
    with pytest.raises(ValueError, match="resolution must be a multiple of 8, got 250"):
        opened(tmp_path, resolution=250)
    assert len(opened(tmp_path / "partition" / "data_info.json")) == 3


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (ones(8, 32, 31), r"a_0\.npy must hold mean and std as floats of \(8, 32, 32\), got float32 \(8, 32, 31\)"),
        (ones(4, 32, 32), r"a_0\.npy must hold mean and std as floats of \(8, 32, 32\), got float32 \(4, 32, 32\)"),
        (ones(8, 32, 32).astype(int), r"a_0\.npy must hold mean and std as floats of .*, got int64"),
        (ones(8, 32, 32) * np.nan, r"a_0\.npy holds NaN or infinity"),
        (-ones(8, 32, 32), r"a_0\.npy must hold the mean and then the standard deviation, which is below 0 somewhere"),
        (np.array([None]), r"a_0\.npy is no \.npy file of numbers, or is damaged \('it holds objects'\)"),
    ],
)
def test_a_mistake_in_latents_is_one_sentence_with_the_file(tmp_path, array, sentence):
    files.write(tmp_path, "alpha", False)
    np.save(tmp_path / "img_vae_features_256resolution" / "noflip" / "a_0.npy", array)
    with pytest.raises(ValueError, match=sentence) as raised:
        opened(tmp_path).example(0, 0.0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"features": ones(1, 2, 6)}, r"a_0\.npz holds no caption_feature, only features"),
        ({"caption_feature": ones(1, 2, 5)}, r"caption_feature in .*a_0\.npz must be floats of \(1, T, 6\) with"),
        ({"caption_feature": ones(2, 6)}, r"caption_feature in .*a_0\.npz must be floats of \(1, T, 6\)"),
        ({"caption_feature": ones(1, 121, 6)}, r"T at most 120, got float32 \(1, 121, 6\)"),
        ({"caption_feature": ones(1, 0, 6)}, r"T at most 120, got float32 \(1, 0, 6\)"),
        ({"caption_feature": ones(1, 2, 6) * np.inf}, r"caption_feature in .*a_0\.npz holds NaN or infinity"),
        ({"caption_feature": ones(1, 2, 6), "attention_mask": ones(1, 3)}, r"attention_mask in .* shape \(1, 2\) of"),
        ({"caption_feature": ones(1, 2, 6), "attention_mask": 2 * ones(1, 2)}, r"attention_mask in .* must be 1 on"),
        ({"caption_feature": ones(1, 2, 6), "attention_mask": 0 * ones(1, 2)}, r"attention_mask in .*a_0\.npz must"),
    ],
)  # fmt: skip
def test_a_mistake_in_text_features_is_one_sentence_with_the_file(tmp_path, arrays, sentence):
    files.write(tmp_path, "alpha", False)
    np.savez(tmp_path / "caption_feature_wmask" / "a_0.npz", **arrays)
    with pytest.raises(ValueError, match=sentence) as raised:
        opened(tmp_path).example(0, 0.0)
    assert "\n" not in str(raised.value)


def test_damaged_files_of_features(tmp_path):
    files.write(tmp_path, "alpha", False)
    text = tmp_path / "caption_feature_wmask" / "a_0.npz"
    whole = text.read_bytes()
    huge = np.lib.format
    for content in (b"", b"nonsense", whole[:-30], whole[:100] + b"\0" * 40 + whole[140:]):
        text.write_bytes(content)
        with pytest.raises(ValueError, match=r"a_0\.npz is no \.npz file of numbers, or is damaged \("):
            opened(tmp_path).example(0, 0.0)
    with zipfile.ZipFile(text, "w") as archive, archive.open("caption_feature.npy", "w") as file:
        huge.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1, 2**40, 6)})
    with pytest.raises(ValueError, match=r"a_0\.npz is no .* damaged \(\"its size isn't what its header says\"\)"):
        opened(tmp_path).example(0, 0.0)
    text.unlink()
    with pytest.raises(FileNotFoundError, match=r"a_0\.npz"):
        opened(tmp_path).example(0, 0.0)


def test_every_file_can_be_checked_before_training(tmp_path):
    files.write(tmp_path, "sigma", False)
    authors.check(opened(tmp_path, "sigma"), progress=False)
    latents = "img_sdxl_vae_features_256resolution_new"
    for folder, ending in ((files.LONG, ".npz"), ("caption_features_new", ".npz"), (latents, ".npy")):
        (tmp_path / folder / f"b_2{ending}").rename(tmp_path / "kept")
        with pytest.raises(FileNotFoundError, match=rf"{folder}/b_2\{ending}"):
            authors.check(opened(tmp_path, "sigma"), progress=False)
        (tmp_path / "kept").rename(tmp_path / folder / f"b_2{ending}")
    (tmp_path / files.LONG / "b_2.npz").unlink()
    authors.check(opened(tmp_path, "sigma", real_prompt_ratio=1.0), progress=False)


def test_arrays_in_another_order_of_axes_are_read(tmp_path):
    files.write(tmp_path, "alpha", False)
    array = np.random.default_rng(0).random((8, 32, 32)).astype(np.float32)
    np.save(tmp_path / "img_vae_features_256resolution" / "noflip" / "a_0.npy", np.asfortranarray(array))
    found = opened(tmp_path).example(0, 0.0)
    np.testing.assert_array_equal(np.concatenate([found.mean, found.std]), array)
