"""Write sizes.json: python -m tests.reference.make_sizes, with torch and diffusers installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path(__file__).with_name("sizes.json")

ASKED = (
    *((512, 512), (512, 768), (768, 512), (256, 256), (480, 640), (1080, 1920), (1920, 1080), (100, 1000), (1000, 100)),
    *((300, 400), (16, 16), (1, 1), (1024, 1000), (97, 100), (333, 512), (2048, 2048), (511, 544), (1035, 1000)),
)

RESIZES = (
    *(((1, 4, 6, 3), 4, 6), ((2, 4, 6, 3), 6, 6), ((1, 8, 6, 3), 3, 4), ((1, 5, 7, 3), 9, 4), ((1, 6, 4, 1), 2, 7)),
    *(((1, 3, 3, 3), 1, 1), ((1, 1, 4, 3), 2, 5), ((1, 1, 400, 1), 1, 500)),
)


def picture(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1] without a pattern, that need not be stored."""
    return (np.sin(np.arange(np.prod(shape)) * 12.9898) * 43758.5453 % 1).astype(np.float32).reshape(shape)


def tables() -> dict[int, dict[str, list[float]]]:
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_alpha as alpha
    from diffusers.pipelines.pixart_alpha import pipeline_pixart_sigma as sigma

    return {
        256: alpha.ASPECT_RATIO_256_BIN,
        512: alpha.ASPECT_RATIO_512_BIN,
        1024: alpha.ASPECT_RATIO_1024_BIN,
        2048: sigma.ASPECT_RATIO_2048_BIN,
    }


def nearest(height: int, width: int, table: dict[str, list[float]]) -> tuple[int, int]:
    from diffusers.image_processor import PixArtImageProcessor

    return PixArtImageProcessor.classify_height_width_bin(height, width, table)


def resize_and_crop(images: np.ndarray, height: int, width: int) -> np.ndarray:
    import torch
    from diffusers.image_processor import PixArtImageProcessor

    channels_first = torch.tensor(images).permute(0, 3, 1, 2)
    return PixArtImageProcessor.resize_and_crop_tensor(channels_first, width, height).permute(0, 2, 3, 1).numpy()


def main() -> None:
    sections: dict[str, Any] = {f"table {base}": list(table.items()) for base, table in tables().items()}
    for base, table in tables().items():
        sections[f"nearest {base}"] = [[asked, nearest(*asked, table)] for asked in ASKED]
    rows = []
    for shape, height, width in RESIZES:
        out = resize_and_crop(picture(shape), height, width)
        rows.append({"shape": shape, "size": (height, width), "out": [round(float(v), 7) for v in out.ravel()]})
    sections["resize"] = rows
    lines = [f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in sections.items()]
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
