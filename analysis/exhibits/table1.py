"""The time of one forward pass with adapters, with LoRA and without (Table 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import pandas as pd

from analysis.exhibit import Exhibit, Inputs, Table, printed
from engine.record import Record

NEEDS = "a latency record of GPT-2 medium, without data or weights; python run.py task=latency model=gpt2-medium"
COMMAND = "python run.py task=latency model=gpt2-medium"
ADAPTERS = {"adapter-l": "Adapter-L", "adapter-h": "Adapter-H"}
DATA = ["whose", "model", "batch", "length", "method", "label", "size", "r", "trainable", "trials", "median", "mean",
        "std", "min", "max", "slowdown", "slowdown_low", "slowdown_high"]
NUMBERS = ["batch", "length", "r", *DATA[8:]]
GRID, MACHINE = ("batches", "lengths", "ranks", "table1"), {"attention", "torch"}  # what a study must say
CELL, COLUMN = {"batch", "length", "why"}, {"batch", "length", *ADAPTERS}
COLUMNS = ["whose", "method", "r", "trainable", "mean ± std (ms)", "median (ms)", "slow-down (%)"]


def make(inputs: Inputs) -> Exhibit:
    """The paper's three columns, each with the rows of every recorded study."""
    paper, (found, faults) = _paper(), studies(inputs)
    ours = {cell: [_ours(record, *cell) for record in found] for cell in _cells(paper)}
    data = pd.concat([paper, *chain(*ours.values())], ignore_index=True).reindex(columns=DATA)
    tables = [Table(f"Batch {batch}, length {length}; the paper's adapters have {size}", COLUMNS,
                    _rows(data, batch, length), range(2, len(COLUMNS)))
              for (batch, length), size in _cells(paper).items()]
    there = {cell for cell, frames in ours.items() for frame in frames
             if set(frame.method) >= ADAPTERS.keys() and set(frame.model) == {"gpt2-medium"}}
    missing = [f"GPT-2 medium at batch {batch}, length {length}: {_why(found, batch, length)}{COMMAND} times it"
               for batch, length in _cells(paper) if (batch, length) not in there]
    return Exhibit("Table 1: latency of a forward pass", [*_protocol(), *map(_finding, found)], tables, [], data,
                   [*faults, *missing])


def studies(inputs: Inputs) -> tuple[list[Record], list[str]]:
    """The recorded latency studies, sorted by path; and those that are left out, each with what is wrong with it."""
    told = [record for record in inputs.records if record.task == "latency" and record.scale == "paper"]
    faults = [_fault(record) for record in told]
    return ([record for record, fault in zip(told, faults, strict=True) if not fault],
            [f"latency study {record.digest} is left out: {fault}" for record, fault in zip(told, faults, strict=True)
             if fault])


def _fault(record: Record) -> str:
    """What a study lacks of all that the exhibits need; "": nothing."""
    outcome, settings = record.outcome, record.settings
    rows, missing, task = outcome.get("measurements"), outcome.get("missing"), settings.get("task")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        return "its outcome has no list of measurements"
    if not isinstance(missing, list) or not all(isinstance(cell, dict) and cell.keys() >= CELL for cell in missing):
        return "its outcome does not say what is missing"
    if not isinstance(settings.get("machine"), dict) or not settings["machine"].keys() >= MACHINE:
        return "its settings do not say the machine's attention and torch"
    if not isinstance(task, dict) or not all(isinstance(task.get(key), list) for key in GRID) or (
            not task.keys() >= {"trials", "precision"}) or not all(
            isinstance(column, dict) and column.keys() >= COLUMN for column in task["table1"]):
        return "its settings do not say the grid"
    for row in rows:
        odd = next((key for key in NUMBERS if not _number(row.get(key))), None)
        if odd or not {"method", "label"} <= row.keys():
            return f"a measurement has no number as its {odd}" if odd else "a measurement names no method"
        if row["batch"] not in task["batches"] or row["length"] not in task["lengths"]:
            return "a measurement is not on its grid"
    return ""


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def measured(record: Record) -> pd.DataFrame:
    """One row a variant and cell: batch, length, method, label, r, trainable, median, mean, … (ms), slowdown (%)."""
    return pd.DataFrame(record.outcome["measurements"])


def whose(record: Record) -> str:
    """The study's model and machine, and in what it differs from the paper's."""
    task, machine = record.settings["task"], record.settings["machine"]
    other = [what for what, same in (
        ("model", record.model == "gpt2-medium"),
        ("device", "rtx8000" in record.device.lower().replace(" ", "")), ("trials", task["trials"] == 100)) if not same]
    verdict = (f"not comparable: other {', '.join(other)}" if other
               else "as the paper, which states neither precision nor attention")
    precision, matmul = task["precision"], machine.get("float32_matmul", "highest")
    if precision == "fp32" and matmul != "highest":
        precision += f" but for matrix products (torch's {matmul})"  # TF32, or less
    seed = f", seed {record.seed}" if record.seed else ""
    return (f"ours: {record.model}, {record.device}, {precision}, {machine['attention']}, torch "
            f"{machine['torch']}, {task['trials']} trials{seed} ({verdict})")


