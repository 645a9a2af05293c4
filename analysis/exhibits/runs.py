"""The runs recorded so far on real data, a line a cell: seeds, median, spread, the last epoch beside the best."""

from __future__ import annotations

import pandas as pd

from analysis import frames
from analysis.exhibit import Exhibit, Inputs, Table
from analysis.markdown import many

NEEDS = "a record of real data; python run.py task=rte method=lora model=minilm data_root=DIR makes one"
NUMBERS = ["n", "median", "mean", "std", "min", "max", "last"]
SHOWN = [*(name for name in frames.SHOWN if name != "scale"), *NUMBERS]


def make(inputs: Inputs) -> Exhibit:
    """Every cell of real data."""
    return listed("The runs recorded so far", inputs, generated=False, hint=NEEDS)


def listed(title: str, inputs: Inputs, generated: bool, hint: str) -> Exhibit:
    """The cells on generated text, or those on real data."""
    there = inputs.runs[inputs.runs.data.str.startswith("synthetic") == generated]
    cells = frames.cells(there)
    rows = [[_word(value) for value in row] for row in cells[SHOWN].itertuples(index=False)]
    tables = [Table(title, SHOWN, rows, range(len(SHOWN) - len(NUMBERS), len(SHOWN)))] if rows else []
    says = f"{many(len(there), 'run')} in {many(len(cells), 'cell')}; the numbers are over the seeds of a cell."
    return Exhibit(title, [says], tables, [], cells, [] if rows else [hint])


def _word(value: object) -> str:
    """Numbers with two decimals, unknown ones as a dash."""
    if isinstance(value, float):
        return "—" if pd.isna(value) else f"{value:.2f}"
    return str(value)
