"""The files that PixArt's authors train from: data_info.json, T5 features (.npz) and VAE features (.npy).

Names of folders and files are those that the training scripts of PixArt-alpha and PixArt-sigma read and that their
extraction scripts write. T tokens, D width of a state, C latent channels, h/w size of latents.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...checkpoint.sources import written
from ...checks import check_number, check_option, check_switch, check_type, check_whole, is_number, kind, shown
from ...files import npy, reading
from ...models import sizes as sizes_
from ...public import public
from ...types import NumPyArray, Text
from .entries import Entry, Skipped, inner, named
from .examples import Example

__all__ = ["check", "open"]

LARGEST_LIST = 2**30
"""Bytes of a data_info.json at most."""
LARGEST_FEATURES = 2**28
"""Bytes of a file of features at most."""
MOST_PIXELS = 2**24
"""Of a side at most."""
FACTOR = 8
"""Pixels per latent along a side in both of the authors' VAEs."""


class Version(NamedTuple):
    """What differs between PixArt-α ("alpha") and PixArt-Σ ("sigma")."""

    ratio: float
    """The greatest height / width that is used."""
    tokens: int
    scale: float
    real_prompt_ratio: float
    texts: dict[bool, tuple[str, ...]]
    """Folders of T5 features, the first that is there; by whether the pictures are of several shapes."""
    latents: dict[bool, str]


VERSIONS = {
    "alpha": Version(
        4.0, 120, 0.18215, 1.0,
        {False: ("caption_feature_wmask", "caption_features"), True: ("caption_features", "caption_feature_wmask")},
        {False: "img_vae_features_{}resolution/noflip", True: "img_vae_fatures_{}_multiscale/ms"},
    ),
    "sigma": Version(
        4.5, 300, 0.13025, 0.5,
        dict.fromkeys((False, True), ("caption_features_new",)),
        {False: "img_sdxl_vae_features_{}resolution_new", True: "img_sdxl_vae_features_{}resolution_ms_new"},
    ),
}  # fmt: skip
LONG_CAPTIONS = "sharegpt4v_caption_features_new"


