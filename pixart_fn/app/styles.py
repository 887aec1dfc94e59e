"""Ten styles by the names that the demo of PixArt's authors has for them; the words are our own."""

from __future__ import annotations

from typing import NamedTuple

from ..checks import check_option


class Style(NamedTuple):
    """What a style makes of a prompt, in whose place {prompt} stands, and what it adds to the negative prompt."""

    prompt: str
    negative: str


NONE = "(No style)"
STYLES = {
    NONE: Style("{prompt}", ""),
    "Cinematic": Style(
        "film still of {prompt}, wide screen, dramatic light, shallow focus, fine grain, rich colours",
        "drawing, cartoon, lettering, flat light",
    ),
    "Photographic": Style(
        "photograph of {prompt}, 35 mm lens, natural light, sharp focus, fine detail",
        "drawing, painting, sketch, blurred, noise",
    ),
    "Anime": Style(
        "{prompt}, anime illustration, clean lines, bright colours, cel shading",
        "photograph, realistic, dull colours, grey",
    ),
    "Manga": Style(
        "{prompt}, manga page in ink, bold outlines, screentone, lively composition",
        "photograph, realistic, blurred, low contrast",
    ),
    "Digital Art": Style(
        "{prompt}, digital painting, concept art, visible brushwork, strong composition",
        "photograph, realistic, ugly",
    ),
    "Pixel art": Style(
        "{prompt}, pixel art, few colours, coarse blocks, 8-bit game graphics",
        "photograph, smooth, blurred, fine detail",
    ),
    "Fantasy art": Style(
        "{prompt}, fantasy book cover, painted, majestic, magical light, dreamlike",
        "photograph, everyday, lettering, cropped, deformed",
    ),
    "Neonpunk": Style(
        "{prompt}, neon city at night, cyberpunk, magenta and cyan light, deep shadows, crisp",
        "painting, sketch, daylight, deformed",
    ),
    "3D Model": Style(
        "{prompt}, 3D render, studio light, soft shadows, fine materials",
        "drawing, painting, flat, noise",
    ),
}


def styled(style: str, prompt: str, negative: str = "") -> tuple[str, str]:
    """Put a prompt and a negative prompt into the words of a style.

    Args:
        style: a key of STYLES.
        prompt: what to draw.
        negative: what to steer away from; a style's own words come after it.
    Returns:
        The prompt and the negative prompt to draw with.
    Raises:
        ValueError: there is no such style.
    """
    check_option("style", style, list(STYLES))
    chosen = STYLES[style]
    return chosen.prompt.replace("{prompt}", prompt), ", ".join(filter(None, (negative.strip(), chosen.negative)))
