"""The readers: for each its valid files, how they are damaged, and what reads them."""

from __future__ import annotations

import ast
import functools
import io
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import pipelines, tiny
from PIL import Image
from safetensors.numpy import save as safetensors_bytes
from sentencepiece import SentencePieceProcessor

import pixart_fn as px
from pixart_fn import picture, settings, solvers, t5, transformer, vae
from pixart_fn.checkpoint.layout import COMPONENTS, read_json, shards
from pixart_fn.checkpoint.text import load_text
from pixart_fn.cli.generate import _prompts
from pixart_fn.files import safetensors
from pixart_fn.models import tokenizer
from pixart_fn.train import state
from pixart_fn.train.emoji import data, latents

from . import mutate

Errors = tuple[type[Exception], ...]
READ: Errors = (ValueError, OSError)


class Target(NamedTuple):
    """A reader.

    Args:
        seeds: makes valid inputs.
        read: (input, an empty folder) → reads it; what it returns is only looked at by `same`.
        mutations: how inputs are damaged.
        errors: what it may raise.
        named: whether an error must name the file or the folder.
    """

    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[bytes, Path], Any]
    mutations: tuple[mutate.Mutation, ...] = mutate.BYTES
    errors: Errors = READ
    named: bool = True


# --- configurations ---------------------------------------------------------------------------------------------------


def _dumped(*objects: Any) -> list[bytes]:
    return [json.dumps(each).encode() for each in objects]


def _config(module: Any) -> Callable[[bytes, Path], Any]:
    def read(content: bytes, folder: Path) -> Any:
        (folder / "config.json").write_bytes(content)
        config = module.read_config(read_json(folder / "config.json"))
        module.read_config(module.to_json(config))
        return module.shapes(config)

    return read


def _scheduler(content: bytes, folder: Path) -> Any:
    (folder / "scheduler_config.json").write_bytes(content)
    sampler = solvers.from_config(read_json(folder / "scheduler_config.json"))
    grid = sampler.make_grid(2)
    for _ in px.iterate(px.key(0), sampler.wrap(lambda x, t: 0.5 * x), sampler.solver, grid, np.ones((1, 1, 2, 2))):
        return repr(sampler)


def _schedulers() -> list[bytes]:
    named = [{"_class_name": name} for name in solvers.config.CLASSES]
    full = {
        "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
        "num_train_timesteps": 1000, "trained_betas": None, "lambda_min_clipped": -float("inf"), "solver_order": 2,
        "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "use_karras_sigmas": True, "steps_offset": 0,
    }  # fmt: skip
    betas = {"_class_name": "DDIMScheduler", "num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.4]}
    return _dumped(*named, full, betas, {"_class_name": "LCMScheduler", "original_inference_steps": 50})


def _index(content: bytes, folder: Path) -> Any:
    (folder / "model.safetensors.index.json").write_bytes(content)
    for name in shards(folder / "model.safetensors.index.json", COMPONENTS["text_encoder"]):
        assert (folder / name).resolve().parent == folder.resolve(), name


# --- arrays -----------------------------------------------------------------------------------------------------------


def _tensors() -> list[bytes]:
    some = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b.c": np.ones(5, np.float16),
        "d": np.zeros((0, 2), np.float32),
    }
    return [safetensors_bytes(some, {"format": "pt"}), safetensors_bytes({"x": np.ones(3, np.float32)})]


def _safetensors(content: bytes, folder: Path) -> Any:
    (folder / "x.safetensors").write_bytes(content)
    read = {}
    for name, leaf in safetensors.open_file(folder / "x.safetensors").items():
        leaf.check()
        read[name] = leaf.read()
        if leaf.dtype == "F32":
            leaf.prefetch()
            leaf.release()
    return read


def _texts() -> list[bytes]:
    text = {"states": np.ones((1, 3, 4), np.float32), "mask": np.ones((1, 3), np.float32)}
    return [safetensors_bytes(text, {"format": "pt"})]


def _text(content: bytes, folder: Path) -> Any:
    (folder / "text.safetensors").write_bytes(content)
    return load_text(folder / "text.safetensors")


TREE = {"a": [{"w": np.ones((2, 3), np.float32)}], "b": np.ones(2, np.float32)}
LIKE = state.TrainState(TREE, {"step": 3, "scale": 0.5, "m": TREE, "seen": np.arange(3)}, None, px.key(0), 7)


def _states() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "state.safetensors")
        state.save(file, LIKE, {"run.seed": 0})
        return [file.read_bytes()]


def _state(content: bytes, folder: Path) -> Any:
    (folder / "state.safetensors").write_bytes(content)
    return state.restore(folder / "state.safetensors", LIKE, {"run.seed": 0})


def _archives() -> list[bytes]:
    made = io.BytesIO()
    np.savez(made, latents=np.ones((2, 4, 2, 2), np.float16), captions=json.dumps([["a cat"], ["a dog"]]))
    return [made.getvalue()]


def _archive(content: bytes, folder: Path) -> Any:
    (folder / "0000000.npz").write_bytes(content)
    return latents.load(folder)


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


# --- folders: an input is the name of a file, a line end, and the file ------------------------------------------------


def in_file(name: str, content: bytes) -> bytes:
    """An input that says which file of a folder it is."""
    return name.encode() + b"\n" + content


