"""What one would call a picture: captions drawn from a concept's names, with article, adjective, style, background."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (50, 165, 75),
    "turquoise": (60, 200, 195),
    "blue": (45, 105, 225),
    "purple": (130, 65, 180),
    "pink": (245, 150, 190),
    "brown": (125, 80, 45),
    "gray": (140, 140, 145),
    "black": (20, 20, 22),
}
"""Flat colours by name, sRGB in [0, 255]: backgrounds, line drawings and shapes."""

FORMS = ("plain", "bare", "cute", "little", "nice", "cute little", "picture", "tags")
FORM_CUMULATIVE = np.cumsum((0.38, 0.14, 0.08, 0.06, 0.06, 0.04, 0.12, 0.12))[:-1]
"""Templates of a subject and where each one's share of [0, 1) ends."""

BESIDE, BESIDE_SHARES = ("and", "next to", "beside", "to the left of"), (0.5, 0.15, 0.1, 0.25)
"""What joins the left one of two things with the right one, and how often."""

# CLDR calls a car an "automobile": what people say instead, by CLDR's label. "cat face" → "cat" needs no entry.
_SAID = """
ape: orangutan; puppy: dog face; kitten: cat face; bee: honeybee
ladybug: lady beetle; pufferfish: blowfish; whale: spouting whale; dinosaur: sauropod, T-Rex; fish: tropical fish
chick: baby chick, front-facing baby chick, hatching chick; crow: black bird; sheep: ewe, ram; camel: two-hump camel
shell: spiral shell; caterpillar: bug; squirrel: chipmunk; hippo: hippopotamus; rhino: rhinoceros
tree: deciduous tree, evergreen tree; pine tree: evergreen tree
flower: blossom, hibiscus, white flower, cherry blossom; plant: potted plant, seedling
leaf: maple leaf, fallen leaf; clover: four leaf clover; flowers: bouquet; apple: red apple
orange: tangerine; kiwi: kiwi fruit; corn: ear of corn; pepper: bell pepper; chili pepper: hot pepper
lettuce: leafy green; ginger: ginger root; nut: chestnut; peas: pea pod; cheese: cheese wedge
chicken leg: poultry leg; steak: cut of meat; burger: hamburger; fries: french fries; salad: green salad
baguette: baguette bread; donut: doughnut; cake: birthday cake, shortcake; rice: cooked rice
soup: pot of food, steaming bowl; noodles: steaming bowl; soft serve: soft ice cream; fried egg: cooking
honey: honey pot; slice of cake: shortcake; milk: glass of milk; cup of coffee: hot beverage; coffee: hot beverage
wine: wine glass; glass of wine: wine glass; cocktail: cocktail glass, tropical drink; beer: beer mug
glass of beer: beer mug; champagne: bottle with popping cork; bottle: baby bottle, bottle with popping cork
cup of tea: teacup without handle; juice: beverage box; soda: cup with straw; fork: fork and knife
knife: kitchen knife; ice cube: ice; vase: amphora; car: automobile, oncoming automobile, sport utility vehicle
taxi: oncoming taxi; police car: oncoming police car; bus: oncoming bus
truck: delivery truck, articulated lorry, pickup truck; fire truck: fire engine; bike: bicycle
train: locomotive, high-speed train, bullet train; steam train: locomotive; race car: racing car
scooter: motor scooter, kick scooter; boat: sailboat, speedboat, motor boat; cruise ship: passenger ship
plane: airplane, small airplane; ufo: flying saucer; wheelchair: manual wheelchair; lifebuoy: ring buoy
gas pump: fuel pump; suitcase: luggage; traffic light: vertical traffic light, horizontal traffic light
snowy mountain: snow-capped mountain; beach: beach with umbrella; island: desert island; wall: brick; stone: rock
log: wood; building: office building; temple: classical building, hindu temple; house: house with garden
merry-go-round: carousel horse; slide: playground slide; bridge: bridge at night; city: cityscape
night sky: night with stars; globe: globe showing Americas; clock: mantelpiece clock, alarm clock
hourglass: hourglass done, hourglass not done; moon: crescent moon, full moon; planet: ringed planet
saturn: ringed planet; rain cloud: cloud with rain; storm: cloud with lightning and rain; lightning: high voltage
umbrella: closed umbrella, umbrella with rain drops; snowman: snowman without snow; flame: fire; wave: water wave
water drop: droplet; pumpkin: jack-o-lantern; gift: wrapped gift; present: wrapped gift; bow: ribbon
medal: sports medal, military medal; football: american football; soccer: soccer ball; frisbee: flying disc
dart board: bullseye; hockey: ice hockey; goal: goal net; target: bullseye; fishing rod: fishing pole
billiard ball: pool 8 ball; die: game die; dice: game die; puzzle: puzzle piece; disco ball: mirror ball
doll: nesting dolls; pawn: chess pawn; game controller: video game; palette: artist palette
picture frame: framed picture; masks: performing arts; needle: sewing needle; rope: knot; ball of yarn: yarn
tie: necktie; shirt: t-shirt; trousers: jeans; swimsuit: one-piece swimsuit, bikini; blouse: woman's clothes
bag: handbag, clutch bag; fan: folding hand fan; sandal: woman's sandal, thong sandal
shoe: man's shoe, running shoe; sneaker: running shoe; boot: woman's boot, hiking boot; hat: top hat, woman's hat
cap: billed cap; helmet: rescue worker's helmet, military helmet; diamond: gem stone; comb: hair pick
headphones: headphone; piano: musical keyboard; phone: mobile phone; mobile: mobile phone; old phone: telephone
plug: electric plug; computer: desktop computer, laptop; monitor: desktop computer
mouse for a computer: computer mouse; cd: optical disk; tv: television; camera: camera with flash
magnifying glass: magnifying glass tilted left, magnifying glass tilted right; torch: flashlight
lantern: red paper lantern; book: closed book, blue book, green book, orange book; book that is open: open book
stack of books: books; gold coin: coin; money: money bag, dollar banknote; letter: envelope; box: package
parcel: package; mailbox: closed mailbox with raised flag, closed mailbox with lowered flag; brush: paintbrush
note: memo; folder: file folder; pin: pushpin; ruler: straight ruler; trash can: wastebasket; pickaxe: pick
lock: locked; padlock: locked; swords: crossed swords; saw: carpentry saw; bolt: nut and bolt; cog: gear
scales: balance scale; spanner: wrench; chain: chains; sword: dagger; satellite dish: satellite antenna
drop: drop of blood; bandage: adhesive bandage; sofa: couch and lamp; couch: couch and lamp
toilet paper: roll of paper; gravestone: headstone; vinyl: optical disk; heart: red heart; poo: pile of poo
explosion: collision; speech bubble: speech balloon; muscle: flexed biceps; thumb: thumbs up; fist: raised fist
peace sign: victory hand; monster: alien monster; devil: smiling face with horns
smiley: smiling face, slightly smiling face, grinning face; cowboy: cowboy hat face; clown: clown face
sun: sun with face; kitty: cat face; tortoise: turtle; alpaca: llama; bumblebee: honeybee; grasshopper: cricket
raven: black bird; seashell: spiral shell; toadstool: mushroom; aubergine: eggplant; maize: ear of corn
pancake: pancakes; hotdog: hot dog; pasta: spaghetti; ramen: steaming bowl; cherry: cherries; peanut: peanuts
blueberry: blueberries; bunch of grapes: grapes; loaf of bread: bread; stew: pot of food; pudding: custard
mug of beer: beer mug; glass: tumbler glass; mug: hot beverage; teacup: teacup without handle
lorry: articulated lorry; pickup: pickup truck; yacht: sailboat; boulder: rock; skyscraper: office building
cottage: house, house with garden; siren: police car light; tire: wheel; motorbike: motorcycle; hurricane: cyclone
twister: tornado; jigsaw piece: puzzle piece; rucksack: backpack; necklace: prayer beads; sax: saxophone
high heel: high-heeled shoe; notepad: spiral notepad; rubbish bin: wastebasket; cogwheel: gear; tombstone: headstone
bath: bathtub; cabinet: file cabinet; urn: funeral urn; camcorder: video camera; carousel: carousel horse
wand: magic wand
"""


