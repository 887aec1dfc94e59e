"""A picture in a file together with the settings that drew it, and the call that draws it again."""

from __future__ import annotations

import difflib
import json
import math
import os
import reprlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from .checks import check_number, check_option, check_switch, check_whole, kind
from .files import atomic
from .solvers import SOLVERS
from .types import Array

NAME = "pixart_fn"
"""The PNG's text chunk that holds the settings, and their name inside the EXIF comment of the other formats."""
PIXELS = 178_956_970
"""The most pixels of a file that Pillow opens; it takes a larger one for a decompression bomb."""
SIDE, PICTURES, STEPS, SCALE = 8192, 10_000, 10_000, 1000
"""Upper bounds for `call` and for the command: pixels along a side, pictures, steps, and the size of guidance."""
DTYPES = ("float32", "float16", "bfloat16")
_Check: TypeAlias = Callable[[str, Any], None]
_CHARSET = b"ASCII\0\0\0"  # with which EXIF says the encoding of its comment


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
    `dtype`, `steps`, `guidance`, `negative`, `solver`, `height`, `width`, `clean`, `binning` and `tile`.

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
    atomic.write(path, lambda temporary: picture.save(temporary, **options))


def prepare(file: str | os.PathLike[str], settings: Mapping[str, object]) -> tuple[Path, dict[str, Any]]:
    """Run the checks of `save_picture` that need no picture, so that they can come early; return Pillow's arguments."""
    if not isinstance(file, (str, os.PathLike)):
        raise TypeError(f"file must be a path, got {kind(file)}")
    path = Path(os.path.expanduser(file))
    if path.is_dir():
        raise IsADirectoryError(f"{str(file)!r} is a folder; name a file in it")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"a picture's name must end in {_listed(FORMATS)}, got {str(file)!r}")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a folder, so {str(file)!r} can't be written")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {str(folder)!r} can't be written to")
    format = FORMATS[path.suffix.lower()]
    text = _json(settings)
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
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture that Pillow opens, or has no settings of `save_picture` inside.
    """
    path = Path(os.path.expanduser(file))
    if path.is_dir():
        raise IsADirectoryError(f"{str(file)!r} is a folder; name a file in it")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(file)!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of pictures that it opens nevertheless
        try:
            settings = _stored(path)
        except Image.DecompressionBombError:
            raise ValueError(f"{str(file)!r} claims more than {PIXELS} pixels, which Pillow doesn't open") from None
        except PermissionError:
            raise
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
            raise ValueError(f"{str(file)!r} is not a whole PNG, JPEG or WebP picture") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{str(file)!r} doesn't say how it was drawn; pixart-fn generate and save_picture write that")
    return settings


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


# --- the call ---------------------------------------------------------------------------------------------------------


def call(settings: Mapping[str, Any]) -> str:
    """Write the Python call that draws a picture again, from settings as the command stores them.

    Every value is checked before it is printed, since a file may come from anywhere.

    Args:
        settings: what `read_settings` gives.
    Returns:
        An expression of Python, `px.generate(…)`.
    Raises:
        TypeError: a setting has the wrong type.
        ValueError: a setting is missing, unknown or out of its range.
    """
    check_settings(settings)
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    prompt, index, n = given["prompt"], given.get("index"), _count(given)
    key = f"px.key({given['seed']!r})"
    if n > 1 and index is not None:
        key = f"px.split({key}, {n!r})[{index!r}]"
    options = {ours: given[name] for name, ours in _ALWAYS.items() if name in given}
    options |= {name: given[name] for name in ("height", "width", "solver", "tile") if given.get(name) is not None}
    options |= {name: False for name in ("clean", "binning") if not given.get(name, True)}
    each = n if isinstance(prompt, str) else n // len(prompt)
    if index is None and each > 1:
        options["images_per_prompt"] = each
    source = [] if given.get("model") is None else [repr(given["model"])]
    source += [f"{name}={given[name]!r}" for name, usual in _LOADED.items() if given.get(name, usual) != usual]
    arguments = [f"px.load({', '.join(source)})", repr(prompt), key, *(f"{k}={v!r}" for k, v in options.items())]
    return f"px.generate({', '.join(arguments)})"


_ALWAYS = {"negative": "negative_prompt", "steps": "steps", "guidance": "guidance"}
_LOADED = {"variant": None, "dtype": "float32"}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise a TypeError or ValueError that names the first setting that `call` can't use."""
    for name in settings:
        if name not in _CHECKS:
            raise ValueError(f"there is no setting {reprlib.repr(name)}; {_nearest(name, _CHECKS)}")
    for name in ("prompt", "seed"):
        if name not in settings:
            raise ValueError(f"the settings lack {name!r}, without which the picture can't be drawn again")
    for name, value in settings.items():
        _CHECKS[name](name, value)
    prompt, index, n = settings["prompt"], settings.get("index"), _count(settings)
    if index is not None and (index >= n or not isinstance(prompt, str)):
        raise ValueError(f"index must say which of n pictures of one prompt it is, got index {index} and n {n}")
    if not isinstance(prompt, str) and n % len(prompt):
        raise ValueError(f"n must be a multiple of the number of prompts, {len(prompt)}, got {n}")


def _count(settings: Mapping[str, Any]) -> int:
    """Return how many pictures the seed's key was split for."""
    return int(settings.get("n", 1 if isinstance(settings["prompt"], str) else len(settings["prompt"])))


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be text that UTF-8 can hold, got {reprlib.repr(value)}") from None


def _check_prompt(name: str, value: Any) -> None:
    prompts = value if isinstance(value, (list, tuple)) else [value]
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"{name} must be a string or a list of at least one string, got {kind(value)}")
    for prompt in prompts:
        _check_text(name, prompt)


def _check_solver(name: str, value: Any) -> None:
    _check_text(name, value)
    if value not in SOLVERS:
        got = f"got {reprlib.repr(value)}; {_nearest(value, SOLVERS)}"
        raise ValueError(f"{name} must be one of {', '.join(SOLVERS)}, {got}")


def _whole(low: int, high: int) -> _Check:
    return lambda name, value: check_whole(name, value, low, high)


def _or_none(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


_CHECKS: dict[str, _Check] = {
    "prompt": _check_prompt,
    "model": _or_none(_check_text),
    "variant": _or_none(_check_text),
    "dtype": lambda name, value: check_option(name, value, DTYPES),
    "seed": _whole(0, 2**64 - 1),
    "steps": _whole(1, STEPS),
    "guidance": lambda name, value: check_number(name, value, -SCALE, SCALE),
    "negative": _check_text,
    "solver": _or_none(_check_solver),
    "n": _whole(1, PICTURES),
    "index": _or_none(_whole(0, PICTURES - 1)),
    "height": _or_none(_whole(1, SIDE)),
    "width": _or_none(_whole(1, SIDE)),
    "clean": check_switch,
    "binning": check_switch,
    "tile": _or_none(_whole(1, SIDE)),
}


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


def _stored(path: Path) -> Any:
    """Read the JSON inside a picture; return None where there is none."""
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
        # a PNG's `text` also holds what comes after the pixels, which are decoded for it
        text = picture.info.get(NAME) or getattr(picture, "text", {}).get(NAME)
        exif = picture.getexif().get_ifd(ExifTags.IFD.Exif) or {}  # None where the file is damaged
        comment = exif.get(ExifTags.Base.UserComment)
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


def _nearest(word: str, words: Iterable[str]) -> str:
    return f"the nearest is {difflib.get_close_matches(word, words, 1, cutoff=0.0)[0]!r}"
