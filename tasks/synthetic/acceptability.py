"""CoLA-like sentences: each rule of grammar makes a good sentence and a broken one of nearly the same words."""

import random
from collections.abc import Callable

from .grammar import a, participle, past, plural, third, words
from .lexicon import MATCHED

ADVERBS = ("often", "always", "usually", "rarely", "sometimes")
PEOPLE = tuple(sorted({person for people, _ in MATCHED.settings for person in people}))
PLACES = tuple(place for _, places in MATCHED.settings for place in places)
OBJECTS = tuple(thing for members in MATCHED.things.values() for thing in members)
BASES = tuple(verb.base for verb in MATCHED.verbs) + tuple(v.synonym for v in MATCHED.verbs) + tuple(
    v.antonym for v in MATCHED.verbs)
CHANGED = tuple(base for base in BASES if participle(base) != base)
WOMEN = ("Anna", "Clara", "Elena", "Grace", "Maria", "Olga")
MEN = ("David", "Felix", "Hugo", "Peter", "Simon", "Victor")
PAIRED = (("this", "these"), ("that", "those"), ("every", "several"), ("each", "many"), ("another", "few"))
ACTS = tuple(base for base, _, _ in MATCHED.activities)
GERUNDS = {base: gerund for base, _, gerund in MATCHED.activities}
INTRANSITIVE = ("slept", "laughed", "arrived", "vanished", "yawned", "sneezed")
QUALITIES = tuple(word for pair in MATCHED.person_qualities for word in (pair.word, pair.opposite))
Phrases = tuple[str, str]


def _who(rng: random.Random) -> str:
    return words("the", rng.choice(QUALITIES) if rng.random() < 0.4 else "", rng.choice(PEOPLE))


def _tail(rng: random.Random) -> str:
    return rng.choice(("", rng.choice(PLACES), rng.choice(MATCHED.times)))


def agreement(rng: random.Random) -> Phrases:
    """A verb agrees with the head of its subject, not with the noun beside it."""
    many = rng.random() < 0.5
    head, other = rng.sample(PEOPLE, 2)
    near = plural(other) if rng.random() < 0.5 else other
    subject = words("the", plural(head) if many else head, rng.choice(("near", "behind", "beside")), "the", near)
    if rng.random() < 0.5:
        act, extra = rng.choice(ACTS), rng.choice(PLACES)
        forms = (act, third(act))
    else:
        forms, extra = rng.choice((("are", "is"), ("were", "was"))), rng.choice(QUALITIES)
    good, bad = forms if many else forms[::-1]
    return words(subject, good, extra), words(subject, bad, extra)


def reflexive(rng: random.Random) -> Phrases:
    """A reflexive agrees with its subject and needs one in its clause."""
    verb = rng.choice(("praised", "blamed", "described", "introduced", "defended", "hurt"))
    woman = rng.random() < 0.5
    name = rng.choice(WOMEN if woman else MEN)
    good, bad = ("herself", "himself") if woman else ("himself", "herself")
    if rng.random() < 0.3:
        name, good, bad = words("the", plural(rng.choice(PEOPLE))), "themselves", rng.choice(("himself", "theirselves"))
    elif rng.random() < 0.3:
        bad = "themselves"
    tail = _tail(rng)
    return words(name, verb, good, tail), words(name, verb, bad, tail)


def determiner(rng: random.Random) -> Phrases:
    """Determiners agree with their nouns in number and come once."""
    thing = rng.choice(OBJECTS)
    one, many = rng.choice(PAIRED)
    who, verb = _who(rng), past(rng.choice(BASES))
    good = rng.choice(((one, thing), (many, plural(thing))))
    bad = (one, plural(thing)) if good[0] == one else (many, thing)
    if rng.random() < 0.2:
        bad = (rng.choice(("the", "a")), words(good[0], good[1]))
    tail = _tail(rng)
    return words(who, verb, *good, tail), words(who, verb, *bad, tail)


def word_order(rng: random.Random) -> Phrases:
    """Subject, verb, object; adjectives before nouns; articles first."""
    who, verb, thing = rng.choice(PEOPLE), past(rng.choice(BASES)), rng.choice(OBJECTS)
    colour, quality, tail = rng.choice(MATCHED.colours), rng.choice(QUALITIES), _tail(rng)
    good = words("the", quality, who, verb, "the", colour, thing, tail)
    return good, rng.choice((
        words("the", quality, who, "the", colour, thing, verb, tail),
        words("the", quality, who, verb, "the", thing, colour, tail),
        words("the", who, quality, verb, "the", colour, thing, tail),
        words(quality, "the", who, verb, "the", colour, thing, tail),
        words("the", quality, who, verb, colour, "the", thing, tail)))


