"""Where the record of each trial of a search is, and how a trial is said."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hydra import compose
from hydra.types import TaskFunction
from omegaconf import DictConfig

from engine.contract import Refused

Words = list[str]


class Finder:
    """Where the record of a trial is, with the data looked at once for all of them. fixed: the words that they share.

    settings: those of the cell itself, with the recipe's own numbers. examples: on which it is judged, where its number
    is an accuracy, else 0. Raises Refused for a cell that cannot run."""

    def __init__(self, config: DictConfig, loader: Any, function: TaskFunction, fixed: Words) -> None:
        from engine.resolve import check_model, ground

        self.config, self.loader, self.fixed = config, loader, fixed
        self.make = function.planned  # type: ignore[attr-defined]  # run.py's, as for a table
        cell = self.make(loader.load_sweep_config(config, fixed), fixed)
        if cell is None:
            raise Refused(f"task={config.task.name} trains nothing: there is nothing to search")
        check_model(cell)
        base = ground(cell)
        self.out, self.settings = cell.out, cell.settings
        self.data, self.revision = base.raw.sha256, base.revision
        splits = [cell.task.scored] if cell.decode else [*cell.task.validation.values()]
        judged = cell.task.metric.endswith("accuracy")
        self.examples = sum(len(base.raw.rows[split]) for split in splits) if judged else 0
        self._planned(fixed, cell)

    def own(self, words: Sequence[str]) -> tuple[str, ...]:
        """Those words of a trial's command line that the others do not share."""
        shared = {word.partition("=")[0] for word in self.fixed}
        return tuple(word for word in words if word.partition("=")[0] not in shared)

    def trial(self, own: Words) -> Any:
        """The planned cell of a trial. own: the words that are its own."""
        words = [*self.fixed, *own]
        return self._planned(words, self.make(self.loader.load_sweep_config(self.config, words), []))

    def command(self, own: Words) -> str:
        """What runs a trial again, or says that it is there: without the search where that is the same cell."""
        bare = [word for word in self.fixed if not word.startswith("search=")] + own
        try:
            made = self.make(compose("config", bare, return_hydra_config=True), [])
            same = self._planned(bare, made).key == self.trial(own).key
        except Exception:  # a setting that the search alone has
            same = False
        return shlex.join(["python", "run.py", *(bare if same else [*self.fixed, *own, "hydra.mode=RUN"])])

    def _planned(self, words: Words, cell: Any) -> Any:
        from engine import start
        from engine.planner import planned

        begun = start.find(cell.settings, self.out, self.revision).identity
        made = planned(words, cell, self.data, self.revision, [begun])
        return replace(made, title=" · ".join(filter(None, [made.title, rounded(self.own(words))])))


def rounded(words: Sequence[str]) -> str:
    """Words for reading: lr=0.00242 batch=8"""
    return " ".join(f"{key}={short(value)}" for key, _, value in (word.partition("=") for word in words))


def short(value: Any) -> str:
    """A number with three digits; all others, and whole ones, as they are."""
    try:
        return str(int(value)) if str(value).isdigit() else f"{float(value):.3g}"
    except (TypeError, ValueError):
        return str(value)
