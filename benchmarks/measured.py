"""A row's measurement as the JSON has it: its tables, or why there are none."""

from __future__ import annotations

import importlib
import time
import warnings
from typing import Any

from benchmarks.bench import Bench, CannotRun, Table
from engine import models
from engine.contract import Refused
from engine.record import plain

DIGITS = 5  # significant


def part(name: str, bench: Bench, started: str) -> dict[str, Any]:
    """Runs a row. missing: why this machine cannot measure it, else None. Raises Unequal where ways that it
    compares compute different things."""
    row, begin = importlib.import_module(f"benchmarks.rows.{name}"), time.perf_counter()
    made: dict[str, Any] = {"row": name, "letter": row.LETTER, "title": row.TITLE, "started": started, "seconds": None,
                            "rounds": bench.rounds, "missing": None, "tables": {}, "about": {}}
    try:
        for table in _quietly(row, bench):
            made["tables"][table.name] = [{key: _short(cell) for key, cell in line.items()} for line in table.rows]
            made["about"][table.name] = list(table.about)
    except (CannotRun, Refused) as reason:
        made |= {"missing": " ".join(str(reason).split()), "tables": {}, "about": {}}
    made["seconds"] = round(time.perf_counter() - begin, 1)
    found: dict[str, Any] = plain(made)
    return found


def _quietly(row: Any, bench: Bench) -> list[Table]:
    """The row's tables, without what libraries have to say about toys and about each other."""
    with models.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made: list[Table] = row.run(bench)
        return made


def _short(cell: Any) -> Any:
    return float(f"{cell:.{DIGITS}g}") if isinstance(cell, float) else cell
