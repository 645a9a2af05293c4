"""python -m analysis status [NAME]: how a sweep stands: done, running and by whom, failed and why, what waits for what.

Reads what is on the disk, so it may be asked on any host that sees the results folder, by anyone who may read it."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import estimate, sweeps
from analysis.sweeps import Cell, Sweep
from engine.contract import Refused

AGAIN = 5.0  # seconds between two drawings with --watch
TABLES = Path(__file__).parents[1] / "conf" / "table"
SHOWN = 20  # cells of a kind that are listed one by one


def main(words: list[str]) -> int:
    """Exit status 1 when a cell failed or a plan could not be read. Raises Refused."""
    parser = argparse.ArgumentParser(prog="python -m analysis status", description=(__doc__ or "").partition(":")[2],
                                     epilog="Exit status: 1 when a cell failed or a plan cannot be read, 2 for a wrong "
                                            "request, else 0.")
    parser.add_argument("name", nargs="?", metavar="NAME",
                        help="of a table (demo), sweep for what -m launched, search-demo [all: a line each]")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder [results]")
    parser.add_argument("--json", action="store_true", help="for scripts: everything, once")
    parser.add_argument("--watch", action="store_true", help="again every 5 s, until all is done; Ctrl-C ends it")
    asked = parser.parse_args(words)
    if asked.watch and asked.json:
        raise Refused("--watch --json: --json is given once; leave one of the two out")
    if not asked.results.is_dir():
        raise Refused(f"--results {asked.results}: no such folder")
    try:
        while True:
            found = _found(asked.results, asked.name)
            if asked.json:
                print(json.dumps([plain(sweep) for sweep in found], indent=1))
            else:
                clear = "\033[2J\033[H" if asked.watch and sys.stdout.isatty() else ""
                width = shutil.get_terminal_size((120, 24)).columns
                print(clear + (text(found[0], width) if asked.name else overview(found)), flush=True)
            over = all(cell.kind in ("done", "failed") for sweep in found for cell in sweep.cells)
            if not asked.watch or over:
                return int(any(sweep.counts["failed"] or sweep.broken for sweep in found))
            time.sleep(AGAIN)
    except KeyboardInterrupt:
        print()
        return 0
    except BrokenPipeError:  # head or a pager has seen enough; Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _found(results: Path, name: str | None) -> list[Sweep]:
    """The sweep of this name, or all. Raises Refused, which says what there is."""
    there = sweeps.names(results)
    if name is None:
        return [sweeps.read(results, each) for each in there]
    if name not in there:
        near = difflib.get_close_matches(name, there, 1, 0.5)
        launched = f"launched so far: {', '.join(there)}" if there else "none was launched so far"
        table = name if (TABLES / f"{name}.yaml").is_file() else "demo"
        raise Refused(f"{name}: no such sweep under {results}/sweeps{f'; did you mean {near[0]}?' if near else ''}\n"
                      f"{launched}; python run.py table={table} launches one")
    return [sweeps.read(results, name)]


def overview(found: Sequence[Sweep]) -> str:
    """A line a sweep."""
    if not found:
        return "no sweep was launched so far: python run.py table=demo"
    wide = max(len(sweep.name) for sweep in found)
    lines = [f"{sweep.name:<{wide}}  {_counted(sweep)}" for sweep in found]
    return "\n".join([*lines, *(f"cannot be read: {what}" for sweep in found for what in sweep.broken)])


def _counted(sweep: Sweep) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sweep.counts.items() if count) or "none"
    return f"{len(sweep.cells)} cell{'s' * (len(sweep.cells) != 1)}: {kinds}"


def text(sweep: Sweep, width: int) -> str:
    """All there is to say of a sweep."""
    by_key = {cell.records[0]: cell for cell in sweep.cells}
    parts = [[f"{sweep.name}: {_counted(sweep)}"], _grid(sweep.cells, width)]
    for kind, line in (("running", _running), ("failed", _failed), ("interrupted", _interrupted)):
        cells = [cell for cell in sweep.cells if cell.kind == kind]
        more = [f"  and {len(cells) - SHOWN} more (--json names them)"] if len(cells) > SHOWN else []
        rest = ": these go on when launched again" if kind == "interrupted" else ""
        parts.append([f"{kind}{rest}", *map(line, cells[:SHOWN]), *more] if cells else [])
    waits = Counter(cell.after for cell in sweep.cells if cell.kind == "waiting")
    parts.append([f"{count} cell{' waits' if count == 1 else 's wait'} for " + (
        f"{by_key[key].title} ({by_key[key].kind})" if key in by_key else str(key)) for key, count in waits.items()])
    parts.append([f"cannot be read: {what}" for what in sweep.broken])
    parts.append([estimate.said(sweep), *_next(sweep)])
    return "\n\n".join("\n".join(part) for part in parts if part)


def _grid(cells: Sequence[Cell], width: int) -> list[str]:
    """Done of all, methods by tasks; the model and the method's settings are named where there are several."""
    models, settings = {cell.model for cell in cells}, {(cell.method, cell.variant) for cell in cells}
    several = len(settings) > len({method for method, _ in settings})

    def row(cell: Cell) -> str:
        model, variant = cell.model if len(models) > 1 else "", cell.variant if several else ""
        return " ".join(filter(None, [model, cell.label, variant]))

    rows, tasks = dict.fromkeys(map(row, cells)), list(dict.fromkeys(cell.task for cell in cells))
    if len(rows) * len(tasks) < 2:
        return []
    every, done = (Counter((row(cell), cell.task) for cell in chosen) for chosen in (
        cells, [cell for cell in cells if cell.kind == "done"]))
    table = [["", *tasks], *([name, *(f"{done[name, task]}/{every[name, task]}" if every[name, task] else ""
                                      for task in tasks)] for name in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(table[0]))]
    if sum(widths) + 2 * len(tasks) > width:
        return []
    return ["  ".join(word.rjust(size) if place else word.ljust(size) for place, (word, size) in enumerate(
        zip(line, widths, strict=True))).rstrip() for line in table]


