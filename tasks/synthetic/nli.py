"""MNLI- and RTE-like pairs: a mix of the kinds of inference in nli_details and nli_logic."""

import random
from collections.abc import Callable

from . import nli_details, nli_logic
from .lexicon import MATCHED, MISMATCHED
from .scene import draw_detail, draw_event, tell

Phenomenon = Callable[..., tuple[str, str]]
# Shares of the mix: what a six-layer encoder picks up from 4096 pairs is common, role reversal and arithmetic rare.
MIX: tuple[tuple[Phenomenon, int], ...] = (
    (nli_details.detail, 31), (nli_details.kind, 5), (nli_details.antonym, 15), (nli_details.roles, 2),
    (nli_details.count, 2), (nli_logic.implicative, 18), (nli_logic.report, 7), (nli_logic.connective, 12),
    (nli_logic.quantifier, 4), (nli_logic.order, 2), (nli_logic.comparison, 2),
)
PHENOMENA = tuple(phenomenon for phenomenon, _ in MIX)
SHARES = tuple(share for _, share in MIX)
LABELS = ("entailment", "neutral", "contradiction")


def mnli(rng: random.Random, split: str, label: int) -> tuple[str, str]:
    """Make a premise and hypothesis; the mismatched split lives in a world of other words."""
    world = MISMATCHED if split == "validation_mismatched" else MATCHED
    phenomenon = rng.choices(PHENOMENA, SHARES)[0]
    return phenomenon(rng, world, LABELS[label])


def rte(rng: random.Random, split: str, label: int) -> tuple[str, str]:
    """Make a two-way pair; half of the premises go on with a second sentence that has no bearing on it."""
    relation = "entailment" if label == 0 else rng.choice(("neutral", "contradiction"))
    phenomenon = rng.choices(PHENOMENA, SHARES)[0]
    premise, hypothesis = phenomenon(rng, MATCHED, relation)
    if rng.random() < 0.5:
        event = draw_event(rng, MATCHED)
        other = tell(event._replace(who=rng.choice(MATCHED.names)),
                     {"trait": draw_detail(rng, MATCHED, event, "trait")[0]}).replace("The ", "", 1)
        premise = f"{premise} {other}"
    return premise, hypothesis
