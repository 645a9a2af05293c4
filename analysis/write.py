"""An exhibit on disk: tables/<name>.md, .tex and .csv, figures/<name of each figure>.svg; each whole or not at all."""

from __future__ import annotations

from pathlib import Path

from analysis import latex, markdown
from analysis.exhibit import Exhibit
from engine.files import whole_text


def write(name: str, exhibit: Exhibit, results: Path) -> list[Path]:
    """Writes all of it below the results folder, the same bytes for the same exhibit; returns what was written. Files
    of an earlier making that this one lacks are removed. Raises OSError."""
    tables, figures = results / "tables", results / "figures"
    texts = {tables / f"{name}.md": markdown.page(exhibit)}
    if exhibit.tables:
        texts[tables / f"{name}.tex"] = latex.page(name, exhibit.tables)
    if exhibit.data is not None:
        texts[tables / f"{name}.csv"] = exhibit.data.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    texts |= {figures / f"{figure.name}.svg": figure.svg for figure in exhibit.figures}
    for path, text in texts.items():
        whole_text(path, text)
    old = {tables / f"{name}.{ending}" for ending in ("tex", "csv")} | set(figures.glob(f"{name}-*.svg"))
    for path in old | {figures / f"{name}.svg"}:
        if path not in texts:
            path.unlink(missing_ok=True)
    return list(texts)
