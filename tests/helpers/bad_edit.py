"""The rows of tests/test_bad_input.py for px.edit."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import bad_values as of
from helpers.bad_calls import MEMORY, OF_PARAMS, OF_TEXT, PARAMS, PROMPT, SAID, SAMPLING, SIDE, TEXT, Z
from helpers.bad_rows import KEY, SWITCH, Row, x0

from pixart_fn import edit

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

PHOTO = np.zeros((16, 16, 3), np.uint8)
WHITE = np.ones((16, 16), bool)
PIECE = np.ones((1, 1, 8, 8), np.float32)
OF_PICTURES = {
    **of.without(of.array((16, 3), (1, 16, 16, 4)), "a list"),
    **{"far": np.full((16, 16, 3), 1e38, np.float32), "empty": [], "odd": np.zeros((13, 16, 3), np.uint8)},
    **{
        "NaN": np.full((16, 16, 3), np.nan, np.float32),
        "a long list": [0] * 10**6,
        "two": np.stack([PHOTO] * 2)[:, :9],
    },
}
OF_MASK = {
    **of.without(of.array((16,), (8, 8), (3, 16, 16), (16, 16)), "a list"),  # the last is black
    **{"far": np.full((16, 16), 1e38, np.float32), "empty": [], "NaN": np.full((16, 16), np.nan, np.float32)},
    **{"whole": np.ones((16, 16), int), "a long list": [0] * 10**6, "of words": ["a"]},
}
OF_KEY = of.also(of.key(), three=np.zeros((3, 2), np.uint64))
SHARED: dict[str, of.Bad] = {
    **{name: SAMPLING[name] for name in ("steps", "guidance", "solver", "grid", "check", "on_step", "progress")},
    **{"negative_prompt": of.also(PROMPT, two=["a", "b"]), "output": of.option(), "clean": SWITCH, "memory": MEMORY},
    **{"tile": of.also(of.whole(1), three=3), "tokens": of.without(of.whole(1, 2**14), "None")},
}
COUNT: dict[str, of.Bad] = {"images_per_prompt": of.whole(1)}
CONTROLS = {"controls": SAMPLING["controls"]}
SIZED = {**SHARED, **CONTROLS, "height": SIDE, "width": SIDE, "binning": SWITCH}
STRENGTH = of.also(of.number(0, 1), little=1e-3)
PIXELS = of.also(of.whole(1), odd=5, three=(4, 4, 4), words=("a", "b"))
WINDOW = {"window": PIXELS, "stride": of.also(PIXELS, wide=999)}
PAIR = of.also(of.whole(1), three=(4, 4, 4), words=("a", "b"))
ADDED = of.also(of.whole(0, 2**14), odd=3)
DOWNSCALE = of.option()


def masked(denoise: Any, z: Any, mask: Any) -> Any:
    return edit.masked(denoise, z, mask)(Z, 5.0)


def _picture(function: Any, more: dict[str, of.Bad], right: dict[str, Any]) -> Row:
    return Row(
        function,
        {"params": PARAMS, "pictures": PHOTO, "prompt": "a cat", "key": KEY, **right},
        {
            **{"params": OF_PARAMS, "pictures": OF_PICTURES, "prompt": PROMPT, "key": OF_KEY},
            **{**SHARED, **COUNT, **CONTROLS, **more},
        },
        {**SAID, "pictures": "pictures|height|mask", "stride": "stride|window", "mask": "mask"},
        runs=False,
    )


ROWS = [
    _picture(edit.image_to_image, {"strength": STRENGTH}, {}),
    _picture(
        edit.inpaint,
        {"mask": OF_MASK, "strength": STRENGTH, "paste": SWITCH, "downscale": DOWNSCALE, **WINDOW},
        {"mask": WHITE, "window": 8},
    ),
    _picture(
        edit.outpaint,
        {**dict.fromkeys(("left", "right", "top", "bottom"), ADDED), "paste": SWITCH, **WINDOW},
        {"left": 4},
    ),
    Row(
        edit.panorama,
        {"params": PARAMS, "prompt": "a cat", "key": KEY, "height": 16, "width": 32},
        {
            **{"params": OF_PARAMS, "prompt": PROMPT, "key": OF_KEY, "height": SIDE, "width": SIDE},
            **{**SHARED, **COUNT, **WINDOW},
        },
        SAID,
        runs=False,
    ),
    Row(
        edit.variations,
        {"params": PARAMS, "prompt": "a cat", "key": KEY, "n": 2},
        {
            **{"params": OF_PARAMS, "prompt": of.text(), "key": OF_KEY, "n": of.whole(1, 10_000)},
            **{"amount": of.number(0, 1), **SIZED, "guidance": of.without(SIZED["guidance"], "two")},
            "controls": of.without(SIZED["controls"], "of two"),
        },
        SAID,
        runs=False,
    ),
    Row(
        edit.interpolate,
        {"params": PARAMS, "prompt": ["a cat", "a dog"], "key": KEY, "n": 3},
        {
            **{"params": OF_PARAMS, "prompt": of.also(PROMPT, one="a cat"), "key": OF_KEY, "n": of.whole(2, 10_000)},
            **SIZED,
        },
        SAID,
        runs=False,
    ),
    Row(
        edit.invert,
        {"params": PARAMS, "latents": Z, "text": TEXT},
        {
            **{"params": OF_PARAMS, "latents": of.array((1, 4, 8), (1, 3, 8, 8), (2, 4, 8, 7)), "negative": OF_TEXT},
            "text": of.also(OF_TEXT, none=None),
            **{name: SHARED[name] for name in ("steps", "guidance", "solver", "grid", "check", "on_step", "progress")},
            "memory": MEMORY,
        },
        {**SAID, "latents": "latents|height|width"},
        runs=False,
    ),
    Row(
        edit.latent_mask,
        {"params": PARAMS, "mask": WHITE},
        {"params": OF_PARAMS, "mask": of.without(OF_MASK, "of shape (8, 8)"), "downscale": DOWNSCALE},
    ),
    Row(
        edit.masked,
        {"denoise": x0, "z": Z, "mask": PIECE},
        {
            "denoise": of.function(2),
            "z": of.also(of.array((1, 4, 8), (3, 4, 8, 7), (1, 3, 8, 8)), nan=Z * np.nan, whole=Z.astype(int)),
            "mask": of.also(of.array((8, 8), (1, 4, 8, 8), (1, 1, 8, 7)), far=PIECE * 2, nan=PIECE * np.nan),
        },
        {"z": "z|x_t"},
        call=masked,
    ),
    Row(
        edit.windows,
        {"denoise": x0, "window": 4, "stride": 2},
        {
            **{"denoise": of.function(2), "window": PAIR, "stride": of.also(PAIR, wide=5), "at_once": of.whole(1)},
            "weights": of.without(
                of.also(of.array((3, 4)), zero=np.zeros((4, 4)), nan=np.full((4, 4), np.nan)), "None"
            ),
        },
        {"window": "window|stride"},
    ),
    Row(
        edit.slerp,
        {"a": Z + 1, "b": Z + 2, "w": 0.5},
        {
            **dict.fromkeys(("a", "b"), of.also(of.array((1, 4, 8), ()), nan=Z * np.nan, whole=ms.Tensor([1]))),
            "w": of.without(of.also(of.number(0, 1), two=[0.1, 0.2]), "a list"),
        },
        {"a": "a |a and b", "b": "b "},
    ),
    Row(
        edit.read_picture,
        {"file": "a photo.png"},
        {
            "file": of.also(of.path(), folder="."),
            **dict.fromkeys(("height", "width"), of.whole(1, 8192)),
            **{"mask": SWITCH, "sha256": of.also(of.without(of.text(), "None"), short="0" * 63, high="A" * 64)},
        },
        {"file": "file|folder"},
        runs=False,
    ),
]
