"""Render permissively licensed emoji sets once: `glyphs.npy` (pictures) and `glyphs.json` (what each one shows).

    npm install @iconify-json/{noto,noto-v1,fluent-emoji-flat,fluent-emoji,fluent-emoji-high-contrast,twemoji,emojione}
    npm install @lobehub/fluent-emoji-3d emojibase-data
    python -m pixart_fn.train.emoji.render --npm node_modules --out emoji --size 128

The concepts are Unicode's, with the names of CLDR (emojibase-data); each is drawn by up to seven sets in colour and one
in a single colour. People, flags, keycaps, letters, signs and clock hours are left out: they differ by details that a
small picture can't show.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from ...files import atomic, reading
from ...files.folder import check
from . import captions

STYLES = {
    "noto": "cartoon",
    "noto-v1": "blob",
    "fluent-emoji-flat": "bold flat",
    "fluent-emoji": "gradient",
    "fluent-emoji-3d": "3D render",
    "twemoji": "flat",
    "emojione": "detailed cartoon",
    "fluent-emoji-high-contrast": "line drawing",
}
"""Each set and the words that describe its look."""

# Subgroups of emojibase-data that are kept as a whole; the rest of the list is people, signs, letters and flags.
FACES = range(0, 12)
HEARTS_AND_EMOTION = range(12, 16)
HANDS_AND_BODY = range(16, 23)
ANIMALS_AND_PLANTS = range(34, 42)
FOOD = range(42, 49)
THINGS = range(49, 83)
SYMBOLS = (86, 87, 93)
KEPT = frozenset((*FACES, *HEARTS_AND_EMOTION, *HANDS_AND_BODY, *ANIMALS_AND_PLANTS, *FOOD, *THINGS, *SYMBOLS))

CLOCKS = 58
RARE = 0.15
"""How often a concept without a common name is drawn, relative to one with: first what people ask for first."""

DIRECTED = re.compile(
    r"\b(left|right|arrow|clock|watch|hourglass|button|mark|music|book|newspaper|memo|calendar|chart|sign|symbol|"
    r"keyboard|banknote|moon|label|receipt|card|page|abc|ruler|question|die|joker|mahjong|map|globe|number|hundred|"
    r"store|hotel|hospital|school|bank|post office|bus|taxi|police|ambulance|8 ball|medal|ticket|badge|racing|stadium|"
    r"convenience|department)"
)


def concepts(npm: Path) -> list[dict[str, Any]]:
    """List what the pictures show, in Unicode's order: names, tags, how often to draw it, whether it may be mirrored.

    Args:
        npm: the `node_modules` folder that holds emojibase-data.
    Returns:
        Dictionaries of code ("1f408"), label, tags, unique_tags (no other concept has them as tag or label), group,
        subgroup, weight (relative frequency), flip, animal_or_food.
    """
    try:
        return _listed(_json(npm / "emojibase-data/en/data.json"), _json(npm / "emojibase-data/meta/groups.json"))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{npm / 'emojibase-data'} isn't emojibase's data ({error!r:.80}); install it again"
        ) from error


def _json(path: Path) -> Any:
    """Read a file of an npm package."""
    content = reading.content(path, 2**30)
    try:
        return reading.parse(content)
    except ValueError as error:
        raise ValueError(f"{path} isn't valid JSON ({error})") from error


def _listed(entries: Any, groups: Any) -> list[dict[str, Any]]:
    subgroups, kept = groups["subgroups"], [entry for entry in entries if is_kept(entry)]
    uses = collections.Counter(word for entry in kept for word in {entry["label"], *entry.get("tags", ())})
    listed = [
        {
            "code": bare(entry["hexcode"]),
            "label": entry["label"].replace("’", "'"),
            "tags": entry.get("tags", []),
            "unique_tags": [tag for tag in entry.get("tags", []) if uses[tag] == 1],
            "group": entry["group"],
            "subgroup": subgroups[str(entry["subgroup"])],
            "weight": weight(entry),
            "flip": can_flip(entry),
            "animal_or_food": entry["subgroup"] in (*ANIMALS_AND_PLANTS, *FOOD),
        }
        for entry in kept
    ]
    for concept in listed:
        if not is_common(captions.names(concept)):
            concept["weight"] *= RARE
    return listed


def is_kept(entry: dict[str, Any]) -> bool:
    """Whether a concept can be distinguished from the others at 64 pixels."""
    subgroup, label = entry.get("subgroup"), entry["label"]
    is_hour = subgroup == CLOCKS and label.endswith(("o’clock", "-thirty"))
    return subgroup in KEPT and ":" not in label and not is_hour


def is_common(names: Sequence[str]) -> bool:
    """Whether a single word is among the names that is one in a million written words, or more: Zipf frequency 3."""
    from wordfreq import zipf_frequency  # of the extra `train`

    return any(" " not in name and zipf_frequency(name, "en") >= 3 for name in names)


def weight(entry: dict[str, Any]) -> float:
    """Relative frequency: animals and food more, abstract symbols and the subtly different faces less."""
    subgroup = entry["subgroup"]
    if subgroup in (*ANIMALS_AND_PLANTS, *FOOD):
        return 2.5
    if subgroup in FACES and "face" in entry["label"]:
        return 0.3
    return 0.4 if subgroup in SYMBOLS or subgroup in HANDS_AND_BODY else 1.0


def can_flip(entry: dict[str, Any]) -> bool:
    """Whether the mirror image still deserves the caption: not hands, arrows, text, clocks."""
    directed = entry["subgroup"] in (*range(16, 22), *SYMBOLS) or DIRECTED.search(entry["label"].lower())
    return not directed


def bare(code: str) -> str:
    """A code point sequence in lower case without the variation selectors FE0E and FE0F."""
    return "-".join(part for part in code.lower().split("-") if part not in ("fe0e", "fe0f"))


def slugs(label: str) -> Iterator[str]:
    """The icon names that a label may have: accents spelt out, or dropped with their letter."""
    for text in (unicodedata.normalize("NFKD", label), label):
        ascii_text = text.lower().replace("’", "").encode("ascii", "ignore").decode()
        yield re.sub(r"[^a-z0-9]+", "-", ascii_text.replace(".", "")).strip("-")


def iconify(folder: Path) -> Callable[[str, str], str | None]:
    """A look-up of one Iconify set: (code, label) → SVG, or None where the set hasn't drawn it."""
    data, chars = _json(folder / "icons.json"), _json(folder / "chars.json")
    by_code = {bare(code): name for code, name in chars.items()}
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

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
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


