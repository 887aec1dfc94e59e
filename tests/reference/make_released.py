"""Write released.json: python -m tests.reference.make_released, with torch, diffusers and transformers installed.

It holds the names and shapes of the tensors of every released checkpoint at full size, as the libraries' models have
them. They are built without memory for their weights.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any, TypeAlias

OUT = Path(__file__).with_name("released.json")
NUMBER = re.compile(r"\.(\d+)\.")

Shapes: TypeAlias = dict[str, tuple[int, ...]]

XL = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "patch_size": 2,
}
# sample_size, interpolation_scale, use_additional_conditions and num_layers, as the authors' converters write them
TRANSFORMERS: dict[str, tuple[int, float, bool, int]] = {
    **dict.fromkeys(("alpha-256", "alpha-sam-256"), (32, 1, False, 28)),
    **dict.fromkeys(("alpha-256-pth", "alpha-256-coco-pth", "alpha-sam-256-pth"), (32, 1, False, 28)),
    **dict.fromkeys(("alpha-512", "dmd-512", "alpha-512-pth"), (64, 1, False, 28)),
    **dict.fromkeys(("alpha-1024", "lcm-1024", "alpha-1024-pth"), (128, 2, True, 28)),
    **dict.fromkeys(("sigma-256", "sigma-256-pth"), (32, 0.5, False, 28)),
    **dict.fromkeys(("sigma-512", "sigma-512-pth"), (64, 1, False, 28)),
    **dict.fromkeys(("sigma-1024", "sigma-1024-pth"), (128, 2, False, 28)),
    **dict.fromkeys(("sigma-2k", "sigma-2k-pth"), (256, 4, False, 28)),
    "sigma-900m": (128, 2, False, 42),
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
VAES = {"alpha": {"sample_size": 512}, "sigma": {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True}}
T5 = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
# the authors' module for compressed keys and values, in their two configurations: a depthwise convolution of 2 × 2 and
# a norm, in blocks 14 … 27
COMPRESSED = {"sr.weight": (1152, 1, 2, 2), "sr.bias": (1152,), "norm.weight": (1152,), "norm.bias": (1152,)}


def transformer(name: str) -> Shapes:
    from diffusers import PixArtTransformer2DModel

    side, scale, conditions, layers = TRANSFORMERS[name]
    more = {"interpolation_scale": scale, "use_additional_conditions": conditions, "num_layers": layers}
    return shapes(PixArtTransformer2DModel, sample_size=side, **XL, **more)


def compressed() -> Shapes:
    """Σ with KV compression, which diffusers doesn't have: its names there and those of the authors' module."""
    more = itertools.product(range(14, 28), COMPRESSED.items())
    return transformer("sigma-1024") | {f"transformer_blocks.{i}.attn1.{name}": shape for i, (name, shape) in more}


def vae(family: str) -> Shapes:
    from diffusers import AutoencoderKL

    return shapes(AutoencoderKL, **VAE, **VAES[family])


def t5() -> Shapes:
    from transformers import T5Config, T5EncoderModel

    return shapes(lambda **fields: T5EncoderModel(T5Config(**fields)), **T5)


def shapes(build: Any, **fields: Any) -> Shapes:
    import torch

    with torch.device("meta"):
        model = build(**fields)
    return {name: tuple(each.shape) for name, each in model.state_dict().items()}


# --- a table of names, short: "blocks.#.weight" stands for all blocks of the same shape -------------------------------


def packed(found: Shapes) -> list[list[Any]]:
    """Rows of a name with # for its first number, the shape, and those numbers as in "0-27" or "0,2"."""
    rows: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name, shape in found.items():
        number = NUMBER.search(name)
        rows.setdefault((NUMBER.sub(".#.", name, count=1), shape), []).append(int(number[1]) if number else -1)
    return [[name, list(shape), _written(numbers)] for (name, shape), numbers in rows.items()]


def unpacked(rows: list[list[Any]]) -> Shapes:
    return {name.replace("#", str(i)): tuple(shape) for name, shape, numbers in rows for i in _read(numbers)}


def _written(numbers: list[int]) -> str:
    if numbers == [-1]:
        return ""
    low, high = min(numbers), max(numbers)
    return f"{low}-{high}" if sorted(numbers) == list(range(low, high + 1)) else ",".join(map(str, numbers))


def _read(numbers: str) -> list[int]:
    low, dash, high = numbers.partition("-")
    return list(range(int(low), int(high) + 1)) if dash else [int(each) for each in numbers.split(",") if each] or [-1]


def golden() -> dict[str, Any]:
    """Each distinct table once, and which of them each checkpoint has."""
    tables: dict[str, list[list[Any]]] = {"text_encoder": packed(t5())}
    names: dict[str, dict[str, str]] = {}

    def known(kind: str, found: Shapes) -> str:
        rows = packed(found)
        same = [name for name, each in tables.items() if each == rows]
        if not same:
            tables[f"{kind} {len(tables)}"] = rows
        return same[0] if same else [*tables][-1]

    for name in TRANSFORMERS:
        names[name] = {"transformer": known("transformer", transformer(name))}
        if not name.endswith("pth"):
            names[name] |= {"text_encoder": "text_encoder", "vae": known("vae", vae(family(name)))}
    names["compressed"] = {"transformer": known("transformer", compressed())}
    return {"tables": tables, "checkpoints": names}


def family(name: str) -> str:
    return "sigma" if name.startswith("sigma") else "alpha"


def main() -> None:
    made = golden()
    tables = [
        f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in made["tables"].items()
    ]
    names = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in made["checkpoints"].items()]
    text = '{\n"tables": {\n' + ",\n".join(tables) + '\n},\n"checkpoints": {\n' + ",\n".join(names) + "\n}\n}\n"
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
