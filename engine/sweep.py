"""A sweep on its way: what can run is launched, what others run is waited for, what failed is said at the end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine import hold, kin, work
from engine.contract import Refused, Unfinished
from engine.plan import Planned
from engine.show import outcome
from engine.words import main_process

# Runs command lines, at once or in turn, and says of each what it raised; it may raise when it lost sight of them.
Launch = Callable[[list[list[str]]], Sequence[BaseException | None]]
Agree = Callable[[Callable[[], Any]], Any]
LOOK = 5.0  # seconds between two looks at cells that another process runs
BEGUN = ("died", "interrupted", "failed")  # states of a cell that was being run
TRIES = 2  # of a cell whose process died without a word: joblib ends all of its workers when one is killed


class Sweep:
    """The cells of a plan on their way, seen by what is on the disk: others may run some of them at the same time."""

    def __init__(self, launch: Launch, plan: Sequence[Planned], out: Path, force: bool,
                 agree: Agree = lambda look: look(), together: int = 1) -> None:
        """agree: what look() gives in the first of several processes that train together, in all of them. together: so
        many cells of one kin are launched as one command line, at most."""
        self.launch, self.agree, self.together = launch, agree, together
        self.out, self.force = out, force
        self.cells = {cell.key: cell for cell in plan}
        self.done: dict[Path, Path] = {}  # key -> record
        self.failed: dict[Path, str] = {}
        self.tries: dict[Path, int] = {}
        # what force is to replace; parents that nobody asked for by name are not forced
        old = [path for cell in plan if force and not cell.added for path in cell.records]
        self.old = {path: _stamp(path) for path in old if path.is_file()}
        self._look(self.cells)
        self.before = len(self.done)
        for record in self.done.values():  # a process that was killed behind its record left its work
            hold.tidy(out, record)

    def run(self, name: str, command: str) -> None:
        """Until nothing is left that can run. Raises Unfinished."""
        said: set[str] = set()
        again = f"the same again runs only what is missing: {command}"
        if self.force:
            again = f"without runtime.force, the same again runs only what has no record: {command}"
        try:
            while True:
                ready, busy = self.agree(self._ready)
                met = self._batch(ready) if ready else True
                if not ready and not busy:
                    break
                if met:  # nothing was run but what others have
                    for line in set(busy.values()) - said:
                        _say(f"waiting: {line}")
                    said |= set(busy.values())
                    time.sleep(LOOK)
                self._look(busy)
        except BaseException:
            self.done |= self._found(self.cells)
            _say(f"{self._summary(name)}\nstopped; {again}")
            raise
        _say(outcome([(self.cells[key], record) for key, record in self.done.items()]) + self._summary(name))
        if len(self.done) < len(self.cells):
            lines = [f"failed: {self.cells[key].title}: {error}" for key, error in self.failed.items()]
            raise Unfinished("\n".join([*lines, again]))

    def _look(self, keys: Iterable[Path]) -> None:
        """Takes note of the records that are there."""
        asked = list(keys)
        self.done |= self.agree(lambda: self._found(asked))

    def _found(self, keys: Iterable[Path]) -> dict[Path, Path]:
        """The records of these cells; of those that are to be replaced, only new ones."""
        return {key: record for key in keys for record in self.cells[key].records
                if record.is_file() and self.old.get(record) != _stamp(record)}

    def _ready(self) -> tuple[list[Planned], dict[Path, str]]:
        """The cells that can run now, and those that another process runs, with its name."""
        ready, busy = [], {}
        for key, cell in self.cells.items():
            if key in self.done or key in self.failed or not self._begins(cell):
                continue
            holders = [state.holder for state in self._states(cell) if state.kind == "running"]
            if holders:
                busy[key] = f"{cell.title} is run by {holders[0]}"
            else:
                ready.append(cell)
        suspects = [cell for cell in ready if cell.key in self.tries]
        return [cell for cell in ready if cell not in suspects] or suspects[:1], busy

    def _states(self, cell: Planned) -> list[work.State]:
        """Of its own work folder and its training's, for every name that they may have."""
        return [work.state(work.folder_of(self.out, path)) for path in dict.fromkeys([*cell.records, *cell.trainings])]

    def _begins(self, cell: Planned) -> bool:
        """Whether what it waits for is there; a cell that only decodes trains itself when the one before it failed."""
        return cell.after is None or cell.after in self.done or (not cell.child and cell.after in self.failed)

    def _batch(self, ready: list[Planned]) -> bool:
        """Runs these cells; whether it found nothing but what others run."""
        bundles = kin.bundles(ready, self.together)
        lost = False
        try:
            errors = self.launch(self._lines(bundles))
        except Refused:
            raise
        except Exception as why:  # a launcher that lost a worker knows nothing of the others: the disk does
            print(f"run.py: the launcher gave up ({type(why).__name__}: {why})", file=sys.stderr, flush=True)
            lost, errors = True, [None] * len(bundles)
        errors = self.agree(lambda: errors)
        ended: list[tuple[Planned, kin.End | None]] = []
        for bundle, error in zip(bundles, errors, strict=True):
            ended += zip(bundle, kin.ends(len(bundle), error), strict=True)
            if error is not None and bundle[1:]:  # a job that died, say: some of its cells may have been done by then
                self._look(cell.key for cell in bundle)
        self._look(cell.key for cell, end in ended if end is None)
        silent = []
        for cell, end in ended:
            if end is None and cell.key not in self.done:
                silent.append(cell)
            elif end is not None and not end.elsewhere and cell.key not in self.done:
                self._fail(cell, end)
        begun = [cell for cell in silent if any(state.kind in BEGUN for state in self._states(cell))]
        for cell in (begun or silent) if lost else silent:  # what had not begun did not end its process
            self.tries[cell.key] = self.tries.get(cell.key, 0) + 1
            if self.tries[cell.key] == TRIES:
                self._fail(cell, kin.end(RuntimeError(f"its process ended without a word, {TRIES} times")))
        return bool(ended) and all(end is not None and end.elsewhere for _, end in ended)

    def _lines(self, bundles: Sequence[Sequence[Planned]]) -> list[list[str]]:
        """A command line each. A bundle's place says where its first and its last cell stand in the sweep: 3-7/108"""
        lines, number = [], len(self.done) + len(self.failed)
        for bundle in bundles:
            first, number = number + 1, number + len(bundle)
            place = f"{first}-{number}" if bundle[1:] else str(first)
            lines.append(kin.line([[*cell.launched(self.done.get(cell.after) if cell.after else None),
                                    f"runtime.place='{place}/{len(self.cells)}'"] for cell in bundle]))
        return lines

    def _fail(self, cell: Planned, end: kin.End) -> None:
        self.failed[cell.key] = end.error
        if not any(state.failed for state in self._states(cell)):
            with suppress(OSError):  # a full disk: it is said at the end all the same
                work.fail(work.folder_of(self.out, cell.key), end.error, end.text)

    def _summary(self, name: str) -> str:
        waiting = len(self.cells) - len(self.done) - len(self.failed)
        parts = [f"{len(self.done)} of {len(self.cells)} cells done ({self.before} before)"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{waiting} not run"] if waiting else []
        where = "" if self.out == Path("results") else f" --results {shlex.quote(str(self.out))}"
        return f"{name}: {', '.join(parts)}; python -m analysis status {name}{where}"


def _say(line: str) -> None:
    if main_process():
        print(line, flush=True)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is replaced."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
