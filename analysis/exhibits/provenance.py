"""Provenance: the hyperparameters in which recipes for one model and task differ, and where each value is from."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import frames
from analysis.exhibit import Exhibit, Inputs, Table
from engine.record import Record, plain

NEEDS = "records of two recipes on one model and task; python run.py -m task=cola method=lora model=roberta-base " \
        "recipe=roberta-base/lora,roberta-base/lora-official makes them"
SAYS = """\
For every model and task with runs of two or more recipes: the hyperparameters in which these differ, and where each
value comes from, as the records say it. A hyperparameter that only one of them has is left out. For recipes without
records, `python run.py task=rte model=roberta-base method=lora runtime.show=diff` prints the same from the recipes
themselves."""
COLUMNS = ("hyperparameter", "value", "recipes", "source")


def make(inputs: Inputs) -> Exhibit:
    """A table for each model and task, a line for each value of each hyperparameter."""
    groups: dict[tuple[str, str], dict[str, Record]] = {}
    for cell in frames.real(inputs.records):
        run = cell.first
        name = " ".join(filter(None, [run.settings["recipe"]["name"], _typed(run)]))
        groups.setdefault((run.model, run.task), {}).setdefault(name, run)
    tables, long = [], []
    for (model, task), runs in sorted(groups.items()):
        if len({run.settings["recipe"]["name"] for run in runs.values()}) < 2:
            continue
        rows = []
        for key in sorted({key for run in runs.values() for key in run.sources}):
            said: dict[str, list[tuple[str, str]]] = {}
            for name, run in runs.items():
                if key in run.sources:
                    said.setdefault(_word(frames.setting(run, key)), []).append((name, run.sources[key]))
            if len(said) < 2:
                continue
            for what, whose in said.items():
                names, sources = (list(dict.fromkeys(column)) for column in zip(*whose, strict=True))
                rows.append([key, what, ", ".join(names), "; ".join(sources)])
                long += [(model, task, key, what, name, source) for name, source in whose]
        if rows:
            tables.append(Table(f"{model}, {task}", COLUMNS, rows, ()))
    data = pd.DataFrame(long, columns=["model", "task", "hyperparameter", "value", "recipe", "source"])
    return Exhibit("Provenance of hyperparameters", [SAYS], tables, [], data if tables else None,
                   [] if tables else [f"no model and task has records of two recipes; {NEEDS.partition('; ')[2]}"])


def _typed(run: Record) -> str:
    """What the command line changed, if anything."""
    return " ".join(f"{key}={_word(frames.setting(run, key))}" for key, source in sorted(run.sources.items())
                    if source == "command line")


def _word(what: Any) -> str:
    return ",".join(map(str, what)) if isinstance(what, list) else str(plain(what))