class Row(NamedTuple):
    """A picture in data_info.json; `texts` holds its prompt and, where another caption is used, that too."""

    path: PurePosixPath
    height: int
    width: int
    ratio: float
    texts: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Features:
    """A dataset of the authors' features, as `open` makes it."""

    version: Version
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]
    texts: tuple[Path, ...]
    """The folder of the prompts' features and, where they are used, that of the long captions'."""
    latents: Path
    shared: frozenset[str]
    """Names of files, without folders, that several pictures have."""
    real_prompt_ratio: float
    width: int
    channels: int
    scale: float
    sizes: NDArray[np.int32]
    null: Text | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Features({len(self)} examples in {self.latents}, {len(self.skipped)} skipped)"

    @property
    def lengths(self) -> NDArray[np.int32]:
        """The most tokens that a caption may have, for all alike: the files aren't read for it."""
        return np.full(len(self), self.version.tokens, np.int32)

    def example(self, i: int, choice: float) -> Example:
        """Read an example.

        Args:
            i: its number, from 0.
            choice: in [0, 1); below `real_prompt_ratio` the caption is the prompt, and else the one of ShareGPT4V.
        Raises:
            FileNotFoundError: a file isn't there.
            ValueError: a file has a mistake; the sentence names it.
        """
        row = self.rows[i]
        mean, std = self._moments(self._file(self.latents, row, ".npy"), self.sizes[i].tolist())
        states = self._states(self._file(self.texts[choice >= self.real_prompt_ratio], row, ".npz"))
        return Example(mean, std, states, row.path.as_posix(), (row.height, row.width))

    def _file(self, folder: Path, row: Row, ending: str) -> Path:
        """Return a picture's file, which is named with its folder, as in a_0.npz, or without, as in 0.npz."""
        plain = row.path.with_suffix(ending).name
        joined = folder / "_".join(row.path.with_suffix(ending).as_posix().rsplit("/", 1))
        if joined.exists() or plain in self.shared or not (folder / plain).exists():
            return joined
        return folder / plain

    def _moments(self, file: Path, size: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found, shape = npy.load(file, LARGEST_FEATURES), (2 * self.channels, *size)
        if found.dtype.kind != "f" or found.shape != shape:
            raise ValueError(f"{file} must hold mean and std as floats of {shape}, got {found.dtype} {found.shape}")
        _check_finite(file, found, "")
        values: NDArray[np.float32] = found.astype(np.float32)
        mean, std = values[: self.channels], values[self.channels :]
        if (std < 0).any():
            raise ValueError(f"{file} must hold the mean and then the standard deviation, which is below 0 somewhere")
        return mean, std

    def _states(self, file: Path) -> NDArray[np.float32]:
        found = npy.load_archive(file, ("caption_feature",), ("attention_mask",), LARGEST_FEATURES)
        states = found["caption_feature"]
        T = states.shape[1] if states.ndim == 3 else 0
        if states.dtype.kind != "f" or states.shape != (1, T, self.width) or not 0 < T <= self.version.tokens:
            wanted = f"(1, T, {self.width}) with T at most {self.version.tokens}"
            raise ValueError(f"caption_feature in {file} must be floats of {wanted}, got {states.dtype} {states.shape}")
        mask = found.get("attention_mask", np.ones((1, T)))
        if mask.shape != (1, T) or not np.isin(mask, (0, 1)).all() or not mask.any():
            raise ValueError(
                f"attention_mask in {file} must be 1 on real tokens and 0 elsewhere, of the shape (1, {T}) of its"
                f" caption_feature, got {mask.dtype} {mask.shape}"
            )
        kept: NDArray[np.float32] = states[0][mask[0] == 1].astype(np.float32)
        _check_finite(file, kept, "caption_feature in ")
        return kept


@public
def open(
    path: str | os.PathLike[str],
    version: str,
    resolution: int,
    *,
    multiscale: bool = False,
    real_prompt_ratio: float | None = None,
    width: int = 4096,
    channels: int = 4,
) -> Features:
    """Open the features that the authors' scripts extracted; each example is read when it is needed.

    Args:
        path: the folder with data_info.json, or with partition/data_info.json, or that file.
        version: "alpha" or "sigma", which decides the folders, the longest caption, the VAE's scale and the greatest
            height / width that is used, 4 or 4.5.
        resolution: the side in pixels that the features' folder is named by, a multiple of 8.
        multiscale: whether the pictures were encoded at the nearest size of the table of 256, 512, 1024 or 2048.
        real_prompt_ratio: how often the caption is `prompt` rather than `sharegpt4v`; None takes 1 for "alpha", which
            has no other, and 0.5 for "sigma", as the authors' configurations do.
        width: of a T5 state.
        channels: of a latent.
    Returns:
        The dataset, whose `skipped` lists what is too tall. It has no encoded empty prompt.
    Raises:
        TypeError: an argument has the wrong type.
        FileNotFoundError: the list or a folder of features isn't there.
        ValueError: an argument is out of its range, or the list has a mistake; the sentence says where.
    """
    root = Path(os.path.expanduser(written(path, "path", "the folder of a data_info.json")))
    check_option("version", version, tuple(VERSIONS))
    check_switch("multiscale", multiscale)
    check_whole("resolution", resolution, FACTOR, sizes_.LARGEST)
    if resolution % FACTOR or (multiscale and resolution not in sizes_.BINS):
        valid = f"one of {', '.join(map(str, sizes_.BINS))}" if multiscale else f"a multiple of {FACTOR}"
        raise ValueError(f"resolution must be {valid}, got {resolution}")
    check_whole("width", width, 1)
    check_whole("channels", channels, 1)
    own = VERSIONS[version]
    ratio = own.real_prompt_ratio if real_prompt_ratio is None else real_prompt_ratio
    check_number("real_prompt_ratio", ratio, 0, 1)
    if version == "alpha" and ratio != 1:
        raise ValueError(f"real_prompt_ratio must be 1 for 'alpha', which has no other captions, got {ratio}")
    rows, skipped, folder = _read(root, own.ratio, "sharegpt4v" if ratio < 1 else "prompt")
    texts = [_folder(folder, own.texts[multiscale])] + ([_folder(folder, (LONG_CAPTIONS,))] if ratio < 1 else [])
    latents = _folder(folder, (own.latents[multiscale].format(resolution),))
    shared = frozenset(name for name, n in Counter(row.path.stem for row in rows).items() if n > 1)
    endings = frozenset(f"{name}{ending}" for name in shared for ending in (".npy", ".npz"))
    table = sizes_.BINS[resolution] if multiscale else ((resolution, resolution),)
    each = [sizes_.nearest_bin(row.height, row.width, table) for row in rows]
    return Features(
        own, rows, skipped, tuple(texts), latents, endings, float(ratio), width, channels, own.scale,
        np.array(each, np.int32).reshape(-1, 2) // FACTOR,
    )  # fmt: skip


@public
def check(dataset: Features, progress: bool = True) -> None:
    """Read every file of a dataset once, so that a mistake in one comes before training and not in the middle of it.

    Args:
        dataset: from `open`.
        progress: whether to show a bar.
    Raises:
        TypeError: an argument has the wrong type.
        FileNotFoundError: a file isn't there.
        ValueError: a file has a mistake; the sentence names it.
    """
    check_switch("progress", progress)
    check_type("dataset", dataset, Features, "what authors.open returns")
    choices = (0.0, 1.0)[: len(dataset.texts)]  # on either side of real_prompt_ratio
    for i in tqdm(range(len(dataset)), unit="example", disable=not progress):
        for choice in choices:
            dataset.example(i, choice)


def listed(root: Path, column: str) -> list[Entry | Skipped]:
    """List the pictures of a data_info.json, up to the greater ratio of the two versions.

    Args:
        root: the folder or the file.
        column: "prompt", "sharegpt4v" or another key.
    Returns:
        The pictures in the order of the file.
    Raises:
        OSError: the file can't be read.
        ValueError: it has a mistake; the sentence says where.
    """
    rows, skipped, folder = _read(root, VERSIONS["sigma"].ratio, column)
    home = folder.with_name(folder.name.replace("InternData", "InternImgs").replace("InternalData", "InternalImgs"))
    home = home if home.is_dir() else folder
    return [*(named(home, row.path.as_posix(), row.texts[column].strip(), home / row.path) for row in rows), *skipped]


def _read(root: Path, limit: float, column: str) -> tuple[tuple[Row, ...], tuple[Skipped, ...], Path]:
    """Return the rows of a list, those that are too tall, and the folder that holds the features."""
    places = (root,) if root.is_file() else (root / "data_info.json", root / "partition" / "data_info.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{str(root)!r} holds no data_info.json, nor does a folder partition in it")
    content = reading.content(file, LARGEST_LIST)
    try:
        found = reading.parse(content)
    except ValueError as error:
        raise ValueError(f"{file} isn't valid JSON ({error})") from error
    if not isinstance(found, list) or not found:
        raise ValueError(f"{file} must hold a JSON list of at least one picture, got {kind(found)}")
    rows = [_row(f"entry {i} of {file}", each, column) for i, each in enumerate(found)]
    skipped = [
        Skipped(row.path.as_posix(), f"its height / width of {row.ratio:g} is above {limit:g}")
        for row in rows
        if row.ratio > limit
    ]
    folder = file.parent.parent if file.parent.name == "partition" else file.parent
    return tuple(row for row in rows if row.ratio <= limit), tuple(skipped), folder


def _row(where: str, item: object, column: str) -> Row:
    """Return a picture of the list, which must have a text in the column."""
    if not isinstance(item, dict):
        raise ValueError(f"{where} must be a JSON object, got {kind(item)}")
    missing = [key for key in ("width", "height", "ratio", "path", "prompt", column) if key not in item]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}")
    width, height, ratio = (item[key] for key in ("width", "height", "ratio"))
    for name, side in (("width", width), ("height", height)):
        if not is_number(side) or not 1 <= side <= MOST_PIXELS or side != int(side):
            raise ValueError(f"{name} in {where} must be a whole number of pixels, got {shown(side)}")
    near = is_number(ratio) and 0 <= ratio <= MOST_PIXELS and abs(ratio - height / width) <= 0.01
    if not near:  # it may be rounded to two digits
        raise ValueError(
            f"ratio in {where} must be height / width = {height} / {width} = {height / width:.4g}, got {shown(ratio)}"
        )
    for key in ("prompt", column):
        if not isinstance(item[key], str):
            raise ValueError(f"{key} in {where} must be a text, got {kind(item[key])}")
    if column == "sharegpt4v" and not item[column].strip():
        raise ValueError(f"sharegpt4v in {where} is empty; real_prompt_ratio=1 does without it")
    texts = {key: item[key] for key in ("prompt", column)}
    return Row(inner(item["path"], f"path in {where}"), int(height), int(width), float(ratio), texts)


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f"there is no folder {' or '.join(names)} in {str(root)!r}, which the authors' scripts read"
    )


def _check_finite(file: Path, values: NumPyArray, what: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{what}{file} holds NaN or infinity, where only finite numbers can be used")
