"""QNLI-like pairs: a question and a sentence about the same thing that answers it or tells something else."""

import random

from .grammar import NUMBERS

FIRST = ("Alder", "Birken", "Calder", "Dorn", "Elm", "Fern", "Garn", "Hazel", "Iron", "Kings", "Lang", "Maple", "North",
         "Oster", "Pine", "Raven", "Silver", "Thorn", "West", "Winter")
LAST = ("bridge", "ford", "field", "haven", "mouth", "stone", "wick", "dale")
SORTS = ("museum", "theatre", "library", "hotel", "school", "station", "hospital", "castle")
PEOPLE = ("Ada Moss", "Carl Brandt", "Edith Lowe", "Frank Ashby", "Helen Voss", "Ivo Marsh", "Laura Quill",
          "Max Penrose", "Nina Falk", "Oscar Reed", "Ruth Hale", "Theo Lind")
TOWNS = ("a quiet valley", "the old harbour", "a steep hill", "the market square", "a narrow lane", "the river bank")
MATERIALS = ("red brick", "grey stone", "dark timber", "white marble", "steel and glass")
# Each attribute: ways to ask for it, and ways to state it after the name of the place.
ATTRIBUTES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("When did {x} open?", "In what year was {x} opened?", "How long ago did {x} first receive the public?"),
     ("opened its doors in {year}", "has welcomed people since {year}", "was inaugurated in {year}")),
    (("Who designed {x}?", "Who was the architect of {x}?", "Who drew the plans for {x}?"),
     ("was designed by {person}", "was the work of the architect {person}", "follows plans drawn by {person}")),
    (("Where is {x}?", "In what spot does {x} stand?", "Where can {x} be found?"),
     ("stands near {town}", "lies close to {town}", "is located by {town}")),
    (("What is {x} made of?", "Of what material was {x} built?", "What do the walls of {x} consist of?"),
     ("was built of {material}", "has walls of {material}", "is made of {material}")),
    (("How many people work at {x}?", "How large is the staff of {x}?", "How many employees does {x} have?"),
     ("employs {number} hundred people", "has a staff of {number} hundred", "gives work to {number} dozen people")),
    (("How much did {x} cost?", "What was the price of building {x}?", "How much money was spent on {x}?"),
     ("cost {number} million crowns", "took {number} million crowns to build",
      "was built for {number} million crowns")),
    (("How many floors does {x} have?", "How tall is {x}?", "On how many levels is {x} built?"),
     ("rises to {number} floors", "has {number} storeys", "is laid out on {number} levels")),
    (("Who paid for {x}?", "Who funded {x}?", "Whose money made {x} possible?"),
     ("was financed by {person}", "was paid for by {person}", "was a gift from the merchant {person}")),
    (("Why was {x} closed for a time?", "What caused {x} to shut?", "For what reason did {x} close?"),
     ("had to close because of {cause}", "was shut down after {cause}", "could not stay open owing to {cause}")),
    (("Who runs {x} today?", "Who is in charge of {x}?", "Who is the head of {x} now?"),
     ("is run by {person}", "is now headed by {person}", "has {person} as its director")),
)
CAUSES = ("a flood", "a fire", "a storm", "a lack of money", "a long strike")


def qnli(rng: random.Random, split: str, label: int) -> tuple[str, str]:
    """Make a question and a sentence that tells two things; the label says whether one of them is asked for."""
    place = f"the {rng.choice(FIRST)}{rng.choice(LAST)} {rng.choice(SORTS)}"
    told = rng.sample(range(len(ATTRIBUTES)), 3)
    asked = told[rng.randrange(2)] if label == 0 else told[2]
    question = rng.choice(ATTRIBUTES[asked][0]).format(x=place)
    facts = [_state(rng, rng.choice(ATTRIBUTES[attribute][1])) for attribute in told[:2]]
    shape = rng.choice(("{x} {0} and {1}.", "{x} {0} and {1}.", "{x}, which {1}, {0}.", "{x} {0}; it {1}."))
    statement = shape.format(*facts, x=place)
    return question, statement[0].upper() + statement[1:]


def _state(rng: random.Random, way: str) -> str:
    return way.format(year=rng.randint(1801, 1999), person=rng.choice(PEOPLE), town=rng.choice(TOWNS),
                      material=rng.choice(MATERIALS), cause=rng.choice(CAUSES), number=rng.choice(NUMBERS[2:]))
