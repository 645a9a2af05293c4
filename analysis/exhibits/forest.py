"""Ours minus the paper, for every number that can be held against ours: a forest plot."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import frames, plots
from analysis.aggregate import Entry, band, compared
from analysis.beside import HEADS
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.protocol import numbers

NEEDS = "a record that is comparable with a printed number; python run.py table=table2-roberta-base makes the most"
SOURCES = ("table2_glue", "table3_e2e", "dart", "webnlg", "rank_gpt2_e2e")
UNITS = {"points_0_100": "points", "points_0_1": "from 0 to 1", "raw": "as it is", "nats_per_token": "nats a token"}
SAYS = """\
A line is a printed number of which there is a comparable run (Tables 2, 3, 13, 14 and 18). Zero is the paper; the
grey bar is its printed spread and half a unit of the last digit, the point is ours and its line the 95 % bootstrap
interval over seeds (none for fewer than three, or where a run collapsed or has no value). Filled: within, hollow:
outside. Where less is better (TER, loss), left is better."""


def make(inputs: Inputs) -> Exhibit:
    """A figure for each of the paper's tables, a panel for each unit."""
    cells = frames.real(inputs.records)
    every = [entry for source in SOURCES for entry in compared(cells, numbers(source))]
    entries = [entry for entry in every if entry.ours and entry.verdict]
    figures = [Figure(f"forest-table{table}", f"Table {table}: ours minus the paper.",
                      _drawn([entry for entry in entries if entry.number.table == table]))
               for table in dict.fromkeys(entry.number.table for entry in entries)]
    data = pd.DataFrame([{
        "table": e.number.table, "row": e.number.label, "params": e.number.params, "task": e.number.task,
        "metric": e.number.key, "unit": e.number.unit, "printed": e.number.value,
        "band": band(e.number.value, e.number.spread), "difference": e.difference, "low": _shifted(e, e.ours.low),
        "high": _shifted(e, e.ours.high), "n": e.ours.n, "verdict": e.verdict, "protocol": e.protocol}
        for e in entries if e.ours])
    title = "Forest: ours minus the paper"
    if not entries:
        nothing = "no run is comparable with a printed number, so there is nothing to draw"
        return Exhibit(title, [SAYS], [], [], None, [f"{nothing}; {NEEDS.partition('; ')[2]}"])
    count = sum(entry.verdict == "within" for entry in entries)
    says = [SAYS, f"{count} of {len(entries)} comparable numbers are within."]
    return Exhibit(title, says, [], figures, data, [])


def _shifted(entry: Entry, value: float | None) -> float | None:
    return None if value is None else value - float(entry.number.value)


def _drawn(entries: Sequence[Entry]) -> str:
    units = list(dict.fromkeys(entry.number.unit for entry in entries))
    most = max(sum(entry.number.unit == unit for entry in entries) for unit in units)
    with plots.panels(1, len(units), 4.6, 1.1 + 0.2 * most) as (figure, axes):
        for axis, unit in zip(axes[0], units, strict=True):
            there = [entry for entry in entries if entry.number.unit == unit]
            for place, entry in enumerate(there):
                number, ours = entry.number, entry.ours
                assert ours is not None
                axis.barh(place, 2 * band(number.value, number.spread), left=-band(number.value, number.spread),
                          height=0.7, color="#999999", alpha=0.35)
                axis.plot([_shifted(entry, end) for end in ours.ends], [place, place], color=plots.COLOURS[0])
                axis.plot([entry.difference], [place], color=plots.COLOURS[0], marker="o", linestyle="none",
                          markerfacecolor=plots.COLOURS[0] if entry.verdict == "within" else "none")
            axis.axvline(0, color=plots.INK, linewidth=0.8)
            axis.set_yticks(range(len(there)), [_name(entry) for entry in there], fontsize=7)
            axis.set(xlabel=f"ours minus the paper, {UNITS.get(unit, unit)}", ylim=(len(there) - 0.4, -0.6))
        return plots.svg(figure)


def _name(entry: Entry) -> str:
    number = entry.number
    part = number.key.removeprefix(number.metric).replace("_", " ")
    metric = "" if number.table == "2" else f" {HEADS[number.metric]}{part}"
    return f"{number.label} {HEADS.get(number.task, number.task)}{metric}"
