"""The words the generators share, in two worlds with no content word in common (MNLI's matched and mismatched)."""

from typing import NamedTuple


class Verb(NamedTuple):
    """A transitive verb with a word of the same meaning and one that excludes it."""

    base: str
    synonym: str
    antonym: str


class Pair(NamedTuple):
    """A gradable quality: a word, a word of the same meaning ("" if none) and the opposite."""

    word: str
    synonym: str
    opposite: str


class World(NamedTuple):
    """Everything a sentence can be about in one set of genres."""

    settings: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # (people, places) of one setting
    names: tuple[str, ...]
    things: dict[str, tuple[str, ...]]  # category: its members
    kinds: dict[str, dict[str, tuple[str, ...]]]  # three levels: animal, dog, poodle
    verbs: tuple[Verb, ...]
    care: tuple[str, ...]  # verbs that suit any living thing
    meetings: tuple[tuple[str, str], ...]  # verbs between two people, with synonyms
    activities: tuple[tuple[str, str, str], ...]  # intransitive: base, past, -ing
    person_qualities: tuple[Pair, ...]
    thing_qualities: tuple[Pair, ...]
    comparatives: tuple[tuple[str, str], ...]
    colours: tuple[str, ...]
    times: tuple[str, ...]
    manners: tuple[Pair, ...]


MATCHED = World(
    settings=(
        (("nurse", "doctor", "surgeon", "pharmacist", "patient"), ("in the ward", "in the clinic", "in the pharmacy")),
        (("teacher", "student", "librarian", "coach", "professor"), ("in the school", "in the library", "in the gym")),
        (("chef", "waiter", "baker", "butcher", "grocer"), ("in the kitchen", "in the restaurant", "at the market")),
        (("clerk", "manager", "lawyer", "secretary", "accountant"), ("in the office", "at the bank", "in the lobby")),
        (("mechanic", "driver", "plumber", "carpenter", "engineer"), ("in the garage", "in the street", "at the fair")),
        (("singer", "drummer", "pianist", "violinist", "composer"), ("in the studio", "at the club", "at the concert")),
        (("aunt", "uncle", "grandmother", "neighbour", "cousin"), ("in the garden", "in the attic", "in the park")),
    ),
    names=("Anna", "Boris", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karen", "Leo",
           "Maria", "Nathan", "Olga", "Peter", "Rosa", "Simon", "Tina", "Victor"),
    things={
        "piece of furniture": ("desk", "sofa", "wardrobe", "armchair", "stool", "bookcase"),
        "instrument": ("guitar", "violin", "piano", "drum", "flute", "cello"),
        "tool": ("hammer", "drill", "saw", "wrench", "shovel"),
        "vehicle": ("van", "truck", "taxi", "motorbike", "tram"),
        "appliance": ("kettle", "toaster", "blender", "oven", "fridge"),
        "toy": ("kite", "doll", "puzzle", "yo-yo", "teddy bear"),
        "garment": ("coat", "jacket", "scarf", "sweater", "shirt"),
    },
    kinds={
        "animal": {"dog": ("poodle", "beagle", "terrier", "spaniel"), "bird": ("parrot", "sparrow", "owl", "eagle"),
                   "horse": ("pony", "stallion", "mare"), "fish": ("salmon", "trout", "carp")},
        "plant": {"flower": ("rose", "tulip", "daisy", "lily"), "tree": ("oak", "maple", "birch", "willow")},
    },
    verbs=(Verb("buy", "purchase", "sell"), Verb("find", "discover", "lose"), Verb("repair", "fix", "break"),
           Verb("hide", "conceal", "display"), Verb("lift", "raise", "lower"), Verb("keep", "retain", "discard"),
           Verb("choose", "select", "reject"), Verb("praise", "admire", "criticise"), Verb("push", "shove", "pull")),
    care=("photograph", "see", "paint", "describe"),
    meetings=(("call", "phone"), ("help", "assist"), ("visit", "drop in on"), ("thank", "express thanks to"),
              ("hire", "employ"), ("teach", "instruct"), ("invite", "ask over")),
    activities=(("sleep", "slept", "sleeping"), ("dance", "danced", "dancing"), ("cook", "cooked", "cooking"),
                ("sing", "sang", "singing"), ("study", "studied", "studying"), ("jog", "jogged", "jogging"),
                ("laugh", "laughed", "laughing"), ("complain", "complained", "complaining")),
    person_qualities=(Pair("tall", "", "short"), Pair("happy", "cheerful", "sad"), Pair("rich", "wealthy", "poor"),
                      Pair("careful", "cautious", "reckless"), Pair("calm", "relaxed", "nervous"),
                      Pair("clever", "smart", "foolish"), Pair("young", "youthful", "elderly")),
    thing_qualities=(Pair("large", "big", "small"), Pair("expensive", "costly", "cheap"), Pair("new", "", "old"),
                     Pair("heavy", "weighty", "light"), Pair("clean", "spotless", "dirty"),
                     Pair("beautiful", "lovely", "ugly")),
    comparatives=(("taller", "shorter"), ("older", "younger"), ("richer", "poorer"), ("faster", "slower"),
                  ("stronger", "weaker"), ("happier", "sadder")),
    colours=("red", "blue", "green", "yellow", "white", "black"),
    times=("on Monday", "on Tuesday", "on Friday", "on Sunday", "in the morning", "in the evening", "at noon"),
    manners=(Pair("quickly", "rapidly", "slowly"), Pair("quietly", "silently", "noisily"),
             Pair("willingly", "gladly", "reluctantly"), Pair("secretly", "in secret", "openly")),
)