def _read_aliases(said: str) -> dict[str, tuple[str, ...]]:
    table: dict[str, list[str]] = {}
    for entry in re.split(r"[;\n]", said.strip()):
        name, labels = entry.split(":")
        for label in labels.split(","):
            table.setdefault(label.strip(), []).append(name.strip())
    return {label: tuple(names) for label, names in table.items()}


ALIASES = _read_aliases(_SAID)
"""CLDR's label → what people say instead."""


FACED = frozenset(("cat", "cow", "dog", "dragon", "horse", "monkey", "mouse", "pig", "rabbit", "tiger"))
"""Animals drawn twice, as a face and from the side. The noun alone means the face: asked for both, a small model draws
one over the other."""


_BARE = """
bread, rice, cooked rice, curry rice, butter, salt, garlic, broccoli, bacon, popcorn, sushi, spaghetti, milk, coffee,
wine, beer, champagne, honey, cheese, lettuce, corn, money, lightning, high voltage, soda, juice, soup, ice,
shaved ice, fog, foggy, wood, fire, lacrosse, tennis, bowling, badminton, soccer, hockey, field hockey, ice hockey,
ping pong, camping, construction, cooking, dna, oden, sake, mate, yarn, thread, coral, luggage, canned food,
bubble tea, toilet paper, performing arts, ginger, poo, yin yang, om, locked, unlocked, copyright, registered,
mount fuji, Tokyo tower, Statue of Liberty, milky way, saturn, fleur-de-lis, khanda, star-struck, pouring liquid,
Aries, Taurus, Gemini, Cancer, Leo, Virgo, Libra, Scorpio, Sagittarius, Capricorn, Aquarius, Pisces, Ophiuchus
"""
BARE = frozenset(re.split(r",\s+", _BARE.strip()))
"""Nouns that take no article: uncountable, proper, or no nouns at all."""


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun that takes one: "an apple", "a unicorn", "socks"."""
    head = re.split(r" (?:of|with|without|behind|on|in|at|over|showing|for|from|that)\b", noun)[0]
    plural = head.endswith("s") and not head.endswith(("ss", "us", "is", "rhinoceros", "lens"))
    if noun in BARE or plural:
        return noun
    vowel = re.match(r"(?i)[aeio]|u|hour|x-|f-|nft", noun) and not re.match(r"(?i)uni|ufo|use|uk|eu|ewe|one\b", noun)
    return f"{'an' if vowel else 'a'} {noun}"


def names(concept: dict[str, Any]) -> tuple[str, ...]:
    """What a concept answers to: an animal's face to the animal ("cat face" → "cat"), its label, its aliases."""
    label = concept["label"]
    if label in FACED:
        return f"{label} from the side", f"whole {label}"
    is_animal = concept["subgroup"].startswith("animal")
    short = (label.removesuffix(" face"),) if is_animal else ()
    return tuple(dict.fromkeys((*short, label, *ALIASES.get(label, ()))))


