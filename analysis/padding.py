"""How many examples a task has, how long they are, and how long a batch of them is: conf/table/tasks.csv."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

import numpy as np

from analysis.declared import CONF

SLOTS = (np.arange(2000) + 0.5) / 2000  # where integrals over the quantiles are taken
Made = TypeVar("Made")
MEGA = 50  # transformers groups by length within so many batches


@dataclass(frozen=True)
class Texts:
    """The training texts of a task in tokens; tests/test_cost.py measures them again where the data are at hand."""

    examples: int
    mean: float  # tokens, none cut
    measured: str  # on what, in words
    levels: tuple[float, ...]  # shares from 0 to 1 …
    quantiles: tuple[float, ...]  # … and the tokens that so many of the texts have at most

    def kept(self, length: int) -> float:
        """Mean tokens when texts are cut to `length`."""
        return self._scaled(self._at(SLOTS, length))

    def padded(self, length: int, batch: int, batching: str, examples: int, together: int = 1) -> float:
        """Mean tokens when each is padded to the longest of its batch, and of the `together` batches beside it, which
        have their own order.

        shuffle: batches are drawn at random, so it is the expected longest of batch x together. grouped: so many
        batches are sorted by length, and of these groups, each with its longest, `together` stand beside each other."""
        if batching == "shuffle":
            return self._scaled(self._at(SLOTS ** (1 / min(batch * together, examples)), length))
        groups = min(examples // (4 * batch), MEGA) or 1
        longest = self._at(np.arange(1, groups + 1) * batch / (groups * batch + 1), length)
        chance = np.diff((np.arange(groups + 1) / groups) ** together)  # that a group is the longest of them
        return self._scaled(longest * chance * groups)

    def _at(self, shares: np.ndarray, length: int) -> np.ndarray:
        return np.minimum(np.interp(shares, self.levels, self.quantiles), length)

    def _scaled(self, tokens: np.ndarray) -> float:
        """Their mean, in the unit of the stated mean (the quantiles are rounded)."""
        return float(tokens.mean()) * self._unit

    @cached_property
    def _unit(self) -> float:
        return self.mean / float(np.interp(SLOTS, self.levels, self.quantiles).mean())


@cache
def texts() -> dict[str, Texts]:
    """Every task's."""
    def read(row: dict[str, str], levels: dict[str, float]) -> Texts:
        return Texts(int(row["examples"]), float(row["tokens"]), row["measured on"], tuple(levels.values()),
                     tuple(float(row[name]) for name in levels))

    return _table("tasks", "task", lambda row: read(row, {name: float(name[:-1]) / 100 for name in row
                                                          if name.endswith("%")}))


def _table(name: str, key: str, made: Callable[[dict[str, str]], Made]) -> dict[str, Made]:
    with (CONF / "table" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return {row[key]: made(row) for row in csv.DictReader(file)}
