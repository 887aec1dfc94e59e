"""FID, KID, CLIP score, precision and recall against the numbers of published implementations, and closed forms."""

from __future__ import annotations

import inspect
import zipfile

import numpy as np
import pytest
from helpers.tolerances import assert_close

from pixart_fn import rng
from pixart_fn.train import evaluate

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

I, J = (np.arange(n * 6, dtype=np.float64).reshape(n, 6) for n in (40, 32))
REAL = np.sin(1.7 * I + 0.3 * I**1.5) + 0.2 * np.cos(I)
GENERATED = 1.2 * np.sin(0.9 * J + 0.31 * J**1.5) + 0.15
KEY = rng.key(0)


def random(seed: int, n: int, D: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D))


# --- what the code of clean-fid, torch-fidelity and torchmetrics gives for these arrays -------------------------------


def test_fid_is_that_of_clean_fid_and_torch_fidelity():
    assert evaluate.fid(REAL, GENERATED) == pytest.approx(0.43746965846088, rel=1e-12)


def test_kid_is_that_of_clean_fid_and_torch_fidelity():
    """Of all rows, of which every subset is another order."""
    mean, std = evaluate.kid(REAL[:32], GENERATED, KEY, subsets=3, size=32)
    assert mean == pytest.approx(-0.07351020509802719, rel=1e-10) and std < 1e-12
    options = inspect.signature(evaluate.kid).parameters
    assert (options["subsets"].default, options["size"].default) == (100, 1000)


def test_precision_and_recall_are_those_of_torch_fidelity():
    assert evaluate.precision_recall(REAL, GENERATED) == (0.875, 1.0)
    assert evaluate.precision_recall(REAL, GENERATED, k=1) == pytest.approx((0.375, 0.85))
    assert evaluate.precision_recall(GENERATED, REAL) == (1.0, 0.875)


def test_the_clip_score_is_that_of_torchmetrics():
    assert evaluate.clip_score(np.abs(REAL[:32]), np.abs(GENERATED)) == pytest.approx(81.6294359256169, rel=1e-12)


# --- closed forms -----------------------------------------------------------------------------------------------------