def _where(cell: Cell) -> str:
    """How far it is: epoch 2 of 3, step 120 of 400."""
    at = cell.position
    return ", ".join(f"{name} {at[name]:g}" + (f" of {at[f'{name}s']:g}" if at.get(f"{name}s") else "")
                     for name in ("epoch", "step") if name in at)


def _running(cell: Cell) -> str:
    return f"  {cell.title}: {_where(cell) or 'begins'}; {cell.state.holder if cell.state else ''}"


def _failed(cell: Cell) -> str:
    lines = [f"  {cell.title}: {cell.error or 'no reason given'}"]
    said = cell.state.failed if cell.state else None
    if said:
        job = f" in Slurm job {said['job']}" if said.get("job") else ""
        lines.append(f"    {str(said.get('when', ''))[:16].replace('T', ' ')} UTC on {said.get('host')}{job}; "
                     f"traceback: {cell.folder}/failed.json")
    return "\n".join(lines)


def _interrupted(cell: Cell) -> str:
    at = f"goes on at {_where(cell)}" if _where(cell) else "no checkpoint, so from the start"
    state = cell.state
    if state is None or state.holder is None:
        return f"  {cell.title}: {at}"
    how = f"no sign of life for {estimate.duration(state.quiet or 0)} from" if state.kind == "silent" else "died:"
    return f"  {cell.title}: {at}; {how} {state.holder}"


def _next(sweep: Sweep) -> list[str]:
    if sweep.command:
        return [("running; if that stops, again: " if sweep.counts["running"] else "next: ") + sweep.command]
    tables = sweep.cells and sweep.counts["done"] == len(sweep.cells) and not sweep.name.startswith("search-")
    return ["next: python -m analysis"] if tables else []


def plain(sweep: Sweep) -> dict[str, Any]:
    """A sweep for scripts. candidates: where a record would be, under the results folder (the device decides); after:
    the first candidate of the cell that it waits for."""
    left, _, guessed, unsure = estimate.remaining(sweep.cells)
    cells = [{"title": cell.title, "task": cell.task, "model": cell.model, "method": cell.method,
              "variant": cell.variant, "scale": cell.scale, "kind": cell.kind,
              "record": str(cell.record) if cell.record else None, "candidates": list(cell.records),
              "after": cell.after, "holder": vars(cell.state.holder) if cell.state and cell.state.holder else None,
              "quiet": cell.state.quiet if cell.state else None, "position": dict(cell.position), "error": cell.error,
              "folder": str(cell.folder) if cell.folder else None} for cell in sweep.cells]
    return {"name": sweep.name, "counts": sweep.counts, "cells": cells, "seconds_left": round(left),
            "guessed": guessed, "without_estimate": unsure, "command": sweep.command, "broken": list(sweep.broken)}
