"""The paper's tables with ours beside: under each printed row a line of ours, and what stands for nothing apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from analysis import frames
from analysis.aggregate import AVERAGE, Entry, Statistic, compared, digits, stand_ins
from analysis.commands import missing
from analysis.exhibit import Exhibit, Inputs, Table
from analysis.protocol import GPT3, Printed, numbers
from engine.record import Record

HEADS = {
    "mnli": "MNLI", "mnli-lm": "MNLI-m", "sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "qnli": "QNLI", "qqp": "QQP",
    "rte": "RTE", "rte-lm": "RTE", "stsb": "STS-B", AVERAGE: "Avg.", "wikisql": "WikiSQL", "samsum": "SAMSum",
    "e2e": "E2E", "webnlg": "WebNLG", "dart": "DART", "bleu": "BLEU", "nist": "NIST", "meteor": "METEOR",
    "rouge_l": "ROUGE-L", "cider": "CIDEr", "ter": "TER",
    "val_loss": "val. loss", "rouge1": "R1", "rouge2": "R2", "rougeL": "RL",
}
NEVER = "GPT-3's weights were never published, so its rows cannot be run again; stand-ins"


@dataclass(frozen=True)
class Layout:
    """How a table of the paper looks. source: its file in results/paper."""

    source: str
    head: Sequence[str]  # of the columns in front
    row: Callable[[Printed], tuple[str, ...]]  # what they hold: all numbers with the same stand in one row
    column: Callable[[Printed], str]


def table(title: str, says: Sequence[str], layout: Layout, inputs: Inputs, stand_in: str = "") -> Exhibit:
    """The whole exhibit of a table of the paper. stand_in: the command that runs other models in GPT-3's place."""
    printed, cells = numbers(layout.source), frames.real(inputs.records)
    entries = compared(cells, printed)
    others = stand_ins(cells, printed, entries)
    tables = [_printed(title, layout, entries), *([_others(others)] if others else [])]
    data = pd.DataFrame([_long("paper", e, layout) for e in entries] + [_long("other", e, layout) for e in others])
    data = data.astype(dict.fromkeys(("ours", "spread", "low", "high", "last", "difference"), float))
    data = data.astype(dict.fromkeys(("n", "collapsed", "undefined"), "Int64"))
    lost = [f"{len(inputs.broken)} records could not be read; `python -m analysis` says which"] * bool(inputs.broken)
    never = [f"{NEVER}: `{stand_in}`"] if stand_in else []
    return Exhibit(title, [*says, *_protocols(layout, entries), LEGEND], tables, [], data,
                   [*missing(entries), *never, *lost])


LEGEND = """\
*paper*: as printed, *quoted* if it took the number from earlier work. *ours*: the same aggregate of our runs, ± their
standard deviation, and in brackets how many seeds. *difference*: ours minus the paper's; *within* if our 95 % bootstrap
interval meets the printed number ± its printed spread and half a unit of its last digit, else *outside*; with fewer
than three seeds, or where a run collapsed or has no value, our value alone has to, as there the interval says nothing.
*last epoch*: ours without choosing the best. What differs in task, model, data, start, decoding or hyperparameters
stands in no row of the paper; seeds, precision, device, weights from a folder and the official scripts' recipe are only
said. In *protocol*, *recipe ours*: hyperparameters that we chose, not the paper's for that row; *setup*: the paper's
other one, standard or restricted (†), than the row's; *no row has these settings*: the paper has the method at other
ranks, sizes or matrices."""


