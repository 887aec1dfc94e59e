"""From a valid file to a damaged or hostile one; every function is one of (random, bytes) → bytes."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = (
    0, 1, -1, 2, 3, 7, 63, 64, 65, 255, 1000, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**9, 10**30, 10**400, 0.0, -0.0, 0.5, 1.5, -1.5, 1e-45, 1e-300, 1e38, 1e39, 1e308, float("nan"),
    float("inf"), -float("inf"),
)  # fmt: skip
WORDS = (
    "", "a", "\0", "\n", "\x1b[31m", "\u202e", "\ud800", "\ufeff", "é" * 50, "a" * 5000, "..", "../x", "/etc/passwd",
    "C:\\x", "a\\b", "a/b", "nan", "1e999", "-1", "True", "F64", "F32", "BF16", "__metadata__", "<pad>", "</s>",
    "<extra_id_0>", "x.safetensors", "__import__('os')",
)  # fmt: skip
TOKENS = (
    b"-1", b"0", b"-0", b"1e999", b"-1e999", b"99999999999999999999", b"1.5", b"1E5", b"true", b"null", b"NaN", b"[]",
    b"{}", b'""', b'"a"', b"-Infinity", b"9" * 5000, b"0x10", b"1_0", b"[[[[[]]]]]",
)  # fmt: skip
OPCODES = tuple(bytes([code]) for code in range(256))
PICKLED = (
    b"J\xff\xff\xff\xff", b"K\0", b"K\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"X\xff\xff\xff\x7f", b"h\xff",
    b")R", b"tR", b"ctorch\nDoubleStorage\n", b"ccollections\nOrderedDict\n", b"cos\nsystem\n",
    b"G\x7f\xf0\0\0\0\0\0\0", b"\x88\x85",
)  # fmt: skip
LITTLE = tuple(struct.pack("<Q", n) for n in (0, 1, 2, 7, 8, 99, 10**8, 10**8 + 1, 2**31, 2**32, 2**63, 2**64 - 1))


# --- bytes ------------------------------------------------------------------------------------------------------------


def flip(rng: random.Random, data: bytes) -> bytes:
    """Change a few bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """Put other bytes in some place: a number of eight bytes, or random ones."""
    at = rng.randrange(len(data) + 1)
    new = rng.choice((rng.choice(LITTLE), rng.randbytes(rng.randrange(1, 9)), b"\xff\xfe", b"\0" * 8))
    return data[:at] + new + data[at + len(new) :]


def cut(rng: random.Random, data: bytes) -> bytes:
    """Keep the beginning."""
    return data[: rng.randrange(len(data) + 1)]


def remove(rng: random.Random, data: bytes) -> bytes:
    """Leave a piece out."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randrange(1, 64) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    """Put a piece elsewhere as well."""
    at, to = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:to] + data[at : at + rng.randrange(1, 256)] * rng.choice((1, 1, 2, 50)) + data[to:]


def number(rng: random.Random, data: bytes) -> bytes:
    """Put another token in the place of a number that is written in digits."""
    found = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", data))
    if not found:
        return flip(rng, data)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(TOKENS) + data[match.end() :]


def deep(rng: random.Random, data: bytes) -> bytes:
    """Put lists or objects inside each other in the place of a number, or of everything."""
    n = rng.choice((10, 60, 70, 500, 2000, 100_000))
    nested = rng.choice((b"[" * n + b"]" * n, b'{"a":' * n + b"1" + b"}" * n, b"[" * n))
    found = list(re.finditer(rb"[0-9]+", data))
    if not found or rng.random() < 0.2:
        return nested
    match = rng.choice(found)
    return data[: match.start()] + nested + data[match.end() :]


BYTES: tuple[Mutation, ...] = (flip, flip, overwrite, cut, remove, repeat, number, deep)

# --- JSON -------------------------------------------------------------------------------------------------------------


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container inside with each of its keys."""
    if isinstance(node, (dict, list)):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from places(node[key])


def value(rng: random.Random, depth: int = 2) -> Any:
    """Any value of JSON, and some that aren't."""
    kind = rng.randrange(8 if depth else 6)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(WORDS)
    if kind < 6:
        return rng.choice((None, True, False, rng.randrange(-5, 200), rng.uniform(-3, 3)))
    size = rng.choice((0, 1, 2, 3, 3, 100))
    if kind == 6:
        return [value(rng, depth - 1) for _ in range(size)]
    return {rng.choice(WORDS): value(rng, depth - 1) for _ in range(size)}


