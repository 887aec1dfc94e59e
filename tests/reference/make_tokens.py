"""Write tokens.json: python -m tests.reference.make_tokens, with transformers 4.46, sentencepiece and protobuf.

Its slow T5Tokenizer (legacy=True) over the embedded checkpoint's vocabulary, in folders as transformers writes them and
over the public T5-v1.1 vocabulary. tokens.json holds the texts, which are read from it, and for each folder its files,
and the ids of the texts where they aren't those of the first folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import make_tokenizer

OUT = Path(__file__).with_name("tokens.json")
OWN = Path(__file__).with_name("spiece.model")  # of an earlier embedded checkpoint, 3,000 pieces
LENGTH = 28
CONFIG, SPECIAL, ADDED, RUST = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"


def written(change: Callable[[Any], object], **options: Any) -> dict[str, Any]:
    """The files that transformers saves after a change to its tokenizer."""
    tokenizer = loaded({}, **options)
    change(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(Path(folder).glob("*.json"))}


def loaded(files: dict[str, Any], model: Path = OWN, **options: Any) -> Any:
    """transformers' tokenizer over a folder."""
    from transformers import T5Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder) / "spiece.model")
        for name, content in files.items():
            (Path(folder) / name).write_text(json.dumps(content), encoding="utf-8")
        return T5Tokenizer.from_pretrained(folder, **options)


def folders() -> dict[str, dict[str, Any]]:
    """Tokenizers' files by name."""
    from transformers import AddedToken

    words = [
        "cat",
        "<my-cat>",
        "<a>",
        "<a><b>",
        "<b>",
        "newword",
        "two words",
        "日本",
        "ﬁsh",
        "½",
        "É",
        "a+b",
        "\\n",
        "😀",
    ]
    letters = {"L": "lstrip", "R": "rstrip", "W": "single_word"}
    flagged = [AddedToken(f"[{name}]", **{letters[c]: True for c in name}) for name in ("L", "R", "W", "LR", "LRW")]
    pieces = [AddedToken("▁cat", single_word=True), AddedToken("▁dog", lstrip=True)]
    pieces += [AddedToken("<pad>", lstrip=True, rstrip=True), AddedToken("the", normalized=True)]
    special = {"additional_special_tokens": ["<my-cat>", flagged[-1]]}
    own = {"pad_token": "[PAD]", "eos_token": AddedToken("<end>", lstrip=True), "bos_token": "<s>"}
    many = written(lambda t: (t.add_tokens(words), t.add_tokens(flagged), t.add_special_tokens(own)), extra_ids=3)
    return {
        "the vocabulary alone": {},
        "the embedded checkpoint's": {CONFIG: json.loads((OWN.parent / CONFIG).read_text("utf-8"))},
        "saved unchanged": written(lambda t: None, extra_ids=3),
        "add_tokens": written(lambda t: t.add_tokens(words), extra_ids=3),
        "add_tokens, special": written(lambda t: t.add_tokens(words[::-1], special_tokens=True), extra_ids=0),
        "add_tokens with flags": written(lambda t: t.add_tokens(flagged), extra_ids=3),
        "flags in another order": written(lambda t: t.add_tokens(flagged[::-1], special_tokens=True), extra_ids=3),
        "pieces with flags": written(lambda t: t.add_tokens(pieces), extra_ids=3),
        "add_special_tokens": written(lambda t: t.add_special_tokens(special), extra_ids=3),
        "both": written(lambda t: (t.add_special_tokens(special), t.add_tokens(words)), extra_ids=7),
        "pad, eos and bos": written(lambda t: t.add_special_tokens(own), extra_ids=3),
        "everything": many,
        **older(many),
    }


def older(many: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same and others as they were written before 4.34, without added_tokens_decoder."""
    config = dict(many[CONFIG])
    tokens = config.pop("added_tokens_decoder")
    first, second = ({"content": f"<extra_id_{i}>", "lstrip": i == 1, "rstrip": False} for i in range(2))
    the = {"__type": "AddedToken", "content": "the", "lstrip": True}
    listed = {"extra_ids": 2, "additional_special_tokens": [first | {"__type": "AddedToken"}, the], "cls_token": "a"}
    named = {"eos_token": {"content": "</s>", "lstrip": True}, "cls_token": {"content": "▁cat", "lstrip": True}}
    named |= {"mask_token": {"content": "▁cat", "rstrip": True}}
    named |= {"additional_special_tokens": [second | {"single_word": True}, "▁dog", {"content": "the", "rstrip": True}]}
    own = {"0": "<pad>", "1": "</s>", "2153": "the", "2921": "[L]"}
    own = {i: {"content": text, "special": i < "2", "lstrip": True} for i, text in own.items()}
    spaced = {"extra_ids": 0, "pad_token": "<pad>", "additional_special_tokens": [the | {"lstrip": False}]}
    extra = {str(2921 + 2 - i): {"content": f"<extra_id_{i}>", "special": True} for i in range(3)}
    return {
        "before 4.34": {CONFIG: config, ADDED: many[ADDED], SPECIAL: many[SPECIAL]},
        "tokenizer.json beside": {
            CONFIG: config,
            RUST: {"added_tokens": [{"id": int(i)} | t for i, t in tokens.items()]},
        },
        "the map alone": {CONFIG: listed, SPECIAL: named},
        "added_tokens.json alone": {ADDED: {"<my-cat>": 3022, "<extra_id_0>": 3020, "<a>": 3021}},
        "flags that a name changes": {CONFIG: spaced | {"added_tokens_decoder": own}},
        "extra ids that take no space": {CONFIG: {"added_tokens_decoder": extra, "extra_ids": 3}},
    }


def ids(tokenizer: Any, rows: list[str]) -> list[list[int]]:
    """What diffusers' PixArt asks for, without the padding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "This sequence already has </s>"
        out = make_tokenizer.t5_ids(tokenizer, rows, LENGTH)
    return [row[: sum(mask)] for row, mask in zip(out["ids"], out["mask"], strict=True)]


def flags(token: Any) -> list[str]:
    """The names of the flags that are set."""
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return [name for name in names if getattr(token, name)]


def main() -> None:
    rows = json.loads(OUT.read_text("utf-8"))["texts"]
    first: list[list[int]] = []
    lines = [f'"texts": [\n{",".join(chr(10) + json.dumps(row) for row in rows)[1:]}\n]']
    for name, files in folders().items():
        tokenizer = loaded(files)
        new = ids(tokenizer, rows)
        other = {i: row for i, row in enumerate(new) if not first or row != first[i]}
        first = first or new
        tokens = [[i, token.content, flags(token)] for i, token in tokenizer.added_tokens_decoder.items()]
        entry = {"files": files, "size": len(tokenizer), "pad": tokenizer.pad_token_id, "tokens": tokens, "ids": other}
        lines.append(f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}")
    model = make_tokenizer.vocabulary()
    public = {"sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "ids": ids(loaded({}, model), rows)}
    lines.append(f'"public": {json.dumps(public, separators=(",", ":"))}')
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
