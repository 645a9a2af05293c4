"""How long the rest of a sweep will take, from what its runs took."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.sweeps import Cell, Sweep


def said(sweep: Sweep) -> str:
    """What is left, in words."""
    left, sure, guessed, unsure = remaining(sweep.cells)
    if not sure + unsure:
        return "nothing is left to run" + (", but for what failed" if sweep.counts["failed"] else "")
    if not sure:
        return "no estimate yet of what remains: no run is far enough"
    now, devices = max(1, sweep.counts["running"]), max(1, len(set(_processes(sweep.cells))))
    more = f"; for {guessed} cell{'s' * (guessed > 1)} a guess from other runs" if guessed else ""
    more += f", and {unsure} cell{'s' * (unsure > 1)} without an estimate" if unsure else ""
    return f"about {duration(left / devices)} of training left, {now} at a time{more}"


def duration(seconds: float) -> str:
    """40 s, 12 min, 2 h 10 min, 3 days 4 h"""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def remaining(cells: Sequence[Cell]) -> tuple[float, int, int, int]:
    """Seconds of training that are left to one process; in how many cells; in how many of these that is a mere guess;
    in how many more there is nothing to estimate from. Runs that train at once have equal shares of their time.

    A cell lasts as long as the mean done one of its task, model and method, else of its task and model, else as the
    running ones of these will by how far they are. A guess is the mean done one of its model, else of all."""
    known: dict[tuple[str, ...], list[float]] = {}
    processes = _processes(cells)
    for cell in cells:
        step, steps, spent = (cell.position.get(key) for key in ("step", "steps", "seconds"))
        lasts = cell.seconds if cell.kind == "done" else None
        if cell.kind == "running" and spent and steps and step:
            lasts = spent * steps / step / processes.count(_process(cell))
        if lasts is not None:
            for key in (*_near(cell), *_far(cell)):
                known.setdefault((cell.kind, *key), []).append(lasts)
    left, sure, guessed, unsure = 0.0, 0, 0, 0
    for cell in (each for each in cells if each.kind not in ("done", "failed")):
        near = next((known[kind, *key] for kind in ("done", "running") for key in _near(cell)
                     if (kind, *key) in known), None)
        found = near or next((known["done", *key] for key in _far(cell) if ("done", *key) in known), None)
        if found is None:
            unsure += 1
            continue
        step, steps = (cell.position.get(key) for key in ("step", "steps"))
        share = 1 - min(1.0, step / steps) if step and steps else 1.0
        left, sure, guessed = left + share * sum(found) / len(found), sure + 1, guessed + (near is None)
    return left, sure, guessed, unsure


def _process(cell: Cell) -> tuple[object, ...]:
    """What runs it, where that is known: a run is alone but for those that train with it (runtime.together)."""
    holder = cell.state.holder if cell.state else None
    if holder is None or holder.pid is None:
        return (cell.records[0],)
    return holder.host, holder.place, holder.pid, holder.job


def _processes(cells: Sequence[Cell]) -> list[tuple[object, ...]]:
    return [_process(cell) for cell in cells if cell.kind == "running"]


def _near(cell: Cell) -> list[tuple[str, ...]]:
    """By what cells last alike: the closest first."""
    return [(cell.scale, cell.task, cell.model, cell.method), (cell.scale, cell.task, cell.model)]


def _far(cell: Cell) -> list[tuple[str, ...]]:
    """By what they may last about as long."""
    return [(cell.scale, cell.model), (cell.scale,)]