def _protocols(layout: Layout, entries: Sequence[Entry]) -> list[str]:
    """A paragraph on how our runs in the printed rows differ from the paper's."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if entry.ours and entry.cell:
            row = " ".join(layout.row(entry.number))
            found.setdefault((row, entry.protocol), []).append(layout.column(entry.number))
    lines = [f"- {row}: {', '.join(columns)}: {protocol}" for (row, protocol), columns in found.items()]
    return ["Ours in these rows:\n\n" + "\n".join(lines)] if lines else []


def _printed(title: str, layout: Layout, entries: Sequence[Entry]) -> Table:
    columns = list(dict.fromkeys(layout.column(entry.number) for entry in entries))
    rows: dict[tuple[str, ...], dict[str, Entry]] = {}
    for entry in entries:
        rows.setdefault(layout.row(entry.number), {})[layout.column(entry.number)] = entry
    lines, empty = [], ("",) * len(layout.head)
    for front, row in rows.items():
        first = next(iter(row.values())).number
        quoted = all(entry.number.source == "prior_work" for entry in row.values())
        texts = {column: _text(float(e.number.value), e.number.std, e.number) for column, e in row.items()}
        lines.append([*front, "quoted" if quoted else "paper", *(texts.get(column, "") for column in columns)])
        if first.model == GPT3:
            continue
        ours = {column: _ours(entry) for column, entry in row.items()}
        lines.append([*empty, "ours", *(ours.get(column, "") for column in columns)])
        if any(entry.ours for entry in row.values()):
            apart = {column: _apart(entry) for column, entry in row.items()}
            lines.append([*empty, "difference", *(apart.get(column, "") for column in columns)])
            last = {column: _last(entry) for column, entry in row.items()}
            lines += [[*empty, "last epoch", *(last.get(column, "") for column in columns)]] * any(last.values())
    return Table(title, [*layout.head, "", *columns], lines, range(len(empty) + 1, len(empty) + 1 + len(columns)))


def _text(value: float, spread: str, number: Printed) -> str:
    return f"{value:.{digits(number.value)}f}" + (f"±{spread}" if spread else "")


def _ours(entry: Entry) -> str:
    ours = entry.ours
    if ours is None:
        return "—"
    places = digits(entry.number.value)
    return f"{_text(ours.value, '' if ours.spread is None else f'{ours.spread:.{places}f}', entry.number)} ({ours.n})"


def _apart(entry: Entry) -> str:
    if entry.difference is None:
        return ""
    signed = f"{entry.difference:+.{digits(entry.number.value)}f}".replace("-", "−")
    return f"{signed} {entry.verdict}".strip()


def _last(entry: Entry) -> str:
    return "" if entry.ours is None or entry.ours.last is None else _text(entry.ours.last, "", entry.number)


def _others(entries: Sequence[Entry]) -> Table:
    """One row a cell; a column for each metric where a cell has several."""
    cells: dict[int, list[Entry]] = {}
    for entry in entries:
        cells.setdefault(id(entry.cell), []).append(entry)
    keys = list(dict.fromkeys(entry.number.key for entry in entries))
    several = any(len(each) > 1 for each in cells.values())
    rows = []
    for each in cells.values():
        run = each[0].cell.first if each[0].cell else None
        assert run is not None
        values = {entry.number.key: _ours(entry).rpartition(" ")[0] for entry in each}
        shown = [values.get(key, "—") for key in keys] if several else list(values.values())
        shown += [] if several else [_last(each[0])]
        count, n = f"{run.footprint['trainable']:,}", max(entry.ours.n for entry in each if entry.ours)
        label = max((entry.protocol for entry in each), key=len)  # the validation loss asks for less than the texts
        if not each[0].verdict.startswith("not comparable"):
            label = f"also comparable, {each[0].verdict}: {label}"
        rows.append([run.model, run.label, run.variant, count, task_of(run), *shown, str(n), label])
    heads = [HEADS.get(key, key.replace("_", " ")) for key in keys] if several else ["ours", "last epoch"]
    columns = ["model", "method", "settings", "trainable", "task", *heads, "n", "protocol"]
    return Table("Stand-ins and other protocols: not comparable", columns, rows, [3, *range(5, 6 + len(heads))])


def task_of(run: Record) -> str:
    """What was learnt and scored: E2E (validation), 8,000 examples."""
    limit, scored = (run.settings["task"].get(key) for key in ("limit", "scored"))
    words = [HEADS.get(run.task, run.task) + (f" ({str(scored).replace('_', ' ')})" if scored else "")]
    words += ["part of the data"] * ("subset" in run.data) + ([f"{limit:,} examples"] if limit else [])
    return ", ".join(words)


def _long(kind: str, entry: Entry, layout: Layout) -> dict[str, object]:
    """A line of the CSV. kind: paper, a printed number; other, a cell beside it."""
    number, cell = entry.number, entry.cell
    ours = asdict(entry.ours) if entry.ours else dict.fromkeys(Statistic.__dataclass_fields__)
    there = kind == "paper"
    return {
        "kind": kind, "table": number.table, "row": " ".join(layout.row(number)) if there else "",
        "column": layout.column(number) if there else "", "model": number.model if cell is None else cell.first.model,
        "method": number.method, "variant": number.variant if there or cell is None else cell.first.variant,
        "task": number.task, "split": number.split, "metric": number.metric, "unit": number.unit,
        "higher_is_better": number.higher_is_better, "source": number.source if there else "",
        "printed": number.value if there else "", "std": number.std if there else "", "ours": ours["value"],
        **{key: ours[key] for key in ("n", "spread", "low", "high", "last", "collapsed", "undefined")},
        "difference": entry.difference if there else None, "verdict": entry.verdict, "protocol": entry.protocol,
        "records": cell.digests if cell else "", "note": number.note if there else ""}
