"""A sweep as a graph, before anything runs: its cells, where their records will be, and which waits for which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from engine import start
from engine.contract import Refused
from engine.files import whole_text
from engine.resolve import Base, Cell, check_model, ground, identify

Words = Sequence[str]
DEVICE_DECIDES = ("bf16", "fp32")  # what precision=auto may become where the cell runs


@dataclass(frozen=True)
class Planned:
    """A cell of a sweep. Its record is at one of `records` when it is done: several, where the device decides."""

    words: Words  # of the command line that runs it
    title: str
    about: dict[str, Any]  # task, model, method, variant, seed, scale
    records: tuple[Path, ...]
    trainings: tuple[Path, ...] = ()  # folders of its weights, as many: cells that differ in decoding alone share one
    after: Path | None = None  # first record of the cell that it starts from, or that trains for it
    begun: str | None = None  # digest of the run it starts from, where that is there already
    child: bool = False  # starts from an MNLI run
    added: bool = False  # a parent that nobody asked for by name

    @property
    def key(self) -> Path:
        """What tells cells apart."""
        return self.records[0]

    def record(self) -> Path | None:
        """Its record, if it is done."""
        return next((path for path in self.records if path.is_file()), None)

    def state(self) -> str:
        """done, waits or ready, before anything runs."""
        return "done" if self.record() else "waits" if self.after and not self.after.is_file() else "ready"

    def launched(self, parent: Path | None) -> list[str]:
        """The words that run it, when the run it starts from is recorded at parent."""
        begun = digest_of(parent) or self.begun
        return [*self.words, f"runtime.parent='{begun}'"] if self.child else [*self.words]


class Planner:
    """Turns command lines into planned cells. make: a command line's Cell, None for a study, which has no record that
    could be looked for."""

    def __init__(self, make: Callable[[Words], Cell | None]) -> None:
        self.make = make
        self.studies: list[Words] = []
        self._bases: dict[str, Base | Refused] = {}
        self._planned: dict[Path, Planned] = {}

    def plan(self, cells: Iterable[Words]) -> list[Planned]:
        """All cells and the parents that they lack, each once, in an order in which they can run. Raises Refused when
        one cannot be run, and how many others."""
        refused: list[str] = []
        children: list[tuple[Words, Cell]] = []
        for words in tqdm(cells, desc="planning", unit="cell", delay=3, leave=False, disable=None):
            try:
                cell = self.make(words)
                if cell is None:
                    self.studies.append(words)
                    continue
                check_model(cell)
                if cell.settings["init_from"] == "mnli":
                    children.append((words, cell))
                else:
                    self._add(self._cell(words, cell, [self._begun(cell)]))
            except Refused as error:
                refused.append(f"{' '.join(words)}: {error}")
        for words, cell in children:
            try:
                self._add(self._child(words, cell))
            except Refused as error:
                refused.append(f"{' '.join(words)}: {error}")
        if refused:
            more = f"\n{len(refused)} cells of this sweep cannot be run; nothing was started" if refused[1:] else ""
            raise Refused(refused[0] + more)
        return _ordered(self._planned)

    def _begun(self, cell: Cell) -> str | None:
        return start.find(cell.settings, cell.out, None).identity

    def _cell(self, words: Words, cell: Cell, begun: Sequence[str | None]) -> Planned:
        base, asked = self._base(cell), cell.recipe.precision
        named = [identify(cell, precision, base.raw, base.revision, before) for before in begun
                 for precision in (DEVICE_DECIDES if asked == "auto" else (asked,))]
        seed, scale = cell.settings["seed"], cell.settings["scale"]["name"]
        about = {"task": cell.task.name, "model": cell.model.name, "method": cell.method.name, "seed": seed,
                 "label": cell.method.label, "variant": cell.variant, "scale": scale}
        title = f"{cell.task.name} · {cell.model.name} · {cell.method.label} {cell.variant}".strip() + f" · seed {seed}"
        return Planned(tuple(words), title, about, tuple(one.path for one in named),
                       tuple(dict.fromkeys(one.kept for one in named)))

    def _child(self, words: Words, cell: Cell) -> Planned:
        """A cell that starts from MNLI: from the same settings' run of its seed, in this sweep or recorded; else from a
        recorded one that fits; else the run is added."""
        above = tuple(word for word in words if not word.startswith(("task.", "init_from=", "task=")))
        above = (*above, "task=mnli")
        made = self.make(above)
        assert made is not None
        if made.settings["init_from"] == "mnli":
            raise Refused("init_from=mnli: MNLI itself cannot start from MNLI")
        parent = replace(self._cell(above, made, [self._begun(made)]), added=True)
        there = parent.record()
        if there is None and parent.key not in self._planned:
            try:
                other = start.find(cell.settings, cell.out, self._base(cell).revision)
                return replace(self._cell(words, cell, [other.identity]), begun=other.identity, child=True)
            except Refused:
                pass
        if there is not None and not start.weights_of(there).is_file():
            raise Refused(f"{start.weights_of(there)} is gone, from which it starts\n"
                          f"first: python run.py {' '.join(above)} runtime.force=true; or give init_from=none")
        self._add(parent)
        child = self._cell(words, cell, [digest_of(path) for path in ([there] if there else parent.records)])
        return replace(child, after=parent.key, child=True)

    def _base(self, cell: Cell) -> Base:
        """The cell's data (their sha256 alone) and base weights, looked at once for all cells that share them."""
        parts = [cell.settings[key] for key in ("task", "model", "scale", "data_root")]
        key = json.dumps(parts, sort_keys=True, default=str)
        if key not in self._bases:
            try:
                found = ground(cell)
                self._bases[key] = Base(found.raw.sha256, found.folder, found.revision)
            except Refused as error:
                self._bases[key] = error
        base = self._bases[key]
        if isinstance(base, Refused):
            raise base
        return base

    def _add(self, planned: Planned) -> None:
        there = self._planned.get(planned.key)
        if there is None or there.added:
            self._planned[planned.key] = planned


