"""Sweeps as they stand: the plans of RESULTS/sweeps beside the records and work folders that are on the disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import record, work
from engine.contract import Refused
from engine.work import State

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
    seconds: float | None = None  # that its training took, if it is done
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
    commands: Sequence[str]  # that launch what is not done, the latest first
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
    """The sweep of this name. Two plans' cells are one where their first records are."""
    broken: list[str] = []
    found: dict[str, Cell] = {}
    commands: dict[str, set[str]] = {}
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
        commands.setdefault(command, set()).update(cell.records[0] for cell in cells)
    cells = _waiting([_stands(results, cell, broken) for cell in found.values()], results)
    done = {cell.records[0] for cell in cells if cell.kind == "done"}
    return Sweep(name, cells, [command for command, keys in commands.items() if command and keys - done], broken)


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
                seconds = record.read(path).outcome.get("seconds")
            except Refused as refused:
                return replace(cell, kind="failed", error=str(refused).partition("\n")[0])
            return replace(cell, kind="done", seconds=seconds if isinstance(seconds, (int, float)) else None)
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


def remaining(cells: Sequence[Cell]) -> tuple[float, int, int]:
    """Seconds of training that are left, one run at a time; in how many cells; in how many more there is nothing to
    estimate from. A cell lasts as long as the mean done one of its task, model and method, else of its task and model,
    else as the running ones of these will by how far they are."""
    known: dict[tuple[str, ...], list[float]] = {}
    for cell in cells:
        step, steps, spent = (cell.position.get(key) for key in ("step", "steps", "seconds"))
        lasts = cell.seconds if cell.kind == "done" else None
        if cell.kind == "running" and spent and steps and step:
            lasts = spent * steps / step
        if lasts is not None:
            for key in _keys(cell):
                known.setdefault((cell.kind, *key), []).append(lasts)
    left, sure, unsure = 0.0, 0, 0
    for cell in (each for each in cells if each.kind not in ("done", "failed")):
        likely = (known.get((kind, *key)) for kind in ("done", "running") for key in _keys(cell))
        found = next(filter(None, likely), None)
        if found is None:
            unsure += 1
            continue
        step, steps = (cell.position.get(key) for key in ("step", "steps"))
        share = 1 - min(1.0, step / steps) if step and steps else 1.0
        left, sure = left + share * sum(found) / len(found), sure + 1
    return left, sure, unsure


def _keys(cell: Cell) -> list[tuple[str, ...]]:
    """By what cells last alike: the closest first."""
    return [(cell.scale, cell.task, cell.model, cell.method), (cell.scale, cell.task, cell.model)]
