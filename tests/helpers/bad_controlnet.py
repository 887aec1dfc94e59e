"""The rows of tests/test_bad_input.py for ControlNets, edges and the configuration of an AutoencoderTiny."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import APPLY, BAD_MASK, CONFIG, OF_PARAMS, PARAMS, TREE, Z
from helpers.bad_rows import INTERVAL, NOISE, SWITCH, Row

from pixart_fn import edges, vae
from pixart_fn.checkpoint import controlnet
from pixart_fn.train import losses, objective

FOLDER = Path("a folder of nothing")
BASE, BASE_CONFIG = PARAMS.transformer, PARAMS.config.transformer
OWN = controlnet.Config(1, BASE_CONFIG.num_attention_heads, BASE_CONFIG.attention_head_dim)
P = controlnet.init(BASE, BASE_CONFIG, OWN)
OF_OWN = of.also(CONFIG, **{"of the transformer": BASE_CONFIG, "of the released models": controlnet.Config()})
OF_BASE = of.also(CONFIG, **{"of a ControlNet": OWN})
NET, PICTURE = (P, OWN), np.zeros((16, 16, 3), np.uint8)
OF_NET = {
    **of.instance(),
    **{"None": None, "a tree": P, "turned": (OWN, P), "of no tree": (1, OWN), "of another": ({}, OWN), "one": (P,)},
}
OF_PICTURE = {
    **of.array((4,), (4, 4, 4), (0, 4)),
    **{"far": np.full((4, 4), 2.0), "NaN": np.full((4, 4), np.nan), "whole": np.ones((4, 4), int)},
}
LENGTH = of.without(of.number(0), "inf")
LISTS = {name: value for name, value in dataclasses.asdict(vae.TinyConfig()).items() if isinstance(value, tuple)}


def _fields() -> dict[str, of.Bad]:
    numbers = dict.fromkeys(("scaling_factor", "latent_magnitude"), of.also(of.number(0), zero=0))
    channels = dict.fromkeys(("latent_channels", "in_channels", "out_channels"), of.whole(1, 2**16))
    lists = {name: of.also(of.instance(), short=(64,), words=("a",) * 4, below=(-1,) * 4) for name in LISTS}
    return {**numbers, **channels, **lists, "latent_shift": of.number()}


ROWS = [
    Row(vae.TinyConfig, {}, _fields(), dict.fromkeys(_fields(), "config")),
    Row(
        controlnet.Config,
        {"num_layers": 2},
        {
            "num_layers": of.whole(1, 1000),
            **dict.fromkeys(("num_attention_heads", "attention_head_dim"), of.whole(1, 2**16)),
        },
        dict.fromkeys(("num_layers", "num_attention_heads", "attention_head_dim"), "config"),
    ),
    Row(
        controlnet.init,
        {"base": BASE, "base_config": BASE_CONFIG, "config": OWN},
        {"base": TREE, "base_config": OF_BASE, "config": OF_OWN},
        {"config": "config|ControlNet", "base_config": "config"},
    ),
    Row(
        controlnet.apply,
        {"p": P, "config": OWN, "base": BASE, "base_config": BASE_CONFIG, **APPLY, "control": Z},
        {
            **{"p": TREE, "config": OF_OWN, "base": TREE, "base_config": OF_BASE, "mask": BAD_MASK},
            "x": of.also(of.array((1, 4, 8), (1, 3, 8, 8), (1, 4, 7, 8)), whole=Z.astype(int)),
            "t": of.also(of.array((2,), (1, 1)), nan=np.float32([np.nan]), inf=np.float32([np.inf])),
            "text": of.array((1, 4, 31), (1, 4)),
            "control": of.also(of.array((1, 4, 8), (1, 4, 8, 6), (2, 4, 8, 8)), whole=Z.astype(int)),
            **dict.fromkeys(("resolution", "aspect_ratio"), of.without(of.array((1, 3)), "None")),
            "recompute": SWITCH,
        },
        {"config": "config|ControlNet", "base_config": "config"},
        runs=False,
    ),
    Row(
        controlnet.Control,
        {"net": NET, "latents": Z, "scale": 1.0, "interval": (0, 500)},
        {
            "net": OF_NET,
            "latents": of.also(of.array((1, 4, 8), (0, 4, 8, 8)), nan=Z * np.nan, whole=Z.astype(int)),
            "scale": of.also(of.number(), far=1e7),
            "interval": of.without(INTERVAL, "None"),
        },
    ),
    Row(
        controlnet.control,
        {"params": PARAMS, "net": NET, "pictures": PICTURE},
        {
            "params": OF_PARAMS,
            "net": of.also(OF_NET, deep=(P, controlnet.Config(9, 2, 16))),
            "pictures": {"None": None, "text": "x", "none": [], "odd": PICTURE[:13], "far": np.full((16, 16, 3), 2.0)},
            "scale": of.also(of.number(), far=1e7),
            "interval": of.without(INTERVAL, "None"),
        },
        {"pictures": "pictures|height"},
        runs=False,
    ),
    Row(edges.sobel, {"picture": PICTURE}, {"picture": OF_PICTURE}),
    Row(
        edges.canny,
        {"picture": PICTURE, "low": 0.1, "high": 0.2},
        {"picture": OF_PICTURE, "low": LENGTH, "high": of.without(of.number(0.1), "inf"), "sigma": of.number(0, 100)},
    ),
    Row(edges.hed, {"picture": PICTURE, "net": {}}, {"picture": OF_PICTURE, "net": TREE}, runs=False),
    Row(
        edges.load_hed,
        {"file": FOLDER / "a.pth"},
        {"file": of.also(of.path(), missing=FOLDER / "a.pth")},
        runs=False,
    ),
    Row(
        objective.of_controlnet,
        {"p": BASE, "config": BASE_CONFIG, "own": OWN, "loss": losses.diffusion(NOISE)},
        {
            **{"p": TREE, "config": OF_BASE, "own": OF_OWN, "loss": of.function(3), "recompute": SWITCH},
            "dtype": of.option(),
        },
        {"own": "config|ControlNet", "config": "config"},
    ),
    Row(
        controlnet.load,
        {"source": FOLDER},
        {
            "source": of.also(of.path(), nowhere="nowhere/at/all", missing=FOLDER, file=FOLDER / "a.pth"),
            "revision": of.also(of.without(of.option(), "another", "NULs", "long"), number=1),
            "heads": of.without(of.whole(1, 2**16), "None"),
        },
        {"source": "source|folder|hub|file", "revision": "revision"},
        runs=False,
    ),
    Row(
        controlnet.save,
        {"p": P, "config": OWN, "folder": FOLDER},
        {
            "p": TREE,
            "config": of.without(OF_OWN, "of the released models"),
            "folder": of.without(of.path(), "long", "NULs"),
            "dtype": of.option(),
        },
        {"config": "config|p "},
        runs=False,
    ),
]
