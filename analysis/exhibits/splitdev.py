"""How much choosing the best epoch flatters: chosen on one half of the validation set, reported on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

import pandas as pd

from analysis import frames
from analysis.exhibit import Exhibit, Inputs, Table
from engine.record import Record

NEEDS = "records of GLUE tasks that have halves in their curves; every new run has: python run.py task=rte method=lora"
HALVES = ("_half1", "_half2")  # as engine/train.py calls them
SAYS = """\
The paper reports, of each run, the epoch that is best on the very set that it reports on. Here the epoch is chosen on
one half of the validation set and reported on the other, then the other way round, and the two are averaged; the
halves are drawn once and are the same for all runs. *flattered* is the best epoch on the whole set minus that: what
choosing and reporting on one set adds. With few examples it is noisy, and may be negative for single runs. Medians
over seeds. A run of one epoch has no choice, so it is not in the average."""
COLUMNS = ["model", "method", "settings", "recipe", "task", "n", "best epoch", "split", "flattered", "last epoch"]


def make(inputs: Inputs) -> Exhibit:
    """A line a cell whose runs have halves."""
    rows, long, chose, older, undefined = [], [], [], 0, 0
    for cell in frames.real(inputs.records):
        found = []
        for record in cell.records:
            split = honest(record)
            if not any(key.endswith(HALVES) for entry in record.outcome["curve"] for key in entry):
                older += "val_loss" not in record.outcome["best"]  # texts choose by the loss and report something else
            elif split is None or record.value is None:
                undefined += 1
            else:
                last = record.outcome["last"].get(record.metric)
                found.append((record.value, split, record.value - split, float("nan") if last is None else last))
                long.append((record.digest, record.model, record.label, record.variant, record.task, record.seed,
                             *found[-1]))
                chose += [record.value - split] * (len(record.outcome["curve"]) > 1)
        if found:
            run = cell.first
            middle = [f"{round(median(each), 2) + 0.0:.2f}".replace("-", "−") for each in zip(*found, strict=True)]
            recipe = " ".join(filter(None, [run.settings["recipe"]["name"], frames.changed(run)]))
            rows.append([run.model, run.label, run.variant, recipe, run.task, str(len(found)), *middle])
    data = pd.DataFrame(long, columns=["record", "model", "method", "variant", "task", "seed", "best", "split",
                                       "flattered", "last"])
    says = [SAYS]
    if chose:
        says.append(f"{len(chose)} of {len(long)} runs had more than one epoch to choose from. In these the best epoch "
                    f"is {fmean(chose):.2f} points above the split on average, {min(chose):.2f} to {max(chose):.2f} in "
                    "single runs.".replace("-", "−"))
    tables = [Table("Best epoch, and epoch chosen on the other half", COLUMNS, rows, range(5, 10))] if rows else []
    missing = [f"{older} older records have no halves; the same commands with runtime.force=true run them again"]
    missing = missing * bool(older) + [f"{undefined} runs, whose metric is undefined on a half"] * bool(undefined)
    return Exhibit("Split development set", says, tables, [], data if rows else None,
                   missing or ([] if rows else [NEEDS]))


def honest(record: Record) -> float | None:
    """The mean of both halves, each at the epoch that is best on the other; None without halves, or where a half is
    never defined."""
    curve: Sequence[Mapping[str, Any]] = record.outcome["curve"]
    values: list[float] = []
    for chosen, told in ((record.metric + here, record.metric + there) for here, there in (HALVES, HALVES[::-1])):
        known = [entry for entry in curve if entry.get(chosen) is not None]
        best = max(known, key=lambda entry: entry[chosen]) if known else {}  # the first of equals, as fit() does
        if best.get(told) is None:
            return None
        values.append(best[told])
    return sum(values) / 2
