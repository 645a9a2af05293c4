"""The commands that would run what a table of the paper lacks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from analysis.aggregate import AVERAGE, Entry
from analysis.protocol import GPT3, SEEDS, Printed, audited, readings

RECIPES = Path(__file__).parents[1] / "conf" / "recipe"
OURS = " (no published recipe: ours will stand apart)"


def missing(entries: Sequence[Entry]) -> list[str]:
    """The printed rows that are not run, with the command; those of earlier work say so instead, GPT-3's nothing."""
    found: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for entry in entries:
        number = entry.number
        if entry.ours or number.task == AVERAGE or number.source == "prior_work" or number.model == GPT3:
            continue
        for all_of_them, one in zip(found.setdefault(_command(entry), ([], [], [])), (
                f"{number.label} {number.params}".strip(), number.task, _rank(number)), strict=True):
            all_of_them += [one] * (one not in all_of_them)
    lines = [f"{', '.join(rows)}: `{command.replace('TASKS', ','.join(tasks)).replace('RANKS', ','.join(ranks))}`"
             + OURS * ("recipe=text/" in command) for command, (rows, tasks, ranks) in found.items()]
    quoted = dict.fromkeys(f"{e.number.label} {e.number.params}".strip() for e in entries
                           if e.number.source == "prior_work" and e.number.model != GPT3 and not e.ours)
    return [*lines, *([f"quoted from earlier work, without hyperparameters: {', '.join(quoted)}"] * bool(quoted))]


def _command(entry: Entry) -> str:
    """What would run a printed number, TASKS and RANKS to be filled in; where our runs lack the metric alone, what
    would score them again."""
    number, name = entry.number, entry.number.method.lower().replace("+", "-")
    there = {path.stem for path in (RECIPES / number.model).glob("*.yaml")}
    sizes = [f"{name}-r{reading['r']}" for reading in readings(number) if "r" in reading]
    special = next((each for each in (*sizes, f"{name}-{number.setup}") if each in there), None)
    recipe = f"{number.model}/{special}" if special else "" if name in there else f"text/{name}"
    seeds = ",".join(map(str, range(SEEDS.get(number.table, 3))))
    words = ["python run.py -m task=TASKS", f"seed={seeds}", f"method={name}", f"model={number.model}",
             *([f"recipe={recipe}"] if recipe else []), *(["r=RANKS"] if _rank(number) else []),
             *(["runtime.force=true runtime.train=false"] if entry.cell else [])]
    return " ".join(words)


def _rank(number: Printed) -> str:
    """Where no recipe has the row's: Table 18's rank, or the bottleneck that gives the printed size."""
    if number.variant.startswith("size="):
        return (re.findall(r";r=(\d+)", audited(number)) or [""])[0]
    return str(readings(number)[0]["ranks"]["q"]) if number.table == "18" else ""
