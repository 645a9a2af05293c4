"""Scores: GLUE's as an `evaluate` metric (glue.py), those of generated text by what the paper's own evaluation ran.

evaluate's own load() fetches a script from the hub for every name; nothing here needs a network.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

from engine.contract import Numbers, Refused

PACKAGES = {"nltk": "nltk", "pycocoevalcap": "pycocoevalcap==1.2", "rouge_score": "rouge-score==0.1.2",
            "sacrebleu": "sacrebleu==2.6.0"}  # module -> what pip installs
Result = TypeVar("Result")


class Unavailable(Exception):
    """A metric that this machine cannot compute: why, and what to install, in one line."""


@dataclass(frozen=True)
class Scores:
    """Named numbers in the unit that the paper prints, and for each metric that could not be computed its reason.

    seconds says where the time went; it is no part of the result.
    """

    numbers: Numbers
    missing: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


class Card:
    """Collects one metric after the other: a failing one becomes a reason and does not take the others along."""

    def __init__(self) -> None:
        self.numbers: Numbers = {}
        self.missing: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def timed(self, step: str, compute: Callable[[], Result]) -> Result:
        """What compute() returns; its time is added to the step's."""
        start = perf_counter()
        try:
            return compute()
        finally:
            self.seconds[step] = self.seconds.get(step, 0) + perf_counter() - start

    def add(self, name: str, compute: Callable[[], float], unit: float = 1) -> None:
        """Notes compute() in its unit under the name, or why it is Unavailable."""
        try:
            self.numbers[name] = unit * float(self.timed(name, compute))
        except Unavailable as reason:
            self.missing[name] = str(reason)

    def scores(self) -> Scores:
        """What was collected."""
        return Scores(self.numbers, self.missing, self.seconds)


def need(module: str) -> Any:
    """The imported module, or Unavailable with the pip command that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.partition(".")[0]]
        raise Unavailable(f"{error}; pip install {package}".replace("\n", " ")) from error


def paired(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Outputs and the references of each as single lines: newlines are blanks, as the official scorers treat them.

    Empty references are left out (padding); an empty output stays, every metric counts it with zero. Raises Refused if
    the lengths differ, if there is nothing, or if an input has no reference.
    """
    if len(hypotheses) != len(references):
        raise Refused(f"{len(hypotheses):,} outputs and references for {len(references):,} inputs: give as many of one "
                      "as of the other")
    if not hypotheses:
        raise Refused("no outputs to score")
    lines = [[_line(text) for text in several if text.strip()] for several in references]
    empty = next((place for place, several in enumerate(lines, 1) if not several), None)
    if empty is not None:
        raise Refused(f"input {empty:,} of {len(lines):,} has no reference")
    return [_line(text) for text in hypotheses], lines


def _line(text: str) -> str:
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")
