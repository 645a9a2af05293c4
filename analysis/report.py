"""One self-contained page with every exhibit, for a colleague: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from analysis import protocol
from analysis.exhibit import Exhibit, Figure, Inputs, Table
from analysis.plots import INK, PAPER
from engine.files import whole
from engine.record import Record

LEFT_OUT = ("demo",)  # runs on generated text are no part of a report


def write(exhibits: Mapping[str, Exhibit], inputs: Inputs) -> Path:
    """Writes RESULTS/report.html, the same bytes for the same exhibits; returns its path. Raises OSError."""
    path = inputs.results / "report.html"
    text = page(exhibits, inputs)
    whole(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def page(exhibits: Mapping[str, Exhibit], inputs: Inputs) -> str:
    """The page as HTML: every exhibit in the order given, then in what the runs differ, and what they ran on."""
    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    made.filters |= {"prose": lambda text: Markup(markdown.render(text)), "inline": inline}
    real = [record for record in inputs.records if record.data != "synthetic"]
    return made.get_template("report.html").render(
        exhibits={name: each for name, each in exhibits.items() if name not in LEFT_OUT}, real=len(real),
        deviations=deviations(real), environment=environment(real), broken=inputs.broken) + "\n"


def inline(figure: Figure) -> Markup:
    """The figure's SVG to stand in the page: its ids its own, ink and paper those of the page, light or dark."""
    svg = figure.svg[figure.svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{figure.name}-", svg)
    svg = svg.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(figure.name)}" ', 1))


def deviations(records: list[Record]) -> Table:
    """What keeps the runs from standing beside the paper's numbers, a line a cell and what they share."""
    said = Counter((r.task, r.model, f"{r.label} {r.variant}".strip(), protocol.deviations(r)) for r in records)
    return Table("Runs by what they differ in", ("task", "model", "method", "runs", "differs in"),
                 [(task, model, method, str(n), what or "nothing") for (task, model, method, what), n in
                  sorted(said.items())], (3,))


def environment(records: list[Record]) -> Table:
    """Devices, versions and commits behind the records, and how many runs each."""
    said = Counter((r.device, str(r.settings.get("precision", "—")),
                    " ".join(f"{name} {r.versions[name]}" for name in ("torch", "transformers") if name in r.versions),
                    (r.commit or "unknown")[:10] + {True: " and uncommitted changes"}.get(bool(r.dirty), ""))
                   for r in records)
    return Table("What the runs ran on", ("device", "precision", "versions", "commit", "runs"),
                 [(*key, str(n)) for key, n in sorted(said.items())], (4,))
