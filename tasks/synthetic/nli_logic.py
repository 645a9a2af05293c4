"""Inference from function words: quantifiers, connectives, implicative verbs, reports, time order, comparison."""

import random

from .grammar import a, past, plural, sentence, words
from .lexicon import World
from .scene import draw_detail, draw_event

DONE = ("managed to", "remembered to", "was able to", "did not fail to")
NOT_DONE = ("failed to", "forgot to", "refused to", "did not", "was unable to")
TALK = ("spoke about", "said nothing about")
OPEN = ("planned to", "hoped to", "wanted to", "promised to", "was asked to")


def implicative(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """Managing to is doing, failing to is not, and planning to leaves it open."""
    event = draw_event(rng, world)
    thing, base = a(event.thing), event.verb.base
    place = draw_detail(rng, world, event, rng.choice(("place", "time")))[0]
    positive = rng.random() < 0.5
    done = positive == (label == "entailment")
    who = "the " + event.who
    shown = place if rng.random() < 0.5 else ""
    theirs = place
    if label == "neutral" and rng.random() < 0.5:
        premise = sentence(who, rng.choice(OPEN), base, thing, place)
    elif label == "neutral":
        # what was done may have been done elsewhere, and what was not done there may have been done elsewhere
        theirs, shown = ("", place) if positive else (place, "")
        premise = sentence(who, rng.choice(DONE if positive else NOT_DONE), base, thing, theirs)
    elif rng.random() < 0.5:
        premise = sentence(who, rng.choice(DONE if done else NOT_DONE), base, thing, shown)
    else:
        tail = rng.choice((", and did so", "and succeeded")) if done else rng.choice((", but did not", "but gave up"))
        premise = sentence(who, rng.choice(OPEN[:4]), base, thing, shown, tail)
    denial = rng.choice((words("did not", base), words("never", past(base))))
    return premise, sentence(who, past(base) if positive else denial, thing, shown)


def report(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """What is rightly said holds, what is wrongly said does not, and what is said may or may not hold."""
    event = draw_event(rng, world)
    speaker = rng.choice([person for person in event.people if person != event.who])
    way = rng.choice(("rightly", "wrongly", ""))
    deed = words(past(event.verb.base), a(event.thing))
    denial = words("did not", event.verb.base, a(event.thing))
    truth = {"rightly": (deed, denial), "wrongly": (denial, deed)}
    adverb = {"rightly": ("rightly", "correctly", "truthfully"), "wrongly": ("wrongly", "falsely", "mistakenly"),
              "": ("often", "recently", "loudly")}[way]
    said = rng.choice(("said", "claimed", "announced"))
    premise = sentence("the", speaker, rng.choice(adverb), said, "that the", event.who, deed)
    talk = way == "" or rng.random() < 0.25
    if label == "neutral":
        if rng.random() < 0.4:
            return premise, sentence("the", event.who, rng.choice(TALK), "the", speaker)
        return premise, sentence("the", speaker if way else event.who, rng.choice((deed, denial)))
    if talk:
        return premise, sentence("the", speaker, TALK[label == "contradiction"], "the", event.who)
    return premise, sentence("the", event.who, truth[way][label == "contradiction"])


def connective(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """And gives both, or gives one of them, rather than and neither exclude; a third person stays open."""
    event = draw_event(rng, world)
    first, second, third = (f"the {person}" for person in rng.sample(event.people, 3))
    deed = words(past(event.verb.base), a(event.thing))
    tail = draw_detail(rng, world, event, rng.choice(("place", "time")))[0]
    again = rng.choice(("", tail))  # what was done there was done, but what was not done there may have been done
    one, other, stranger, someone = (words(who, deed, again) for who in (first, second, third, "at least one person"))
    not_one, not_other, not_stranger = (
        words(who, "did not", event.verb.base, a(event.thing), tail) for who in (first, second, third))
    nobody = f"neither {first} nor {second} {deed} {tail}"
    given, entailed, open_, excluded = rng.choice((
        (f"both {first} and {second}", (one, other, someone), (stranger, not_stranger), (not_one, not_other, nobody)),
        (f"either {first} or {second}", (someone,), (one, other, not_one, not_other), (nobody,)),
        (f"{first} rather than {second}", (one, not_other), (stranger, not_stranger), (other, not_one)),
        (f"neither {first} nor {second}", (not_one, not_other), (stranger, not_stranger, f"at least one person {deed}"),
         (f"{first} {deed} {tail}", f"{second} {deed} {tail}")),
        ("nobody", (not_one, nobody), (f"{first} {deed}", f"at least one person {deed}"),
         (f"at least one person {deed} {tail}", f"{first} {deed} {tail}")),
    ))
    hypothesis = rng.choice({"entailment": entailed, "neutral": open_, "contradiction": excluded}[label])
    return sentence(given, deed, tail), sentence(hypothesis)


def quantifier(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """All, most, some, not all and no, with narrower and wider groups (monotonicity)."""
    people, places = rng.choice(world.settings)
    noun = plural(rng.choice(people))
    narrow_noun = words(rng.choice(rng.choice(world.person_qualities)[::2]), noun)
    deed = rng.choice(world.activities)[1]
    narrow_deed = words(deed, rng.choice((rng.choice(places), rng.choice(world.times))))
    wide, narrow_who, narrow_what = (noun, deed), (narrow_noun, deed), (noun, narrow_deed)
    given = rng.choice(("all", "most", "some", "not all", "no"))
    same = rng.choice((wide, narrow_who, narrow_what))
    # (premise's phrase, hypothesis's quantifier, hypothesis's phrase) by premise quantifier and label
    table = {
        ("all", "entailment"): ((same, "some", same), (same, "most", same), (wide, "all", narrow_who),
                                (narrow_what, "all", wide)),
        ("all", "neutral"): ((narrow_who, "all", wide), (wide, "all", narrow_what)),
        ("all", "contradiction"): ((same, "no", same), (same, "not all", same)),
        ("most", "entailment"): ((same, "some", same), (narrow_what, "most", wide)),
        ("most", "neutral"): ((wide, "all", narrow_what), (same, "all", same), (wide, "most", narrow_what)),
        ("most", "contradiction"): ((same, "no", same), (wide, "no", wide)),
        ("some", "entailment"): ((narrow_what, "some", wide), (narrow_who, "some", wide)),
        ("some", "neutral"): ((wide, "some", narrow_who), (wide, "some", narrow_what), (same, "all", same),
                              (same, "most", same), (same, "not all", same)),
        ("some", "contradiction"): ((same, "no", same), (narrow_who, "no", wide)),
        ("not all", "entailment"): ((narrow_who, "not all", wide), (wide, "not all", narrow_what)),
        ("not all", "neutral"): ((same, "some", same), (same, "no", same), (narrow_what, "not all", wide)),
        ("not all", "contradiction"): ((same, "all", same), (wide, "all", narrow_what)),
        ("no", "entailment"): ((same, "not all", same), (wide, "no", narrow_who), (wide, "no", narrow_what)),
        ("no", "neutral"): ((narrow_who, "no", wide), (narrow_what, "no", wide)),
        ("no", "contradiction"): ((same, "some", same), (same, "most", same), (same, "all", same)),
    }
    before, quant, after = rng.choice(table[given, label])
    return _quantified(given, before), _quantified(quant, after)


def _quantified(quant: str, phrase: tuple[str, str]) -> str:
    start = {"most": "most of the", "some": "some of the", "no": "none of the"}.get(quant, quant + " the")
    return sentence(start, *phrase)


def order(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """Before turned round is after; two events told together have no order."""
    people, _ = rng.choice(world.settings)
    (first, did), (second, acted) = zip(rng.sample(people, 2), rng.sample([v[1] for v in world.activities], 2),
                                        strict=True)
    early, late = words("the", first, did), words("the", second, acted)
    told = {"before": sentence(early, "before", late), "after": sentence(late, "after", early)}
    wrong = {"before": sentence(late, "before", early), "after": sentence(early, "after", late)}
    given, asked = rng.choice((("before", "after"), ("after", "before")))
    both = sentence(early, "and", late)
    person, deed = rng.choice(((first, did), (second, acted)))
    if label == "entailment":
        return rng.choice(((told[given], told[asked]), (told[given], sentence("the", person, deed)),
                           (both, sentence("the", person, deed))))
    if label == "contradiction":
        return rng.choice(((told[given], wrong[asked]), (told[given], wrong[given]),
                           (both, sentence("the", person, "did not do anything"))))
    return rng.choice(((both, told[asked]), (told[given], sentence("the", first, acted)),
                       (told[given], sentence("the", second, did))))


def comparison(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """Taller turned round is shorter; a third person leaves it open."""
    people, _ = rng.choice(world.settings)
    more, less = rng.choice(world.comparatives)
    if rng.random() < 0.5:
        more, less = less, more
    first, second, third = rng.sample(people, 3)
    phrase = rng.choice(("is", "is a lot"))
    given = sentence("the", first, "is much", more, "than the", second)
    if rng.random() < 0.5:  # the same comparison, turned round
        first, second, more, less = second, first, less, more
    if label == "contradiction":
        more, less = less, more
    if label == "neutral":
        second, more = third, rng.choice((more, less))
    return given, sentence("the", first, phrase, more, "than the", second)
