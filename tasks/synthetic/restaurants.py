"""Made-up restaurants in the columns of E2E: a meaning representation and several ways to put it into words."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from .grammar import a, words

NAMES = [f"The {first} {second}" for first in (
    "Amber", "Copper", "Crooked", "Quiet", "Silver", "Velvet", "Wandering", "Winter", "Iron", "Lucky", "Merry",
    "Painted", "Stone", "Hollow", "Drowsy", "Tall", "Scarlet", "Grey", "Honest", "Sunken") for second in (
    "Kettle", "Lantern", "Anchor", "Thistle", "Fiddle", "Heron", "Barrel", "Candle", "Compass", "Pheasant", "Ladder",
    "Needle", "Orchard", "Pepper", "Saddle", "Teapot", "Walnut", "Whistle", "Badger", "Bell")]
SLOTS = {  # beside the name, in E2E's order
    "eatType": ("tavern", "tea house", "wine bar", "inn", "bakery", "diner"),
    "food": ("Greek", "Irish", "Danish", "Persian", "Austrian", "Turkish", "Welsh", "Moroccan", "Egyptian", "Swiss"),
    "priceRange": ("cheap", "moderate", "high", "less than £15", "£15-20", "£25-40", "more than £40"),
    "customer rating": ("poor", "average", "excellent", "2 out of 5", "4 out of 5"),
    "area": ("old town", "harbour", "market quarter", "station quarter", "park"),
    "familyFriendly": ("yes", "no"),
    "near": [f"{first} {second}" for first in ("Harrow", "Miller", "Elder", "Foundry", "Abbot", "Cooper", "Thorn",
                                               "Kestrel") for second in ("Bridge", "Lane", "Square", "Gate")],
}
PRICES = {"cheap": ("cheap", "low"), "moderate": ("moderately priced", "moderate"), "high": ("expensive", "high")}
BEFORE = ("priceRange", "familyFriendly", "food")  # the order of what stands before a noun
PLACES = ("area", "near")


class Split(NamedTuple):
    """Which meaning representations a split may have, by their hash, with how many texts, and how many rows at most."""

    low: float
    high: float
    texts: tuple[int, int]
    rows: int


SPLITS = {"train": Split(0, 0.6, (1, 3), 40_000), "validation": Split(0.6, 0.8, (3, 6), 8_000),
          "test": Split(0.8, 1, (3, 6), 8_000)}
NEW_NAMES = 0.2  # share of the names that training never sees; half of the other splits' restaurants have one
TRIES = 60  # for texts that differ; a restaurant that has too few is left out


class Ways(NamedTuple):
    """How one fact can be told: before the noun, behind it, as what the place does, as a sentence."""

    before: str
    behind: tuple[str, ...]
    does: tuple[str, ...]
    alone: tuple[str, ...]


def rows(split: str, n: int, seed: int) -> list[dict[str, Any]]:
    """Make at least n rows: the last restaurant keeps all its texts. Fewer of one split and seed are a prefix of more.

    Each row has one text; a restaurant's rows follow each other. Raises ValueError on another split or size.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of e2e: choose one of {', '.join(SPLITS)}")
    if not 1 <= n <= SPLITS[split].rows:
        raise ValueError(f"cannot make {n} rows of e2e {split}: choose 1 to {SPLITS[split].rows}")
    made: list[dict[str, Any]] = []
    for meaning, texts in _restaurants(random.Random(f"e2e {split} {seed}"), split):
        made += ({"meaning_representation": meaning, "human_reference": text} for text in texts)
        if len(made) >= n:
            break
    return made


def _restaurants(rng: random.Random, split: str) -> Iterator[tuple[str, list[str]]]:
    """Yield restaurants without end, none of them twice: meaning representation and texts."""
    low, high, (fewest, most), _ = SPLITS[split]
    seen: set[str] = set()
    new = [name for name in NAMES if _share(name) < NEW_NAMES]
    known = [name for name in NAMES if name not in new]
    while True:
        name = rng.choice(new if split != "train" and rng.random() < 0.5 else known)
        chosen = rng.sample(list(SLOTS), rng.randint(2, len(SLOTS)))
        facts = {slot: rng.choice(values) for slot, values in SLOTS.items() if slot in chosen}
        meaning = ", ".join(f"{slot}[{value}]" for slot, value in ({"name": name} | facts).items())
        if meaning in seen or not low <= _share(meaning) < high:
            continue
        seen.add(meaning)
        count, texts = rng.randint(fewest, most), dict[str, None]()
        for _ in range(TRIES):
            texts[_text(rng, name, facts)] = None
            if len(texts) == count:
                yield meaning, list(texts)
                break