def is_common(names: Sequence[str]) -> bool:
    """Whether a single word is among the names that is one in a million written words, or more: Zipf frequency 3."""
    from wordfreq import zipf_frequency  # of the extra `train`

    return any(" " not in name and zipf_frequency(name, "en") >= 3 for name in names)


def noun(rng: np.random.Generator, concept: dict[str, Any]) -> str:
    """Draw one of `names`: the first half the time, any of them otherwise."""
    known = names(concept)
    return known[0] if rng.random() < 0.5 else known[rng.integers(len(known))]


def _qualified(word: str, name: str) -> str:
    """An adjective, perhaps, and a noun, with an article where the noun takes one: "a red cat", "red socks"."""
    said = f"{word} {name}".strip()
    return said if with_article(name) == name else with_article(said)


def phrase(rng: np.random.Generator, concept: dict[str, Any]) -> str:
    """Draw what a concept is called within a sentence: "a cat", "a cute cat", "nice socks"."""
    name = noun(rng, concept)
    return _qualified(str(rng.choice(["", "", "", "cute", "little", "nice"])), name)


def subject(rng: np.random.Generator, concept: dict[str, Any]) -> str:
    """Draw what the picture shows, without style or background: "a cute little cat", "cat, animal, pet"."""
    name = noun(rng, concept)
    form = FORMS[np.searchsorted(FORM_CUMULATIVE, rng.random(), side="right")]
    if form == "tags":
        tags = concept["unique_tags"] if len(concept["unique_tags"]) > 1 and rng.random() < 0.5 else concept["tags"]
        return ", ".join((name, *rng.permutation([tag for tag in tags if tag != name])[:2]))
    if form == "bare":
        return name
    said = _qualified("" if form in ("plain", "picture") else form, name)
    return f"a picture of {said}" if form == "picture" else said


