"""What the pictures show: Unicode's emoji with the names of CLDR, those that a small picture can tell apart.

People, flags, keycaps, letters, signs and clock hours are left out: they differ by details that it can't show.
"""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

from ...files import reading
from . import captions

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


def read(npm: Path) -> list[dict[str, Any]]:
    """List what the pictures show, in Unicode's order: names, tags, how often to draw it, whether it may be mirrored.

    Args:
        npm: the `node_modules` folder that holds emojibase-data.
    Returns:
        Dictionaries of code ("1f408"), label, tags, unique_tags (no other concept has them as tag or label), group,
        subgroup, weight (relative frequency), flip, animal_or_food.
    """
    try:
        folder = npm / "emojibase-data"
        return _listed(json_file(folder / "en/data.json"), json_file(folder / "meta/groups.json"))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{npm / 'emojibase-data'} isn't emojibase's data ({error!r:.80}); install it again"
        ) from error


def json_file(path: Path) -> Any:
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
        if not captions.is_common(captions.names(concept)):
            concept["weight"] *= RARE
    return listed


def is_kept(entry: dict[str, Any]) -> bool:
    """Whether a concept can be distinguished from the others at 64 pixels."""
    subgroup, label = entry.get("subgroup"), entry["label"]
    is_hour = subgroup == CLOCKS and label.endswith(("o’clock", "-thirty"))
    return subgroup in KEPT and ":" not in label and not is_hour


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


def by_name(listed: list[dict[str, Any]]) -> dict[str, int]:
    """Every name in lower case, and the index of the first concept that answers to it."""
    known: dict[str, int] = {}
    for i, concept in enumerate(listed):
        for name in captions.names(concept):
            known.setdefault(name.lower(), i)
    return known


def add(listed: list[dict[str, Any]], label: str, subgroup: str, weight: float) -> int:
    """Put a concept that Unicode doesn't have at the end of the list, and return its index."""
    listed.append(
        {"label": label, "tags": [], "unique_tags": [], "subgroup": subgroup, "weight": weight, "flip": False}
    )
    return len(listed) - 1
