"""The call that a picture's settings stand for: every setting is in it, and only what is checked is printed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pixart_fn import picture
from pixart_fn.files import safetensors
from pixart_fn.picture import call

ALL = {
    "prompt": "a cat", "model": "own/er", "variant": "fp16", "revision": "v1", "dtype": "float16", "seed": 3,
    "steps": 7, "guidance": 2.5, "negative": "a dog", "solver": "heun", "n": 4, "index": 2, "height": 512, "width": 768,
    "clean": False, "binning": False, "tile": 256,
}  # fmt: skip


def asked(text):
    """What a printed call asks for."""
    load = SimpleNamespace(
        generate=lambda params, prompt, key, **options: (params, prompt, key, options),
        load=lambda *source, **options: (source, options),
        key=lambda seed: seed,
        split=lambda key, n: [(key, n, i) for i in range(n)],
    )
    return eval(text, {"px": load})


def test_every_setting_is_in_the_call():
    assert asked(call(ALL)) == (
        (("own/er",), {"variant": "fp16", "revision": "v1", "dtype": "float16"}), "a cat", (3, 4, 2),
        {"negative_prompt": "a dog", "steps": 7, "guidance": 2.5, "solver": "heun", "height": 512, "width": 768,
         "clean": False, "binning": False, "tile": 256},
    )  # fmt: skip


def test_what_is_the_library_s_own_way_is_left_out():
    assert call({"prompt": "a cat", "seed": 1}) == "px.generate(px.load(), 'a cat', px.key(1))"
    nothing = dict.fromkeys(("model", "variant", "revision", "solver", "height", "width", "tile"))
    usual = {"dtype": "float32", "clean": True, "binning": True, "n": 1, "index": 0}
    assert call({"prompt": "a cat", "seed": 1, **nothing, **usual}) == call({"prompt": "a cat", "seed": 1})
    numpy = {"prompt": "a cat", "seed": np.uint64(1), "steps": np.int64(2), "guidance": np.float32(0.5)}
    assert call(numpy) == "px.generate(px.load(), 'a cat', px.key(1), steps=2, guidance=0.5)"


def test_a_sheet_s_call_draws_all_its_pictures():
    assert asked(call({"prompt": "a", "seed": 1, "n": 3, "index": None}))[1:] == ("a", 1, {"images_per_prompt": 3})
    two = {"prompt": ["a", "b"], "seed": 1, "n": 4, "index": None}
    assert asked(call(two))[1:] == (["a", "b"], 1, {"images_per_prompt": 2})
    assert asked(call({"prompt": ["a", "b"], "seed": 1}))[1:] == (["a", "b"], 1, {})


SHA = "0123456789abcdef" * 4
FROM = {"init": "my photo.png", "init_sha256": SHA, "strength": 0.6}
MASKED = {**FROM, "mask": "mask.png", "mask_sha256": SHA[::-1], "strength": 1.0}


def test_a_picture_drawn_from_another_is_a_call_of_px_edit():
    settings = {"prompt": "a cat", "seed": 1, "negative": "", "height": 8, "width": 16, "binning": True, "tile": 8}
    assert call({**settings, **FROM}) == (
        f"px.edit.image_to_image(px.load(), px.edit.read_picture('my photo.png', 8, 16, sha256={SHA!r}), 'a cat', "
        "px.key(1), strength=0.6, negative_prompt='', tile=8)"
    )
    assert call({"prompt": "a cat", "seed": 1, "n": 2, "index": 1, **MASKED}) == (
        f"px.edit.inpaint(px.load(), px.edit.read_picture('my photo.png', sha256={SHA!r}), "
        f"px.edit.read_picture('mask.png', mask=True, sha256={SHA[::-1]!r}), 'a cat', px.split(px.key(1), 2)[1], "
        "strength=1.0)"
    )
    assert call({"prompt": "a cat", "seed": 1, **dict.fromkeys(MASKED)}) == call({"prompt": "a cat", "seed": 1})


CONTROL = {"control": "house.png", "control_sha256": SHA}


def test_a_picture_that_follows_edges_loads_the_model_once():
    settings = {"prompt": "a cat", "seed": 1, "height": 8, "width": 16, **CONTROL}
    edges = f"px.edges.canny(px.edit.read_picture('house.png', 8, 16, sha256={SHA!r}))"
    assert call(settings) == (
        "px.generate(params := px.load(), 'a cat', px.key(1), height=8, width=16, "
        f"controls=px.controlnet.control(params, px.controlnet.load(), {edges}))"
    )
    more = {"controlnet": "own/er", "control_scale": 0.5}
    assert call({**settings, **more, **FROM}).endswith(
        f"strength=0.6, controls=px.controlnet.control(params, px.controlnet.load('own/er'), {edges}, scale=0.5))"
    )
    nothing = dict.fromkeys((*CONTROL, *more))
    assert call({"prompt": "a cat", "seed": 1, **nothing}) == call({"prompt": "a cat", "seed": 1})


HOSTILE = "\x1b]0;title\x07\x9b31m\r\n\u202e\u2066\u200f\u2028\ufeff\ud800"


def test_a_printed_call_steers_no_terminal():
    names = ("prompt", "model", "variant", "negative")
    safe = HOSTILE[:-1]  # without the half of a surrogate pair, which isn't text
    text = call({"seed": 1, **dict.fromkeys(names, safe)})
    assert text.isprintable()
    (source, loaded), prompt, _, options = asked(text)
    assert {*source, *loaded.values(), prompt, options["negative_prompt"]} == {safe}


REFUSED = {
    "no prompt": ({"prompt": ...}, ValueError, "the settings lack 'prompt'"),
    "no seed": ({"seed": ...}, ValueError, "the settings lack 'seed'"),
    "unknown": ({"guidance_scale": 3}, ValueError, "there is no setting 'guidance_scale'; the nearest is 'guidance'"),
    "hostile": ({HOSTILE: 3}, ValueError, "there is no setting "),
    "code as a solver": ({"solver": "ddim(), x=__import__('os')"}, ValueError, "solver must be one of ddim, "),
    "helper": ({"solver": "from_config"}, ValueError, "solver must be one of ddim, "),
    "misspelt": ({"solver": "eular"}, ValueError, ", got 'eular'; the nearest is 'euler'"),
    "solver": ({"solver": 3}, TypeError, "solver must be a string, got an int"),
    "seed as text": ({"seed": "0); evil("}, TypeError, "seed must be "),
    "negative seed": ({"seed": -1}, ValueError, "seed must be "),
    "large seed": ({"seed": 2**64}, ValueError, "seed must be "),
    "yes": ({"seed": True}, TypeError, "seed must be "),
    "half a step": ({"steps": 0.5}, TypeError, "steps must be "),
    "no steps": ({"steps": 0}, ValueError, "steps must be "),
    "many steps": ({"steps": 10_001}, ValueError, "steps must be "),
    "guidance": ({"guidance": "4.5"}, TypeError, "guidance must be "),
    "infinite": ({"guidance": float("inf")}, ValueError, "guidance must be "),
    "nan": ({"guidance": float("nan")}, ValueError, "guidance must be "),
    "long": ({"guidance": 10**400}, ValueError, "guidance must be "),
    "prompt": ({"prompt": 3}, TypeError, "prompt must be a string or a list of at least one string, got an int"),
    "no prompts": ({"prompt": []}, TypeError, "prompt must be a string or a list of at least one string, got a list"),
    "one number": (
        {"prompt": ["a", 3]},
        TypeError,
        "prompt must be a string or a list of at least one string, got a list",
    ),
    "surrogate": ({"prompt": "\ud800"}, ValueError, "prompt must be text that UTF-8 can hold"),
    "nul": (
        {"lora": "a\0b", "lora_sha256": "0" * 64},
        ValueError,
        "lora must be a name that a file can have, got 'a\\x00b'",
    ),
    "model": ({"model": ["a"]}, TypeError, "model must be a string, got a list"),
    "variant": ({"variant": 16}, TypeError, "variant must be a string, got an int"),
    "dtype": ({"dtype": "float8"}, ValueError, "dtype must be one of 'float32', 'float16', 'bfloat16', got 'float8'"),
    "negative": ({"negative": None}, TypeError, "negative must be a string, got None"),
    "none of them": ({"n": 0}, ValueError, "n must be "),
    "too many": ({"n": 10_001}, ValueError, "n must be "),
    "index": (
        {"n": 2, "index": 2},
        ValueError,
        "index must say which of n pictures of one prompt it is, got index 2 and n 2",
    ),
    "negative index": ({"index": -1}, ValueError, "index must be "),
    "index of a list": (
        {"prompt": ["a", "b"], "index": 1},
        ValueError,
        "index must say which of n pictures of one prompt",
    ),
    "uneven": ({"prompt": ["a", "b"], "n": 3}, ValueError, "n must be a multiple of the number of prompts, 2, got 3"),
    "size": ({"height": 8193}, ValueError, "height must be "),
    "width": ({"width": 0}, ValueError, "width must be "),
    "clean": ({"clean": 1}, TypeError, "clean must be True or False, got an int"),
    "binning": ({"binning": "no"}, TypeError, "binning must be True or False, got 'no'"),
    "tile": ({"tile": 0}, ValueError, "tile must be "),
    "init": ({**FROM, "init": 3}, TypeError, "init must be a string, got an int"),
    "its sha256": ({**FROM, "init_sha256": "0x"}, ValueError, "init_sha256 must be 64 hexadecimal digits, got '0x'"),
    "sha256 of a line more": ({**FROM, "init_sha256": SHA + "\n"}, ValueError, "init_sha256 must be 64 hexadecimal"),
    "no sha256": ({"init": "a.png", "strength": 1}, ValueError, "init needs init_sha256, without which another file"),
    "no strength": ({**FROM, "strength": None}, ValueError, "init needs strength"),
    "strength": ({**FROM, "strength": 1.5}, ValueError, "strength must be "),
    "strength alone": ({"strength": 0.5}, ValueError, "strength needs init"),
    "mask alone": ({"mask": "a.png", "mask_sha256": SHA}, ValueError, "mask needs init"),
    "bins": ({**FROM, "binning": False}, ValueError, "binning is for what is drawn from noise alone"),
    "one side of a control": ({**CONTROL, "width": 8}, ValueError, "height and width must both be given or neither"),
    "control": ({**CONTROL, "control": 3}, TypeError, "control must be a string, got an int"),
    "its file": ({"control": "a.png"}, ValueError, "control needs control_sha256, without which another file"),
    "controlnet alone": ({"controlnet": "a"}, ValueError, "controlnet needs control"),
    "scale alone": ({"control_scale": 1}, ValueError, "control_scale needs control"),
    "scale": ({**CONTROL, "control_scale": 1e4}, ValueError, "control_scale must be "),
    "one side": ({**FROM, "height": 8}, ValueError, "height and width must both be given or neither"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_only_what_is_checked_is_printed(case):
    changed, error, sentence = REFUSED[case]
    settings = {**{"prompt": "a cat", "seed": 1}, **changed}
    with pytest.raises(error) as raised:
        call({name: value for name, value in settings.items() if value is not ...})
    assert sentence in str(raised.value) and str(raised.value).isprintable()


def test_its_dtypes_are_those_of_the_files():
    assert set(picture.DTYPES) == set(safetensors.DTYPES)
