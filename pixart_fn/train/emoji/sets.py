"""The icon sets: which pictures each one has of the concepts, how to render them, and which npm package holds them."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import captions, concepts

STYLES: Mapping[str, str] = MappingProxyType(
    {
        "noto": "cartoon",
        "noto-v1": "blob",
        "fluent-emoji-flat": "bold flat",
        "fluent-emoji": "gradient",
        "fluent-emoji-3d": "3D render",
        "twemoji": "flat",
        "emojione": "detailed cartoon",
        "fxemoji": "soft flat",
        "openclipart": "clip art",
        "fluent-emoji-high-contrast": "line drawing",
        "game-icons": "silhouette",
    }
)
"""Each set and the words that describe its look: nine in colour, then those that are drawn in one ink."""
INKS = ("fluent-emoji-high-contrast", "game-icons")
PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        name: "@lobehub/fluent-emoji-3d" if name == "fluent-emoji-3d" else f"@iconify-json/{name}"
        for name in STYLES
        if name != "openclipart"
    }
)
"""The npm package of each set; the clip art isn't in one."""
EMPTY = 3
"""The mean of a picture's alpha in [0, 255] below which it shows nearly nothing."""


class Picture(NamedTuple):
    """A picture of a set: the index of what it shows, the set, and what draws it, uint8 (S, S, 4), straight alpha."""

    concept: int
    set: str
    draw: Callable[[], NDArray[np.uint8]]


def check_packages(npm: Path) -> None:
    """Raise FileNotFoundError where a package is missing; the sentence says how to install it."""
    missing = [name for name in ("emojibase-data", *PACKAGES.values()) if not (npm / name).is_dir()]
    if missing:
        raise FileNotFoundError(f"{npm} lacks {', '.join(missing)}; run npm install {' '.join(missing)}")


def slugs(label: str) -> Iterator[str]:
    """The icon names that a label may have: accents spelt out, or dropped with their letter."""
    for text in (unicodedata.normalize("NFKD", label), label):
        ascii_text = text.lower().replace("’", "").encode("ascii", "ignore").decode()
        yield re.sub(r"[^a-z0-9]+", "-", ascii_text.replace(".", "")).strip("-")


def iconify(folder: Path) -> Callable[[str, str], str | None]:
    """A look-up of one Iconify set: (code, label) → SVG, or None where the set hasn't drawn it."""
    data, chars = concepts.json_file(folder / "icons.json"), concepts.json_file(folder / "chars.json")
    by_code = {concepts.bare(code): name for code, name in chars.items()}
    icons: dict[str, dict[str, Any]]
    icons, aliases = data["icons"], data.get("aliases", {})

    def resolve(name: str, steps: int = 9) -> dict[str, Any] | None:
        if name in icons:
            return icons[name]
        if name not in aliases or not steps:  # a damaged file may lead in a circle
            return None
        parent = resolve(aliases[name]["parent"], steps - 1)
        return parent and {**parent, **{k: v for k, v in aliases[name].items() if k != "parent"}}

    def find(code: str, label: str) -> str | None:
        names = ([by_code[code]] if code in by_code else []) + list(slugs(label))
        icon = next(filter(None, map(resolve, names)), None)
        return square_svg(icon, data) if icon else None

    return find


def square_svg(icon: dict[str, Any], defaults: dict[str, Any]) -> str:
    """An icon's SVG on a square canvas, its own one centred in it."""
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", defaults.get("width", 16))
    height = icon.get("height", defaults.get("height", 16))
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    body = icon["body"]
    if icon.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" color="#000">{body}</svg>'
    )


def render_svg(svg: str, size: int) -> NDArray[np.uint8]:
    """Rasterise to uint8 (size, size, 4), straight alpha."""
    import resvg_py  # of the extra `train`

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, dpi=96, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def render_file(path: Path, size: int) -> NDArray[np.uint8]:
    """Read a bitmap, pad it to a square, resize to uint8 (size, size, 4), straight alpha."""
    image = Image.open(path).convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(
        canvas.resize((size, size), Image.Resampling.BOX if side % size == 0 else Image.Resampling.LANCZOS)
    )


def unicode_pictures(npm: Path, name: str, listed: list[dict[str, Any]], size: int) -> Iterator[Picture]:
    """Yield a set's pictures of Unicode's emoji."""
    if name == "fluent-emoji-3d":
        files = {concepts.bare(path.stem): path for path in sorted((npm / PACKAGES[name] / "assets").glob("*.webp"))}
        for i, concept in enumerate(listed):
            if concept["code"] in files:
                yield Picture(i, name, partial(render_file, files[concept["code"]], size))
        return
    find = iconify(npm / PACKAGES[name])
    for i, concept in enumerate(listed):
        svg = find(concept["code"], concept["label"])
        if svg:
            yield Picture(i, name, partial(render_svg, svg, size))


def fxemoji(npm: Path, listed: list[dict[str, Any]], size: int) -> Iterator[Picture]:
    """Yield Firefox's pictures; its icons have names without hyphens: the label's, or an alias's."""
    data = concepts.json_file(npm / PACKAGES["fxemoji"] / "icons.json")
    for i, concept in enumerate(listed):
        names = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (concept["label"], *captions.names(concept)))
        icon = next((data["icons"][name] for name in names if name in data["icons"]), None)
        if icon:
            yield Picture(i, "fxemoji", partial(render_svg, square_svg(icon, data), size))


def game_icons(npm: Path, listed: list[dict[str, Any]], size: int) -> Iterator[Picture]:
    """Yield silhouettes with the name of a concept, or of one common word, which becomes a concept of its own."""
    data, known = concepts.json_file(npm / PACKAGES["game-icons"] / "icons.json"), concepts.by_name(listed)
    for name, icon in data["icons"].items():
        label = name.replace("-", " ")
        if re.search(r"\d", name) or (label not in known and not captions.is_common([label])):
            continue
        svg = square_svg(icon, data)
        if render_svg(svg, 32)[..., 3].mean() < EMPTY:
            continue
        if label not in known:
            known[label] = concepts.add(listed, label, "game", 1.0)
        yield Picture(known[label], "game-icons", partial(render_svg, svg, size))


def pictures(npm: Path, listed: list[dict[str, Any]], size: int) -> list[Picture]:
    """Find every picture of the npm packages, set by set.

    Args:
        npm: the `node_modules` folder with PACKAGES.
        listed: the concepts of `concepts.read`; what only game-icons shows is added at their end.
        size: the pictures' side in pixels.
    Returns:
        The pictures, in the order of STYLES.
    Raises:
        FileNotFoundError: a package is missing.
        ValueError: a package's file isn't what it should be.
    """
    check_packages(npm)
    found: list[Picture] = []
    for name, package in PACKAGES.items():
        try:
            if name == "fxemoji":
                found += fxemoji(npm, listed, size)
            elif name == "game-icons":
                found += game_icons(npm, listed, size)
            else:
                found += unicode_pictures(npm, name, listed, size)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{npm / package} isn't an icon set ({error!r:.80}); install it again") from error
    return found