def pictures(
    npm: Path, listed: list[dict[str, Any]], size: int
) -> Iterator[tuple[int, str, Callable[[], NDArray[np.uint8]]]]:
    """Yield (concept's index, set, function that renders it) for every picture there is, set by set."""
    for name in STYLES:
        if name == "fluent-emoji-3d":
            files = {bare(path.stem): path for path in sorted((npm / "@lobehub" / name / "assets").glob("*.webp"))}
            for i, concept in enumerate(listed):
                if concept["code"] in files:
                    yield i, name, partial(render_file, files[concept["code"]], size)
            continue
        find = iconify(npm / "@iconify-json" / name)
        for i, concept in enumerate(listed):
            svg = find(concept["code"], concept["label"])
            if svg:
                yield i, name, partial(render_svg, svg, size)


def render(npm: Path, out: Path, size: int) -> None:
    """Write `glyphs.npy`, uint8 (N, size, size, 4) with straight alpha, and `glyphs.json`, its rows and concepts."""
    check(out)
    listed = concepts(npm)
    jobs = list(pictures(npm, listed, size))
    array = np.empty((len(jobs), size, size, 4), np.uint8)
    for row, (_, _, draw) in enumerate(tqdm(jobs, desc="emoji", unit=" pictures")):
        array[row] = draw()
    rows = [{"concept": i, "set": name, "style": STYLES[name]} for i, name, _ in jobs]
    out.mkdir(parents=True, exist_ok=True)
    write(out, array, json.dumps({"rows": rows, "concepts": listed}))


def write(out: Path, pictures: NDArray[np.uint8], text: str) -> None:
    """Write the pictures and the text that says what they show; on a full disk neither is replaced."""

    def save_pictures(temporary: Path) -> None:
        with temporary.open("w+b") as stream:  # with "wb", NumPy overlooks that a full disk doesn't take the last bytes
            np.save(stream, pictures)

    def save_both(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")
        atomic.write(out / "glyphs.npy", save_pictures)

    atomic.write(out / "glyphs.json", save_both)


def main(arguments: list[str] | None = None) -> None:
    """The command: render everything and say what was written."""
    parser = argparse.ArgumentParser(prog="pixart_fn.train.emoji.render", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--npm", type=Path, required=True, help="node_modules with the packages named in this module")
    parser.add_argument("--out", type=Path, required=True, help="folder to write glyphs.npy and glyphs.json to")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    args = parser.parse_args(arguments)
    if not args.npm.is_dir():
        parser.error(f"--npm must be a node_modules folder, got {args.npm}, which isn't one; see npm install above")
    render(args.npm, args.out, args.size)
    print(f"wrote {args.out / 'glyphs.npy'} and {args.out / 'glyphs.json'}")


if __name__ == "__main__":
    main()
