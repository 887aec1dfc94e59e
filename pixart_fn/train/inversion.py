"""Textual inversion (arXiv:2208.01618): the embeddings of a new token are learned, and everything else stays.

V is the tokens of the vocabulary, D the text encoder's width, n the vectors of a new token.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from .. import tree
from ..backend import stream
from ..backend.arrays import as_float, as_numpy
from ..checkpoint.sources import written
from ..checks import check_type, check_whole, kind, shown
from ..files import atomic
from ..files.safetensors import open_file, write_file
from ..models import added_tokens
from ..models.added_tokens import AddedToken
from ..models.t5 import Config
from ..models.tokenizer import Tokenizer
from ..params import Params
from ..process.lock import exclusive
from ..public import public
from ..request import check_params
from ..types import Array, NumPyArray, Tree

MOST = 100
"""Vectors of a token at most; a prompt has 120 or 300 tokens."""


@public
@exclusive
def add_token(params: Params, token: str, init: str | Array, *, vectors: int | None = None) -> Params:
    """Add a token to the vocabulary of a pipeline's text encoder, for textual inversion.

    Further vectors are tokens of their own, named as diffusers does: <my-cat>, <my-cat>_1, … `write_prompt` puts all of
    them into a prompt. Encode prompts with clean=False, since the cleaning of captions takes <my-cat> for markup; or
    choose a name such as my-cat that it leaves as it is.

    Args:
        params: from `load`, with a text encoder; of one that is int8 or still in its file, the embeddings are read.
        token: a new name in lower case, as prompts are lower-cased, without white space or a full stop, such as
            "<my-cat>".
        init: words whose embeddings' mean each vector starts from, such as "cat"; or the vectors themselves, float
            (n, D), as `load_embedding` reads them.
        vectors: n, 1 … 100; None for one, or for as many as `init` has.
    Returns:
        Params with new rows in the text encoder's shared.weight where it has no spare ones, and with the token in the
        tokenizer; `save` writes both, and `load` and transformers read them.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no text encoder, the token isn't such a name or is known already, or init isn't as
            described above.
    """
    tokenizer, table, config = _encoder(params)
    D = table.shape[1]
    if isinstance(init, str):
        n = 1 if vectors is None else vectors
        check_whole("vectors", n, 1, MOST)
        pieces = tokenizer.processor.encode(init)
        if not pieces or tokenizer.specials[tokenizer.unk].id in pieces:
            raise ValueError(f"init must be words of the vocabulary, such as 'cat', got {shown(init)}")
        values = np.repeat(as_numpy(_float(table))[pieces].astype(np.float64).mean(0, keepdims=True), n, 0)
    else:
        values = as_numpy(as_float(init, "init"))
        if values.ndim != 2 or values.shape[1] != D or not 1 <= len(values) <= MOST:
            raise ValueError(f"init must be words or vectors (n, {D}) with n within 1 … {MOST}, got {values.shape}")
        if vectors not in (None, len(values)):
            raise ValueError(f"vectors must be {len(values)}, as many as init has, or left out, got {shown(vectors)}")
        _check_finite(values, "init")
    names = _names(token, len(values))
    _check_new(tokenizer, token, names)
    first = tokenizer.size
    new = tuple(AddedToken(name, first + i, special=False) for i, name in enumerate(names))
    more = Tensor(np.zeros((max(first + len(new) - table.shape[0], 0), D), np.float32)).astype(table.dtype)
    table = _with_rows(ops.cat([table, more], 0) if len(more) else table, first, Tensor(values, ms.float32))
    config = dataclasses.replace(config, vocab_size=table.shape[0])
    return params.replace(
        text_encoder=_with_table(params.text_encoder, table),
        tokenizer=dataclasses.replace(tokenizer, added=(*tokenizer.added, *new)),
        config=dataclasses.replace(params.config, text_encoder=config),
    )


@public
@exclusive
def token_rows(params: Params, token: str) -> Tree:
    """Give a token's embeddings as a tree, to train them alone.

    Args:
        params: from `add_token`, or loaded with such a token.
        token: its name.
    Returns:
        {token: (n, D) float32}, for `with_token_rows`, `px.value_and_grad` and `save_embedding`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no text encoder, or the tokenizer has no such added token.
    """
    tokenizer, table, _ = _encoder(params)
    first, n = _place(tokenizer, token)
    return {token: _float(table)[first : first + n]}


@public
@exclusive
def with_token_rows(params: Params, rows: Tree) -> Params:
    """Put tokens' embeddings in their place, by operations that can be differentiated with respect to them.

    Args:
        params: which have the tokens.
        rows: {token: (n, D)} for one token or several, floating-point.
    Returns:
        Params that share all other weights; those that were given stay as they were.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no text encoder, the tokenizer has no such added token, or its rows aren't (n, D).
    """
    tokenizer, table, _ = _encoder(params)
    _check_rows(rows)
    for token, values in rows.items():
        first, n = _place(tokenizer, token)
        if tuple(values.shape) != (n, table.shape[1]):
            raise ValueError(f"rows of {token!r} must have the shape {(n, table.shape[1])}, got {tuple(values.shape)}")
        table = _with_rows(table, first, as_float(values, "rows"))
    return params.replace(text_encoder=_with_table(params.text_encoder, table))


@public
def write_prompt(params: Params, prompt: str) -> str:
    """Write every vector of the added tokens into a prompt: "a <my-cat>" becomes "a <my-cat> <my-cat>_1".

    Args:
        params: with a tokenizer.
        prompt: a text.
    Returns:
        The text, in which each token of one vector is as it was.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there is no tokenizer.
    """
    check_params(params)
    check_type("prompt", prompt, str, "a string")
    tokenizer = params.tokenizer
    if tokenizer is None:
        raise ValueError("params must have a tokenizer; load them with text_encoder=True")
    parts = added_tokens.split(prompt, tokenizer.pattern, tokenizer.specials)
    contents = {token.content for token in tokenizer.added}
    return "".join(" ".join(_names(part, _place(tokenizer, part)[1])) if part in contents else part for part in parts)


@public
def save_embedding(rows: Tree, file: str | os.PathLike[str]) -> None:
    """Write a token's embeddings in diffusers' format for textual inversion, which its `load_textual_inversion` reads.

    Args:
        rows: {token: (n, D)} for one token, from `token_rows`.
        file: the name of the file, which must end in .safetensors; an existing file is replaced in one step.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: rows isn't for one token, or the name doesn't end in .safetensors.
    """
    _check_rows(rows)
    if len(rows) != 1:
        raise ValueError(f"rows must be for one token, since diffusers reads one from a file, got {len(rows)}")
    path = _path(file)
    for values in rows.values():
        _check_finite(as_numpy(values), "rows")
    atomic.write(path, lambda temporary: write_file(temporary, rows, dict.fromkeys(rows, "F32")))


@public
def load_embedding(file: str | os.PathLike[str]) -> Tree:
    """Read a token's embeddings that `save_embedding` or diffusers wrote.

    Args:
        file: a .safetensors file.
    Returns:
        {token: (n, D) float32}; `add_token(params, token, rows[token])` adds it.
    Raises:
        TypeError: file isn't a path.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or doesn't hold the embeddings of one token.
    """
    path = _path(file)
    stored = open_file(path)
    if len(stored) != 1 or not all(len(each.shape) in (1, 2) for each in stored.values()):
        found = ", ".join(f"{shown(name)} {each.shape}" for name, each in list(stored.items())[:4])
        raise ValueError(f"file {str(path)!r} must hold the vectors (n, D) of one token under its name, got {found}")
    ((token, leaf),) = stored.items()
    values = leaf.read()
    return {token: Tensor(values.reshape(-1, values.shape[-1]))}


def _names(token: str, n: int) -> list[str]:
    return [token, *(f"{token}_{i}" for i in range(1, n))]


def _check_new(tokenizer: Tokenizer, token: str, names: list[str]) -> None:
    check_type("token", token, str, "a string")
    if not token.isprintable() or not token or token != token.lower() or " " in token or "." in token:
        raise ValueError(
            f"token must be a name in lower case without white space or a full stop, such as '<my-cat>', got"
            f" {shown(token)}"
        )
    base = re.fullmatch(r"(.+)_\d+", token)
    if base and base[1] in {each.content for each in tokenizer.added}:
        raise ValueError(f"token must not be named as a further vector of {shown(base[1])}, got {shown(token)}")
    for name in [*names, f"▁{token}"]:  # the piece of a word, which a token of that name would take the place of
        if name in tokenizer.specials or added_tokens.piece_id(tokenizer.processor, name) is not None:
            raise ValueError(f"token must be new to the vocabulary, which has {shown(name)}; choose another name")


def _place(tokenizer: Tokenizer, token: str) -> tuple[int, int]:
    """Return the id of an added token, and the number of its vectors, whose ids follow each other."""
    check_type("token", token, str, "a string")
    ids = {each.content: each.id for each in tokenizer.added}
    if token not in ids:
        raise ValueError(f"token must be one that add_token has added, got {shown(token)}")
    n = 1
    while ids.get(f"{token}_{n}") == ids[token] + n:
        n += 1
    return ids[token], n


def _check_rows(rows: Tree) -> None:
    check_type("rows", rows, Mapping, "a dict from tokens to their vectors")
    for token, values in rows.items():
        if not isinstance(token, str) or not isinstance(values, (Tensor, np.ndarray)) or values.ndim != 2:
            raise TypeError(f"rows must be vectors (n, D) by token, got {kind(values)} for {shown(token)}")


def _path(file: str | os.PathLike[str]) -> Path:
    path = Path(os.path.expanduser(written(file, "file", "a .safetensors file")))
    if path.suffix != ".safetensors":
        raise ValueError(f"file must be the name of a .safetensors file, got {shown(str(file))}")
    return path


def _check_finite(values: NumPyArray, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers, got NaN or infinity")


def _encoder(params: Params) -> tuple[Tokenizer, Tensor, Config]:
    """Return the tokenizer, the embeddings, of which those that are still stored are read, and the configuration."""
    check_params(params)
    if params.text_encoder is None or params.tokenizer is None or params.config.text_encoder is None:
        raise ValueError("params must have a text encoder; load them with text_encoder=True")
    return params.tokenizer, stream.tensors(params.text_encoder["shared"]["weight"]), params.config.text_encoder


def _float(table: Tensor) -> Tensor:
    return table if table.dtype == ms.float32 else table.float()


def _with_rows(table: Tensor, first: int, rows: Tensor) -> Tensor:
    """The table (V, D) in which `rows` are at `first`."""
    last = first + rows.shape[0]
    parts = [table[:first], rows.astype(table.dtype), *([table[last:]] if last < table.shape[0] else [])]
    return ops.cat(parts, 0)


def _with_table(encoder: Tree, table: Tensor) -> Tree:
    return tree.unflatten(encoder, [table if name == "shared.weight" else leaf for name, leaf in tree.items(encoder)])
