"""Files as the extraction scripts of PixArt-alpha and PixArt-sigma write them, with random features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pixart_fn.models.sizes import BINS, nearest_bin

WIDTH = 6
FOLDERS = {
    ("alpha", False): ("partition/data_info.json", "caption_feature_wmask", "img_vae_features_{}resolution/noflip"),
    ("alpha", True): ("partition/data_info.json", "caption_features", "img_vae_fatures_{}_multiscale/ms"),
    ("sigma", False): ("data_info.json", "caption_features_new", "img_sdxl_vae_features_{}resolution_new"),
    ("sigma", True): ("data_info.json", "caption_features_new", "img_sdxl_vae_features_{}resolution_ms_new"),
}
LONG = "sharegpt4v_caption_features_new"
ROWS = (("a/0.png", 256, 256, 4), ("a/1.jpg", 512, 256, 7), ("b/2.webp", 200, 300, 120))
"""Each with a path, height, width, and the tokens of its caption."""


def row(path: str, height: int, width: int) -> dict[str, object]:
    stem = Path(path).stem
    ratio = height / width
    texts = {"prompt": f"picture {stem}", "sharegpt4v": f"a long caption of picture {stem}"}
    return {"width": width, "height": height, "ratio": ratio, "path": path, **texts}


def write(
    root: Path, version: str, multiscale: bool, resolution: int = 256, rows=ROWS, joined: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """Write the list and the features, and return these by path: mean, std, and the states of both captions."""
    place, texts, latents = FOLDERS[version, multiscale]
    random, features = np.random.default_rng(0), {}
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(json.dumps([row(*each[:3]) for each in rows]))
    for path, height, width, tokens in rows:
        h, w = nearest_bin(height, width, BINS[resolution]) if multiscale else (resolution, resolution)
        name = path.replace("/", "_") if joined else path.rsplit("/", 1)[-1]
        stem = name.rsplit(".", 1)[0]
        mean, std = random.normal(size=(4, h // 8, w // 8)), random.random((4, h // 8, w // 8)) + 0.1
        dtype = np.float32 if version == "alpha" else np.float16
        file = root / latents.format(resolution) / f"{stem}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.concatenate([mean, std]).astype(dtype))
        own = features[path] = {"mean": mean.astype(dtype), "std": std.astype(dtype)}
        for folder in (texts, LONG):
            own[folder] = write_text(root / folder / f"{stem}.npz", tokens, dtype, random)
    return features


def write_text(file: Path, tokens: int, dtype: type, random: np.random.Generator, most: int = 120) -> np.ndarray:
    """Write T5 features padded to `most` under a mask, as the tokenizers pad, and return those of the real tokens."""
    file.parent.mkdir(parents=True, exist_ok=True)
    states = random.normal(size=(1, most, WIDTH)).astype(dtype)
    mask = (np.arange(most) < tokens)[None].astype(np.int64 if dtype is np.float32 else np.int16)
    np.savez_compressed(file, caption_feature=states, attention_mask=mask)
    return states[0, :tokens]
