"""A picture in a file together with the settings that drew it; `settings` has the call that draws it again."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from .checks import check_sha256, check_switch, check_whole, kind, shown
from .files import atomic, png, reading
from .process.notes import ignored
from .public import public
from .settings import DTYPES as DTYPES
from .settings import PICTURES as PICTURES
from .settings import SIDE as SIDE
from .settings import call as call
from .settings import check_settings as check_settings
from .types import Array

NAME = "pixart_fn"
"""The PNG's text chunk that holds the settings, and their name inside the EXIF comment of the other formats."""
PIXELS = 178_956_970
"""The most pixels of a file that Pillow opens; it takes a larger one for a decompression bomb."""
LARGEST = 2**30
"""The most bytes of a file whose settings are read: more than the PIXELS of a picture take uncompressed."""
READ = ("PNG", "JPEG", "WEBP")
"""Pillow's names for the formats of the files that are read."""
T = TypeVar("T")
_CHARSET = b"ASCII\0\0\0"  # with which EXIF says the encoding of its comment
_INFLATED = re.compile("Decompressed data too large|Too much memory used in text chunks")  # in Pillow's words


class Format(NamedTuple):
    """A file format: Pillow's name for it, the most pixels along a side, the most bytes of EXIF, how to write it."""

    name: str
    side: int
    exif: float
    options: dict[str, Any]


_JPEG = Format("JPEG", 65_500, 65_533, {"quality": 95, "subsampling": 0})
FORMATS = {
    ".png": Format("PNG", 2**31 - 1, math.inf, {}),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": Format("WEBP", 16_383, math.inf, {"quality": 95}),
}


def save_picture(picture: Image.Image | Array, file: str | os.PathLike[str], /, **settings: object) -> None:
    """Write a picture with its settings inside, as the command does; an existing file is replaced in one step.

    The settings are JSON in a PNG's text, and in the EXIF comment of a JPEG or WebP, which are written with quality 95.
    `pixart-fn show` prints the call of a file that has at least `prompt` and `seed`, and may have `model`, `variant`,
    `dtype`, `steps`, `guidance`, `negative`, `solver`, `height`, `width`, `clean`, `binning` and `tile`; and of a
    picture drawn from another `init` (that file), `init_sha256`, `strength`, `mask` and `mask_sha256`; of one that
    follows the edges of another `control` (that file), `control_sha256`, `controlnet` and `control_scale`; and of one
    drawn with adapters `lora`, `lora_sha256` and `lora_weight`, lists of those of several.

    Args:
        picture: an RGB picture of PIL, or floats (H, W, 3) in [0, 1].
        file: ends in .png, .jpg, .jpeg or .webp; missing folders are made.
        **settings: values that JSON can hold.
    Raises:
        TypeError: the picture or a setting has the wrong type.
        ValueError: the picture or the name's ending isn't as described above, or the format can't hold it.
        OSError: the file is a folder, or can't be written.
    """
    path, options = prepare(file, settings)
    picture = _pil(picture)
    check_size(*picture.size, path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()  # into a file, Pillow takes a part that a full disk doesn't hold for written
    picture.save(content, **options)
    atomic.write(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


def prepare(file: str | os.PathLike[str], settings: Mapping[str, object]) -> tuple[Path, dict[str, Any]]:
    """Run the checks of `save_picture` that need no picture, so that they can come early; return Pillow's arguments."""
    if not isinstance(file, (str, os.PathLike)):
        raise TypeError(f"file must be a path, got {kind(file)}")
    _check_length(file)
    path = Path(os.path.expanduser(file))
    if path.is_dir():
        raise IsADirectoryError(f"{str(file)!r} is a folder; name a file in it")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"a picture's name must end in {_listed(FORMATS)}, got {str(file)!r}")
    atomic.check_place(path)
    format = FORMATS[path.suffix.lower()]
    text = _json(settings)
    if len(text) >= reading.MOST - 2**10:  # with its name
        raise ValueError(f"the settings take {len(text)} bytes, and fewer than {reading.MOST >> 20} MiB are read again")
    if format.name == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(NAME, text)
        return path, {"format": format.name, "pnginfo": info, **format.options}
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: _CHARSET + f'{{"{NAME}": {text}}}'.encode("ascii")}
    content = exif.tobytes()
    if len(content) > format.exif:
        raise ValueError(
            f"the settings take {len(content)} bytes and a {format.name} holds {format.exif}; use .png or .webp"
        )
    return path, {"format": format.name, "exif": content, **format.options}


