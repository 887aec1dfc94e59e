"""The rows of tests/test_bad_input.py for the stages and the models."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from helpers import bad_values as of
from helpers import tiny
from helpers.bad_rows import KEY, SCALE, STEPS, SWITCH, Row

import pixart_fn as px
from pixart_fn.checkpoint import controlnet

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

PARAMS = tiny.params()
TEXT = px.Text(np.zeros((1, 4, 32), np.float32), np.ones((1, 4), np.int32))
Z = np.zeros((1, 4, 8, 8), np.float32)
PIXELS = np.zeros((1, 3, 16, 16), np.float32)
OF_PARAMS = {
    **of.also(of.instance(), **{"None": None, "without a transformer": PARAMS.replace(transformer=None)}),
    **{"of arrays": PARAMS.replace(vae={"a": np.ones(2)}), "mixed up": PARAMS.replace(vae=PARAMS.transformer)},
}
PROMPT = {
    **{"None": None, "a number": 1, "bytes": b"a cat", "a set": {"a"}, "a dict": {"a": 1}, "empty": [], "words": [1]},
    **{"nested": [["a"]], "a long list": [0] * 10**6, "a range": range(10**12), "an array": np.array(["a cat"])},
    **of.without(of.ANYWHERE, "a date"),
    "half": ["a cat", None],
}
OF_TEXT = {
    **of.instance(),
    "of Nones": px.Text(None, None),
    "of lists": px.Text([[1.0]], [[1]]),
    "of NaN": px.Text(TEXT.states * np.nan, TEXT.mask),
    "of another width": px.Text(np.zeros((1, 4, 3), np.float32), TEXT.mask),
    "a soft mask": px.Text(TEXT.states, TEXT.mask * 0.5),
    "nothing real": px.Text(TEXT.states, TEXT.mask * 0),
    "whole numbers": px.Text(TEXT.states.astype(int), TEXT.mask),
}
SIDE = of.also(of.whole(1, 2**14), odd=13)
ANY_SIDE = of.whole(1, 2**14)
LATENTS = of.without(
    of.also(of.array((1, 4, 8), (1, 3, 8, 8), (2, 4, 8, 8)), nan=Z * np.nan, double=Z.astype(float)), "None"
)
ON_STEP = of.function(1)


def control(layers: int = 1, heads: int = 2, rows: int = 1, side: int = 8) -> controlnet.Control:
    """A control that acts on tiny.TRANSFORMER as far as these fit it."""
    base = dataclasses.replace(
        tiny.TRANSFORMER, num_attention_heads=heads, num_layers=3, cross_attention_dim=16 * heads
    )
    config = controlnet.Config(layers, heads, 16)
    net = controlnet.init(px.transformer.init(KEY, base), base, config), config
    return controlnet.Control(net, np.zeros((rows, 4, side, side), np.float32))


CONTROLS = {
    **of.without(of.instance(), "a tuple"),
    **{"texts": ["edges"], "an array among them": [control(), Z], "too deep": control(layers=2)},
    **{"too wide": control(heads=3), "of two": control(rows=2), "too small": [control(), control(side=4)]},
}
SAMPLING: dict[str, of.Bad] = {
    "steps": of.also(STEPS, ten=10**30),
    "guidance": of.also(SCALE, two=[1.0, 2.0], late=lambda t: np.nan if t < 500 else 2.0, far=lambda t: 1e38),
    "height": SIDE,
    "width": SIDE,
    "solver": of.also(of.instance(), maker=px.solvers.ddim),
    "grid": of.optional(of.grid()),
    "latents": LATENTS,
    "check": SWITCH,
    "controls": CONTROLS,
    "on_step": ON_STEP,
    "progress": SWITCH,
}
SAID = {
    **{"guidance": "the scale of guidance", "latents": "latents", "grid": "grid", "params": "params"},
    **{"controls": "controls|ControlNet", "solver": "solver", "negative": "negative", "text": "text"},
}
SIZE = {"height": SIDE, "width": SIDE}
TWO = [getattr(px, name) for name in ("text_denoiser", "text_variance_denoiser")]
BLOCKS = of.also(of.without(of.instance(), "a dict", "a tuple"), far=[2], below=[-1], words=["a"])
MEMORY = of.also(of.number(0), zero=0)

STAGES = [
    Row(
        px.generate,
        {"params": PARAMS, "prompt": "a cat", "key": KEY},
        {
            **{
                "params": OF_PARAMS,
                "prompt": PROMPT,
                "negative_prompt": of.also(PROMPT, two=["a", "b"]),
                "key": of.key(),
            },
            **{**SAMPLING, "images_per_prompt": of.whole(1), "output": of.option(), "clean": SWITCH, "binning": SWITCH},
            "tile": of.also(of.whole(1), three=3),
            "tokens": of.without(of.whole(1, 2**14), "None"),
            "memory": MEMORY,
        },
        SAID,
        runs=False,
    ),
    Row(
        px.encode_prompt,
        {"params": PARAMS, "prompt": "a cat"},
        {
            "params": OF_PARAMS,
            "prompt": PROMPT,
            "clean": SWITCH,
            "tokens": of.without(of.whole(1, 2**14), "None"),
            "pad_to": of.whole(1, 120),
            "check": SWITCH,
            "memory": MEMORY,
        },
        runs=False,
    ),
    Row(
        px.sample_latents,
        {"params": PARAMS, "text": TEXT, "key": KEY},
        {
            "params": OF_PARAMS,
            "text": of.also(OF_TEXT, none=None),
            "key": of.key(),
            "negative": OF_TEXT,
            "memory": MEMORY,
            **SAMPLING,
        },
        SAID,
        runs=False,
    ),
    Row(
        px.decode_latents,
        {"params": PARAMS, "latents": Z},
        {
            **{
                "params": OF_PARAMS,
                "latents": of.array((1, 4, 8), (1, 3, 8, 8)),
                "tile": of.also(of.whole(1), three=3),
            },
            "size": of.also(of.instance(), three=(1, 2, 3), zero=(0, 1), huge=(10**30, 1), words=("a", "b")),
            "check": SWITCH,
            "memory": MEMORY,
        },
        {"size": "size|height"},
        runs=False,
    ),
    Row(
        px.encode_image,
        {"params": PARAMS, "pictures": np.zeros((16, 16, 3), np.uint8)},
        {
            "params": OF_PARAMS,
            "pictures": {
                **of.without(of.array((16, 3), (1, 16, 16, 4)), "a list"),
                **{"far": np.full((16, 16, 3), 1e38, np.float32), "empty": [], "odd": np.zeros((13, 16, 3), np.uint8)},
                **{
                    "NaN": np.full((16, 16, 3), np.nan, np.float32),
                    "a long list": [0] * 10**6,
                    "bools": np.ones((16, 16, 3), bool),
                },
            },
            **{"key": of.key(), "check": SWITCH, "memory": MEMORY},
        },
        {"pictures": "pictures|height"},
        runs=False,
    ),
    Row(
        px.memory,
        {"params": PARAMS},
        {
            **{"params": OF_PARAMS, "n": of.whole(1), **SIZE, "guidance": of.also(SCALE, two=[1.0, 2.0])},
            **{"tile": of.also(of.whole(1), three=3), "tokens": of.whole(1, 2**14), "controls": CONTROLS},
        },
        SAID,
    ),
    Row(
        px.noise,
        {"params": PARAMS, "key": KEY},
        {"params": OF_PARAMS, "key": of.key(), "n": of.whole(1), **SIZE},
    ),
    *(
        Row(
            f,
            {"params": PARAMS, "text": TEXT, "negative": TEXT},
            {
                **{"params": OF_PARAMS, "text": of.also(OF_TEXT, none=None), "negative": of.also(OF_TEXT, none=None)},
                **{"guidance": of.also(SCALE, two=[1.0, 2.0]), **SIZE, "schedule": of.without(of.schedule(), "None")},
                "controls": CONTROLS,
            },
            SAID,
            runs=False,
        )
        for f in TWO
    ),
]

# --- models -----------------------------------------------------------------------------------------------------------

C = PARAMS.config
IDS = {"ids": np.ones((1, 4), int), "mask": np.ones((1, 4), int)}
APPLY = {"x": Z, "t": np.float32([5]), "text": TEXT.states, "mask": TEXT.mask}
MICRO = {"resolution": np.float32([[16, 16]]), "aspect_ratio": np.float32([[1]])}
MICRO_TREE = functools.cache(lambda: tiny.without_zeros(px.transformer.init(KEY, tiny.MICRO)))
CONFIG = of.also(of.instance(), **{"None": None, "another": object})
TREE = of.tree()
BAD_MASK = of.also(of.array((1, 3)), soft=np.full((1, 4), 0.5), none=np.zeros((1, 4)))
TILE = of.also(of.whole(1), three=3)


OPTIONAL_FIELDS = {
    "interpolation_scale": of.also(of.number(0), zero=0),
    "use_additional_conditions": of.without(SWITCH, "None"),
    "block_out_channels": of.also(of.instance(), words=("a",), groups=(8, 15), zero=(0,)),
}


def _models() -> list[Row]:
    rows = []
    for module, config in ((px.t5, C.text_encoder), (px.transformer, C.transformer), (px.vae, C.vae)):
        rows += [
            Row(module.init, {"key": KEY, "config": config}, {"key": of.key(), "config": CONFIG}),
            Row(module.shapes, {"config": config}, {"config": CONFIG}),
            Row(module.to_json, {"config": config}, {"config": CONFIG}),
            Row(module.read_config, {"json": module.to_json(config)}, {"json": of.mapping()}, {"json": "config"}),
        ]
        fields = {each.name: _field(each.default) for each in dataclasses.fields(module.Config)}
        fields |= {name: bad for name, bad in OPTIONAL_FIELDS.items() if name in fields}
        rows.append(Row(module.Config, dataclasses.asdict(config), fields, dict.fromkeys(fields, "config")))
    return rows


def _field(default: Any) -> of.Bad:
    """What a field of a configuration can't be, by what it is."""
    if isinstance(default, bool):
        return of.switch()
    if isinstance(default, int):
        return of.also(of.whole(1), ten=10**30)
    return of.also(of.number(0), zero=0) if isinstance(default, float) else of.instance()


