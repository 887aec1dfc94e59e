"""A hundred common nouns, each with the emoji that show it: what the judge asks a model to draw."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from . import data

_NOUNS = """
lion; elephant; giraffe; bear; fox; wolf; frog; turtle; snake; bird; duck; owl; penguin; butterfly; spider
snail; crab; octopus; banana; lemon; pear; strawberry; pineapple; watermelon; tomato; carrot; mushroom; pizza
hamburger; sandwich; cookie; egg; rose; sunflower; cactus; star; rainbow; mountain; volcano; castle; church
bicycle; airplane; helicopter; rocket; tractor; guitar; violin; drum; trumpet; pencil; key; hammer; watch
television; chair; bed; door; candle; balloon; crown
dog: dog face, dog, guide dog, service dog, poodle; cat: cat face, cat; horse: horse face, horse
cow: cow face, cow; pig: pig face, pig; rabbit: rabbit face, rabbit; mouse: mouse face, mouse
tiger: tiger face, tiger; monkey: monkey face, monkey; fish: fish, tropical fish; whale: spouting whale, whale
bee: honeybee; sheep: ram, ewe; apple: red apple, green apple; orange: tangerine
cake: birthday cake, shortcake; donut: doughnut; tree: evergreen tree, deciduous tree
flower: cherry blossom, white flower, hibiscus, blossom; leaf: maple leaf, fallen leaf
sun: sun, sun with face; moon: full moon, crescent moon; snowman: snowman, snowman without snow
house: house, house with garden; car: automobile, oncoming automobile, sport utility vehicle
bus: bus, oncoming bus; truck: pickup truck, delivery truck, articulated lorry
train: locomotive, high-speed train, bullet train, train; boat: sailboat, speedboat, motor boat
book: closed book, green book, blue book, orange book; lock: locked
umbrella: closed umbrella, umbrella, umbrella with rain drops; clock: alarm clock, mantelpiece clock
camera: camera, camera with flash; computer: laptop, desktop computer; gift: wrapped gift
hat: woman's hat, top hat; shoe: man's shoe, running shoe; heart: red heart
"""


def _read_nouns(text: str) -> dict[str, tuple[str, ...]]:
    entries = (entry.partition(":") for entry in re.split(r"[;\n]\s*", text.strip()))
    return {noun: tuple(label.strip() for label in (labels or noun).split(",")) for noun, _, labels in entries}


NOUNS: Mapping[str, tuple[str, ...]] = MappingProxyType(_read_nouns(_NOUNS))
"""A hundred common nouns and the labels of the concepts that each may mean; alone, a noun is its own label."""


def noun_ids(glyphs: data.Glyphs) -> list[list[int]]:
    """For each of `NOUNS` the indices of its concepts."""
    by_label = {concept["label"]: i for i, concept in enumerate(glyphs.concepts)}
    return [[by_label[label] for label in labels] for labels in NOUNS.values()]
