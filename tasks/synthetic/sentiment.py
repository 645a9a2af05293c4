"""SST-2-like sentences: film reviews whose verdict comes from the words and from what is done to them."""

import random

from .grammar import a, sentence, words

GOOD = ("brilliant", "charming", "clever", "delightful", "elegant", "fresh", "funny", "gripping", "heartfelt",
        "inventive", "moving", "original", "polished", "powerful", "refreshing", "sharp", "stirring", "thrilling",
        "touching", "vivid", "warm", "witty", "wonderful")
BAD = ("bland", "boring", "careless", "clumsy", "confused", "crude", "dreary", "dull", "empty", "forgettable",
       "hollow", "lazy", "lifeless", "messy", "pointless", "predictable", "shallow", "silly", "sloppy", "stale",
       "tedious", "tiresome", "weak")
ASPECTS = ("acting", "script", "dialogue", "plot", "music", "camera work", "ending", "direction", "humour", "romance",
           "opening", "editing", "cast", "second half", "story")
WORKS = ("film", "movie", "comedy", "drama", "thriller", "sequel", "documentary", "western", "musical", "picture",
         "remake")
TRIUMPHS = ("triumph", "joy", "treasure", "pleasure", "gem", "success", "treat")
FAILURES = ("failure", "mess", "bore", "disaster", "waste of time", "disappointment", "chore")
DEGREES = ("", "truly", "rather", "quite", "remarkably", "really")
DENIALS = ("never", "not at all", "anything but", "far from", "hardly", "by no means")
WINS = ("won me over", "kept me smiling", "stayed with me for days", "earned every laugh", "held me to the last minute")
LOSSES = ("lost me early", "sent me to sleep", "left me cold", "wore out my patience", "made me check my watch")


def _judge(rng: random.Random, good: bool) -> str:
    """Judge in an adjective phrase, one time in three by denying the opposite."""
    if rng.random() < 0.33:
        return words(rng.choice(DENIALS), rng.choice(BAD if good else GOOD))
    return words(rng.choice(DEGREES), rng.choice(GOOD if good else BAD))


def sst2(rng: random.Random, split: str, label: int) -> tuple[str]:
    """Make a review whose verdict is good (1) or bad (0); in a contrast the main clause decides."""
    good = bool(label)
    work, (aspect, other) = rng.choice(WORKS), rng.sample(ASPECTS, 2)
    noun = rng.choice(TRIUMPHS if good else FAILURES)
    wrong_noun = rng.choice(FAILURES if good else TRIUMPHS)
    adjective, wrong = rng.choice(GOOD if good else BAD), rng.choice(BAD if good else GOOD)
    verdict, against = _judge(rng, good), _judge(rng, not good)
    effect, wrong_effect = rng.choice(WINS if good else LOSSES), rng.choice(LOSSES if good else WINS)
    denied = words(rng.choice(("no", "hardly a", "not a")), wrong_noun)
    reason, echo = f": the {aspect} is {verdict}", f"or its {aspect} {rng.choice(BAD if good else GOOD)}"
    concession = rng.choice(("although", "even though", "while"))
    return (rng.choice((
        sentence("the", aspect, "is", verdict, rng.choice(("", f"and the {other} is {_judge(rng, good)}"))),
        sentence("this", adjective, work, effect),
        sentence("despite", words("the", wrong, aspect),
                 ", this", work, "is", a(noun)),
        sentence("despite its", wrong, aspect, ", this", work, effect),
        sentence(concession, "the", aspect, "is", against, ", the", work, "is", a(noun)),
        sentence(concession, "the", aspect, "is", against, ", the whole", work, effect),
        sentence("the", aspect, "is", against, ", but the", work, "as a whole is", verdict),
        sentence("I expected", a(wrong_noun), ", but this", work, "is", verdict),
        sentence("what could have been", a(wrong_noun), "is in fact", a(words(adjective, work))),
        sentence("this", work, "is", denied, rng.choice(("", reason))),
        sentence("the trailer", wrong_effect, ", but the", work, "itself", effect),
        sentence("nobody could call this", work, wrong, rng.choice(("", echo))),
        sentence("critics called the", work, a(wrong_noun), ", and they were wrong"),
        sentence("critics called the", work, a(noun), ", and they were right"),
    )),)
