"""From runs to one number: aggregates by hand, intervals, duplicates, collapsed and undefined runs, the verdict."""

from dataclasses import replace
from itertools import product
from statistics import mean, median, stdev

import numpy as np
import pytest
from test_tables import glue, make, printed_row, text

from analysis import frames
from analysis.aggregate import Statistic, band, interval, statistic, verdict
from engine.record import Record


def one_cell(*records: Record) -> frames.Cell:
    cells = frames.real(records)
    assert len(cells) == 1
    return cells[0]


def of(value: float, low: float | None = None, high: float | None = None) -> Statistic:
    return Statistic(value, 1 if low is None else 5, None, low, high, None, 0, 0)


def test_glue_takes_the_median_and_gpt2_the_mean() -> None:
    values = [94.0, 95.0, 95.5, 96.0, 99.0]
    cell = one_cell(*(glue("sst2", value, seed) for seed, value in enumerate(values)))
    found = statistic(cell, "accuracy", "median", 1)
    assert found is not None and found.value == 95.5 and found.n == 5
    assert found.spread == pytest.approx(stdev(values)) and found.last == 95.5
    row = printed_row(make("table3", *(text({"bleu": value}, seed) for seed, value in enumerate([69.0, 70.0, 74.0]))),
                      row="GPT-2 M (LoRA) 0.35M", metric="bleu")
    assert row.ours == pytest.approx(71.0) and np.isnan(row["last"])  # only the best epoch is decoded


def test_the_last_epoch_stands_beside_the_best() -> None:
    records = [glue("sst2", 95.0 + seed, seed) for seed in range(3)]
    late = [replace(r, outcome={**r.outcome, "last": {"accuracy": 90.0 + r.seed}}) for r in records]
    found = statistic(one_cell(*late), "accuracy", "median", 1)
    assert found is not None and (found.value, found.last) == (96.0, 91.0)


@pytest.mark.parametrize("how", ["median", "mean"])
@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 1.0, 7.0], [94.0, 95.0, 95.5, 96.0, 99.0]])
def test_few_seeds_are_resampled_in_every_way(values: list[float], how: str) -> None:
    every = sorted({"median": median, "mean": mean}[how](some) for some in product(values, repeat=len(values)))
    low, high = interval(values, how)
    def share(limit: float) -> float:
        return sum(each <= limit + 1e-12 for each in every) / len(every)
    assert low is not None and high is not None
    assert share(low) >= 0.025 > share(low - 1e-9) and share(high) >= 0.975 > share(high - 1e-9)


def test_intervals_of_one_of_equals_and_of_many() -> None:
    assert interval([5.0], "mean") == (None, None) and interval([5.0] * 7, "median") == (5.0, 5.0)
    values = np.random.default_rng(0).normal(10, 1, 30).tolist()
    low, high = interval(values, "mean")
    assert (low, high) == interval(values, "mean") and low is not None and high is not None
    assert low == pytest.approx(mean(values) - 1.96 * stdev(values) / 30 ** 0.5, abs=0.1) and low < mean(values) < high


def test_of_two_records_of_a_seed_the_later_counts() -> None:
    """A copy, or the same cell run again by another version; it is said."""
    first = glue("sst2", 90.0, started="2026-01-01T00:00:00+00:00")
    later = glue("sst2", 95.0, started="2026-02-01T00:00:00+00:00", commit="another")
    for records in ([first, later], [later, first], [first, later, later]):
        cell = one_cell(*records)
        assert [r.value for r in cell.records] == [95.0] and cell.superseded == len(records) - 1
        row = printed_row(make("table2", *records), row="RoB_base (LoRA) 0.3M", task="sst2")
        assert row.ours == 95.0 and f"{len(records) - 1} older left out" in row.protocol
    table = frames.cells(frames.runs([first, later]))
    assert table.n.tolist() == [1] and table["median"].tolist() == [95.0]