def test_fid_of_gaussians_that_commute():
    """Σ (μ - ν)² + (√a - √b)² for diagonal covariances, and 0 of equal ones."""
    mu, nu, a, b = np.abs(random(0, 4, 5))
    rotation = np.linalg.qr(random(1, 5, 5))[0]
    one, other = (evaluate.Statistics(rotation @ m, rotation @ np.diag(v) @ rotation.T) for m, v in ((mu, a), (nu, b)))
    expected = ((mu - nu) ** 2 + (np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert evaluate.fid(one, other) == pytest.approx(expected, rel=1e-12)
    assert abs(evaluate.fid(one, one)) < 1e-12


def test_fid_of_fewer_pictures_than_features():
    """Where the product's root loses half of its digits."""
    x = random(2, 5, 30)
    assert abs(evaluate.fid(x, x)) < 1e-11
    assert evaluate.fid(x, x + 0.5) == pytest.approx(30 * 0.25, rel=1e-12)


def test_statistics_of_chunks_are_those_of_the_whole():
    x = 1e3 + random(3, 50, 4)
    parts = (ms.Tensor(each) for each in (x[:1], x[1:20], x[20:]))
    for made in (evaluate.statistics(parts), evaluate.statistics(x), evaluate.statistics([x[:30], x[30:]])):
        assert_close(made.mu, x.mean(0))
        assert_close(made.sigma, np.cov(x, rowvar=False), 1e-10)
    half = evaluate.statistics(x.astype(np.float16))
    assert half.mu.dtype == half.sigma.dtype == np.float64


def test_kid_is_the_mean_over_subsets_without_repetition():
    result = evaluate.kid(REAL, GENERATED, KEY, subsets=7, size=9)
    values = []
    for i in range(7):
        draws = np.random.default_rng(rng.fold_in(KEY, i))
        x, y = (each[draws.choice(len(each), 9, replace=False)] for each in (REAL, GENERATED))
        total = 0.0
        for a in range(9):
            for b in range(9):
                other = (x[a] @ x[b] / 6 + 1) ** 3 + (y[a] @ y[b] / 6 + 1) ** 3 if a != b else 0
                total += other / (9 * 8) - 2 * (x[a] @ y[b] / 6 + 1) ** 3 / 81
        values.append(total)
    assert result.mean == pytest.approx(np.mean(values)) and result.std == pytest.approx(np.std(values))
    assert result == evaluate.kid(REAL, GENERATED, KEY, subsets=7, size=9)
    assert result != evaluate.kid(REAL, GENERATED, rng.key(1), subsets=7, size=9)


def test_kid_is_unbiased():
    """Of two samples of one distribution it is 0 on average."""
    x, y = random(4, 600, 3), random(5, 600, 3)
    mean, std = evaluate.kid(x, y, KEY, subsets=40, size=50)
    assert abs(mean) < 4 * std / np.sqrt(40) + 0.05 and std > 0.01
    assert evaluate.kid(x, y + 1, KEY, subsets=40, size=50).mean > 10 * std


def test_the_clip_score_counts_no_less_than_nothing():
    images = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0], [3.0, 3.0]])
    texts = np.array([[7.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert evaluate.clip_score(images, texts) == pytest.approx((100 + 0 + 0 + 100 / np.sqrt(2)) / 4)


def test_precision_and_recall_of_modes():
    """Real pictures have two modes, of which the generated ones know one, and add a third."""
    x = np.concatenate([random(6, 30, 2), random(7, 30, 2) + np.array([50, 0])])
    y = np.concatenate([random(8, 30, 2), random(9, 10, 2) + np.array([0, 50])])
    precision, recall = evaluate.precision_recall(x, y)
    assert 0.6 < precision <= 0.75 and 0.35 < recall <= 0.5
    assert evaluate.precision_recall(x, x) == (1, 1)


def test_precision_and_recall_of_many_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(evaluate, "CHUNK", 7)
    x, y = random(10, 40, 3), 1.3 * random(11, 25, 3)

    def share(points, centres):
        between = np.linalg.norm(centres[:, None] - centres, axis=2)
        radii = np.sort(between, axis=1)[:, 3]
        return (np.linalg.norm(points[:, None] - centres, axis=2) <= radii).any(1).mean()

    assert evaluate.precision_recall(x, y) == pytest.approx((share(y, x), share(x, y)))


# --- files ------------------------------------------------------------------------------------------------------------


def test_statistics_are_stored_as_clean_fid_stores_them(tmp_path):
    made = evaluate.statistics(REAL)
    evaluate.write_statistics(made, tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as stored:
        assert sorted(stored) == ["mu", "sigma"]
        np.testing.assert_array_equal(stored["sigma"], made.sigma)
    np.savez_compressed(tmp_path / "theirs.npz", mu=REAL.mean(0), sigma=np.cov(REAL, rowvar=False), extra=1)
    theirs = evaluate.read_statistics(str(tmp_path / "theirs.npz"))
    assert abs(evaluate.fid(theirs, evaluate.read_statistics(tmp_path / "ours.npz"))) < 1e-12
    assert evaluate.fid(theirs, GENERATED) == pytest.approx(0.43746965846088, rel=1e-12)


def store(**arrays):
    return lambda file: np.savez(file, **arrays)


def truncate(file):
    np.savez(file, mu=np.zeros(100), sigma=np.eye(100))
    file.write_bytes(file.read_bytes()[:5000])


def claim(file):
    """A header of more than there is."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros(2)) | {"shape": (10**15,)}
    with zipfile.ZipFile(file, "w") as archive, archive.open("mu.npy", "w") as opened:
        np.lib.format.write_array_header_1_0(opened, header)


DAMAGED = {
    "text": (lambda file: file.write_text("mu"), "is not a zip file"),
    "truncated": (truncate, "is not a zip file"),
    "no sigma": (store(mu=np.zeros(2)), "no item named 'sigma.npy'"),
    "objects": (store(mu=np.array([object()]), sigma=np.eye(1)), "allow_pickle"),
    "whole numbers": (store(mu=np.zeros(2, int), sigma=np.eye(2)), "got int64 for mu"),
    "other shapes": (store(mu=np.zeros(3), sigma=np.eye(2)), r"got \(3,\) and \(2, 2\)"),
    "NaN": (store(mu=np.full(2, np.nan), sigma=np.eye(2)), "must hold finite numbers"),
    "no covariance": (store(mu=np.zeros(2), sigma=np.array([[1.0, 2.0], [0.0, 1.0]])), "symmetric"),
    "a negative variance": (store(mu=np.zeros(2), sigma=-np.eye(2)), "no variance below 0"),
    "a header that lies": (claim, "nable to allocate|Failed to read"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_that_holds_no_statistics_is_one_sentence(tmp_path, case):
    make, sentence = DAMAGED[case]
    file = tmp_path / "a.npz"
    make(file)
    with pytest.raises(ValueError, match=rf"a\.npz holds no mu and sigma.*{sentence}") as raised:
        evaluate.read_statistics(file)
    assert "\n" not in str(raised.value)


def test_a_file_that_isnt_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        evaluate.read_statistics(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"stored in a \.npz file"):
        evaluate.read_statistics(tmp_path / "a.npy")
    with pytest.raises(OSError, match=r"folder\.npz is a folder"):
        (tmp_path / "folder.npz").mkdir()
        evaluate.read_statistics(tmp_path / "folder.npz")


WRONG = {
    "another D": (lambda: evaluate.fid(REAL, GENERATED[:, :5]), "must have equally many features, got 6 and 5"),
    "chunks of another D": (lambda: evaluate.statistics([REAL, REAL[:, :2]]), "must have 6 columns in all chunks"),
    "one picture": (lambda: evaluate.statistics(REAL[:1]), "two rows at least, got 1"),
    "no chunk": (lambda: evaluate.statistics([]), "two rows at least, got 0"),
    "NaN": (lambda: evaluate.kid(REAL * np.nan, REAL, KEY), "real must be finite"),
    "too few rows": (lambda: evaluate.kid(REAL, GENERATED, KEY), "size must be 2 … 32, got 1000; the nearest is 32"),
    "a batch of keys": (lambda: evaluate.kid(REAL, REAL, rng.split(KEY), size=5), "key must be one key"),
    "unequal pairs": (lambda: evaluate.clip_score(REAL, GENERATED), "equally many rows, got 40 and 32"),
    "a row of zeros": (
        lambda: evaluate.clip_score(REAL, REAL * (I > 5)),
        "texts must have no row of zeros, got one",
    ),
    "no neighbour": (lambda: evaluate.precision_recall(REAL, GENERATED, 32), "k must be 1 … 31"),
    "one of each": (lambda: evaluate.precision_recall(REAL[:1], REAL[:1], 1), "two rows at least, got 1 and 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_one_sentence(case):
    call, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        call()


# --- live -------------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("D", [3, 64])
def test_fid_is_what_scipys_root_gives(D):
    """‖μ - ν‖² + tr(A + B - 2 (A B)^½), as pytorch-fid and clean-fid compute it."""
    linalg = pytest.importorskip("scipy.linalg")
    mix = random(12, D, D)
    x, y = random(13, 300, D) @ mix, random(14, 200, D) * 1.3 + 0.1
    (mu, a), (nu, b) = ((each.mean(0), np.cov(each, rowvar=False)) for each in (x, y))
    theirs = ((mu - nu) ** 2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert evaluate.fid(x, y) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.reference
def test_precision_and_recall_are_those_of_torchs_distances():
    torch = pytest.importorskip("torch")
    x, y = random(15, 700, 32), 0.9 * random(16, 500, 32) + 0.1
    real, generated = torch.tensor(x), torch.tensor(y)
    radii = [torch.cdist(each, each).kthvalue(4).values for each in (real, generated)]
    precision = (torch.cdist(generated, real) <= radii[0]).any(1).double().mean().item()
    recall = (torch.cdist(real, generated) <= radii[1]).any(1).double().mean().item()
    assert evaluate.precision_recall(x, y) == pytest.approx((precision, recall), abs=1e-12)
    assert 0.05 < recall < 0.95
