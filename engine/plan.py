"""A sweep as a graph: its cells, where their records will be, which waits for which; and how that is told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.files import whole_text

Words = Sequence[str]


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
    extra: str = ""  # the words that tell it from another of the same title
    kin: str | None = None  # what it shares with the cells that it can train at once with (engine/kin.py)
    alone: str = ""  # why it can train with none

    @property
    def row(self) -> str:
        """What it shares with the other tasks and seeds of its row."""
        return " ".join(filter(None, [self.about["label"], self.about["variant"], self.extra]))

    @property
    def key(self) -> Path:
        """What tells cells apart."""
        return self.records[0]

    def record(self) -> Path | None:
        """Its record, if it is done."""
        return next((path for path in self.records if path.is_file()), None)

    def launched(self, parent: Path | None) -> list[str]:
        """The words that run it, when the run it starts from is recorded at parent."""
        begun = digest_of(parent) or self.begun
        return [*self.words, f"runtime.parent='{begun}'"] if self.child else [*self.words]


def digest_of(path: Path | None) -> str | None:
    """A run's digest from where its record is."""
    return None if path is None else path.stem.rpartition("-")[2]


def told_apart(cells: list[Planned]) -> list[Planned]:
    """Cells of the same title, with the words that differ in it."""
    alike: dict[str, list[Planned]] = {}
    for cell in cells:
        alike.setdefault(cell.title, []).append(cell)
    made = []
    for cell in cells:
        others = alike[cell.title]
        shared = set.intersection(*(set(other.words) for other in others))
        extra = " ".join(word for word in cell.words if word not in shared) if others[1:] else ""
        made.append(replace(cell, extra=extra, title=f"{cell.title} · {extra}") if extra else cell)
    return made


def ordered(planned: Sequence[Planned]) -> list[Planned]:
    """Parents first, and before the cells that only decode what another trains, that other."""
    trains: dict[tuple[Path, ...], Path] = {}
    cells = []
    for cell in planned:
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
    """How many there are and how many are done."""
    added, done = sum(cell.added for cell in cells), sum(cell.record() is not None for cell in cells)
    asked = len(cells) - added
    parents = f" and {added} MNLI run{'s' * (added != 1)} that others start from" if added else ""
    return f"{asked} cell{'s' * (asked != 1)}{parents}; done so far: {done}"


def listed(cells: Sequence[Planned], out: Path) -> str:
    """A line each: how it stands before anything is launched, and what it waits for."""
    from engine import work

    by_key = {cell.key: cell for cell in cells}
    lines = []
    for cell in cells:
        kinds = {work.state(work.folder_of(out, path)).kind for path in cell.records}
        after = by_key[cell.after] if cell.after else None
        state = "done" if cell.record() else next((kind for kind in ("running", "interrupted") if kind in kinds),
                                                  "waits" if after and not after.record() else "ready")
        lines.append(f"  {state:11} {cell.title}" + (f", for {after.title}" if state == "waits" and after else ""))
    return "\n".join(lines)
