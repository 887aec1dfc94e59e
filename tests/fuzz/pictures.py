"""Readers of pictures, of the settings in them, and of prompts."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from pixart_fn import picture, settings
from pixart_fn.cli.given import prompts
from pixart_fn.train.emoji import clipart

from . import mutate
from .target import JSON, PNG, Target, check_sentence, dumped

SETTINGS = {
    "prompt": "a cat", "model": "own/er", "variant": "fp16", "dtype": "float16", "seed": 3, "steps": 7,
    "guidance": 2.5, "negative": "a dog", "solver": "heun", "n": 4, "index": 2, "height": 512, "width": 768,
    "clean": False, "binning": False, "tile": 256,
}  # fmt: skip
SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" xmlns:cc="http://web.resource.org/cc/"
  xmlns:d="http://purl.org/dc/elements/1.1/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:RDF><cc:Work><d:title>Cat</d:title><cc:license
  rdf:resource="http://web.resource.org/cc/PublicDomain"/></cc:Work></rdf:RDF><path d="M 0 0 L 9 9"/></svg>"""
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
    return prompts((), str(folder / "prompts.txt"))


TARGETS = {
    "clipart": Target(lambda: [SVG], lambda content, _: clipart.tags(content), named=False),
    "png": Target(_pictures(".png"), _picture(".png"), PNG),
    "jpeg": Target(_pictures(".jpg"), _picture(".jpg")),
    "webp": Target(_pictures(".webp"), _picture(".webp")),
    "call": Target(lambda: dumped(SETTINGS, {"prompt": ["a", "b"], "seed": 1}), _call, JSON, named=False),
    "prompts": Target(
        lambda: [b"a cat\na dog\n", "Größe\r\n猫".encode()], _lines, (*mutate.BYTES, *(mutate.of_strings,) * 4)
    ),
}
