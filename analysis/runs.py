"""The runs recorded so far, a line a cell: seeds, median, spread, and the last epoch beside the best."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from analysis import frames
from analysis.markdown import grid
from engine.files import whole
from engine.record import read_all

NUMBERS = ["n", "median", "mean", "std", "min", "max", "last"]
SHOWN = [*frames.SHOWN, *NUMBERS]


def make(results: Path) -> int:
    """Prints the cells, of generated text first, and writes tables/runs.md and .csv, and those of generated text to
    tables/demo.md and .csv. Exit status 0, or 1 when some records are unreadable."""
    records, broken = read_all(results)
    for what in broken:
        print(f"left out: {what}", file=sys.stderr)
    if not records:
        print(f"no records under {results}/runs yet; python run.py task=mnli method=lora r=8 scale=demo makes one")
        return 1 if broken else 0
    table = frames.cells(frames.runs(records))
    generated = table.data.str.startswith("synthetic")
    written = [_write(part, results / "tables", name) for name, part in (("demo", table[generated]),
                                                                         ("runs", table[~generated])) if len(part)]
    print(f"{len(records)} runs in {len(table)} cells; written to {' and '.join(written)}, and .csv beside")
    return 1 if broken else 0


def _write(table: pd.DataFrame, folder: Path, name: str) -> str:
    """Prints a table and writes it as Markdown and CSV; where to."""
    rows = [[_word(value) for value in row] for row in table[SHOWN].itertuples(index=False)]
    text = "\n".join(grid([SHOWN, *rows], range(len(frames.SHOWN), len(SHOWN))))
    print(f"{text}\n")
    whole(folder / f"{name}.md", lambda part: part.write_text(text + "\n", encoding="utf-8"))
    whole(folder / f"{name}.csv", lambda part: table.to_csv(part, index=False, float_format="%.4f"))
    return str(folder / f"{name}.md")


def _word(value: object) -> str:
    """Numbers with two decimals, unknown ones as a dash."""
    if isinstance(value, float):
        return "—" if pd.isna(value) else f"{value:.2f}"
    return str(value)
