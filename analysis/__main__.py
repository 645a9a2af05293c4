"""python -m analysis [EXHIBIT]: an exhibit of the paper; without a name, the runs recorded so far.

Tables go to RESULTS/tables. An exhibit is a file beside this one with a function make(results) -> exit status.
"""

from __future__ import annotations

import argparse
import ast
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd

from analysis import frames
from engine.files import whole
from engine.record import read_all

SHOWN = [*frames.SHOWN, "n", "median", "std", "min", "max", "last"]


def main() -> int:
    """Exit status 0 when all went well, 1 when some records could not be read, 2 on a wrong name or folder."""
    there = exhibits(Path(__file__).parent)
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exhibits:\n" + "\n".join(f"  {name:<12}{what}" for name, what in there.items()))
    parser.add_argument("exhibit", nargs="?", choices=list(there), metavar="EXHIBIT", help=", ".join(there))
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder [results]")
    asked = parser.parse_args()
    if not asked.results.is_dir():
        parser.error(f"{asked.results}: no such folder")
    if asked.exhibit is None:
        return runs(asked.results)
    status: int = import_module(f"analysis.{asked.exhibit}").make(asked.results)
    return status


def exhibits(folder: Path) -> dict[str, str]:
    """The folder is the registry: what each file with a make() says of itself in its first line, nothing imported."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    return {name: (ast.get_docstring(tree) or "").partition("\n")[0] for name, tree in trees.items()
            if any(isinstance(node, ast.FunctionDef) and node.name == "make" for node in tree.body)}


def runs(out: Path) -> int:
    """The runs recorded so far, a line a cell, on the screen and in tables/runs.md and .csv. 1: some are unreadable."""
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
