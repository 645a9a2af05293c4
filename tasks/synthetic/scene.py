"""An event with optional details, and the ways English has of telling it."""

import random
from typing import NamedTuple

from .grammar import a, participle, past, sentence, words
from .lexicon import Verb, World

SLOTS = ("quality", "trait", "colour", "place", "time", "manner")


class Event(NamedTuple):
    """Who did what to which thing; the details are kept apart, by slot."""

    who: str
    verb: Verb
    thing: str
    category: str
    people: tuple[str, ...]
    places: tuple[str, ...]


def draw_event(rng: random.Random, world: World) -> Event:
    """Draw a bare event in one setting of a world."""
    people, places = rng.choice(world.settings)
    category = rng.choice(list(world.things))
    return Event(rng.choice(people), rng.choice(world.verbs), rng.choice(world.things[category]), category, people,
                 places)


def draw_detail(rng: random.Random, world: World, event: Event, slot: str) -> tuple[str, str, str]:
    """Draw a value for a slot, another way to say it, and a value that excludes it."""
    pairs = {"quality": world.person_qualities, "trait": world.thing_qualities, "manner": world.manners}
    if slot in pairs:
        word, synonym, opposite = rng.choice(pairs[slot])
        if rng.random() < 0.5:
            return opposite, opposite, word
        return word, synonym or word, opposite
    values = {"colour": world.colours, "place": event.places, "time": world.times}[slot]
    value, other = rng.sample(values, 2)
    return value, value, other


def tell(event: Event, details: dict[str, str], passive: bool = False, front: bool = False, who: str = "",
         verb: str = "", thing: str = "") -> str:
    """Tell an event with its details, active or passive, with the time first or last."""
    subject = words(details.get("quality", ""), event.who)
    subject = who or "the " + subject
    obj = a(words(details.get("trait", ""), details.get("colour", ""), thing or event.thing))
    verb = verb or event.verb.base
    manner, place, time = (details.get(slot, "") for slot in ("manner", "place", "time"))
    opening, close = (time + ",", "") if front and time else ("", time)
    short, long = (manner, "") if " " not in manner else ("", manner)
    if passive:
        return sentence(opening, obj, "was", short, participle(verb), "by", subject, long, place, close)
    return sentence(opening, subject, short, past(verb), obj, long, place, close)