def _cells(paper: pd.DataFrame) -> dict[tuple[int, int], str]:
    """The paper's columns: (batch, length) and the size of the adapters in them."""
    adapters = paper[paper.method == "adapter-l"]
    return {(row.batch, row.length): row.size for row in adapters.itertuples()}


def _paper() -> pd.DataFrame:
    """What Table 1 prints, one row a method and column. size: that of the adapters, "" where there is none."""
    told = printed("table1_latency")
    keys = ["method", "batch_size", "seq_len"]
    slower = told[told.metric == "slowdown_vs_no_adapter"].set_index(keys).value
    names = {label: name for name, label in ADAPTERS.items()}
    rows = [{
        "whose": "paper: gpt2-medium, Quadro RTX8000, 100 trials", "model": row.model,
        "method": names.get(row.method, "none"), "size": row.trainable_params,
        "label": row.method if row.method in names else "fine-tuned or LoRA, merged",
        "batch": int(row.batch_size), "length": int(row.seq_len), "mean": float(row.value), "std": float(row.std),
        "slowdown": float(slower.get((row.method, row.batch_size, row.seq_len), "0"))}
        for row in told[told.metric == "forward_latency"].itertuples()]
    return pd.DataFrame(rows)


def _ours(record: Record, batch: int, length: int) -> pd.DataFrame:
    """A study's rows of one column: without an adapter, LoRA, and the adapters of the column's size."""
    columns = [column for column in record.settings["task"]["table1"]
               if (column["batch"], column["length"]) == (batch, length)]
    sizes = {(name, column[name]) for column in columns for name in ADAPTERS}
    rows = measured(record).query("batch == @batch and length == @length")
    kept = [row.method not in ADAPTERS or (row.method, row.r) in sizes for row in rows.itertuples()]
    return rows.loc[kept].assign(whose=whose(record), model=record.model)


def _rows(data: pd.DataFrame, batch: int, length: int) -> list[list[str]]:
    def number(value: float, form: str) -> str:
        return "—" if pd.isna(value) else format(value, form)

    rows = []
    for row in data[(data.batch == batch) & (data.length == length)].itertuples():
        slower = "" if row.method == "none" else f"{row.slowdown:+.1f}"
        if slower and not pd.isna(row.slowdown_low):
            slower += f" ({row.slowdown_low:+.1f} to {row.slowdown_high:+.1f})"
        count = row.size if isinstance(row.size, str) and row.size else number(row.trainable, ",.0f")
        rows.append([row.whose, row.label, number(row.r, ".0f"), count,
                     f"{row.mean:,.1f} ± {row.std:,.1f}", number(row.median, ",.1f"), slower])
    return rows


def _why(found: Sequence[Record], batch: int, length: int) -> str:
    """What a study says of a cell that it has not."""
    return "".join(f"{cell['why']} on {record.device}; " for record in found for cell in record.outcome["missing"]
                   if (cell["batch"], cell["length"]) == (batch, length))


def _protocol() -> list[str]:
    return [
        "One forward pass in milliseconds, and how much slower it is than without an adapter. The paper gives mean and "
        "spread over 100 trials. Ours are in eval mode, without a graph compiler, the trials of all methods "
        "interleaved; the slow-down is the median over the rounds of one time over the other, in brackets "
        "the quartiles: on a busy machine it need not be the ratio of the medians beside it. The quartiles are the "
        "spread of single rounds and no test: with normally distributed ratios and no slow-down at all they leave 0 "
        "out for 14 % of methods at 10 rounds, and at 100 rounds with a slow-down of half a standard deviation for "
        "only 11 %. Trials before the first that counts warm the machine up.",
        "The paper states neither the precision nor the bottlenecks, nor whether the logits of the vocabulary are in "
        "the time. Ours compute the logits of every position and keep no cache; the bottlenecks are those that give "
        "the printed sizes on GPT-2 medium. Weights and token ids are random, which makes no difference to the time.",
        "The paper's first row is fine-tuning and merged LoRA at once: one graph, so one time. Ours time both, merged "
        "LoRA with its modules gone, and LoRA that is not merged besides."]


def _finding(record: Record) -> str:
    """The slow-downs of a study's smallest cell, and whose quartiles include none."""
    rows, label = measured(record), whose(record)
    first = rows[(rows.batch == rows.batch[0]) & (rows.length == rows.length[0]) & (rows.method != "none")]
    said = ", ".join(f"{row.label} r={row.r} {row.slowdown:+.1f} %" for row in first.itertuples()) or "no method timed"
    across = [f"{row.label} r={row.r}" for row in first.itertuples() if row.slowdown_low <= 0 <= row.slowdown_high]
    within = (f" The quartiles include 0 for {', '.join(across)}; of the others they do not, which is no evidence of a "
              "difference by itself." if across else "")
    return f"{label[0].upper()}{label[1:]}. Batch {rows.batch[0]}, length {rows.length[0]}: {said}.{within}"
