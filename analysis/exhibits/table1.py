"""The time of one forward pass with adapters, with LoRA and without (Table 1)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.exhibit import Exhibit, Inputs, Table, printed
from engine.record import Record

NEEDS = "a latency record of GPT-2 medium, without data or weights; python run.py task=latency model=gpt2-medium"
COMMAND = "python run.py task=latency model=gpt2-medium"
ADAPTERS = {"adapter-l": "Adapter-L", "adapter-h": "Adapter-H"}
DATA = ["whose", "model", "batch", "length", "method", "label", "size", "r", "trainable", "trials", "median", "mean",
        "std", "min", "max", "slowdown", "slowdown_low", "slowdown_high"]
COLUMNS = ["whose", "method", "r", "trainable", "mean ± std (ms)", "median (ms)", "slow-down (%)"]


def make(inputs: Inputs) -> Exhibit:
    """The paper's three columns, each with the rows of every recorded study."""
    paper, found = _paper(), studies(inputs)
    ours = [_ours(record, *cell) for cell in _cells(paper) for record in found]
    data = pd.concat([paper, *ours], ignore_index=True).reindex(columns=DATA)
    tables = [Table(f"Batch {batch}, length {length}, adapters of {size}", COLUMNS, _rows(data, batch, length),
                    range(2, len(COLUMNS))) for (batch, length), size in _cells(paper).items()]
    there = {(row.batch, row.length) for frame in ours for row in frame.itertuples() if row.model == "gpt2-medium"}
    missing = [f"batch {batch}, length {length}: {_why(found, batch, length)}{COMMAND} times it"
               for batch, length in _cells(paper) if (batch, length) not in there]
    return Exhibit("Table 1: latency of a forward pass", [*_protocol(), *map(_finding, found)], tables, [], data,
                   missing)


def studies(inputs: Inputs) -> list[Record]:
    """The recorded latency studies, sorted by path."""
    return [record for record in inputs.records if record.task == "latency" and record.scale == "paper"]


def measured(record: Record) -> pd.DataFrame:
    """One row a variant and cell: batch, length, method, label, r, trainable, median, mean, … (ms), slowdown (%)."""
    return pd.DataFrame(record.outcome["measurements"])


def whose(record: Record) -> str:
    """The study's model and machine, and in what it differs from the paper's."""
    task, machine = record.settings["task"], record.settings["machine"]
    other = [what for what, same in (
        ("model", record.model == "gpt2-medium"),
        ("device", "rtx8000" in record.device.lower().replace(" ", "")), ("trials", task["trials"] == 100)) if not same]
    verdict = f"not comparable: other {', '.join(other)}" if other else "as the paper"
    seed = f", seed {record.seed}" if record.seed else ""
    return (f"ours: {record.model}, {record.device}, {task['precision']}, {machine['attention']}, torch "
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
    return rows[kept].assign(whose=whose(record), model=record.model)


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
        "interleaved; the slow-down is the median over the rounds, in brackets their quartiles. Trials before the "
        "first that counts warm the machine up.",
        "The paper states neither the precision nor the bottlenecks, nor whether the logits of the vocabulary are in "
        "the time. Ours compute the logits of every position and keep no cache; the bottlenecks are those that give "
        "the printed sizes on GPT-2 medium. Weights and token ids are random, which makes no difference to the time.",
        "The paper's first row is fine-tuning and merged LoRA at once: one graph, so one time. Ours time both, merged "
        "LoRA with its modules gone, and LoRA that is not merged besides."]


def _finding(record: Record) -> str:
    """The slow-downs of a study's smallest cell, and which of them its spread cannot tell from none."""
    rows, label = measured(record), whose(record)
    first = rows[(rows.batch == rows.batch[0]) & (rows.length == rows.length[0]) & (rows.method != "none")]
    said = ", ".join(f"{row.label} r={row.r} {row.slowdown:+.1f} %" for row in first.itertuples())
    unsure = [f"{row.label} r={row.r}" for row in first.itertuples() if row.slowdown_low <= 0 <= row.slowdown_high]
    within = f" Not told from no slow-down (the quartiles include 0): {', '.join(unsure)}." if unsure else ""
    return f"{label[0].upper()}{label[1:]}. Batch {rows.batch[0]}, length {rows.length[0]}: {said}.{within}"