MISMATCHED = World(
    settings=(
        (("sailor", "captain", "diver", "fisherman", "smuggler"), ("on the deck", "at the harbour", "on the island")),
        (("farmer", "shepherd", "miller", "blacksmith", "gardener"), ("in the barn", "in the meadow", "at the forge")),
        (("king", "queen", "knight", "jester", "wizard"), ("in the castle", "in the tower", "at the palace")),
        (("astronaut", "climber", "explorer", "scientist", "geologist"), ("in the cave", "at the camp", "in the lab")),
        (("actor", "dramatist", "acrobat", "magician", "clown"), ("on the stage", "at the circus", "at the theatre")),
    ),
    names=("Aisha", "Bruno", "Chen", "Dora", "Emil", "Fatima", "Gustav", "Hana", "Ivan", "Julia", "Kofi", "Lucia",
           "Mehmet", "Nora", "Otto", "Priya", "Ravi", "Sofia", "Tomas", "Yuki"),
    things={
        "boat": ("canoe", "raft", "ferry", "yacht", "kayak"),
        "piece of jewellery": ("necklace", "bracelet", "ring", "brooch", "crown"),
        "container": ("barrel", "basket", "bucket", "crate", "jar"),
        "hat": ("helmet", "bonnet", "turban", "beret", "hood"),
        "machine": ("tractor", "printer", "pump", "turbine", "generator"),
    },
    kinds={
        "creature": {"insect": ("beetle", "ant", "wasp", "moth"), "reptile": ("lizard", "crocodile", "turtle"),
                     "ape": ("gorilla", "gibbon", "orangutan"), "feline": ("leopard", "panther", "lynx")},
    },
    verbs=(Verb("seize", "grab", "release"), Verb("attach", "fasten", "detach"), Verb("protect", "guard", "damage"),
           Verb("notice", "spot", "overlook"), Verb("cover", "veil", "expose"), Verb("send", "dispatch", "receive")),
    care=("examine", "sketch", "observe"),
    meetings=(("greet", "salute"), ("rescue", "save"), ("defend", "stand up for"), ("chase", "pursue")),
    activities=(("swim", "swam", "swimming"), ("rest", "rested", "resting"), ("shout", "shouted", "shouting"),
                ("pray", "prayed", "praying"), ("whistle", "whistled", "whistling")),
    person_qualities=(Pair("brave", "courageous", "timid"), Pair("kind", "gentle", "cruel"),
                      Pair("lazy", "idle", "diligent"), Pair("healthy", "fit", "sick")),
    thing_qualities=(Pair("strong", "sturdy", "fragile"), Pair("thick", "", "thin"),
                     Pair("shiny", "gleaming", "dull"), Pair("rare", "unusual", "common")),
    comparatives=(("braver", "shyer"), ("kinder", "crueller"), ("thinner", "fatter"), ("louder", "quieter")),
    colours=("purple", "orange", "pink", "grey", "brown"),
    times=("in June", "in March", "in autumn", "in winter", "at dawn", "at midnight"),
    manners=(Pair("gently", "softly", "roughly"), Pair("proudly", "with pride", "humbly"),
             Pair("patiently", "without haste", "hurriedly")),
)