def on_background(rng: np.random.Generator, background: str | None) -> str:
    """The caption's last part; white goes without saying two times in three."""
    if background is None or (background == "white" and rng.random() < 2 / 3):
        return ""
    return f" on {with_article(background)} background"


def draw(rng: np.random.Generator, concept: dict[str, Any], style: str | None, background: str | None) -> str:
    """Draw a caption for a picture of a concept: "a cute cat, flat, on a blue background".

    Args:
        rng: where the choices come from; the same state gives the same caption.
        concept: as `concepts.read` lists it.
        style: words for the look, put after the subject; None says nothing about it.
        background: a key of `COLOURS` or "white" (then named one time in three); None says nothing about it.
    Returns:
        The caption.
    """
    ending = _ending(rng, style, background)
    return f"{subject(rng, concept)}{ending}"


def _ending(rng: np.random.Generator, style: str | None, background: str | None) -> str:
    """What a caption says of the style and of the background."""
    place = on_background(rng, background)
    look = f", {style}" if style else ""
    if look and place:
        return f"{place}{look}" if rng.random() < 0.5 else f"{look},{place}"
    return f"{look}{place}"


def two(
    rng: np.random.Generator,
    concepts: tuple[dict[str, Any], dict[str, Any]],
    upright: bool,
    style: str | None,
    background: str | None,
) -> str:
    """Draw a caption for two concepts in one picture: "a cat next to a lemon", "a lemon to the right of a cat".

    Args:
        rng: where the choices come from.
        concepts: the left and the right one, or the upper and the lower one.
        upright: whether one lies above the other.
        style: as for `draw`.
        background: as for `draw`.
    Returns:
        The caption.
    """
    first, second = (phrase(rng, concept) for concept in concepts)
    if rng.random() < (0.5 if upright else 0.2):
        first, second, between = second, first, "below" if upright else "to the right of"
    else:
        between = "above" if upright else str(rng.choice(BESIDE, p=BESIDE_SHARES))
    return f"{first} {between} {second}{_ending(rng, style, background)}"


def line_drawing(
    rng: np.random.Generator,
    concept: dict[str, Any],
    colour: str,
    background: str | None,
    style: str = "line drawing",
) -> str:
    """Draw a caption for a drawing in one colour: "a red cat line drawing on a yellow background"."""
    said = _qualified(colour, noun(rng, concept))
    return f"{said} {style}{on_background(rng, background)}"
