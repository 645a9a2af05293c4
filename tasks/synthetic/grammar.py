"""English word forms and the assembly of words into sentences."""

import random
from collections.abc import Sequence

IRREGULAR_PAST = {
    "ask over": ("asked over", "asked over"), "break": ("broke", "broken"), "bring": ("brought", "brought"),
    "buy": ("bought", "bought"), "choose": ("chose", "chosen"), "drop in on": ("dropped in on", "dropped in on"),
    "eat": ("ate", "eaten"), "express thanks to": ("expressed thanks to", "thanked"), "find": ("found", "found"),
    "forget": ("forgot", "forgotten"), "get": ("got", "got"), "give": ("gave", "given"), "grab": ("grabbed",) * 2,
    "hear": ("heard", "heard"), "hide": ("hid", "hidden"), "jog": ("jogged", "jogged"), "keep": ("kept", "kept"),
    "leave": ("left", "left"), "lose": ("lost", "lost"), "make": ("made", "made"), "meet": ("met", "met"),
    "read": ("read", "read"), "see": ("saw", "seen"), "sell": ("sold", "sold"), "send": ("sent", "sent"),
    "sing": ("sang", "sung"), "sleep": ("slept", "slept"), "spot": ("spotted", "spotted"),
    "stand up for": ("stood up for", "stood up for"), "steal": ("stole", "stolen"), "swim": ("swam", "swum"),
    "take": ("took", "taken"), "teach": ("taught", "taught"), "tell": ("told", "told"), "wear": ("wore", "worn"),
    "write": ("wrote", "written"), "hit": ("hit", "hit"), "stop": ("stopped", "stopped"), "run": ("ran", "run"),
    "build": ("built", "built"), "lend": ("lent", "lent"), "win": ("won", "won"), "plan": ("planned", "planned"),
}
IRREGULAR_PLURAL = {
    "fish": "fish", "salmon": "salmon", "trout": "trout", "carp": "carp", "siamese": "siamese", "child": "children",
    "fisherman": "fishermen", "man": "men", "woman": "women", "person": "people", "scarf": "scarves", "knife": "knives",
    "piece of furniture": "pieces of furniture", "piece of jewellery": "pieces of jewellery", "thief": "thieves",
    "shelf": "shelves", "leaf": "leaves", "mouse": "mice", "tooth": "teeth", "foot": "feet",
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def past(verb: str) -> str:
    """Give the simple past, so that every event can be told."""
    return IRREGULAR_PAST[verb][0] if verb in IRREGULAR_PAST else _regular_past(verb)


def participle(verb: str) -> str:
    """Give the past participle, so that an event can be told in the passive."""
    return IRREGULAR_PAST[verb][1] if verb in IRREGULAR_PAST else _regular_past(verb)


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "ed"


def third(verb: str) -> str:
    """Give the third person singular of the present, for agreement."""
    if verb.endswith(("s", "sh", "ch", "x", "z")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def plural(noun: str) -> str:
    """Give the plural of a noun, for quantifiers and numbers."""
    if noun in IRREGULAR_PLURAL:
        return IRREGULAR_PLURAL[noun]
    return third(noun)


def a(phrase: str) -> str:
    """Put the right indefinite article before a phrase."""
    vowel = phrase[0] in "aeiou" and not phrase.startswith(("uni", "use", "one", "ukulele"))
    return ("an " if vowel or phrase.startswith(("hour", "honest")) else "a ") + phrase


def words(*parts: str) -> str:
    """Join the parts that are present with single spaces."""
    return " ".join(part for part in parts if part)


def sentence(*parts: str, end: str = ".") -> str:
    """Join the parts, capitalise the first letter and close with a full stop or question mark."""
    text = words(*parts).replace(" ,", ",").replace(" :", ":")
    return text[0].upper() + text[1:] + end


def two(rng: random.Random, options: Sequence[str]) -> tuple[str, str]:
    """Draw two different words from one class, for changes that stay in the class."""
    first, second = rng.sample(options, 2)
    return first, second
