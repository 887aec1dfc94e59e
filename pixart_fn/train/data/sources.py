"""Where training pictures come from: a folder with captions, webdataset tars, or the authors' data_info.json."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...checkpoint.sources import written
from ...checks import check_option, check_type
from ...public import public
from . import authors, folders, tars
from .entries import Entry, Skipped

__all__ = ["open"]

KINDS = ("imagefolder", "webdataset", "authors")


@dataclass(frozen=True, repr=False)
class Source:
    """Pictures with captions, in an order that depends on their names alone, and what had to be left out."""

    kind: str
    path: Path
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Source({self.kind} {str(self.path)!r}: {len(self)} pictures, {len(self.skipped)} skipped)"


@public
def open(
    path: str | os.PathLike[str], kind: str | None = None, column: str | None = None, caption: str | None = None
) -> Source:
    """List the pictures of a folder or file with their captions.

    Three kinds are known. "imagefolder": pictures in a folder and its folders, each with its caption in a .txt file of
    its name or in a line of a metadata.jsonl or metadata.csv (`file_name` and `text`) in a folder above, which is the
    convention of Hugging Face. "webdataset": a .tar file or a folder of them, where members of one name are a picture
    and a .txt, or a .json with the key `caption`. "authors": a folder with PixArt's data_info.json, whose pictures lie
    in the folder InternImgs beside an InternData, or else in the folder itself.

    Args:
        path: the folder, the .tar file, or the data_info.json.
        kind: one of the above; None tells from what is there.
        column: the name of the captions in the metadata; None takes "text" in a metadata file, "caption" in a .json of
            a tar, and "prompt" in data_info.json.
        caption: of every picture that has none of its own, as DreamBooth's pictures of one subject; None skips these.
    Returns:
        The Source; a picture without a caption is among its `skipped`.
    Raises:
        TypeError: an argument has the wrong type.
        FileNotFoundError: there is nothing at the path, or no picture with a caption.
        ValueError: the kind is none of these, or a file of metadata has a mistake; the sentence says where.
    """
    root = Path(os.path.expanduser(written(path, "path", "a folder, a .tar file or a data_info.json")))
    if kind is not None:
        check_option("kind", kind, KINDS)
    if column is not None:
        check_type("column", column, str, "the name of the captions in the metadata")
    if caption is not None:
        check_type("caption", caption, str, "a text")
    if not root.exists():
        raise FileNotFoundError(f"there is no folder or file {str(root)!r}")
    kind = kind or _kind(root)
    if kind == "webdataset":
        found = tars.listed(root, column, caption)
    elif kind == "authors":
        found = authors.listed(root, column or "prompt")
    elif root.is_dir():
        found = folders.listed(root, column or "text", caption)
    else:
        raise ValueError(f"{str(root)!r} is neither a folder nor a .tar file nor a data_info.json")
    found = [_named(each) for each in found]
    entries = tuple(each for each in found if isinstance(each, Entry))
    skipped = tuple(each for each in found if isinstance(each, Skipped))
    if not entries:
        why = "; ".join(f"{name}: {reason}" for name, reason in skipped[:3])
        raise FileNotFoundError(f"{str(root)!r} holds no picture with a caption" + (f" ({why})" if why else ""))
    return Source(kind, root, entries, skipped)


def _kind(root: Path) -> str:
    if root.is_file():
        return "webdataset" if root.suffix == ".tar" else "authors" if root.suffix == ".json" else "imagefolder"
    if (root / "data_info.json").is_file() or (root / "partition" / "data_info.json").is_file():
        return "authors"
    return "webdataset" if any(root.glob("*.tar")) else "imagefolder"


def _named(each: Entry | Skipped) -> Entry | Skipped:
    """Skip what has a name that can't be written down."""
    written = each.name.encode("utf-8", "replace").decode()
    return each if written == each.name else Skipped(written, "its name isn't UTF-8")
