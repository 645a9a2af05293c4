"""MRPC- and STS-like pairs: one event told twice, with parts put in other words or changed."""

import random

from .grammar import participle, past, sentence, words
from .lexicon import MATCHED, World
from .scene import draw_detail, draw_event, tell

# What two people do: base verb, a synonym's past, and the noun with which the other person "received" it.
DEALINGS = (
    ("call", "phoned", "a call from"), ("help", "assisted", "help from"), ("visit", "dropped in on", "a visit from"),
    ("thank", "expressed thanks to", "thanks from"), ("praise", "spoke well of", "praise from"),
    ("criticise", "found fault with", "criticism from"), ("invite", "asked over", "an invitation from"),
    ("advise", "counselled", "advice from"), ("greet", "said hello to", "a greeting from"),
    ("warn", "cautioned", "a warning from"),
)


def mrpc(rng: random.Random, split: str, label: int) -> tuple[str, str]:
    """Make a paraphrase (1), or the same paraphrase with one part changed (0)."""
    return _dealing(rng, MATCHED, label) if rng.random() < 0.35 else _event(rng, MATCHED, label)


def _event(rng: random.Random, world: World, label: int) -> tuple[str, str]:
    event = draw_event(rng, world)
    slots = rng.sample(("quality", "trait", "colour", "place", "time", "manner"), rng.choice((2, 3)))
    drawn = {slot: draw_detail(rng, world, event, slot) for slot in slots}
    verbs = [event.verb.base, event.verb.synonym]
    rng.shuffle(verbs)
    changed = "" if label else rng.choice((*slots, "verb", "thing", "who"))
    # a change costs overlap, so paraphrases reword more to make up for it
    first, second = {}, {}
    for slot, (value, same, _) in drawn.items():
        first[slot], second[slot] = (value, same) if label or rng.random() < 0.3 else (rng.choice((value, same)),) * 2
    other, ours = event, verbs[1] if rng.random() < (0.85 if label else 0.4) else verbs[0]
    theirs = verbs[0]
    if changed in second:
        second[changed] = drawn[changed][2]
    elif changed == "verb":
        ours = event.verb.antonym
    elif changed == "thing":
        other = event._replace(thing=rng.choice([t for t in world.things[event.category] if t != event.thing]))
    elif changed == "who":
        other = event._replace(who=rng.choice([p for p in event.people if p != event.who]))
    if rng.random() < 0.2 and changed != "verb":  # antonyms occur in paraphrases too
        theirs = ours = event.verb.antonym
    passive = rng.random() < 0.4
    pair = (tell(event, first, passive=passive, front=rng.random() < 0.5, verb=theirs),
            tell(other, second, passive=passive != (rng.random() < 0.6), front=rng.random() < 0.5, verb=ours))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _dealing(rng: random.Random, world: World, label: int) -> tuple[str, str]:
    people, places = rng.choice(world.settings)
    first, second, third = rng.sample(people, 3)
    (place, elsewhere), (time, later) = rng.sample(places, 2), rng.sample(world.times, 2)
    (base, synonym, noun), other_deal = rng.sample(DEALINGS, 2)

    def say(one: str, two: str, place: str, time: str, form: int, deal: tuple[str, str, str]) -> str:
        body = (words("the", one, past(deal[0]), "the", two),
                words("the", two, "was", participle(deal[0]), "by the", one),
                words("the", one, _split(deal[1], "the " + two)),
                words("the", two, "received", deal[2], "the", one))[form]
        return sentence(time + ",", body, place) if rng.random() < 0.5 else sentence(body, place, time)

    forms = rng.sample(range(4), 2)
    deal = (base, synonym, noun)
    one = say(first, second, place, time, forms[0], deal)
    if label:
        return one, say(first, second, place, time, forms[1], deal)
    change = rng.randrange(6)
    persons = {0: (second, first), 1: (third, second), 2: (first, third)}.get(change, (first, second))
    return one, say(*persons, elsewhere if change == 3 else place, later if change == 4 else time, forms[1],
                    other_deal if change == 5 else deal)


def _split(verb: str, person: str) -> str:
    """Put the object of "asked over" between its parts."""
    return f"asked {person} over" if verb == "asked over" else f"{verb} {person}"


PARTS = (("who", 1.0), ("verb", 1.1), ("thing", 1.3), ("place", 0.6), ("time", 0.4), ("trait", 0.6))


def stsb(rng: random.Random, split: str, level: int) -> tuple[str, str, float]:
    """Make two sentences with a chosen number of parts changed; the score adds up the parts that agree.

    A part in other words counts in full, a part changed within its kind (a sofa for a desk) counts a third, a part
    of another kind counts nothing.
    """
    world = MATCHED
    event = draw_event(rng, world)
    verb, other_verb = rng.sample(world.verbs, 2)
    everywhere = tuple(place for setting in world.settings for place in setting[1])
    event = event._replace(places=everywhere)
    drawn = {slot: draw_detail(rng, world, event, slot) for slot in ("place", "time", "trait")}
    changed = set(rng.sample([part for part, _ in PARTS], level))
    new, score = event, 0.0
    details = {slot: value for slot, (value, _, _) in drawn.items()}
    ours = rng.choice((verb.base, verb.synonym))
    strangers = rng.choice([people for people, _ in world.settings if event.who not in people])
    for part, weight in PARTS:
        near = rng.random() < 0.4
        if part not in changed:
            score += weight
            continue
        score += weight / 3 if near and part in ("who", "thing") else 0.0
        if part == "who":
            new = new._replace(who=rng.choice([p for p in (event.people if near else strangers) if p != event.who]))
        elif part == "thing":
            category = event.category if near else rng.choice([c for c in world.things if c != event.category])
            new = new._replace(thing=rng.choice([t for t in world.things[category] if t != event.thing]))
        elif part == "verb":
            ours = rng.choice((other_verb.base, other_verb.synonym))
        else:
            details[part] = drawn[part][2]
    first = tell(event, {slot: value for slot, (value, _, _) in drawn.items()}, verb=verb.base,
                 passive=rng.random() < 0.25, front=rng.random() < 0.3)
    second = tell(new, details, verb=ours, passive=rng.random() < 0.25, front=rng.random() < 0.3)
    return first, second, round(score, 1)
