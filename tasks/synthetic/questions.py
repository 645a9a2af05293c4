"""QQP-like pairs: a question asked again in other words, or a near miss."""

import random

from .grammar import a

THINGS = ("guitar", "bicycle", "camera", "laptop", "aquarium", "motorbike", "telescope", "greenhouse", "fireplace",
          "piano", "sewing machine", "coffee machine", "drum kit", "tent", "sailing boat", "solar panel", "heat pump",
          "trampoline", "microwave", "chainsaw", "printer", "scooter", "dishwasher", "treadmill")
CITIES = ("Paris", "Rome", "Vienna", "Madrid", "Lisbon", "Prague", "Berlin", "Athens", "Dublin", "Oslo", "Warsaw",
          "Zurich", "Milan", "Geneva", "Munich")
SUBJECTS = ("French", "Spanish", "German", "Greek", "chess", "algebra", "statistics", "knitting", "photography",
            "tennis", "swimming", "yoga", "cooking", "drawing", "programming", "pottery", "juggling", "calligraphy")
GROUPS = ("children", "adults", "beginners", "older people", "busy parents", "teenagers", "students", "nurses")
# Each intent: the classes of its two slots, and ways to ask the same thing.
INTENTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("city", "city", ("How do I get from {0} to {1}?", "What is the best way to travel from {0} to {1}?",
                      "How can one reach {1} from {0}?", "Which route to {1} should I take from {0}?")),
    ("city", "city", ("How far is {1} from {0}?", "What is the distance between {0} and {1}?",
                      "How many kilometres lie between {0} and {1}?", "How far apart are {0} and {1}?")),
    ("city", "city", ("Is {0} more expensive than {1}?", "Does living in {0} cost more than in {1}?",
                      "Is life in {1} cheaper than in {0}?", "Are prices higher in {0} than in {1}?")),
    ("city", "city", ("Is the weather in {0} warmer than in {1}?", "Is it hotter in {0} than in {1}?",
                      "Is {1} colder than {0}?", "Does {1} have a cooler climate than {0}?")),
    ("subject", "group", ("How can {1} learn {0}?", "What is the best way for {1} to learn {0}?",
                          "How should {1} go about learning {0}?", "How do {1} pick up {0}?")),
    ("subject", "group", ("Why should {1} learn {0}?", "What good does {0} do {1}?",
                          "What do {1} gain from learning {0}?", "For what reasons is {0} useful to {1}?")),
    ("subject", "group", ("How long does it take {1} to learn {0}?", "How much time do {1} need for learning {0}?",
                          "How many months do {1} need to learn {0}?", "How quickly can {1} learn {0}?")),
    ("subject", "city", ("Where can I find a {0} class in {1}?", "Which places in {1} teach {0}?",
                         "Who gives {0} lessons in {1}?", "Where in {1} can I take lessons in {0}?")),
    ("subject", "city", ("What does a {0} class in {1} cost?", "How much do I pay for {0} lessons in {1}?",
                         "How expensive are lessons in {0} in {1}?", "What is the price of a {0} course in {1}?")),
    ("thing", "group", ("Which {0} is best for {1}?", "What {0} would you recommend to {1}?",
                        "What is the right {0} for {1}?", "What kind of {0} suits {1}?")),
    ("thing", "group", ("Is a {0} too dangerous for {1}?", "Can {1} safely use a {0}?",
                        "Is it safe for {1} to use a {0}?", "Does a {0} put {1} at risk?")),
    ("thing", "city", ("Where can I buy a {0} in {1}?", "Who sells a good {0} in {1}?",
                       "Which shops in {1} sell a {0}?", "Where in {1} could I purchase a {0}?")),
    ("thing", "city", ("Who can repair my {0} in {1}?", "Where in {1} can I get my {0} fixed?",
                       "Which place in {1} would mend a broken {0}?", "Where do people in {1} have a {0} repaired?")),
    ("thing", "thing", ("Should I buy a {0} before a {1}?", "Is it wise to get a {0} first and then a {1}?",
                        "Should the purchase of a {1} wait until I have a {0}?",
                        "Is a {1} better bought after a {0}?")),
    ("thing", "thing", ("Is a {0} harder to maintain than a {1}?", "Does a {0} need more care than a {1}?",
                        "Is a {1} easier to look after than a {0}?", "Does a {1} take less upkeep than a {0}?")),
)
SLOTS = {"city": CITIES, "subject": SUBJECTS, "group": GROUPS, "thing": THINGS}
SYMMETRIC = 1  # the distance is the same both ways


def qqp(rng: random.Random, split: str, label: int) -> tuple[str, str]:
    """Make two askings of one question (1), or of two that differ in a slot, in direction or in intent (0)."""
    number = rng.randrange(len(INTENTS))
    kind, other_kind, ways = INTENTS[number]
    first = rng.choice(SLOTS[kind])
    second = rng.choice([value for value in SLOTS[other_kind] if value != first])
    here, there = rng.sample(ways, 2)
    filling, new = (first, second), [first, second]
    if not label:
        change = rng.random()
        if change < 0.25 and kind == other_kind and number != SYMMETRIC:
            new.reverse()
        elif change < 0.5:
            same = [intent for intent in INTENTS if intent[:2] == (kind, other_kind) and intent[2] != ways]
            if same:
                there = rng.choice(rng.choice(same)[2])
            else:
                new[0] = rng.choice([value for value in SLOTS[kind] if value not in filling])
        else:
            slot = rng.randrange(2)
            new[slot] = rng.choice([value for value in SLOTS[(kind, other_kind)[slot]] if value not in filling])
    return _ask(here, filling), _ask(there, new)


def _ask(way: str, filling: tuple[str, str] | list[str]) -> str:
    for number, value in enumerate(filling):
        slot = f"{{{number}}}"
        way = way.replace(f" a {slot}", f" {a(value)}").replace(slot, value)
    return way
