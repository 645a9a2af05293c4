"""From the runs of a cell to one number beside the paper's: the paper's own aggregate, its spread, and the verdict;
and which cell stands beside which printed number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from analysis.frames import Cell, collapsed
from analysis.protocol import Printed, deciding, fits, said

AVERAGE = "glue_average"  # Table 2's last column

AGGREGATES: dict[str, Callable[..., Any]] = {"median": np.median, "mean": np.mean}  # of each seed's best epoch
ENOUGH = 3  # seeds from which on an interval says something; of two it is just from the one to the other
EXACT = 5  # seeds up to which every resample is counted (5^5 = 3,125); beyond, scipy draws some


@dataclass(frozen=True)
class Statistic:
    """One metric of a cell over its seeds, in the unit of the printed number."""

    value: float
    n: int  # seeds with a value
    spread: float | None  # standard deviation (n - 1); None of one seed
    low: float | None  # 95 % interval of the same aggregate, by bootstrap over seeds; None of one seed
    high: float | None
    last: float | None  # the same aggregate of the last epoch; None where it was not judged then (texts)
    collapsed: int  # runs whose best epoch predicts one value for everything
    undefined: int  # runs without a value (the correlation of a constant): left out

    @property
    def ends(self) -> tuple[float, float]:
        """What the verdict asks about: the interval; of fewer than three seeds, or where a run collapsed or has no
        value, our value alone, as there one bad run would stretch the interval to anything."""
        few = self.n < ENOUGH or self.collapsed or self.undefined
        return (self.value, self.value) if few or self.low is None or self.high is None else (self.low, self.high)


def statistic(cell: Cell, metric: str, how: str, factor: float) -> Statistic | None:
    """A metric over a cell's seeds, how: median or mean; factor: from our unit to the printed one. None where no run
    has the metric (METEOR without Java)."""
    best = [record.numbers.get(metric) for record in cell.records]
    last = [record.outcome["last"].get(metric) for record in cell.records]
    known, ends = ([factor * value for value in each if value is not None] for each in (best, last))
    if not known:
        return None
    low, high = interval(known, how)
    there = sum(metric in record.numbers for record in cell.records)
    return Statistic(
        float(AGGREGATES[how](known)), len(known), float(np.std(known, ddof=1)) if len(known) > 1 else None, low, high,
        float(AGGREGATES[how](ends)) if len(ends) == len(known) else None,
        sum(map(collapsed, cell.records)), there - len(known))


def interval(values: Sequence[float], how: str) -> tuple[float | None, float | None]:
    """The percentile bootstrap's 95 % interval of the aggregate; every resample of few values, else scipy's, always the
    same. None, None of one value."""
    if len(values) < 2:
        return None, None
    if len(values) <= EXACT or len(set(values)) == 1:
        few = values[:1] if len(set(values)) == 1 else values
        every = AGGREGATES[how](np.array(list(product(few, repeat=min(len(values), EXACT)))), axis=1)
        low, high = np.quantile(every, [0.025, 0.975], method="inverted_cdf")
        return float(low), float(high)
    found = stats.bootstrap((list(values),), AGGREGATES[how], method="percentile", n_resamples=9999,
                            rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def digits(printed: str) -> int:
    """Decimals of a printed number."""
    return len(printed.partition(".")[2])


def band(printed: str, spread: str) -> float:
    """How far from the printed number the true one may lie: its spread ('': none printed) and half a unit of its last
    digit."""
    return float(spread or 0) + 0.5 * 10 ** -digits(printed)


def verdict(ours: Statistic, printed: str, spread: str) -> str:
    """within: our interval, or our value where that says nothing, meets the printed number and its band; else
    outside."""
    reach = band(printed, spread) + 1e-9  # 87.5 + 0.3 + 0.05 is not 87.85 in binary
    low, high = ours.ends
    return "within" if low <= float(printed) + reach and high >= float(printed) - reach else "outside"


@dataclass(frozen=True)
class Entry:
    """A printed number and, where there is a comparable cell, ours; or a cell that is not comparable, by the printed
    number that it comes nearest to."""

    number: Printed
    cell: Cell | None = None
    ours: Statistic | None = None
    verdict: str = ""
    protocol: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None else self.ours.value - float(self.number.value)


def judged(number: Printed, cell: Cell) -> Entry:
    """A cell held against a printed number."""
    apart = deciding(number, cell)
    ours = statistic(cell, number.key, number.how, number.factor)
    label = [*apart, *said(number, cell, ours.n if ours else len(cell.records))]
    if ours:
        label += [f"{ours.collapsed} collapsed"] * bool(ours.collapsed)
        label += [f"{ours.undefined} undefined"] * bool(ours.undefined)
    how = f"not comparable: {'; '.join(apart)}" if apart else verdict(ours, number.value, number.spread) if ours else (
        "not comparable: not scored")
    return Entry(number, cell, ours, how, "; ".join(label))


def compared(cells: Sequence[Cell], printed: Sequence[Printed]) -> list[Entry]:
    """Every printed number, in order, with the best of the comparable cells: one that has the metric, the paper's
    recipe before the official scripts', then more seeds, then the later start."""
    found = []
    for number in printed:
        fit = [cell for cell in cells if (cell.first.task, cell.first.model) == (number.task, number.model)
               and fits(number, cell.first) and not deciding(number, cell)]
        found.append(max((judged(number, cell) for cell in fit), key=_merit, default=Entry(number)))
    return [_average(entry, found) if entry.number.task == AVERAGE else entry for entry in found]


def _merit(entry: Entry) -> tuple[bool, bool, int, str]:
    records = entry.cell.records if entry.cell else []
    paper = bool(records) and records[0].settings["recipe"]["origin"] == "paper"
    return entry.ours is not None, paper, len(records), max((record.started for record in records), default="")


def _average(entry: Entry, all_of_them: Sequence[Entry]) -> Entry:
    """GLUE's average, where all eight tasks are there; the paper prints no spread for it, so it gets no verdict."""
    number = entry.number
    row = [each for each in all_of_them if each.number.task != AVERAGE and (
        number.model, number.label, number.variant) == (each.number.model, each.number.label, each.number.variant)]
    there = [each.ours for each in row if each.ours is not None]
    if len(there) < len(row) or not row:
        return entry
    last = [each.last for each in there if each.last is not None]
    ours = Statistic(fmean(each.value for each in there), min(each.n for each in there), None, None, None,
                     fmean(last) if len(last) == len(there) else None, sum(each.collapsed for each in there), 0)
    return Entry(number, None, ours, "", f"of the {len(row)} tasks before it")


def stand_ins(cells: Sequence[Cell], printed: Sequence[Printed], used: Sequence[Entry]) -> list[Entry]:
    """The other cells of the table's tasks and methods, each held against the printed number that it comes nearest
    to, metric by metric."""
    taken = {(id(entry.cell), entry.number.key) for entry in used}
    found = []
    for cell in cells:
        like = [n for n in printed if (n.task, n.method) == (cell.first.task, cell.first.label)]
        for key in dict.fromkeys(number.key for number in like):
            if (id(cell), key) in taken:
                continue
            near = min((n for n in like if n.key == key),
                       key=lambda n: (n.model != cell.first.model, not fits(n, cell.first), len(deciding(n, cell))))
            found.append(judged(near, cell))
    return [entry for entry in found if entry.ours]
