"""WNLI-like pairs: whom or what a pronoun stands for, where one word decides it."""

import random

from .grammar import sentence

WOMEN = ("Anna", "Clara", "Elena", "Grace", "Irene", "Karen", "Maria", "Olga", "Rosa", "Tina", "Vera", "Wendy")
MEN = ("Boris", "David", "Felix", "Hugo", "Jonas", "Leo", "Nathan", "Peter", "Simon", "Victor", "Walter", "Yves")
FEMALE = ("the girl", "the woman", "the aunt", "the grandmother", "the queen", "the waitress", "the actress")
MALE = ("the boy", "the man", "the uncle", "the grandfather", "the king", "the waiter", "the actor")
MANY = ("the girls", "the boys", "the children", "the twins", "the neighbours", "the nurses", "the students")
NAMED = {"she": WOMEN, "he": MEN}
DESCRIBED = {"she": FEMALE, "he": MALE, "they": MANY}
# Each schema: the sentence, what follows the pronoun when it is the first noun, and when it is the second.
PERSONS: tuple[tuple[str, str, str], ...] = (
    ("{0} thanked {1} because {p}", "had received help", "had given help"),
    ("{0} could not lift {1} because {p}", "was too weak", "was too heavy"),
    ("{0} beat {1} in the race because {p}", "had a good start", "had a bad start"),
    ("{0} lent {1} some money because {p}", "had plenty of it", "was in need of it"),
    ("{0} asked {1} a question, but {p}", "got no answer", "gave no answer"),
    ("{0} paid {1} well because {p}", "was pleased with the work", "had done the work"),
    ("{0} envied {1} because {p}", "had no success", "had great success"),
    ("{0} followed {1} to the station because {p}", "did not know the way", "knew the way"),
    ("{0} apologised to {1} because {p}", "had been rude", "had been insulted"),
    ("{0} waited for {1} because {p}", "had come early", "was running late"),
    ("{0} obeyed {1} because {p}", "had to serve", "had the power"),
    ("{0} taught {1} to swim because {p}", "could swim very well", "was afraid of water"),
    ("{0} sold the house to {1} because {p}", "wanted to move out", "wanted to move in"),
    ("{0} comforted {1} because {p}", "cared a lot", "was in tears"),
    ("{0} visited {1} in hospital because {p}", "was worried", "had been injured"),
    ("{0} feared {1} because {p}", "had weak nerves", "had a bad temper"),
    ("{0} hid from {1} because {p}", "did not want to be found", "was searching the house"),
    ("{0} told {1} the news because {p}", "had just read it", "had not heard it"),
)
THINGS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str, str], ...] = (
    ("the {0} does not fit into the {1} because it", ("statue", "globe", "vase", "helmet", "violin", "clock", "teapot"),
     ("box", "bag", "drawer", "crate", "locker", "basket"), "is too big", "is too small"),
    ("the {0} crashed through the {1} because it", ("ball", "rock", "hammer", "brick", "truck", "boulder"),
     ("barrier", "fence", "window", "shelf", "roof", "wall"), "is made of hard steel", "is made of thin paper"),
    ("the {0} overtook the {1} because it", ("bus", "van", "boat", "train", "bicycle", "horse"),
     ("truck", "cart", "tram", "taxi", "tractor", "coach"), "was going so fast", "was going so slowly"),
    ("the {0} hid the {1} from view because it", ("tree", "wall", "curtain", "tower", "hedge", "screen"),
     ("statue", "house", "door", "bench", "fountain", "sign"), "stood in front", "stood behind"),
    ("water ran from the {0} into the {1} until it", ("jug", "bottle", "kettle", "tank", "barrel", "bucket"),
     ("glass", "bowl", "pot", "basin", "cup", "tub"), "was empty", "was full"),
    ("the {0} was put on the {1} although it", ("lamp", "cat", "book", "plate", "radio", "plant"),
     ("shelf", "stool", "desk", "bench", "cupboard", "chest"), "could easily fall off", "could hardly hold any weight"),
)


def wnli(rng: random.Random, split: str, label: int) -> tuple[str, str]:
    """Make a sentence with a pronoun and a reading of it that is right (1) or wrong (0).

    In two sentences of three the form of the pronoun helps (she, he or they), in the others only the sense decides.
    """
    right = rng.randrange(2)
    shown = right if label else 1 - right
    if rng.random() < 0.15:
        frame, firsts, seconds, *ends = rng.choice(THINGS)
        things = (rng.choice(firsts), rng.choice(seconds))
        return sentence(frame.format(*things), ends[right]), sentence("the", things[shown], ends[right])
    frame, *ends = rng.choice(PERSONS)
    classes = NAMED if rng.random() < 0.25 else DESCRIBED
    forms = list(classes)
    one, other = rng.sample(forms, 2) if rng.random() < 0.8 else (rng.choice(forms),) * 2
    first = rng.choice(classes[one])
    second = rng.choice([name for name in classes[other] if name != first])
    pronoun = (one, other)[right]
    end = ends[right].replace("was ", "were ", 1) if pronoun == "they" else ends[right]
    reader = (one, other)[shown]
    reading = ends[right].replace("was ", "were ", 1) if reader == "they" else ends[right]
    people = (first, second)
    return sentence(frame.format(*people, p=pronoun), end), sentence(people[shown], reading)
