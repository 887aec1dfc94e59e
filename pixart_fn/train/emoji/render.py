"""Render permissively licensed pictures once: `glyphs.npy` (pictures) and `glyphs.json` (what each one shows).

    npm install @iconify-json/{noto,noto-v1,fluent-emoji-flat,fluent-emoji,fluent-emoji-high-contrast,twemoji,emojione}
    npm install @iconify-json/{fxemoji,game-icons} @lobehub/fluent-emoji-3d emojibase-data
    python -m pixart_fn.train.emoji.render --npm node_modules --out emoji --size 128

The concepts are Unicode's, with the names of CLDR (emojibase-data); each is drawn by up to eight sets in colour and two
in one ink. The silhouettes of game-icons.net (CC BY 3.0) whose name is one common word show more. With
`--clipart FOLDER` come the SVG files below a folder that say of themselves that they are in the public domain, such as
those of Debian's package openclipart-svg (`/usr/share/openclipart`).
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...files import atomic
from ...files.folder import check
from . import clipart, concepts, sets
from .command import run


def render(npm: Path, out: Path, size: int, clip_art: Path | None = None) -> Counter[str]:
    """Write `glyphs.npy`, uint8 (N, size, size, 4) with straight alpha, and `glyphs.json`, its rows and concepts.

    Args:
        npm: the `node_modules` folder with the packages named above.
        out: the folder to write to.
        size: the pictures' side in pixels.
        clip_art: a folder of SVG files; None leaves them out.
    Returns:
        The number of pictures of each set.
    Raises:
        FileNotFoundError: a package is missing.
        ValueError: a package's file isn't what it should be.
    """
    check(out)
    sets.check_packages(npm)
    listed = concepts.read(npm)
    jobs = sets.pictures(npm, listed, size)
    if clip_art:
        found, reasons = clipart.find(clip_art, listed, size)
        print(clipart.summary(found, reasons))
        jobs += found
    array = np.empty((len(jobs), size, size, 4), np.uint8)
    for row, job in enumerate(tqdm(jobs, desc="emoji", unit=" pictures")):
        array[row] = job.draw()
    rows = [{"concept": i, "set": name, "style": sets.STYLES[name]} for i, name, _ in jobs]
    out.mkdir(parents=True, exist_ok=True)
    write(out, array, json.dumps({"rows": rows, "concepts": listed}))
    return Counter(job.set for job in jobs)


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
    parser.add_argument("--clipart", type=Path, help="folder of .svg files; those in the public domain are used")
    parser.add_argument("--size", type=int, default=128, help="side in pixels (default 128)")
    args = parser.parse_args(arguments)
    if not args.npm.is_dir():
        parser.error(f"--npm must be a node_modules folder, got {args.npm}, which isn't one; see npm install above")
    if args.clipart and not args.clipart.is_dir():
        parser.error(f"--clipart must be a folder of .svg files, got {args.clipart}, which isn't one")
    try:
        sets.check_packages(args.npm)
    except FileNotFoundError as error:
        parser.error(str(error))
    found = render(args.npm, args.out, args.size, args.clipart)
    for name, style in sets.STYLES.items():
        print(f"{name:28s}{found[name]:6d}  {style}")
    print(f"wrote {args.out / 'glyphs.npy'} and {args.out / 'glyphs.json'}")


if __name__ == "__main__":
    run(main)