def test_seeds_are_pooled_and_other_starts_are_not() -> None:
    file = {"init_from": "file"}
    assert len(frames.real([glue("sst2", 95.0, 0), glue("sst2", 95.0, 7)])) == 1
    assert len(frames.real([glue("rte", 1.0, 0, init_from="a"), glue("rte", 1.0, 1, init_from="b")])) == 1  # best MNLI
    assert len(frames.real([glue("rte", 1.0, 0, file, init_from="a"), glue("rte", 1.0, 1, file, init_from="b")])) == 2


def test_undefined_and_collapsed_runs_are_counted_and_said() -> None:
    fell = glue("stsb", None, 1)
    fell = replace(fell, outcome={**fell.outcome, "notes": ["collapsed: the best epoch predicts one value"]})
    row = printed_row(make("table2", glue("stsb", 91.5), fell), row="RoB_base (LoRA) 0.3M", task="stsb")
    assert (row.ours, row.n, row.collapsed, row.undefined) == (91.5, 1, 1, 1)
    assert "1 collapsed; 1 undefined" in row.protocol
    alone = make("table2", fell)
    assert np.isnan(printed_row(alone, row="RoB_base (LoRA) 0.3M", task="stsb").ours)
    assert frames.cells(frames.runs([fell])).n.tolist() == [1]
    assert frames.runs([fell, glue("sst2", 1.0)]).value.isna().tolist().count(True) == 1


def test_the_band_is_the_spread_and_half_a_digit() -> None:
    assert band("87.5", "0.3") == pytest.approx(0.35) and band("8.7215", "") == pytest.approx(0.00005)
    assert band("91", "") == 0.5


@pytest.mark.parametrize(("ours", "said"), [
    (of(87.85), "within"), (of(87.86), "outside"), (of(87.15), "within"), (of(87.14), "outside"),
    (of(89.0, 87.8, 90.0), "within"), (of(89.0, 87.9, 90.0), "outside"), (of(86.0, 85.0, 87.2), "within"),
    (of(86.0, 85.0, 87.1), "outside"), (of(87.5, 80.0, 95.0), "within"),
])
def test_the_verdict(ours: Statistic, said: str) -> None:
    """87.5 ± 0.3 reaches from 87.15 to 87.85; an interval has to meet that, a single value to lie in it."""
    assert verdict(ours, "87.5", "0.3") == said


@pytest.mark.parametrize(("value", "n", "collapsed", "undefined", "said"), [
    (45.5, 2, 0, 0, "outside"), (86.0, 2, 0, 0, "within"), (80.0, 3, 0, 0, "within"), (80.0, 3, 1, 0, "outside"),
    (80.0, 3, 0, 1, "outside"), (86.6, 5, 1, 0, "within"),
])
def test_an_interval_that_says_nothing_gives_no_verdict(value: float, n: int, collapsed: int, undefined: int,
                                                        said: str) -> None:
    """Of two seeds it is from the one to the other, and a collapsed run stretches it to anything: 86.6 ± 0.7."""
    assert verdict(Statistic(value, n, 20.0, 1.0, 90.0, None, collapsed, undefined), "86.6", "0.7") == said


def test_one_of_two_runs_gone_wrong_is_outside() -> None:
    row = printed_row(make("table2", glue("rte", 1.0), glue("rte", 90.0, 1)), row="RoB_base (LoRA) 0.3M", task="rte")
    assert row.ours == 45.5 and row.verdict == "outside" and (row.low, row.high) == (1.0, 90.0)


def test_table_18_has_means() -> None:
    """Three seeds, as the median of two is their mean."""
    runs = [text({"val_loss": value}, seed) for seed, value in enumerate((1.0, 1.1, 1.5))]
    assert printed_row(make("table18", *runs), row="r=4", metric="val_loss").ours == pytest.approx(1.2)


def test_columns_without_a_spread_have_the_captions() -> None:
    """Table 13 prints none for METEOR and TER, but says that they vary by less than 0.01."""
    row = {"model": "gpt2-medium", "method": "LoRA", "metric": "meteor"}
    assert printed_row(make("table13", text({"meteor": 0.376}, task="dart")), **row).verdict == "within"
    assert printed_row(make("table13", text({"meteor": 0.374}, task="dart")), **row).verdict == "outside"