def check_size(width: int, height: int, suffix: str) -> None:
    """Raise a ValueError where a format can't hold so large a picture, or Pillow wouldn't open it again."""
    format = FORMATS[suffix.lower()]
    if max(width, height) > format.side or width * height > PIXELS:
        raise ValueError(
            f"a {format.name} holds at most {format.side} pixels along a side and {PIXELS} in all,"
            f" got {height} x {width}"
        )


def read_settings(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings that `save_picture` wrote into a file.

    Raises:
        OSError: there is no such file, or it is no regular one.
        ValueError: the file is no picture that Pillow opens, or has no settings of `save_picture` inside.
    """
    with os.fdopen(reading.descriptor(existing(file)), "rb") as opened:
        if os.fstat(opened.fileno()).st_size > LARGEST:
            raise ValueError(
                f"{str(file)!r} holds more than {LARGEST >> 20} MiB, which is no picture that is read here"
            )
        png.check(opened, str(file))
        settings = _by_pillow(str(file), lambda: _stored(opened))
    if not isinstance(settings, dict):
        raise ValueError(f"{str(file)!r} doesn't say how it was drawn; pixart-fn generate and save_picture write that")
    return settings


@public
def read_picture(
    file: str | os.PathLike[str],
    height: int | None = None,
    width: int | None = None,
    *,
    mask: bool = False,
    sha256: str | None = None,
) -> Image.Image:
    """Read a picture to draw from, turned as its EXIF says, and on white where it is transparent.

    Args:
        file: a PNG, JPEG or WebP of 8 bits per channel.
        height: in pixels, to which the picture is scaled (Lanczos) until it covers height x width, and its middle cut
            out; None, as width then is too, leaves it as it is.
        width: likewise.
        mask: whether the picture is a mask, which is read as grey, and scaled without means of its pixels.
        sha256: 64 hexadecimal digits that the file's bytes must have; None takes any.
    Returns:
        An RGB picture of PIL, or a grey one (L) of a mask.
    Raises:
        TypeError: an argument has the wrong type.
        OSError: there is no such file, or it is no regular one.
        ValueError: an argument isn't as described above, or the file is no such picture or has another sha256.
    """
    if not isinstance(file, (str, os.PathLike)):
        raise TypeError(f"file must be a path, got {kind(file)}")
    check_switch("mask", mask)
    if (height is None) != (width is None):
        raise ValueError(f"height and width must both be given or neither, got {shown(height)} and {shown(width)}")
    for which, side in (("height", height), ("width", width)):
        check_whole(which, 1 if side is None else side, 1, SIDE)
    if sha256 is not None:
        check_sha256("sha256", sha256)
    content = reading.content(existing(file), LARGEST)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{str(file)!r} isn't the file that was meant: its sha256 isn't {sha256}")
    picture = _opened(str(file), content).convert("L" if mask else "RGB")
    how = Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS
    return picture if height is None or width is None else ImageOps.fit(picture, (width, height), how)


def sheet(pictures: Sequence[Image.Image | Array], columns: int | None = None) -> Image.Image:
    """Put pictures of one size side by side, in rows, on white.

    Args:
        pictures: at least one, each as `save_picture` takes it.
        columns: how many pictures stand in a row; None makes the sheet as square as it can be.
    Returns:
        An RGB picture of PIL.
    Raises:
        TypeError: a picture has the wrong type.
        ValueError: there are no pictures, they have different sizes, or one isn't as described above.
    """
    tiles = [_pil(picture) for picture in pictures]
    sizes = {tile.size for tile in tiles}
    if len(sizes) != 1:
        got = "none" if not sizes else ", ".join(f"{h} x {w}" for w, h in sorted(sizes))
        raise ValueError(f"a sheet takes pictures of one size, got {got}")
    columns, rows = shape(len(tiles), columns)
    w, h = tiles[0].size
    together = Image.new("RGB", (columns * w, rows * h), "white")
    for i, tile in enumerate(tiles):
        together.paste(tile, (i % columns * w, i // columns * h))
    return together


def shape(n: int, columns: int | None = None) -> tuple[int, int]:
    """Return how many columns and rows a sheet of n pictures has."""
    if columns is None:
        columns = math.isqrt(n - 1) + 1
    check_whole("columns", columns, 1, PICTURES)
    return columns, -(-n // columns)


# --- what is inside a file --------------------------------------------------------------------------------------------


def _json(settings: Mapping[str, Any]) -> str:
    """Write settings as ASCII, which every format can hold; refuse what would be read back as something else."""
    for name, value in settings.items():
        try:
            same = json.loads(json.dumps({name: value}, allow_nan=False)) == {name: value}
        except (TypeError, ValueError, RecursionError):
            same = False
        if not same:
            raise TypeError(
                f"the setting {name!r} must be what JSON can say (a string, finite number, bool, None, or lists and"
                f" dicts of them with strings as keys), got {reprlib.repr(value)}"
            )
    return json.dumps(settings)


def _stored(file: BinaryIO) -> Any:
    """Read the JSON inside a picture; return None where there is none."""
    with Image.open(file, formats=READ) as picture:
        text = picture.info.get(NAME)
        if text is None and picture.format == "PNG":
            text = png.text(file, NAME)
        # without EXIF before its pixels, Pillow decodes a PNG to look for some after them
        exif = picture.getexif() if picture.format != "PNG" or "exif" in picture.info else Image.Exif()
        comment = (exif.get_ifd(ExifTags.IFD.Exif) or {}).get(ExifTags.Base.UserComment)  # None in a damaged file
    if text is not None:
        return _parsed(text)
    if not isinstance(comment, bytes) or not comment.startswith(_CHARSET):
        return None
    wrapped = _parsed(comment.removeprefix(_CHARSET).decode("ascii", "replace"))
    return wrapped.get(NAME) if isinstance(wrapped, dict) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _opened(name: str, content: bytes) -> Image.Image:
    """Decode a file's bytes."""
    png.check(io.BytesIO(content), name)
    with io.BytesIO(content) as stream, _by_pillow(name, lambda: Image.open(stream, formats=READ)) as opened:
        picture = _by_pillow(name, lambda: ImageOps.exif_transpose(opened))
    if picture.mode[0] in "IF":
        raise ValueError(f"{name!r} has more than 8 bits per channel; save it with 8")
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture


def _check_length(file: str | os.PathLike[str]) -> None:
    if len(str(file)) > 4000:
        raise ValueError(f"file must be a path of at most 4000 characters, got {str(file)!r:.60}…")


def _by_pillow(name: str, read: Callable[[], T]) -> T:
    """Let Pillow read a part of a file; what goes wrong is one sentence."""
    try:
        with ignored():  # Pillow warns of pictures that it opens nevertheless
            return read()
    except Image.DecompressionBombError:
        raise ValueError(f"{name!r} claims more than {PIXELS} pixels, which Pillow doesn't open") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow raise whatever its parsers stumble over
        if _INFLATED.search(str(error)):
            raise ValueError(f"{name!r} has a text that unpacks to more than Pillow reads") from error
        raise ValueError(f"{name!r} is not a whole PNG, JPEG or WebP picture") from error


def existing(file: str | os.PathLike[str]) -> Path:
    """Return the path of a file, or raise an OSError in one sentence where there is none."""
    _check_length(file)
    path = Path(os.path.expanduser(file))
    if path.is_dir():
        raise IsADirectoryError(f"{str(file)!r} is a folder; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(file)!r}")
    return path


def _pil(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        if picture.mode != "RGB":
            raise ValueError(f"picture must be RGB, got mode {picture.mode!r}; picture.convert('RGB') makes it so")
        return picture
    array = picture.asnumpy() if hasattr(picture, "asnumpy") else picture  # a Tensor of MindSpore
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        got = f"{kind(picture)} of {array.dtype}" if isinstance(array, np.ndarray) else kind(picture)
        raise TypeError(f"picture must be a picture of PIL or floats (H, W, 3) in [0, 1], got {got}")
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"picture must have the shape (H, W, 3), got {array.shape}")
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"picture must be within [0, 1], got {array.min():g} … {array.max():g}")
    return Image.fromarray((255 * array).round().astype(np.uint8))


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"
