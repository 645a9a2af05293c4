"""Hydra's search of ours: one method on one task, tuned by Optuna around the recipe's own numbers (search=glue, …)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from engine.contract import Elsewhere, Refused, Unfinished

Words = list[str]
Factors = Mapping[str, Sequence[float]]
LOOK = 5.0  # seconds between two looks at a trial that another process runs
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
        space = self._space(fixed, searched)
        name, show = f"search={self.config.hydra.runtime.choices.search}", self.config.runtime.show
        spread = [*(f"{key}={values}" for key, values in space.items()), *searched]
        print(f"{name}: {self.trials} trials; {', '.join(spread)}", flush=True)
        if show is not None:
            if show != "plan":
                raise Refused(f"runtime.show={show}: of one run: leave {name} out; a search has runtime.show=plan")
            return
        impl = self._optuna(space)
        impl.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        impl.launcher = trials = Trials(impl.launcher, fixed)
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # Optuna's sweeper writes its best there
        try:
            impl.sweep(arguments)
        except ValueError:
            if trials.values:  # else it is that there is no best one
                raise
        print(trials.summary(name), flush=True)
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

    def _space(self, fixed: Words, searched: Words) -> dict[str, str]:
        """What is proposed, in Hydra's words, around the recipe's own numbers, but for what the command line says.
        Raises Refused for a cell that cannot run."""
        from engine.plan import Planner

        assert self.config is not None and self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, fixed)
        cell = self.task_function.planned(config, fixed)  # type: ignore[attr-defined]  # run.py's, as for a table
        if cell is None:
            raise Refused(f"task={config.task.name} trains nothing: there is nothing to search")
        Planner(lambda _: cell).plan([fixed])
        said = {word.partition("=")[0] for word in (*fixed, *searched)}
        space = {}
        for key in [key for key in (*self.between, *self.one_of) if key not in said]:
            own = cell.settings[key]
            if key in self.between:
                low, high = self.between[key]
                space[key] = f"tag(log,interval({own * low!r},{own * high!r}))"
            else:
                values = dict.fromkeys(str(max(1, round(own * factor))) for factor in self.one_of[key])
                space[key] = f"choice({','.join(values)})"
        return space

    def _optuna(self, space: Mapping[str, str]) -> Any:
        """Hydra's Optuna sweeper, in memory: with the same seed it proposes the same, and the records are there."""
        try:
            import optuna
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
        except ImportError:
            raise Refused(INSTALL) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.CRITICAL)  # Trials says it
        sampler = optuna.samplers.TPESampler(seed=self.seed)
        return OptunaSweeperImpl(sampler=sampler, direction="maximize", storage=None, study_name=None,
                                 n_trials=self.trials, n_jobs=self.jobs, max_failure_rate=1.0, search_space=None,
                                 custom_search_space=None, params=OmegaConf.create(dict(space)))


class Trials(Launcher):
    """The chosen launcher, with what each trial gave kept: its number, or why it has none. fixed: the words that all
    trials share, left out of their names."""

    def __init__(self, launcher: Launcher, fixed: Words) -> None:
        self.launcher, self.fixed = launcher, set(fixed)
        self.values: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing: the launcher is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the trials, once more what another process was running. Raises Refused as a trial did."""
        returns = list(self.launcher.launch(job_overrides, initial_job_idx))
        for i, words in enumerate(job_overrides):
            while isinstance(error := _error(returns[i]), Elsewhere):
                print(f"waiting: {error}", flush=True)
                time.sleep(LOOK)
                returns[i] = self.launcher.launch([words], initial_job_idx + i)[0]
            if isinstance(error, Refused):
                raise error
            name = " ".join(word for word in words if word not in self.fixed)
            if error is None and isinstance(returns[i].return_value, (int, float)):
                self.values[name] = float(returns[i].return_value)
                said = f"{self.values[name]:.2f}"
            else:
                self.failed[name] = "it has no number" if error is None else str(error).partition("\n")[0]
                said = f"failed ({self.failed[name]})"
            print(f"trial {initial_job_idx + i + 1}: {said} with {name}", flush=True)
        return returns

    def summary(self, search: str) -> str:
        """How the search ended: what failed, and the best trial."""
        count = len(self.values) + len(self.failed)
        lines = [f"{search}: {len(self.values)} of {count} different trials gave a number"]
        lines += [f"failed: {name}: {why}" for name, why in self.failed.items()]
        if self.values:
            best = max(self.values, key=lambda name: self.values[name])
            lines.append(f"best: {self.values[best]:.2f} with {best}")
        return "\n".join(lines)


def _error(returned: JobReturn) -> Any:
    """What a trial raised, None where it ended well."""
    return None if returned.status == JobStatus.COMPLETED else returned._return_value