MODELS = [
    *_models(),
    Row(
        px.t5.encode,
        {"p": PARAMS.text_encoder, "config": C.text_encoder, **IDS},
        {
            **{"p": TREE, "config": CONFIG, "mask": BAD_MASK},
            "ids": of.also(of.array((1, 3), (1, 4)), far=np.full((1, 4), 10**9), below=-np.ones((1, 4), int)),
        },
        runs=False,
    ),
    Row(px.t5.quantize, {"p": PARAMS.text_encoder}, {"p": of.without(TREE, "None", "empty", "another")}),
    Row(px.transformer.quantize, {"p": PARAMS.transformer}, {"p": of.without(TREE, "None", "empty", "another")}),
    Row(
        px.transformer.apply,
        {"p": PARAMS.transformer, "config": C.transformer, **APPLY},
        {
            **{"p": TREE, "config": CONFIG, "mask": BAD_MASK},
            "x": of.also(of.array((1, 4, 8), (1, 3, 8, 8), (1, 4, 7, 8)), whole=Z.astype(int)),
            "t": of.also(of.array((2,), (1, 1)), nan=np.float32([np.nan]), inf=np.float32([np.inf])),
            "text": of.array((1, 4, 31), (1, 4)),
            **dict.fromkeys(("perturbed", "skipped", "blurred"), BLOCKS),
            "blur_sigma": of.without(of.number(0), "inf"),
            "residuals": of.also(of.without(of.instance(), "a tuple"), shape=[np.zeros((1, 2, 3), np.float32)]),
            "collect": of.also(of.without(of.instance(), "a dict", "a tuple", "None"), far=["block2"], whole=[0]),
            "recompute": SWITCH,
        },
        runs=False,
    ),
    Row(
        px.transformer.apply,
        {"p": MICRO_TREE(), "config": tiny.MICRO, **APPLY, **MICRO},
        {name: of.array((1, 3), ()) for name in MICRO},
        runs=False,
    ),
    Row(
        px.vae.encode,
        {"p": PARAMS.vae, "config": C.vae, "x": PIXELS},
        {"p": TREE, "config": CONFIG, "x": of.array((1, 3, 16), (1, 4, 16, 16), (1, 3, 15, 16))},
        {"x": "x|height"},
        runs=False,
    ),
    Row(
        px.vae.encode_tiled,
        {"p": PARAMS.vae, "config": C.vae, "x": PIXELS, "tile": 8},
        {"p": TREE, "config": CONFIG, "x": of.array((1, 3, 16), (1, 4, 16, 16), (1, 3, 15, 16)), "tile": TILE},
        {"x": "x|height"},
        runs=False,
    ),
    Row(
        px.vae.decode,
        {"p": PARAMS.vae, "config": C.vae, "z": Z},
        {"p": TREE, "config": CONFIG, "z": of.array((1, 4, 8), (1, 3, 8, 8))},
        {"z": "z|latents"},
        runs=False,
    ),
    Row(
        px.vae.decode_tiled,
        {"p": PARAMS.vae, "config": C.vae, "z": Z, "tile": 8},
        {"p": TREE, "config": CONFIG, "z": of.array((1, 4, 8), (1, 3, 8, 8)), "tile": TILE},
        {"z": "z|latents"},
        runs=False,
    ),
    Row(
        px.vae.sample,
        {"key": KEY, "moments": px.types.Moments(ms.Tensor(Z), ms.Tensor(Z))},
        {
            "key": of.key(),
            "moments": of.also(
                of.instance(),
                arrays=px.types.Moments(Z, Z),
                shapes=px.types.Moments(ms.Tensor(Z), ms.Tensor(PIXELS)),
                nones=px.types.Moments(None, None),
            ),
        },
        {"moments": "moments|keys"},
    ),
    Row(
        px.vae.check_latents,
        {"config": C.vae, "z": Z},
        {"config": CONFIG, "z": {"None": None, "a list": [1.0]}},
        {"z": "latents"},
    ),
    Row(px.vae.check_tile, {"config": C.vae, "tile": 8}, {"config": CONFIG, "tile": TILE}),
    Row(px.vae.factor, {"config": C.vae}, {"config": CONFIG}),
]
ROWS = [*STAGES, *MODELS]
