"""Hydra's sweep of ours: a table as cells in their order, of which what is missing runs, whatever launches them."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from engine.contract import Refused, one_of

Words = list[str]
SHOWS = ("recipe", "diff", "parameters")  # of each cell, and nothing runs


class Cells(BasicSweeper):
    """params: settings and their values, as Hydra's own sweeper has them; sets: bundles of words, see cells()."""

    def __init__(self, params: dict[str, str] | None, sets: Sequence[str] | None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.sets = list(sets or ())
        self._composed: dict[tuple[str, ...], Any] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.planned = task_function.planned  # type: ignore[attr-defined]  # run.py's: a composed cell, None: a study

    def sweep(self, arguments: Words) -> Any:
        """Plans, runs what is missing in waves, and says how it ended. Raises Refused before anything runs, Unfinished
        when a cell failed."""
        from engine import kin
        from engine.plan import described, listed, write
        from engine.planner import Planner
        from engine.words import main_process

        assert self.config is not None
        lines = cells(self.params, self.sets, arguments, self.hydra_context and self.hydra_context.config_loader)
        show, out = self.config.runtime.show, Path(self.config.runtime.out).expanduser()
        one_of("runtime.show", show, (*SHOWS, "plan", None))
        together = self._together()
        if show in SHOWS:
            return self._all(lines)
        name = self.config.hydra.runtime.choices.get("table") or "sweep"
        say = print if main_process() else lambda *_, **__: None
        say(f"{name}: planning {len(lines)} cells" if lines[1:] else f"{name}: planning", flush=True)
        planner = Planner(self._make, show == "plan")
        plan = planner.plan(lines)
        say(f"{name}: {described(plan)}" if plan else f"{name}: {len(planner.studies)} studies", flush=True)
        if together > 1:
            say(f"{name}: {kin.told(plan, together)}", flush=True)
        if show == "plan":
            say(listed(plan, out))
            if planner.missing is not None:
                raise Refused(f"not to be had, so no record of theirs can be known: {planner.missing}")
            return

        from engine.sweep import Sweep

        if planner.studies:
            self._all([list(words) for words in planner.studies])
        if plan:
            launcher = [word for word in self.config.hydra.overrides.hydra if not word.startswith("hydra.mode=")]
            multirun = [] if self.config.hydra.runtime.choices.get("table") else ["-m"]
            command = shlex.join(["python", "run.py", *multirun, *arguments, *launcher])
            if main_process():
                write(plan, name, command, out)
            force = bool(self.config.runtime.force)
            Sweep(self._launch, plan, out, force, self._agreed, together).run(name, command)

    def _together(self) -> int:
        """At most so many runs at once in a process. Raises Refused."""
        from engine import kin

        assert self.config is not None
        most = kin.most(self.config.runtime.together)
        if most > 1:
            kin.check_place(self.config.hydra.launcher, int(os.environ.get("WORLD_SIZE", "1")))
        return most

    def _agreed(self, look: Callable[[], Any]) -> Any:
        """Of several processes that train one run, the first looks at the disk for all."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return look()

        from engine.device import pick
        from engine.processes import first

        assert self.config is not None
        return first(look, pick(self.config.runtime.device, "fp32")[0])

    def _make(self, words: Sequence[str]) -> Any:
        """The cell of a command line, None for a study. Cells that differ in the seed alone are composed once, which
        takes most of the time that a plan takes."""
        assert self.hydra_context is not None and self.config is not None
        seeds = [word for word in words if word.startswith("seed=")]
        key = tuple(word for word in words if word not in seeds)
        if key not in self._composed:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
            self._composed[key] = self.planned(config, list(words))
        cell = self._composed[key]
        number = OverridesParser.create().parse_overrides(seeds)[-1].value() if seeds else self.config.seed
        return cell and replace(cell, settings={**cell.settings, "seed": number})

    def _launch(self, lines: list[Words]) -> list[BaseException | None]:
        assert self.launcher is not None and self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        first, self.batch_index = self.batch_index, self.batch_index + len(lines)
        results = self.launcher.launch(lines, initial_job_idx=first)
        return [None if result.status == JobStatus.COMPLETED else result._return_value for result in results]

    def _all(self, lines: list[Words]) -> None:
        """Runs what has no record to be looked for."""
        for error in self._launch(lines):
            if error is not None:
                raise error


def cells(params: Mapping[str, str], sets: Sequence[str], arguments: Sequence[str], loader: Any = None) -> list[Words]:
    """The command line of every cell: each of the sets (bundles of words) with each combination of the params.

    An argument for a key of params takes its place; one for a key of the sets keeps the sets with one of its values;
    any other is for all cells. loader: Hydra's, which knows the names that glob(…) stands for. Raises Refused when no
    set is left, or for a sweep over where and how."""
    parser = OverridesParser.create(config_loader=loader)
    said = {word.key_or_group: word for word in parser.parse_overrides(list(arguments))}
    free = {word.key_or_group: word for word in parser.parse_overrides([f"{k}={v}" for k, v in params.items()])}
    bundles = [{word.key_or_group: _values(word)[0] for word in parser.parse_overrides(one.split())} for one in sets]
    for word in said.values():
        if word.is_sweep_override() and word.key_or_group.startswith("runtime."):
            raise Refused(f"{word.input_line}: {word.key_or_group} is for the whole sweep; give one value")
    bound = {key for bundle in bundles for key in bundle}
    for key in bound & said.keys():
        kept = [bundle for bundle in bundles if bundle.get(key) in _values(said[key])]
        if not kept:
            there = dict.fromkeys(bundle[key] for bundle in bundles if key in bundle)
            raise Refused(f"{said[key].input_line}: no row of this table has it; they have "
                          f"{', '.join(there)}\nother settings: without the table, with -m (the rows are in its file)")
        bundles = kept
    axes = [_values(word) for key, word in (free | said).items() if key not in bound]
    rows = [list(bundle.values()) for bundle in bundles] or [[]]
    return [[*words, *row] for row in rows for words in itertools.product(*axes)]


def _values(word: Override) -> list[str]:
    """The word once for each of its values: key=value. Raises Refused for a range that is no list."""
    key = word.get_key_element()
    if not word.is_sweep_override():
        return [f"{key}={word.get_value_element_as_str()}"]
    if not word.is_discrete_sweep():
        raise Refused(f"{word.input_line}: an interval is for search=…; give a list of values")
    return [f"{key}={value}" for value in word.sweep_string_iterator()]
