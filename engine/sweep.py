"""A sweep on its way: what can run is launched, what others run is waited for, what failed is said at the end."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from engine import work
from engine.contract import Elsewhere, Unfinished
from engine.plan import Planned
from engine.words import main_process

# Runs command lines, at once or in turn, and says of each what it raised; it may raise when it lost sight of them.
Launch = Callable[[list[list[str]]], Sequence[BaseException | None]]
Agree = Callable[[Callable[[], Any]], Any]
LOOK = 5.0  # seconds between two looks at cells that another process runs
TRIES = 2  # of a cell whose process died without a word: joblib ends all of its workers when one is killed


class Sweep:
    """The cells of a plan on their way, seen by what is on the disk: others may run some of them at the same time."""

    def __init__(self, launch: Launch, plan: Sequence[Planned], out: Path, force: bool,
                 agree: Agree = lambda look: look()) -> None:
        """agree: what look() gives in the first of several processes that train together, in all of them."""
        self.launch, self.agree = launch, agree
        self.out = out
        self.cells = {cell.key: cell for cell in plan}
        self.done: dict[Path, Path] = {}  # key -> record
        self.failed: dict[Path, str] = {}
        self.tries: dict[Path, int] = {}
        self._look(key for key, cell in self.cells.items() if cell.added or not force)  # force: what was asked for
        self.before = len(self.done)

    def run(self, name: str, command: str) -> None:
        """Until nothing is left that can run. Raises Unfinished."""
        said: set[str] = set()
        try:
            while True:
                ready, busy = self.agree(self._ready)
                if ready:
                    self._batch(ready)
                elif busy:
                    for line in set(busy.values()) - said:
                        _say(f"waiting: {line}")
                    said |= set(busy.values())
                    time.sleep(LOOK)
                    self._look(busy)
                else:
                    break
        except BaseException:
            _say(f"{self._summary(name)}\nstopped; the same again runs only what is missing: {command}")
            raise
        _say(self._summary(name))
        if len(self.done) < len(self.cells):
            lines = [f"failed: {self.cells[key].title}: {error}" for key, error in self.failed.items()]
            raise Unfinished("\n".join([*lines, f"again, what is missing alone: {command}"]))

    def _look(self, keys: Iterable[Path] | None = None) -> None:
        """Takes note of the records that are there."""
        asked = list(self.cells if keys is None else keys)
        found = self.agree(lambda: [self.cells[key].record() for key in asked])
        self.done |= {key: record for key, record in zip(asked, found, strict=True) if record is not None}

    def _ready(self) -> tuple[list[Planned], dict[Path, str]]:
        """The cells that can run now, and those that another process runs, with its name."""
        ready, busy = [], {}
        for key, cell in self.cells.items():
            if key in self.done or key in self.failed or not self._begins(cell):
                continue
            states = [work.state(work.folder_of(self.out, path)) for path in cell.records]
            holders = [state.holder for state in states if state.kind == "running"]
            if holders:
                busy[key] = f"{cell.title} is run by {holders[0]}"
            else:
                ready.append(cell)
        return ready, busy

    def _begins(self, cell: Planned) -> bool:
        """Whether what it waits for is there; a cell that only decodes trains itself when the one before it failed."""
        return cell.after is None or cell.after in self.done or (not cell.child and cell.after in self.failed)

    def _batch(self, ready: list[Planned]) -> None:
        try:
            errors = self.launch([cell.launched(self.done.get(cell.after) if cell.after else None) for cell in ready])
        except Exception as lost:  # a launcher that lost a worker knows nothing of the others: the disk does
            print(f"run.py: the launcher gave up ({type(lost).__name__}: {lost})", file=sys.stderr, flush=True)
            errors = [None] * len(ready)
        self._look(cell.key for cell, error in zip(ready, errors, strict=True) if error is None)
        for cell, error in zip(ready, errors, strict=True):
            if cell.key in self.done:
                continue
            if isinstance(error, Elsewhere):
                continue  # looked at again
            if error is not None:
                self._fail(cell, error)
            else:
                self.tries[cell.key] = self.tries.get(cell.key, 0) + 1
                if self.tries[cell.key] == TRIES:
                    self._fail(cell, RuntimeError(f"its process ended without a word, {TRIES} times"))

    def _fail(self, cell: Planned, error: BaseException) -> None:
        self.failed[cell.key] = work.said(error)
        folder = work.folder_of(self.out, cell.key)
        if not any(work.state(work.folder_of(self.out, path)).failed for path in cell.records):
            work.fail(folder, work.said(error), "".join(traceback.format_exception(error)))

    def _summary(self, name: str) -> str:
        waiting = len(self.cells) - len(self.done) - len(self.failed)
        parts = [f"{len(self.done)} of {len(self.cells)} cells done ({self.before} before)"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{waiting} not run"] if waiting else []
        where = "" if self.out == Path("results") else f" --results {self.out}"
        return f"{name}: {', '.join(parts)}; python -m analysis status {name}{where}"


def _say(line: str) -> None:
    if main_process():
        print(line, flush=True)