def digest_of(path: Path | None) -> str | None:
    """A run's digest from where its record is."""
    return None if path is None else path.stem.rpartition("-")[2]


def _ordered(planned: dict[Path, Planned]) -> list[Planned]:
    """Parents first, and before the cells that only decode what another trains, that other."""
    trains: dict[tuple[Path, ...], Path] = {}
    cells = []
    for cell in planned.values():
        first = trains.setdefault(cell.trainings, cell.key)
        cells.append(cell if first == cell.key else replace(cell, after=first))
    parents = {cell.after for cell in cells}
    return sorted(cells, key=lambda cell: cell.key not in parents)


def write(cells: Sequence[Planned], name: str, command: str, out: Path) -> None:
    """Puts the plan where `python -m analysis status NAME` finds it: one file for each different launch of a name."""
    def below(path: Path) -> str:
        return path.relative_to(out).as_posix()

    entries = [{"title": cell.title, "words": list(cell.words), **cell.about, "records": [*map(below, cell.records)],
                "training": [*map(below, cell.trainings)], "after": below(cell.after) if cell.after else None,
                "added": cell.added} for cell in cells]
    text = json.dumps({"command": command, "cells": entries}, indent=1) + "\n"
    whole_text(out / "sweeps" / name / f"{hashlib.sha256(text.encode()).hexdigest()[:10]}.json", text)


def described(cells: Sequence[Planned]) -> str:
    """How many there are, how many are done, and what waits for what."""
    done = sum(cell.record() is not None for cell in cells)
    added = sum(cell.added for cell in cells)
    waiting: dict[Path, int] = {}
    by_key = {cell.key: cell for cell in cells}
    for cell in cells:
        if cell.after and cell.record() is None and by_key[cell.after].record() is None:
            waiting[cell.after] = waiting.get(cell.after, 0) + 1
    lines = [f"{len(cells)} cells, {done} of them done" + (
        f"; {added} are MNLI runs that others start from, added by the sweep" if added else "")]
    lines += [f"{count} wait{'s' if count == 1 else ''} for {by_key[key].title}" for key, count in waiting.items()]
    return "\n".join(lines)