def valency(rng: random.Random) -> Phrases:
    """Some verbs take an object, some take none, some take more."""
    who, thing, place, other = _who(rng), "the " + rng.choice(OBJECTS), rng.choice(PLACES), "the " + rng.choice(PEOPLE)
    verb, needy = rng.choice(INTRANSITIVE), rng.choice(("devoured", "found", "wore", "took"))
    what = "the soup" if needy == "devoured" else "the coat" if needy == "wore" else thing
    time = rng.choice(MATCHED.times)
    return rng.choice((
        (words(who, verb, place, time), words(who, verb, thing, place, time)),
        (words(who, needy, what, time), words(who, needy, time)),
        (words(who, "put", thing, "on the table", time), words(who, "put", thing, time)),
        (words(who, "gave", thing, "to", other), words(who, "gave", "to", other)),
        (words(who, "told", other, "a story", time), words(who, "said", other, "a story", time)),
        (words(who, "relied on", other, time), words(who, "relied", other, time))))


def auxiliary(rng: random.Random) -> Phrases:
    """Each auxiliary asks for its own form of the verb."""
    who, base, thing, tail = _who(rng), rng.choice(CHANGED), a(rng.choice(OBJECTS)), _tail(rng)
    aux, form = rng.choice((("has", participle(base)), ("had", participle(base)), ("will", base), ("must", base),
                            ("can", base), ("did not", base), ("should", base)))
    wrong = base if form != base else past(base)
    bad = words("to", base) if form == base and aux != "did not" and rng.random() < 0.3 else wrong
    return words(who, aux, form, thing, tail), words(who, aux, bad, thing, tail)


def question(rng: random.Random) -> Phrases:
    """Questions put the auxiliary first, once, and leave a gap for what they ask about."""
    who, base, thing, tail = _who(rng), rng.choice(CHANGED), "the " + rng.choice(OBJECTS), _tail(rng)
    other = "the " + rng.choice(PEOPLE)
    wh = rng.choice(("when", "why", "where", "how"))
    return rng.choice((
        (words(wh, "did", who, base, thing) + "?", words(wh, who, past(base), thing) + "?"),
        (words(wh, "did", who, base, thing) + "?", words(wh, "did", who, past(base), thing) + "?"),
        (words("what did", who, base, tail) + "?", words("what did", who, base, thing, tail) + "?"),
        (words("who did", who, "invite", tail) + "?", words("who did", who, "invite", other, "and", tail) + "?"),
        (words("has", who, participle(base), thing) + "?", words("has", who, "has", participle(base), thing) + "?"),
        (words("I wonder what", who, past(base), tail), words("I wonder what did", who, past(base), tail))))


def time(rng: random.Random) -> Phrases:
    """Tense and time adverb go together."""
    who, base, thing, place = _who(rng), rng.choice(BASES), a(rng.choice(OBJECTS)), rng.choice(("", rng.choice(PLACES)))
    before = rng.choice(("yesterday", "last week", "two days ago"))
    after = rng.choice(("tomorrow", "next week", "in two days"))
    done, coming = words(who, past(base), thing, place), words(who, "will", base, thing, place)
    return rng.choice(((words(done, before), words(coming, before)), (words(coming, after), words(done, after))))


def complement(rng: random.Random) -> Phrases:
    """Verbs choose infinitives or gerunds, and nobody but not somebody goes with ever."""
    who, act, tail = _who(rng), rng.choice(ACTS), _tail(rng)
    wants, likes = rng.choice(("wanted", "decided", "hoped", "refused")), rng.choice(("enjoyed", "avoided", "finished"))
    adverb, quality = rng.choice(("ever", "yet")), rng.choice(MATCHED.comparatives)[0]
    worse = rng.choice((f"more {quality} than", f"{quality} as"))
    other, base, thing = "the " + rng.choice(PEOPLE), rng.choice(CHANGED), a(rng.choice(OBJECTS))
    rest = words("has ever", participle(base), thing, tail)
    ever = (words("nobody", rest), words("somebody", rest))
    yet = (words(who, "has not", participle(base), thing, "yet"), words(who, "has", participle(base), thing, "yet"))
    return rng.choice((
        (words(who, wants, "to", act, tail), words(who, wants, GERUNDS[act], tail)),
        (words(who, likes, GERUNDS[act], tail), words(who, likes, "to", act, tail)),
        ever if adverb == "ever" else yet,
        (words(who, "is", quality, "than", other), words(who, "is", worse, other)),
        (words("she saw him and", who, tail), words("her saw he and", who, tail))))


RULES: tuple[Callable[[random.Random], Phrases], ...] = (
    agreement, reflexive, determiner, word_order, valency, auxiliary, question, time, complement)


def cola(rng: random.Random, split: str, label: int) -> tuple[str]:
    """Make an acceptable (1) or unacceptable (0) sentence by one of the rules."""
    good, bad = rng.choice(RULES)(rng)
    text = good if label else bad
    return (text[0].upper() + text[1:] + ("" if text.endswith("?") else "."),)