def change(rng: random.Random, root: Any) -> Any:
    """Change a few values inside: others, swapped, left out, one more."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        found = list(places(root))
        if not found:
            return value(rng)
        node, key = rng.choice(found)
        what = rng.randrange(6)
        if what < 3:
            node[key] = value(rng)
        elif what == 3:
            other, theirs = rng.choice(found)
            if not list(places(node[key])) and not list(places(other[theirs])):  # neither lies inside the other
                node[key], other[theirs] = other[theirs], node[key]
        elif what == 4:
            del node[key]
        elif isinstance(node, dict):
            node[rng.choice(WORDS) if rng.random() < 0.5 else f"{key}s"] = value(rng)
        else:
            node.append(value(rng))
    return root


def as_json(rng: random.Random, data: bytes) -> bytes:
    """Change values of a JSON file, or name a key twice."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return flip(rng, data)
    text = json.dumps(change(rng, root), ensure_ascii=rng.random() < 0.8)
    if rng.random() < 0.05:
        text = re.sub(r'("[^"]*": )', r"\1 1, \1", text, count=1)
    return text.encode("utf-8", "surrogatepass")


# --- formats ----------------------------------------------------------------------------------------------------------


def with_header(rng: random.Random, data: bytes) -> bytes:
    """Change the header of a safetensors file, and say its new length."""
    length = int.from_bytes(data[:8], "little")
    text = rng.choice((as_json, as_json, number, flip, repeat))(rng, data[8 : 8 + length])
    pad = b" " * rng.choice((0, 0, 3, 8))
    return struct.pack("<Q", len(text + pad)) + text + pad + data[8 + length :]


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The parts of a PNG."""
    found, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def packed(parts: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of parts, with right checksums."""
    body = (struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def of_png(rng: random.Random, data: bytes) -> bytes:
    """Change, move, or compress a part of a PNG, whose checksums stay right."""
    parts = chunks(data)
    if not parts:
        return flip(rng, data)
    at = rng.randrange(len(parts))
    kind, content = parts[at]
    what = rng.randrange(6)
    if what == 0:
        parts[at] = kind, rng.choice((flip, overwrite, cut, repeat, number))(rng, content)
    elif what == 1:
        parts.insert(rng.randrange(len(parts) + 1), parts.pop(at))
    elif what == 2:
        parts[at] = (
            rng.choice((b"iTXt", b"zTXt", b"tEXt", b"eXIf", b"iCCP", b"PLTE", b"IEND", b"IHDR", b"acTL")),
            content,
        )
    elif what == 3:
        bomb = zlib.compress(b" " * rng.choice((10, 2_000_000)))
        text = rng.choice((b"pixart_fn\0\1\0\0\0" + bomb, b"pixart_fn\0\0" + bomb, b"pixart_fn\0" + bomb))
        parts.insert(rng.randrange(1, len(parts) + 1), (rng.choice((b"iTXt", b"zTXt", b"tEXt")), text))
    elif what == 4:
        settings = as_json(rng, b'{"prompt": "a cat", "seed": 1, "steps": 3, "solver": "heun", "n": 2, "index": 1}')
        parts.insert(rng.randrange(1, len(parts) + 1), (b"iTXt", b"pixart_fn\0\0\0\0\0" + settings))
        parts = [part for part in parts if part[1] != content or kind != b"iTXt"]
    else:
        size = struct.pack(">II", *(rng.choice((0, 1, 4, 20_000, 2**31 - 1)) for _ in range(2)))
        parts[0] = b"IHDR", size + parts[0][1][8:]
    return packed(parts)


def of_zip(rng: random.Random, data: bytes) -> bytes:
    """Change a member of a zip archive, whose checksums stay right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # zipfile raises errors of many kinds for a damaged archive, and any may come here
        return flip(rng, data)
    made = io.BytesIO()
    chosen = rng.choice(list(members) or [""])
    with zipfile.ZipFile(
        made, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for name, content in members.items():
            changed = rng.choice((flip, number, cut, repeat, overwrite))(rng, content) if name == chosen else content
            if rng.random() < 0.95:
                archive.writestr(name, changed)
    return made.getvalue()


def of_pth(rng: random.Random, data: bytes) -> bytes:
    """Change opcodes of the pickle in a file of torch, or put others in; the archive stays right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # as above
        return flip(rng, data)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            if name.endswith("data.pkl"):
                for _ in range(rng.choice((1, 1, 2, 5))):
                    at, new = rng.randrange(len(content) + 1), rng.choice((*OPCODES, *PICKLED))
                    content = content[:at] + new + content[at + rng.choice((0, len(new))) :]
            archive.writestr(name, content)
    return made.getvalue()


def of_strings(rng: random.Random, data: bytes) -> bytes:
    """Put hostile text between the lines of a text file."""
    lines = data.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(WORDS).encode("utf-8", "surrogatepass"))
    return rng.choice((b"\n", b"\r\n", b"\r")).join(lines)