def put(content: bytes, folder: Path) -> None:
    """Write an input into its file."""
    name, _, rest = content.partition(b"\n")
    if re.fullmatch(rb"([a-z_]+/)?[a-zA-Z0-9_.-]{1,60}\.(json|model|npy|safetensors)", name):  # as long as it is whole
        (folder / name.decode()).write_bytes(rest)


def within(*mutations: mutate.Mutation) -> tuple[mutate.Mutation, ...]:
    """Mutations of the file that an input holds, by its name."""

    def changed(rng: Any, content: bytes) -> bytes:
        name, _, rest = content.partition(b"\n")
        kind = Path(name.decode()).suffix
        of = {".json": mutate.as_json, ".safetensors": mutate.with_header}.get(kind, mutate.flip)
        return name + b"\n" + rng.choice((of, of, *mutations))(rng, rest)

    return (changed,)


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
    return [*files, in_file("tokenizer_config.json", *_dumped(_decoder())), in_file("spiece.model", vocabulary())]


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


# --- pictures and their settings --------------------------------------------------------------------------------------

SETTINGS = {
    "prompt": "a cat", "model": "own/er", "variant": "fp16", "dtype": "float16", "seed": 3, "steps": 7,
    "guidance": 2.5, "negative": "a dog", "solver": "heun", "n": 4, "index": 2, "height": 512, "width": 768,
    "clean": False, "binning": False, "tile": 256,
}  # fmt: skip
LITERALS = (ast.Constant, ast.List, ast.Tuple, ast.Load, ast.UnaryOp, ast.USub)


def check_call(said: str) -> None:
    """Fail where a printed call is anything else than one of the library's functions with literals."""
    assert said.isprintable()
    for node in ast.walk(ast.parse(said, mode="eval")):
        if isinstance(node, ast.Call):
            assert re.fullmatch(r"px\.(generate|load|key|split)", ast.unparse(node.func)), said
        else:
            named = (ast.Attribute, ast.Name, ast.Expression, ast.keyword, ast.Subscript)
            assert isinstance(node, (*LITERALS, *named)), said


def _pictures(suffix: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        made = io.BytesIO()
        _, options = picture.prepare(f"cat{suffix}", SETTINGS)
        Image.new("RGB", (6, 4), (9, 200, 30)).save(made, **options)
        return [made.getvalue()]

    return seeds


def _picture(suffix: str) -> Callable[[bytes, Path], Any]:
    def read(content: bytes, folder: Path) -> Any:
        (folder / f"cat{suffix}").write_bytes(content)
        found = picture.read_settings(folder / f"cat{suffix}")
        _call(json.dumps(found).encode(), folder)

    return read


def _call(content: bytes, folder: Path) -> Any:
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        return
    try:
        said = settings.call(given)
    except (TypeError, ValueError) as error:
        check_sentence(str(error))
        return
    check_call(said)


def _lines(content: bytes, folder: Path) -> Any:
    (folder / "prompts.txt").write_bytes(content)
    return _prompts((), str(folder / "prompts.txt"))


def check_sentence(said: str) -> None:
    """Fail where an error isn't one line that a terminal can show."""
    assert said and said.isprintable() and len(said) < 6000, f"the sentence is {said[:500]!r}"


PNG = (*mutate.BYTES, *(mutate.of_png,) * 6)
TENSORS = (*mutate.BYTES, *(mutate.with_header,) * 8)
JSON = (*mutate.BYTES, *(mutate.as_json,) * 8)
TARGETS: dict[str, Target] = {
    "config-t5": Target(lambda: _dumped(pipelines.CONFIGS["text_encoder"]), _config(t5), JSON, named=False),
    "config-transformer": Target(
        lambda: _dumped(pipelines.CONFIGS["transformer"], transformer.to_json(transformer.Config())),
        _config(transformer),
        JSON,
        named=False,
    ),
    "config-vae": Target(
        lambda: _dumped(pipelines.CONFIGS["vae"], vae.to_json(vae.Config())), _config(vae), JSON, named=False
    ),
    "scheduler": Target(_schedulers, _scheduler, JSON, named=False),
    "index": Target(
        lambda: _dumped({"metadata": {}, "weight_map": {"shared.weight": "model-1.safetensors", "a": "b.safetensors"}}),
        _index,
        JSON,
    ),
    "safetensors": Target(_tensors, _safetensors, TENSORS),
    "text": Target(_texts, _text, TENSORS),
    "state": Target(_states, _state, TENSORS),
    "npz": Target(_archives, _archive, (*mutate.BYTES, *(mutate.of_zip,) * 12)),
    "glyphs": Target(_glyphs, _glyph_files, within(*mutate.BYTES)),
    "tokenizer": Target(_tokenizers, _tokenizer, within(*mutate.BYTES)),
    "pipeline": Target(_pipelines, _pipeline, within(*mutate.BYTES)),
    "png": Target(_pictures(".png"), _picture(".png"), PNG),
    "jpeg": Target(_pictures(".jpg"), _picture(".jpg")),
    "webp": Target(_pictures(".webp"), _picture(".webp")),
    "call": Target(lambda: _dumped(SETTINGS, {"prompt": ["a", "b"], "seed": 1}), _call, JSON, named=False),
    "prompts": Target(
        lambda: [b"a cat\na dog\n", "Größe\r\n猫".encode()], _lines, (*mutate.BYTES, *(mutate.of_strings,) * 4)
    ),
}
