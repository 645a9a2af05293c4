"""python -m analysis [RESULTS]: the runs recorded so far, a line a cell, on the screen and in RESULTS/tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from analysis import frames
from engine.files import whole
from engine.record import read_all

SHOWN = [*frames.SHOWN, "n", "median", "std", "min", "max", "last"]


def main() -> int:
    """Exit status 0 when every record could be read, 1 when some could not, 2 when there is no such folder."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help="the results folder [results]")
    out = parser.parse_args().results
    if not out.is_dir():
        parser.error(f"{out}: no such folder")
    records, broken = read_all(out)
    for what in broken:
        print(f"left out: {what}", file=sys.stderr)
    if not records:
        print(f"no records under {out}/runs yet; python run.py task=mnli method=lora r=8 scale=demo makes one")
        return 1 if broken else 0
    table = frames.cells(frames.runs(records))
    text = _markdown(table[SHOWN])
    print(text)
    whole(out / "tables" / "runs.md", lambda part: part.write_text(text + "\n", encoding="utf-8"))
    whole(out / "tables" / "runs.csv", lambda part: table.to_csv(part, index=False, float_format="%.4f"))
    print(f"\n{len(records)} runs in {len(table)} cells; written to {out}/tables/runs.md and runs.csv")
    return 1 if broken else 0


def _markdown(table: pd.DataFrame) -> str:
    """A Markdown table; numbers with two decimals, unknown ones as a dash."""
    def word(value: object) -> str:
        if isinstance(value, float):
            return "—" if pd.isna(value) else f"{value:.2f}"
        return str(value)

    rows = [list(table.columns), *([word(value) for value in row] for row in table.itertuples(index=False))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
