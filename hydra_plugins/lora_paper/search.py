"""Hydra's search of ours: one method on one task, tuned by Optuna around the recipe's own numbers (search=glue, …)."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from engine.contract import Refused, Unfinished
from hydra_plugins.lora_paper.finder import Finder, short
from hydra_plugins.lora_paper.trials import Trials

Words = list[str]
Factors = Mapping[str, Sequence[float]]
TUNED = ("lr", "epochs", "batch", "warmup", "weight_decay", "dropout", "cls_dropout", "label_smoothing", "r", "alpha")
INSTALL = "search=… needs Optuna, the extra [search]: pip install -e '.[search]'"


class Search(Sweeper):
    """trials, jobs, seed: of the proposals; between, one_of: what is searched, as factors of the recipe's numbers."""

    def __init__(self, trials: int, jobs: int, seed: int, between: Factors, one_of: Factors, params: Any,
                 sets: Any) -> None:
        self.trials, self.jobs, self.seed = trials, jobs, seed
        self.between, self.one_of = between, one_of
        self.table = bool(params or sets)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra gives: how to compose a trial and what to run."""
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def sweep(self, arguments: Words) -> None:
        """Proposes and runs all trials, and says which was best. Raises Refused before anything runs, Unfinished where
        no trial gave a number."""
        assert self.config is not None and self.hydra_context is not None
        fixed, searched = self._said(OverridesParser.create().parse_overrides(arguments))
        find = Finder(self.config, self.hydra_context.config_loader, self.task_function, fixed)
        if self.config.runtime.together is not False:
            raise Refused("runtime.together: the trials of a search come one after the other; leave it out")
        space = self._space(find.settings, fixed, searched)
        own = _own(space, find.settings)
        name, show = f"search={self.config.hydra.runtime.choices.search}", self.config.runtime.show
        first = ", the first with the recipe's own numbers" if own else ""
        budget = f"{self.trials} trials (hydra.sweeper.trials={self.trials})"
        print(f"{name}: {budget}{first}; {', '.join(map(_described, space))}", flush=True)
        if show is not None:
            if show != "plan":
                raise Refused(f"runtime.show={show}: of one run: leave {name} out; a search has runtime.show=plan")
            return
        impl = self._optuna(space, own)
        impl.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        launcher = [word for word in self.config.hydra.overrides.hydra if not word.startswith("hydra.mode=")]
        command = shlex.join(["python", "run.py", *arguments, *launcher])
        impl.launcher = trials = Trials(impl.launcher, find, name, command, own)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # Optuna's sweeper writes its best there
        with trials.told():
            try:
                impl.sweep(arguments)
            except ValueError:
                if trials.values:  # else it is that there is no best one
                    raise
        if not trials.values:
            why = next(iter(trials.failed.values()))
            raise Unfinished(f"{name}: all {self.trials} trials failed; the first: {why}")

    def _said(self, said: Sequence[Override]) -> tuple[Words, Words]:
        """The words that all trials share, and those that are a space themselves (r=2,4,8). Raises Refused where there
        is more than one cell to tune."""
        if self.table:
            raise Refused("search=… tunes one cell, table=… runs many: leave one of them out")
        for word in said:
            if word.is_sweep_override() and word.key_or_group not in TUNED:
                raise Refused(f"{word.input_line}: a search is for one method on one task with one seed; start it once "
                              f"for each, with one value of {word.key_or_group}")
        words = [(str(word.input_line), word.is_sweep_override()) for word in said]
        return [word for word, sweep in words if not sweep], [word for word, sweep in words if sweep]

    def _space(self, settings: Mapping[str, Any], fixed: Words, searched: Words) -> list[Override]:
        """What is proposed, in Hydra's words, around the recipe's own numbers, but for what the command line says."""
        said = {word.partition("=")[0] for word in (*fixed, *searched)}
        space = []
        for key in [key for key in (*self.between, *self.one_of) if key not in said]:
            own = settings[key]
            if key in self.between:
                low, high = self.between[key]
                space.append(f"{key}=tag(log,interval({own * low!r},{own * high!r}))")
            else:
                values = dict.fromkeys(str(max(1, round(own * factor))) for factor in self.one_of[key])
                space.append(f"{key}=choice({','.join(values)})")
        return OverridesParser.create().parse_overrides([*space, *searched])

    def _optuna(self, space: Sequence[Override], own: Mapping[str, Any]) -> Any:
        """Hydra's Optuna sweeper, in memory: with the same seed it proposes the same, and the records are there. The
        recipe's own numbers come first."""
        try:
            import optuna
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
        except ImportError:
            raise Refused(INSTALL) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.CRITICAL)  # Trials says it
        sampler, storage = optuna.samplers.TPESampler(seed=self.seed), optuna.storages.InMemoryStorage()
        if own:
            study = optuna.create_study(study_name="search", storage=storage, direction="maximize")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.enqueue_trial(dict(own))
        params = OmegaConf.create({word.key_or_group: str(word.input_line).partition("=")[2] for word in space})
        return OptunaSweeperImpl(sampler=sampler, direction="maximize", storage=storage, study_name="search",
                                 n_trials=self.trials, n_jobs=self.jobs, max_failure_rate=1.0, search_space=None,
                                 custom_search_space=None, params=params)


def _own(space: Sequence[Override], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's own numbers for what is searched; empty where one of them lies outside."""
    own = {str(word.key_or_group): settings.get(word.key_or_group) for word in space}
    return own if all(_within(own[str(word.key_or_group)], word) for word in space) else {}


def _within(own: Any, word: Override) -> bool:
    values = word.value()
    if not isinstance(values, IntervalSweep):
        return any(type(each) is type(own) and each == own for each in word.sweep_iterator())
    whole = isinstance(values.start, int) and isinstance(values.end, int)  # Optuna takes whole numbers alone, then
    assert values.start is not None and values.end is not None
    return isinstance(own, int if whole else (int, float)) and values.start <= own <= values.end


def _described(word: Override) -> str:
    """A space for readers: lr 0.0005 to 0.008 (log), batch 8 or 16"""
    values = word.value()
    if isinstance(values, IntervalSweep):
        return f"{word.key_or_group} {short(values.start)} to {short(values.end)}" + " (log)" * ("log" in values.tags)
    return f"{word.key_or_group} {' or '.join(map(str, word.sweep_string_iterator()))}"
