"""Pictures in folders, with captions in .txt files beside them or in metadata, as Hugging Face lays them out."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ...checks import first_few, kind
from ...files import reading
from . import pictures
from .entries import LARGEST_CAPTION, Entry, Skipped, inner, named, text

TABLES = ("metadata.jsonl", "metadata.csv")
LARGEST_TABLE = 2**30
"""Bytes of a file of metadata at most."""


def listed(root: Path, column: str, caption: str | None) -> list[Entry | Skipped]:
    """List the pictures of a folder and its folders.

    Args:
        root: the folder.
        column: the name of the captions in metadata.
        caption: of pictures that have none; None skips these.
    Returns:
        The pictures in the order of their names.
    Raises:
        ValueError: a file of metadata has a mistake; the sentence names the file and the line.
    """
    captions: dict[str, str] = {}
    files: list[str] = []
    for folder, names in _walk(root):
        tables = [name for name in TABLES if name in names]
        if len(tables) > 1:
            raise ValueError(f"{folder} holds both metadata.jsonl and metadata.csv; keep one of them")
        for table in tables:
            for path, own in _table(folder / table, column):
                captions[(folder.relative_to(root) / path).as_posix()] = own
        here = folder.relative_to(root)
        files += [(here / name).as_posix() for name in names if Path(name).suffix.lower() in pictures.SUFFIXES]
    return [_pictured(root, name, captions.get(name), caption) for name in sorted({*files, *captions})]


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Go through the folders, those behind links too, but each once; names with a point in front are hidden."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            yield Path(folder), sorted(name for name in names if not name.startswith("."))


def _pictured(root: Path, name: str, caption: str | None, otherwise: str | None) -> Entry | Skipped:
    path = root / name
    if caption is None:
        beside = path.with_suffix(".txt")
        if not beside.exists():
            if otherwise is not None:
                return named(root, name, otherwise, path)
            return Skipped(name, f"it has no caption: no {beside.name} beside it and no line of metadata")
        try:
            caption = text(reading.content(beside, LARGEST_CAPTION))
        except (OSError, ValueError) as error:
            return Skipped(name, f"its caption can't be read ({error})".replace(f"{root}{os.sep}", ""))
    return named(root, name, caption, path)


def _table(path: Path, column: str) -> Iterator[tuple[PurePosixPath, str]]:
    """Go through the rows of a metadata.jsonl or metadata.csv."""
    content = reading.content(path, LARGEST_TABLE)
    for place, row in _lines(path, content) if path.suffix == ".jsonl" else _rows(path, content):
        for key in ("file_name", column):
            if key not in row:
                raise ValueError(f"{place} has no {key!r}, only {first_few(map(str, row)) or 'nothing'}")
        caption = row[column]
        if not isinstance(caption, str):
            raise ValueError(f"{column} in {place} must be a text, got {kind(caption)}")
        yield inner(row["file_name"], f"file_name in {place}"), caption.strip()


def _lines(path: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        place = f"line {number} of {path}"
        if not line.strip():
            continue
        try:
            row = reading.parse(line)
        except ValueError as error:
            raise ValueError(f"{place} isn't valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place} must be a JSON object, got {kind(row)}")
        yield place, row


def _rows(path: Path, content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            place = f"line {reader.line_num} of {path}"
            if None in row or None in row.values():
                raise ValueError(f"{place} has another number of columns than the first line")
            yield place, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} isn't valid CSV in UTF-8 ({error})") from error