def _share(text: str) -> float:
    """A number from 0 to 1 by the text alone, so that no seed can mix the splits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def _text(rng: random.Random, name: str, facts: dict[str, str]) -> str:
    """Tell all facts: some in the first sentence, the others one or two at a time."""
    ways = {slot: _ways(slot, value) for slot, value in facts.items() if slot != "eatType"}
    order = rng.sample(list(ways), len(ways))
    cut = rng.randint(1, 4)
    first, rest = order[:cut], order[cut:]
    before = [slot for slot in BEFORE if slot in first and ways[slot].before and rng.random() < 0.75]
    core = _a(words(*(ways[slot].before for slot in before), facts.get("eatType", "place")))
    places = [rng.choice(ways[slot].behind) for slot in PLACES if slot in first]
    others = [slot for slot in first if slot not in (*before, *PLACES)]
    clause = rng.choice(ways[others[0]].behind) if others else ""
    rest += others[1:]  # one clause behind the noun is enough
    opening, used = _opening(rng, name, core, places, clause, [rng.choice(ways[slot].does) for slot in rest[:1]])
    return " ".join([opening, *_more(rng, [ways[slot] for slot in rest[used:]], facts.get("eatType", "place"))])


def _opening(rng: random.Random, name: str, core: str, places: list[str], clause: str, does: list[str]
             ) -> tuple[str, int]:
    """The sentence that names the place, and how much of what it does is told by it."""
    kind = rng.randrange(5)
    if kind == 0 and does:
        return f"{name}, {words(core, *places, clause)}, {does[0]}.", 1
    if kind == 1 and places:
        *behind, front = places
        return f"{front[0].upper()}{front[1:]}, {name} is {words(core, *behind, clause)}.", 0
    if kind == 2 and places:
        front, *behind = places
        return f"{front[0].upper()}{front[1:]} you will find {name}, {words(core, *behind, clause)}.", 0
    if kind == 3:
        return f"There is {words(core, 'called', name, *places, clause)}.", 0
    return f"{name} is {words(core, *places, clause)}.", 0


def _more(rng: random.Random, ways: list[Ways], noun: str) -> Iterator[str]:
    """Yield sentences for the facts that are left."""
    while ways:
        subject = rng.choice(("It", "It", "It", f"The {noun}"))
        if len(ways) > 1 and rng.random() < 0.6:
            yield f"{subject} {rng.choice(ways[0].does)} and {rng.choice(ways[1].does)}."
            ways = ways[2:]
        else:
            yield rng.choice((*ways[0].alone, f"{subject} {rng.choice(ways[0].does)}."))
            ways = ways[1:]


def _a(phrase: str) -> str:
    """The right article before a phrase that may begin with a capital."""
    return words(a(phrase.lower()).partition(" ")[0], phrase)


def _ways(slot: str, value: str) -> Ways:
    if slot == "priceRange" and value in PRICES:
        before, level = PRICES[value]
        return Ways(before, (f"with {level} prices",), (f"is {before}", f"has {level} prices"),
                    (f"Prices are {level}.",))
    if slot == "customer rating":
        rated = f"a customer rating of {value}" if value[0].isdigit() else f"{_a(value)} customer rating"
        return Ways("", (f"with {rated}",), (f"has {rated}", f"is rated {value} by its customers"),
                    (f"Customers rate it {value}.", f"Its customer rating is {value}."))
    if slot == "familyFriendly":
        if value == "yes":
            return Ways("family-friendly", ("that welcomes children", "where children are welcome"),
                        ("is family-friendly", "welcomes children"), ("Children are welcome.",))
        return Ways("", ("that is not family-friendly", "where children are not welcome"),
                    ("is not family-friendly", "does not welcome children"), ("Children are not welcome.",))
    before, behind, does, alone = {
        "priceRange": ("", ("where a meal costs {}",), ("charges {} for a meal",), ("A meal costs {}.",)),
        "food": ("{}", ("that serves {} food", "serving {} food"), ("serves {} food",), ("{} food is served here.",)),
        "area": ("", ("in the {}",), ("is in the {}", "is located in the {}"), ("You will find it in the {}.",)),
        "near": ("", ("near {}", "close to {}"), ("is near {}", "is close to {}"), ("You will find it near {}.",)),
    }[slot]
    return Ways(before.format(value), *(tuple(way.format(value) for way in some) for some in (behind, does, alone)))
