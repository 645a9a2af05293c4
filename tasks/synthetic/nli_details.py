"""Inference from details: each hypothesis meets premises that state, leave open and exclude one detail of an event.

The two sentences of a pair are taken to describe the same event, as in the corpora this stands in for.  Labels are
words here: entailment, neutral, contradiction.
"""

import random

from .grammar import NUMBERS, a, past, plural, sentence, words
from .lexicon import World
from .scene import SLOTS, Event, draw_detail, draw_event, tell


def _loosely(rng: random.Random, event: Event, details: dict[str, str]) -> str:
    """Tell a hypothesis in other words than the premise, whatever the label, so that overlap says little."""
    who = rng.choice(("someone", "a person")) if "quality" not in details and rng.random() < 0.05 else ""
    verb = event.verb.synonym if rng.random() < 0.2 else ""
    thing = event.category if rng.random() < 0.1 else ""
    return tell(event, details, passive=rng.random() < 0.1, front=rng.random() < 0.3, who=who, verb=verb, thing=thing)


def detail(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """A place, time, colour, quality or manner: stated, left open, or another one."""
    event = draw_event(rng, world)
    focus, *others = rng.sample(SLOTS, 3)
    value, synonym, opposite = draw_detail(rng, world, event, focus)
    given = {slot: draw_detail(rng, world, event, slot)[0] for slot in others}
    hypothesis = {focus: value}
    if rng.random() < 0.3:
        hypothesis[others[0]] = given[others[0]]
    if label != "neutral":
        del given[others[1]]  # a neutral premise has as many details as the others
        said = value if rng.random() < 0.6 else synonym
        given[focus] = said if label == "entailment" else opposite
    premise = tell(event, given, passive=rng.random() < 0.1, front=rng.random() < 0.3)
    return premise, _loosely(rng, event, hypothesis)


def kind(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """Three levels of kinds: a poodle is a dog is an animal; a dog need not be a poodle and is no bird."""
    people, places = rng.choice(world.settings)
    top = rng.choice(list(world.kinds))
    middle, other = rng.sample(list(world.kinds[top]), 2)
    low, sister = rng.sample(world.kinds[top][middle], 2)
    stranger = rng.choice(world.kinds[top][other])
    unsaid = label == "neutral" and rng.random() < 0.4  # the kinds agree, but the hypothesis adds a time
    premise_kind, hypothesis_kind = rng.choice({
        "entailment": ((low, middle), (low, middle), (middle, top), (middle, middle), (low, low)),
        "neutral": ((low, middle), (low, low)) if unsaid else ((middle, low), (middle, low), (top, middle)),
        "contradiction": ((low, other), (stranger, middle), (middle, other), (sister, low), (middle, stranger)),
    }[label])
    who, verb = rng.choice(people), rng.choice(world.care)
    time = rng.choice(world.times) if unsaid or rng.random() < 0.3 else ""
    adjective = words(rng.choice(rng.choice(world.person_qualities)[::2]), who)
    colour, place = rng.choice(world.colours), rng.choice(places)
    premise = sentence("the", adjective, past(verb), a(words(colour, premise_kind)), place, "" if unsaid else time)
    return premise, sentence("the", who, past(verb), a(hypothesis_kind), rng.choice(("", place)), time)


def antonym(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """The act itself: the same, another of opposite sense, or done to what may be another thing."""
    event = draw_event(rng, world)
    slot, more = rng.sample(("trait", "colour", "place", "time"), 2)
    value, extra = draw_detail(rng, world, event, slot)[0], draw_detail(rng, world, event, more)[0]
    asked, same = rng.sample((event.verb.base, event.verb.synonym), 2)
    opposite = event.verb.antonym
    if rng.random() < 0.5:
        asked, same, opposite = opposite, opposite, asked
    premise_thing = hypothesis_thing = rng.choice((event.thing, event.thing, event.category))
    shown = {slot: value} if rng.random() < 0.5 else {}
    if label == "neutral" and rng.random() < 0.5:
        premise_thing, hypothesis_thing = event.category, event.thing
    elif label == "neutral":
        shown = {more: extra}
    given = {slot: value, "quality": draw_detail(rng, world, event, "quality")[0]}
    verb = opposite if label == "contradiction" else same
    premise = tell(event, given, passive=rng.random() < 0.2, verb=verb, thing=premise_thing)
    return premise, tell(event, shown, passive=rng.random() < 0.2, verb=asked, thing=hypothesis_thing)


def roles(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """Who did it to whom: the passive keeps it, an exchange leaves it open, a denial excludes it."""
    people, places = rng.choice(world.settings)
    first, second = rng.sample(people, 2)
    verb = rng.choice([base for base, _ in world.meetings if " " not in base])
    place = rng.choice(("", rng.choice(places)))
    done = past(verb)  # the verbs of meetings without a particle are regular but for teach
    denied = rng.random() < 0.5

    def say(agent: str, other: str, no: bool) -> str:
        if rng.random() < 0.5:
            was = "was not" if no else "was"
            return sentence("the", other, was, done, "by the", agent, place)
        return sentence("the", agent, words("did not", verb) if no else done, "the", other, place)

    hypothesis = say(first, second, denied)
    if label == "neutral":
        return say(second, first, rng.random() < 0.5), hypothesis
    return say(first, second, denied if label == "entailment" else not denied), hypothesis


BOUNDS = (("", 0, 0), ("at least", 0, 99), ("more than", 1, 99), ("at most", -99, 0), ("fewer than", -99, -1))


def count(rng: random.Random, world: World, label: str) -> tuple[str, str]:
    """Numbers and their bounds: five is at least three, at least three may be five, two is fewer than three."""
    event = draw_event(rng, world)
    word, low, high = rng.choice(BOUNDS)
    number = rng.randint(3, 8)
    colour, trait = rng.choice(world.colours), rng.choice(world.thing_qualities).word
    unsaid = label == "neutral" and rng.random() < 0.6  # the numbers agree, but the hypothesis adds a colour
    options = []
    for their_word, their_low, their_high in BOUNDS:
        for theirs in range(2, 10):
            inside = theirs + their_low >= number + low and theirs + their_high <= number + high
            apart = theirs + their_low > number + high or theirs + their_high < number + low
            relation = "entailment" if inside else "contradiction" if apart else "neutral"
            if relation == ("entailment" if unsaid else label):
                options.append((their_word, theirs))
    if not options:
        return count(rng, world, label)
    their_word, theirs = rng.choice(options)
    things = plural(event.thing)
    adjective = trait if unsaid else rng.choice((colour, trait))
    shown = colour if unsaid else rng.choice(("", adjective))
    done = words("the", event.who, past(event.verb.base))
    premise = sentence(done, their_word, NUMBERS[theirs], adjective, things, rng.choice(event.places))
    return premise, sentence(done, word, NUMBERS[number], shown, things)
