"""HED against its formula, restated in NumPy and in torch."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.compare import rel

from pixart_fn import edges, rng, tree
from pixart_fn.models import hed

from mindspore import Tensor  # isort: skip - after pixart_fn, which silences it

SMALL = ((2, 1), (3, 2))


def weights(stages, gain=1.4):
    """Random numbers that keep the size of what goes through."""
    out = {}
    for i, (name, shape) in enumerate(hed.shapes(stages).items()):
        scale = gain * np.prod(shape[1:]) ** -0.5 if name.endswith("weight") else 0.1
        out[name] = (rng.normal(rng.fold_in(rng.key(1), i), shape) * np.float32(scale)).astype(np.float32)
    out["norm"] += 120
    return out


def tensors(numbers):
    return tree.nest({name: Tensor.from_numpy(each) for name, each in numbers.items()})


def convolved(x, w, b):
    """A 3 × 3 convolution of (C, H, W), padded with zeros, and ReLU."""
    padded, (H, W) = np.pad(x, ((0, 0), (1, 1), (1, 1))), x.shape[1:]
    parts = (
        np.einsum("oc,chw->ohw", w[:, :, i, j], padded[:, i : i + H, j : j + W]) for i in range(3) for j in range(3)
    )
    return np.maximum(sum(parts) + b[:, None, None], 0)


def test_a_small_one_is_its_formula_in_numpy():
    numbers, picture = weights(SMALL), np.random.default_rng(0).random((3, 7, 10)) * 255
    first, second = hed.apply(tensors(numbers), Tensor(picture[None].astype(np.float32)))
    x = convolved(picture - numbers["norm"][0], numbers["block1.convs.0.weight"], numbers["block1.convs.0.bias"])

    def projected(x, i):
        weight = numbers[f"block{i}.projection.weight"][0]
        return (x * weight).sum(0) + numbers[f"block{i}.projection.bias"]

    assert rel(first[0], projected(x, 1)) < 1e-5
    x = x[:, :6, :10].reshape(2, 3, 2, 5, 2).max((2, 4))
    for k in range(2):
        x = convolved(x, numbers[f"block2.convs.{k}.weight"], numbers[f"block2.convs.{k}.bias"])
    assert rel(second[0], projected(x, 2)) < 1e-5


def test_what_is_no_file_of_it_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file must be ControlNetHED\.pth or one like it"):
        edges.load_hed(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="16 pixels high and wide at least"):
        edges.hed(np.zeros((15, 20)), {})


@pytest.mark.reference
@pytest.mark.parametrize("shape", [(32, 48, 3), (37, 18, 3), (20, 17)])
def test_the_released_size_draws_what_torch_does(shape, tmp_path):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    numbers = {name: torch.from_numpy(each) for name, each in weights(hed.STAGES).items()}
    torch.save(numbers, tmp_path / "hed.pth")
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    drawn = edges.hed(picture, edges.load_hed(tmp_path / "hed.pth"))
    colour = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture
    x, maps = torch.from_numpy(colour.copy()).permute(2, 0, 1)[None].float() - numbers["norm"], []
    for i, (_, layers) in enumerate(hed.STAGES, 1):
        x = F.max_pool2d(x, 2, 2) if i > 1 else x
        for k in range(layers):
            x = F.conv2d(x, *(numbers[f"block{i}.convs.{k}.{kind}"] for kind in ("weight", "bias")), padding=1).relu()
        own = F.conv2d(x, *(numbers[f"block{i}.projection.{kind}"] for kind in ("weight", "bias")))
        maps.append(F.interpolate(own, shape[:2], mode="bilinear", align_corners=False))
    expected = torch.sigmoid(torch.cat(maps, 1).mean(1))[0].numpy() * 255
    assert expected.std() > 5
    assert np.abs(np.asarray(drawn) - expected).max() < 0.51
