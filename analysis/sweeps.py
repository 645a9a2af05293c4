"""Sweeps as they stand: the plans of RESULTS/sweeps beside the records and work folders that are on the disk."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import record, work
from engine.contract import Refused
from engine.work import State

TASKS = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb", "wnli",  # as in Table 2; then 3, 14, 13, 4
         "e2e", "webnlg", "dart", "wikisql", "mnli-lm", "samsum")
METHODS = ("ft", "ft-top2", "bitfit", "preembed", "prelayer", "adapter-d", "adapter-p", "adapter-l", "adapter-h",
           "lora", "lora-pe", "lora-pl")
KINDS = ("done", "running", "failed", "interrupted", "waiting", "not started")
ABOUT = ("title", "task", "model", "method", "variant", "scale")  # what every cell of a plan says in words


@dataclass(frozen=True)
class Cell:
    """A cell of a plan, as it stands. Unknown is null."""

    title: str
    task: str
    model: str
    method: str
    label: str  # the method as the paper's tables call it
    variant: str
    scale: str
    records: Sequence[str]  # under RESULTS; any of them is its record. The first names the cell
    trainings: Sequence[str]  # the same of its training, where that is shared by cells that decode otherwise
    after: str | None  # first record of the cell that it waits for
    kind: str = "not started"  # one of KINDS
    state: State | None = None  # what its work folder says, unless it is done
    folder: Path | None = None  # that folder
    record: Path | None = None  # the one of its records that is there
    seconds: float | None = None  # that its training took, if it is done; of runs that trained at once, its share
    error: str | None = None  # of a cell that failed, in a line

    @property
    def position(self) -> Mapping[str, float]:
        """How far it is: step, steps, epoch, epochs, seconds. A running cell by its own word, another by the checkpoint
        that it goes on from."""
        said = self.state and (self.state.progress if self.kind == "running" else self.state.point)
        return {key: value for key, value in (said or {}).items()
                if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0}


@dataclass(frozen=True)
class Sweep:
    """All launches of a name as one."""

    name: str
    cells: Sequence[Cell]
    command: str | None  # that launches what is not done, or most of it
    broken: Sequence[str]  # files that cannot be read, and why

    @property
    def counts(self) -> dict[str, int]:
        """How many cells are of each kind."""
        found = Counter(cell.kind for cell in self.cells)
        return {kind: found[kind] for kind in KINDS}


def names(results: Path) -> list[str]:
    """Every sweep that was launched."""
    folder = results / "sweeps"
    return sorted(path.name for path in folder.iterdir() if any(path.glob("*.json"))) if folder.is_dir() else []


def read(results: Path, name: str) -> Sweep:
    """The sweep of this name, its cells in an order that no launch changes. Two plans' cells are one where their first
    records are."""
    broken: list[str] = []
    found: dict[str, Cell] = {}
    plans: list[tuple[str, set[str]]] = []
    for path in sorted((results / "sweeps" / name).glob("*.json"), key=_age, reverse=True):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            cells = [_cell(entry) for entry in plan["cells"]]
            command = str(plan.get("command") or "")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            broken.append(f"{path}: not a plan ({type(error).__name__}: {error})")
            continue
        for cell in cells:
            found.setdefault(cell.records[0], cell)
        plans.append((command, {cell.records[0] for cell in cells}))
    cells = _waiting([_stands(results, cell, broken) for cell in sorted(found.values(), key=_place)], results)
    left = {cell.records[0] for cell in cells if cell.kind != "done"}
    best = max(plans, key=lambda plan: (len(plan[1] & left), len(plan[1])), default=("", set()))  # a tie: the latest
    return Sweep(name, cells, best[0] if best[0] and best[1] & left else None, broken)


def _place(cell: Cell) -> tuple[Any, ...]:
    """What cells are sorted by: methods and tasks as in the paper, ranks and seeds as numbers."""
    def rank(name: str, known: Sequence[str]) -> int:
        return known.index(name) if name in known else len(known)

    def parts(words: str) -> list[tuple[float, str]]:
        return [(float(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", words)]

    return (parts(cell.model), rank(cell.method, METHODS), cell.label, parts(cell.variant), rank(cell.task, TASKS),
            cell.task, parts(cell.title), cell.records[0])


def _age(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name


def _cell(entry: Mapping[str, Any]) -> Cell:
    """A plan's entry. Raises KeyError, TypeError and IndexError when it is none."""
    records, shared = [str(each) for each in entry["records"]], entry.get("training") or []
    if not records or isinstance(entry["records"], str) or not all(isinstance(entry[key], str) for key in ABOUT):
        raise TypeError("an entry without records, or without words")
    trainings = [shared] if isinstance(shared, str) else [str(each) for each in shared]
    after = entry.get("after")
    return Cell(**{key: entry[key] for key in ABOUT}, label=str(entry.get("label") or entry["method"]),
                records=records, trainings=trainings, after=str(after) if after else None)


def _stands(results: Path, cell: Cell, broken: list[str]) -> Cell:
    """The cell as the disk has it."""
    for path in (results / each for each in cell.records):
        if path.is_file():
            try:
                outcome = record.read(path).outcome
            except Refused as refused:
                return replace(cell, kind="failed", error=str(refused).partition("\n")[0], record=path)
            seconds, together = outcome.get("seconds"), outcome.get("together") or 1
            known = seconds / together if isinstance(seconds, (int, float)) else None
            return replace(cell, kind="done", record=path, seconds=known)
    order = ("running", "failed", "silent", "died", "interrupted", "free")
    seen = [(work.state(folder), folder) for folder in _folders(results, cell.records)]
    state, folder = min(seen, key=lambda each: order.index(each[0].kind))
    shared = [work.state(each) for each in _folders(results, cell.trainings) if each not in [one[1] for one in seen]]
    for other in shared:  # its own folder says who runs it; that of its training, how far it is
        state = replace(state, progress=state.progress or other.progress, point=state.point or other.point,
                        kind="interrupted" if state.kind == "free" and other.kind == "interrupted" else state.kind)
    broken.extend(dict.fromkeys(what for each in [*(one[0] for one in seen), *shared] for what in each.broken))
    kind = {"silent": "interrupted", "died": "interrupted", "free": "not started"}.get(state.kind, state.kind)
    error = str(state.failed.get("error")) if kind == "failed" and state.failed else None
    return replace(cell, kind=kind, state=state, folder=folder, error=error)


def _folders(results: Path, records: Sequence[str]) -> list[Path]:
    return [work.folder_of(results, Path(each)) for each in records]


def _waiting(cells: Sequence[Cell], results: Path) -> list[Cell]:
    """Cells that cannot start yet are told from those that can."""
    by_key = {cell.records[0]: cell for cell in cells}

    def waits(cell: Cell) -> bool:
        if cell.kind != "not started" or cell.after is None:
            return False
        before = by_key.get(cell.after)
        return before.kind != "done" if before else not (results / cell.after).is_file()

    return [replace(cell, kind="waiting") if waits(cell) else cell for cell in cells]
