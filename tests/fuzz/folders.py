"""Readers of whole folders."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from helpers import pipelines, tiny
from safetensors.numpy import save as safetensors_bytes
from sentencepiece import SentencePieceProcessor

import pixart_fn as px
from pixart_fn.models import tokenizer
from pixart_fn.train.emoji import data

from . import mutate
from .target import Target, dumped, in_file, put, within


def _glyphs() -> list[bytes]:
    array = io.BytesIO()
    np.save(array, np.ones((2, 4, 4, 4), np.uint8))
    fields = {"label": "cat", "subgroup": "animal", "tags": ["a"], "unique_tags": [], "weight": 1.0, "flip": True}
    rows = [{"concept": 0, "set": "noto", "style": "flat"}] * 2
    return [
        in_file("glyphs.npy", array.getvalue()),
        in_file("glyphs.json", json.dumps({"rows": rows, "concepts": [fields]}).encode()),
    ]


def _glyph_files(content: bytes, folder: Path) -> Any:
    for seed in _glyphs():
        put(seed, folder)
    put(content, folder)
    found = data.load(folder)
    for i in range(2):
        data.example(np.random.default_rng(i), found, 16, mix={"white": 1.0}, primary=1.0)[1](np.random.default_rng(i))


@functools.cache
def vocabulary() -> bytes:
    """A SentencePiece model of a few words."""
    return bytes(tiny.words().model)


TOKENIZER: dict[str, Any] = {
    "tokenizer_config.json": {
        "extra_ids": 2, "legacy": True, "eos_token": "</s>", "pad_token": {"content": "<pad>", "lstrip": False},
    },
    "special_tokens_map.json": {"eos_token": "</s>", "additional_special_tokens": ["<extra_id_0>", "<extra_id_1>"]},
    "added_tokens.json": {},
    "tokenizer.json": {"added_tokens": [{"id": 0, "content": "<pad>", "special": True}]},
}  # fmt: skip


def _decoder() -> dict[str, Any]:
    size = SentencePieceProcessor(model_proto=vocabulary()).get_piece_size()
    flags = {"lstrip": True, "rstrip": False, "single_word": False, "normalized": False, "special": False}
    return TOKENIZER["tokenizer_config.json"] | {"added_tokens_decoder": {str(size + 2): {"content": "<cat>", **flags}}}


def _tokenizers() -> list[bytes]:
    files = [in_file(name, json.dumps(content).encode()) for name, content in TOKENIZER.items()]
    return [*files, in_file("tokenizer_config.json", *dumped(_decoder())), in_file("spiece.model", vocabulary())]


def _tokenizer(content: bytes, folder: Path) -> Any:
    (folder / "spiece.model").write_bytes(vocabulary())
    for name, value in TOKENIZER.items():
        (folder / name).write_text(json.dumps(value))
    put(content, folder)
    found = tokenizer.load(folder)
    return tokenizer.encode(found, ["a <cat> sits</s> ", ""], 8)


@functools.cache
def _files() -> dict[str, bytes]:
    """A whole pipeline, tiny, by the names of its files."""
    words = SentencePieceProcessor(model_proto=vocabulary())
    configs = {name: dict(config) for name, config in pipelines.CONFIGS.items()}
    configs["text_encoder"]["vocab_size"] = words.get_piece_size()
    files = {"model_index.json": pipelines.INDEX, "scheduler/scheduler_config.json": pipelines.SCHEDULER}
    files |= {f"{name}/config.json": config for name, config in configs.items()}
    files["tokenizer/tokenizer_config.json"] = {"extra_ids": 0}
    found = {name: json.dumps(content).encode() for name, content in files.items()}
    for name, config in configs.items():
        module = pipelines.MODULES[name]
        random = np.random.default_rng(0)
        shapes = module.shapes(module.read_config(config))
        weights = {key: random.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        if name != "text_encoder":
            found[f"{name}/{pipelines.FILES[name]}.safetensors"] = safetensors_bytes(weights)
            continue
        halves = {"model-1.safetensors": sorted(weights)[::2], "model-2.safetensors": sorted(weights)[1::2]}
        for file, names in halves.items():
            found[f"{name}/{file}"] = safetensors_bytes({key: weights[key] for key in names})
        index = {"weight_map": {key: file for file, names in halves.items() for key in names}}
        found[f"{name}/model.safetensors.index.json"] = json.dumps(index).encode()
    return found | {"tokenizer/spiece.model": vocabulary()}


def _pipelines() -> list[bytes]:
    return [in_file(name, content) for name, content in _files().items()]


def _pipeline(content: bytes, folder: Path) -> Any:
    for name, file in _files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(file)
    put(content, folder)
    return px.load(folder)


TARGETS = {
    "glyphs": Target(_glyphs, _glyph_files, within(*mutate.BYTES)),
    "tokenizer": Target(_tokenizers, _tokenizer, within(*mutate.BYTES)),
    "pipeline": Target(_pipelines, _pipeline, within(*mutate.BYTES)),
}
