"""The control that Table 2 lacks: full fine-tuning and LoRA, each with and without the MNLI start."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import frames
from analysis.aggregate import Statistic, statistic
from analysis.beside import HEADS
from analysis.exhibit import Exhibit, Inputs, Table
from analysis.frames import Cell
from analysis.protocol import Printed, numbers
from engine.record import digest

MAKE = "python run.py table=table2-control"  # and the MNLI runs that half of them start from
NEEDS = "records of MRPC, RTE or STS-B; python run.py table=table2-control makes them"
TASKS = ("mrpc", "rte", "stsb")
STARTS = ("none", "mnli")
SAYS = """\
The printed LoRA rows start MRPC, RTE and STS-B from the best MNLI run, while the fine-tuning rows beside them are
quoted; RoBERTa's are from work that started from the pre-trained model. So on these three tasks the two rows differ
in method and in start at once, and the start alone is worth points. The paper's own restricted setup (†) has LoRA
without it. The control is two by two: both methods, each from both starts, all else equal. Pairs differ in init_from
alone; the median over seeds. A gain is the difference of two medians, not paired by seed and without an interval. Runs
that share an MNLI parent do not vary in it: where *parents* is less than the number of runs, ± is no spread over whole
chains, and the gain is one of so many parents."""


def make(inputs: Inputs) -> Exhibit:
    """What is printed of the four combinations, and ours."""
    cells = [cell for cell in frames.real(inputs.records) if cell.first.task in TASKS
             and cell.first.label in ("FT", "LoRA") and cell.first.settings.get("init_from", "none") in STARTS]
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_alike(cell), []).append(cell)
    found = [_pair(group) for _, group in sorted(groups.items())]
    rows = [[*front, *(_said(each) for each in pair), str(parents or ""), _gain(pair)]
            for front, pair, parents in found]
    columns = ["model", "method", "recipe and settings", "task", "without", "with MNLI", "parents", "gain"]
    tables = [_as_printed(), *([Table("Ours", columns, rows, (4, 5, 6, 7))] if rows else [])]
    data = pd.DataFrame([
        {"model": front[0], "method": front[1], "settings": front[2], "task": front[3], "init_from": start,
         "value": each.value, "n": each.n, "spread": each.spread, "low": each.low, "high": each.high,
         "parents": parents if start == "mnli" else 0}
        for front, pair, parents in found for start, each in zip(STARTS, pair, strict=True) if each],
        columns=["model", "method", "settings", "task", "init_from", "value", "n", "spread", "low", "high", "parents"])
    half = [f"{front[0]} {front[1]} on {front[3]}" for front, pair, _ in found if None in pair]
    lacking = ([f"no pair yet for {', '.join(dict.fromkeys(half))}: run it with init_from=none and init_from=mnli"]
               if half else [])
    full = {(front[0], front[3], front[1]) for front, pair, _ in found if None not in pair}
    whole = any((model, task, "LoRA") in full and (model, task, "FT") in full for model, task, _ in full)
    return Exhibit("Control: the MNLI start", [SAYS], tables, [], data,
                   [*lacking, *([] if whole else [f"no 2 x 2 is whole: `{MAKE}`"])])


def _alike(cell: Cell) -> tuple[str, ...]:
    """What the two of a pair share, besides their model, method and task every other setting."""
    run = cell.first
    settings = {key: value for key, value in run.settings.items() if key not in ("seed", "init_from")}
    identity = digest(settings, run.data_sha256, run.model_revision, None)
    return run.model, run.label, str(TASKS.index(run.task)), identity


def _pair(group: Sequence[Cell]) -> tuple[tuple[str, str, str, str], list[Statistic | None], int]:
    """What stands in front, the numbers without and with the MNLI start, and from how many MNLI runs these started."""
    run = group[0].first
    said = [word for word in frames.changed(run).split() if not word.startswith("init_from=")]
    settings = " ".join(filter(None, [run.settings["recipe"]["name"], run.variant, *said]))
    limit = run.settings["task"].get("limit")
    settings += f" limit={limit}" if limit else ""
    by_start = {cell.first.settings.get("init_from", "none"): cell for cell in group}
    return (run.model, run.label, settings, run.task), [
        statistic(by_start[start], run.metric, "median", 1) if start in by_start else None for start in STARTS
    ], len({record.init_from for record in by_start["mnli"].records}) if "mnli" in by_start else 0


def _said(each: Statistic | None) -> str:
    spread = "" if each is None or each.spread is None else f"±{each.spread:.1f}"
    return "—" if each is None else f"{each.value:.1f}{spread} ({each.n})"


def _gain(pair: Sequence[Statistic | None]) -> str:
    without, start = pair
    return f"{start.value - without.value:+.1f}".replace("-", "−") if start and without else ""


def _as_printed() -> Table:
    """The rows of Table 2 that have one of the four combinations."""
    rows: dict[str, dict[str, Printed]] = {}
    for number in numbers("table2_glue"):
        if number.method in ("FT", "LoRA") and number.task in TASKS:
            rows.setdefault(number.label, {})[number.task] = number
    def start(number: Printed) -> str:
        if number.source == "prior_work" and not number.model.startswith("roberta"):
            return "not stated"
        return {"none": "pre-trained", "mnli": "MNLI"}[number.start]

    lines = [[label, start(row["rte"]), *(row[task].value + (f"±{row[task].std}" if row[task].std else "")
                                          for task in TASKS)] for label, row in rows.items()]
    return Table("As printed in Table 2", ["row", "start", *(HEADS[task] for task in TASKS)], lines, (2, 3, 4))
