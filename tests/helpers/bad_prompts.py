"""The rows of tests/test_bad_input.py for prompts: their words, weights and sums, and maps of words."""

from __future__ import annotations

import numpy as np
from helpers import bad_values as of
from helpers import tiny
from helpers.bad_rows import SWITCH, Row

from pixart_fn import plots, prompts, types

PARAMS = tiny.params()
C = PARAMS.config.transformer.caption_channels
TEXT = types.Text(np.ones((1, 3, C), np.float32), np.ones((1, 3), np.int32))
OTHER = types.Text(np.ones((1, 3, C + 1), np.float32), TEXT.mask)
ROWS_OF = {n: types.Text(np.ones((n, 3, C), np.float32), np.ones((n, 3), np.int32)) for n in (2, 3)}
X = np.zeros((1, 4, 8, 8), np.float32)
WORDS = [prompts.Word("a", 0, 1), prompts.Word("cat", 1, 3)]
MAP = np.full((1, 4, 4, 3), 1 / 3, np.float32)

BAD_PARAMS = of.also(of.instance(), **{"without an encoder": PARAMS.replace(text_encoder=None)})
TOKENS = of.without(of.whole(1, 2**14), "None")
WRITTEN = {
    "below": "a (cat:-1)",
    "above": "a (cat:101)",
    "multiplied": "((a:20) cat:20)",
    "of nothing": "a (:2)",
    "long": "x" * 10**6,
}
PROMPT = of.also(of.without(of.text(), "a list"), **WRITTEN)
PROMPTS = of.also(PROMPT, **{"within a token": "a c(a:2)t", "cleaned away": "a (cat.png:2)"})
LIST = of.without(of.also(of.instance(), **{"None": None, "empty": [], "numbers": [1, 2]}), "a tuple")
SHARED = {"params": BAD_PARAMS, "clean": SWITCH, "tokens": TOKENS}
TEXTS = of.also(
    LIST,
    **{"a Text": TEXT, "of other widths": [TEXT, OTHER], "of other rows": list(ROWS_OF.values())},
    **{"of masks alone": [(TEXT.mask, TEXT.mask)], "of no real token": [TEXT._replace(mask=TEXT.mask * 0)]},
)

ROWS = [
    Row(prompts.parse, {"prompt": "a (red:2) cat"}, {"prompt": PROMPT}),
    Row(
        prompts.words,
        {"params": PARAMS, "prompt": "a cat"},
        {"prompt": of.without(of.text(), "a list"), **SHARED},
        {"params": "params|text encoder"},
    ),
    Row(
        prompts.weighted,
        {"params": PARAMS, "prompt": "a (red:2) cat"},
        {
            **{"prompt": PROMPTS, **SHARED, "pad_to": of.whole(1, 120), "check": SWITCH},
            "memory": of.without(of.number(1), "None"),
        },
        {"params": "params|text encoder"},
        runs=False,
    ),
    Row(
        prompts.blend,
        {"texts": [TEXT, TEXT], "weights": [0.5, 0.5]},
        {"texts": TEXTS, "weights": of.also(of.numbers([1.0], [1.0] * 3), inf=[1.0, np.inf])},
    ),
    Row(prompts.concatenate, {"texts": [TEXT, TEXT]}, {"texts": TEXTS}),
    Row(
        prompts.attention,
        {"params": PARAMS, "text": TEXT, "x": X, "t": 500.0},
        {
            "params": of.instance(),
            "text": of.also(of.instance(), width=OTHER, rows=ROWS_OF[2]),
            "x": of.also(of.array((1, 4, 8), (1, 3, 8, 8), (1, 4, 7, 8)), whole=X.astype(int)),
            "t": of.number(0, 999),
            "blocks": of.also(of.without(of.instance(), "a tuple", "a dict"), empty=[], none_such=[2], words=["a"]),
        },
        runs=False,
    ),
    Row(
        prompts.maps,
        {"attentions": [MAP, MAP], "words": WORDS},
        {
            "attentions": of.also(LIST, flat=[MAP[0]], shapes=[MAP, MAP[..., :2]], short=[MAP[..., :2]]),
            "words": of.also(LIST, beyond=[prompts.Word("a", 2, 4)], nowhere=[prompts.Word("a", 2, 2)]),
        },
    ),
    Row(
        plots.words,
        {"titles": ["a", "cat"], "maps": MAP[0, :, :2].transpose(1, 0, 2), "picture": np.zeros((8, 8, 3))},
        {
            "titles": of.also(of.without(of.instance(), "a tuple", "a dict"), one=["a"]),
            "maps": of.also(of.array((2, 4), (1, 4, 4), (2, 0, 4)), nan=np.full((2, 4, 4), np.nan), below=-MAP[0, :2]),
            "picture": of.without(of.array((8, 8), (8, 8, 4), (0, 8, 3)), "None"),
            "axes": of.without(of.instance(), "None"),
        },
        {"titles": "titles"},
    ),
]
EXEMPT = {
    "prompts.reading.Part": "holds what it is given, which is checked where it is used",
    "prompts.reading.Word": "holds what it is given, which is checked where it is used",
}
