"""Reading a config.json: values of the wrong kind, unknown names, fixed ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from pixart_fn import config, t5, transformer, vae
from pixart_fn.config import Check, among


@dataclass(frozen=True)
class Sample:
    whole: int = 1
    number: float = 1.0
    flag: bool = True
    word: str = "a"
    perhaps: float | None = None
    numbers: tuple[int, ...] = ()
    kind: Literal["x", "y"] = "x"
    off: Literal[False] | None = None
    small: Annotated[int, Check("under 10", lambda value: value < 10)] = 0
    choice: Annotated[str, among("one", "two")] | None = None
    anything: Any = None


FIXED = {"act": ("gelu", None)}

GOOD = [
    *(
        {"whole": 3},
        {"whole": np.int64(3)},
        {"number": 3},
        {"number": -0.5},
        {"number": np.float32(2)},
        {"flag": False},
    ),
    *(
        {"word": ""},
        {"flag": False},
        {"perhaps": None},
        {"perhaps": 0.5},
        {"numbers": [1, 2]},
        {"numbers": []},
        {"kind": "y"},
    ),
    *({"off": False}, {"off": None}, {"small": 9}, {"choice": "two"}, {"choice": None}, {"anything": {"a": [1]}}),
    *({"numbers": np.arange(3)}, {"act": "gelu"}, {"act": None}, {"_name": 1}, {"old": 1}),
]
BAD = [
    ({"whole": 3.0}, r"whole must be a whole number, got 3\.0"),
    ({"whole": True}, "whole must be a whole number, got True"),
    ({"whole": None}, "whole must be a whole number, got None"),
    ({"number": "3"}, "number must be a finite number, got '3'"),
    ({"number": False}, "number must be a finite number, got False"),
    ({"number": math.nan}, "number must be a finite number, got nan"),
    ({"number": -math.inf}, "number must be a finite number, got -inf"),
    ({"flag": 1}, "flag must be True or False, got 1"),
    ({"flag": "true"}, "flag must be True or False, got 'true'"),
    ({"word": 1}, "word must be a string, got 1"),
    ({"perhaps": "1"}, "perhaps must be None or a finite number, got '1'"),
    ({"numbers": 1}, "numbers must be a list, each entry a whole number, got 1"),
    ({"numbers": [1, 2.5]}, r"numbers must be a list, each entry a whole number, got \[1, 2\.5\]"),
    ({"kind": "z"}, "kind must be 'x' or 'y', got 'z'"),
    ({"kind": ["x"]}, r"kind must be 'x' or 'y', got \['x'\]"),
    ({"off": 0}, "off must be None or False, got 0"),
    ({"off": True}, "off must be None or False, got True"),
    ({"small": 10}, "small must be a whole number under 10, got 10"),
    ({"small": "9"}, "small must be a whole number under 10, got '9'"),
    ({"choice": "three"}, "choice must be None or a string among 'one', 'two', got 'three'"),
    ({"act": "relu"}, r"act = 'relu' isn't supported \(supported: 'gelu', None\)"),
    ({"numbrs": 1}, r"unknown field 'numbrs' = 1 \(nearest: 'numbers'\)"),
    ({"olt": 1}, r"unknown field 'olt' = 1 \(nearest: 'old'\)"),
    ({"zzz": 1}, "unknown field 'zzz' = 1$"),
    ({"whole": "1", "zzz": 2}, "whole must be .*; unknown field 'zzz'"),
]


@pytest.mark.parametrize("json", GOOD)
def test_what_a_file_may_hold(json):
    read = config.read(Sample, json, fixed=FIXED, ignored=("old",))
    for name, value in json.items():
        if hasattr(read, name):
            expected = tuple(value) if isinstance(value, (list, np.ndarray)) else value
            assert getattr(read, name) == expected and type(getattr(read, name)) is type(expected)


@pytest.mark.parametrize(("json", "sentence"), BAD)
def test_what_it_may_not_is_one_sentence(json, sentence):
    with pytest.raises(ValueError, match=f"^test_config config: {sentence}"):
        config.read(Sample, json, fixed=FIXED, ignored=("old",))


def test_a_long_value_is_shortened():
    with pytest.raises(ValueError, match=r"must be a list, .*, got \['a', 'a', 'a', 'a', 'a', 'a', \.\.\.\]$"):
        config.read(Sample, {"numbers": ["a"] * 1000}, fixed={})


@pytest.mark.parametrize("module", [t5, transformer, vae])
def test_what_is_no_content_of_a_file_is_one_sentence(module):
    for json in ([], None, "{}", 3):
        with pytest.raises(TypeError, match=r"config: it must be a dict, the content of a config\.json, got"):
            module.read_config(json)
    with pytest.raises(ValueError, match=r"config: unknown field 1 = 2$"):
        module.read_config({**GATED, 1: 2} if module is t5 else {1: 2})


def test_a_sentence_names_a_few_of_many_mistakes():
    many = {f"{i}{'x' * 1000}\x1b": 1 for i in range(10_000)}
    with pytest.raises(ValueError, match=r"unknown field '0x+\.\.\.x+\\x1b' = 1; .*; …$") as raised:
        config.read(Sample, many, fixed={})
    assert len(str(raised.value)) < 2000 and str(raised.value).isprintable()


def test_a_configuration_made_by_hand_has_the_bounds_of_a_file():
    with pytest.raises(ValueError, match="config: num_layers must be a whole number within 1 … 1000, got 0"):
        transformer.Config(num_layers=0)
    with pytest.raises(ValueError, match=r"vae config: scaling_factor must be a finite number within .*, got -1"):
        vae.Config(scaling_factor=-1.0)
    with pytest.raises(ValueError, match=r"t5 config: d_ff must be .*, got 0; num_heads must be .* got 2\.5"):
        t5.Config(d_ff=0, num_heads=2.5)


GATED = {"feed_forward_proj": "gated-gelu"}


@pytest.mark.parametrize(
    ("read", "json", "sentence"),
    [
        (
            transformer.read_config,
            {"num_layers": 10**9},
            r"num_layers must be .* within 1 … 1000, got 1000000000",
        ),
        (
            transformer.read_config,
            {"num_attention_heads": 0},
            r"num_attention_heads must be .* 1 … 65536, got 0",
        ),
        (
            transformer.read_config,
            {"norm_eps": -1e-6},
            r"norm_eps must be .* within 1.2e-38 … 1, got -1e-06",
        ),
        (transformer.read_config, {"interpolation_scale": 0}, r"interpolation_scale must be None or a .*, got 0"),
        (transformer.read_config, {"sample_size": 1}, r"sample_size must be at least patch_size = 2, got 1"),
        (transformer.read_config, {"patch_size": 0}, r"patch_size must be a whole number within 1 … 16384, got 0"),
        (
            t5.read_config,
            {**GATED, "vocab_size": 10**10},
            r"vocab_size must be .* within 1 … 16777216, got 1",
        ),
        (
            t5.read_config,
            {**GATED, "relative_attention_num_buckets": 3},
            r"_num_buckets must be .* 4 … 4096, got 3",
        ),
        (
            t5.read_config,
            {**GATED, "relative_attention_max_distance": 8},
            r"_max_distance must be above 8, a q",
        ),
        (
            t5.read_config,
            {**GATED, "layer_norm_epsilon": 0},
            r"layer_norm_epsilon must be .* 1.2e-38 … 1, got 0",
        ),
        (
            vae.read_config,
            {"scaling_factor": 0},
            r"vae config: scaling_factor must be .* within .*, got 0",
        ),
        (vae.read_config, {"scaling_factor": 1e-45}, r"scaling_factor must be a finite number within .*, got 1e-45"),
        (vae.read_config, {"scaling_factor": 10**400}, r"scaling_factor must be a finite number within .*, got 1000"),
        (vae.read_config, {"layers_per_block": 10**9}, r"layers_per_block must be a whole number within 1 … 100, got"),
        (vae.read_config, {"block_out_channels": [32] * 13}, r"block_out_channels must have 1 … 12 entries, got 13"),
        (vae.read_config, {"block_out_channels": [0]}, r"block_out_channels must be a list, each entry .*, got .0."),
        (vae.read_config, {"block_out_channels": [1] * 100_001}, r"must have at most 100000 entries, got 100001"),
        (t5.read_config, {"feed_forward_proj": "gated-gelu", "d_model": "512"}, "t5 config: d_model must be a whole"),
        (
            transformer.read_config,
            {"num_layers": None},
            "transformer config: num_layers must be a whole number within 1 … 1000, got N",
        ),
        (transformer.read_config, {"interpolation_scale": "2"}, "interpolation_scale must be None or a finite"),
        (
            vae.read_config,
            {"scaling_factor": math.nan},
            "vae config: scaling_factor must be a finite number within .*, got nan",
        ),
        (
            vae.read_config,
            {"block_out_channels": [128, "256"]},
            "block_out_channels must be a list, each entry a",
        ),
    ],
)
def test_the_models_files(read, json, sentence):
    with pytest.raises(ValueError, match=sentence):
        read(json)
