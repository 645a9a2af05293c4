"""The trials of a search: those with a record are read, the others run; and what came of it, in words."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from engine.contract import Elsewhere, Refused
from hydra_plugins.lora_paper.finder import Finder, rounded

LOOK = 5.0  # seconds between two looks at a trial that another process runs


class Trials(Launcher):
    """The chosen launcher, with what each trial gave kept: its number, or why it has none, by its own words."""

    def __init__(self, launcher: Launcher, find: Finder, name: str, command: str, own: Mapping[str, Any]) -> None:
        """name, command: of the search. own: the recipe's numbers, which come first; or nothing."""
        self.launcher, self.find, self.name, self.again, self.own = launcher, find, name, command, own
        self.cells: dict[tuple[str, ...], Any] = {}  # planned
        self.values: dict[tuple[str, ...], float] = {}
        self.failed: dict[tuple[str, ...], str] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing: the launcher is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the trials that have no record, once more what another process was running. Raises Refused as a trial
        did."""
        names = [self.find.own(words) for words in job_overrides]
        self.cells |= {name: self.find.trial([*name]) for name in names}
        returns = [self._recorded(words, name) for words, name in zip(job_overrides, names, strict=True)]
        missing = [i for i, there in enumerate(returns) if there is None]
        made = self.launcher.launch([job_overrides[i] for i in missing], initial_job_idx) if missing else []
        for i, returned in zip(missing, made, strict=True):
            returns[i] = returned
        done: list[JobReturn] = []
        for i, (words, name, returned) in enumerate(zip(job_overrides, names, returns, strict=True)):
            while isinstance(error := _error(returned), Elsewhere):
                print(f"waiting: {error}", flush=True)
                time.sleep(LOOK)
                returned = self.launcher.launch([words], initial_job_idx + i)[0]
            if isinstance(error, Refused):
                raise error
            self._note(initial_job_idx + i + 1, name, returned, error)
            done.append(returned)
        return done

    def _recorded(self, words: Sequence[str], name: tuple[str, ...]) -> Any:
        """What a trial gave whose record is there, or None."""
        from engine import record

        path = None if self.find.config.runtime.force else self.cells[name].record()
        return path and JobReturn(overrides=list(words), status=JobStatus.COMPLETED,
                                  _return_value=record.read(path).value)

    def _note(self, number: int, name: tuple[str, ...], returned: JobReturn | None, error: Any) -> None:
        value = returned.return_value if returned is not None and error is None else None
        if isinstance(value, (int, float)):
            self.values[name] = float(value)
            said = f"{value:.2f}"
        else:
            self.failed[name] = "it has no number" if error is None else str(error).partition("\n")[0]
            said = f"failed ({self.failed[name]})"
        own = " (the recipe's own)" if self._is_own(name) else ""
        print(f"trial {number}: {said} with {rounded(name)}{own}", flush=True)

    def _is_own(self, name: tuple[str, ...]) -> bool:
        return bool(self.own) and set(name) == {f"{key}={value}" for key, value in self.own.items()}

    @contextmanager
    def told(self) -> Iterator[None]:
        """Says at the end how the search went, and leaves its trials where `python -m analysis status` finds them."""
        again = ""
        try:
            yield
        except BaseException as error:
            again = "" if isinstance(error, Refused) else f"stopped; the same again goes on: {self.again}"
            raise
        finally:
            summary = self.summary() if self.values or self.failed else ""
            print("\n".join(filter(None, [summary, again])), flush=True)
            self._keep()

    def _keep(self) -> None:
        from engine.plan import write

        if self.cells:
            write(list(self.cells.values()), self.name.replace("=", "-"), self.again, self.find.out)

    def summary(self) -> str:
        """How the search ended: what failed, the best trial, what tuning bought and what of that may be noise."""
        count = len(self.values) + len(self.failed)
        lines = [f"{self.name}: {len(self.values)} of {count} different trials gave a number"]
        lines += [f"failed: {rounded(name)}: {why}" for name, why in self.failed.items()]
        if not self.values:
            return "\n".join(lines)
        best = max(self.values, key=lambda name: self.values[name])
        value, own = self.values[best], next((each for name, each in self.values.items() if self._is_own(name)), None)
        bought = "" if own is None else f"; the recipe's own numbers: {own:.2f}, so tuning bought {value - own:.2f}"
        bought = ", the recipe's own numbers: tuning bought nothing" if self._is_own(best) else bought
        lines.append(f"best: {value:.2f} with {rounded(best)}{bought}")
        if noise := self._twice(value):
            lines.append(f"a difference of less than {noise:.2f} is noise: two standard errors of an accuracy on "
                         f"{self.find.examples:,} examples")
        if record := self.cells[best].record():
            lines.append(f"record {record}")
        return "\n".join([*lines, f"alone: {self.find.command([*best])}"])

    def _twice(self, value: float) -> float:
        """Two standard errors of an accuracy in points of 100; 0 for another number."""
        share = value / 100
        return 200 * math.sqrt(share * (1 - share) / self.find.examples) if self.find.examples else 0.0


def _error(returned: JobReturn | None) -> Any:
    """What a trial raised, None where it ended well."""
    if returned is None or returned.status == JobStatus.COMPLETED:
        return None
    return returned._return_value
