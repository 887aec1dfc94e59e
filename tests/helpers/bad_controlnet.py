"""The rows of tests/test_bad_input.py for ControlNets and for the configuration of an AutoencoderTiny."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import APPLY, BAD_MASK, CONFIG, PARAMS, TREE, Z
from helpers.bad_rows import SWITCH, Row

from pixart_fn import vae
from pixart_fn.checkpoint import controlnet

FOLDER = Path("a folder of nothing")
BASE, BASE_CONFIG = PARAMS.transformer, PARAMS.config.transformer
OWN = controlnet.Config(1, BASE_CONFIG.num_attention_heads, BASE_CONFIG.attention_head_dim)
P = controlnet.init(BASE, BASE_CONFIG, OWN)
OF_OWN = of.also(CONFIG, **{"of the transformer": BASE_CONFIG, "of the released models": controlnet.Config()})
OF_BASE = of.also(CONFIG, **{"of a ControlNet": OWN})
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
        controlnet.load,
        {"source": FOLDER},
        {
            "source": of.also(of.path(), nowhere="nowhere/at/all", missing=FOLDER, file=FOLDER / "a.pth"),
            "heads": of.without(of.whole(1, 2**16), "None"),
        },
        {"source": "source|folder|hub|file"},
        runs=False,
    ),
    Row(
        controlnet.save,
        {"p": P, "config": OWN, "folder": FOLDER},
        {
            "p": TREE,
            "config": of.without(OF_OWN, "of the released models"),
            "folder": of.without(of.path(), "long", "NULs"),
        },
        {"config": "config|p "},
        runs=False,
    ),
]
