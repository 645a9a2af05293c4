"""One self-contained page with every exhibit, for a colleague: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from analysis.exhibit import Exhibit, Figure, Inputs, Table
from analysis.plots import INK, PAPER
from engine.files import whole_text
from engine.record import Record


def write(exhibits: Mapping[str, Exhibit], inputs: Inputs) -> Path:
    """Writes RESULTS/report.html, the same bytes for the same exhibits; returns its path. Raises OSError."""
    path = inputs.results / "report.html"
    whole_text(path, page(exhibits, inputs))
    return path


def page(exhibits: Mapping[str, Exhibit], inputs: Inputs) -> str:
    """The page as HTML: every exhibit in the order given, then in what the runs differ, and what they ran on."""
    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    made.filters |= {"prose": lambda text: Markup(markdown.render(text)), "inline": inline}
    real = [record for record in inputs.records if record.data != "synthetic"]
    ends = {"runs": -1, "parameters": 1, "demo": 2}  # what was run first, generated text last and only if there is any
    shown = {name: exhibits[name] for name in sorted(exhibits, key=lambda name: ends.get(name, 0))
             if name != "demo" or exhibits[name].tables}
    first: dict[str, str] = {}
    for name, each in shown.items():
        first |= {paragraph: name for paragraph in each.says if paragraph not in first}
    return made.get_template("report.html").render(
        exhibits=shown, first=first, real=len(real), verdict=verdict(shown, real), verdicts=verdicts(shown),
        deviations=deviations(shown), environment=environment(real), broken=inputs.broken) + "\n"


def inline(figure: Figure) -> Markup:
    """The figure's SVG to stand in the page: its ids its own, ink and paper those of the page, light or dark."""
    svg = figure.svg[figure.svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|url\(#|href="#)', lambda found: f"{found[1]}{figure.name}-", svg)
    svg = svg.replace(INK, "var(--ink)").replace(PAPER, "var(--paper)")
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(figure.name)}" ', 1))


def verdict(exhibits: Mapping[str, Exhibit], records: list[Record]) -> str:
    """How far the comparison is, in a sentence that comes before everything else."""
    counts = [[int(cell) for cell in row[1:5]] for row in verdicts(exhibits).rows]
    printed, ours, within, outside = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0, 0)
    models = ", ".join(sorted({record.model for record in records})) or "none yet"
    if not ours:
        return (f"So far no run is comparable with any of the {printed} printed numbers: all are stand-ins, subsets or "
                f"other protocols (models: {models}).")
    return (f"{ours} of {printed} printed numbers have a comparable run: {within} within the paper's band, {outside} "
            f"outside it. The other runs are stand-ins, subsets or other protocols (models: {models}).")


def verdicts(exhibits: Mapping[str, Exhibit]) -> Table:
    """How many printed numbers each table has, how many of them have ours beside, and how these came out."""
    rows = []
    for each in exhibits.values():
        if each.data is None or not {"kind", "ours", "verdict"} <= set(each.data):
            continue
        there = each.data[each.data.kind == "paper"]
        ours = there[there.ours.notna()]
        counts = [len(there), len(ours), *((ours.verdict == word).sum() for word in ("within", "outside")),
                  (each.data.kind == "other").sum()]
        rows.append((each.title, *map(str, counts)))
    return Table("What is compared so far", ("table", "printed numbers", "with ours", "within", "outside",
                                             "stand-ins' numbers, apart"), rows, range(1, 6))


def deviations(exhibits: Mapping[str, Exhibit]) -> Table:
    """In what our numbers differ from the paper's protocol, those differences first that keep a number from standing
    beside a printed one: how many of our numbers have each, and where."""
    found: dict[tuple[bool, str], Counter[str]] = {}
    for name, each in exhibits.items():
        if each.data is None or not {"ours", "protocol", "verdict"} <= set(each.data):
            continue
        for row in each.data[each.data.ours.notna()].itertuples():
            apart = str(row.verdict).partition("not comparable: ")[2].split("; ")
            for difference in filter(None, str(row.protocol).split("; ")):
                found.setdefault((difference not in apart, difference), Counter())[name] += 1
    rows = [(difference, "no" if said else "yes", str(places.total()), ", ".join(places))
            for (said, difference), places in sorted(found.items(), key=lambda e: (e[0][0], -e[1].total(), e[0][1]))]
    return Table("Differences from the paper's protocol", ("difference", "sets apart", "numbers", "in"), rows, (2,))


def environment(records: list[Record]) -> Table:
    """Devices, versions and commits behind the records, and how many runs each."""
    said = Counter((r.device, str(r.settings.get("precision", "—")),
                    " ".join(f"{name} {r.versions[name]}" for name in ("torch", "transformers") if name in r.versions),
                    (r.commit or "unknown")[:10] + {True: " and uncommitted changes"}.get(bool(r.dirty), ""))
                   for r in records)
    return Table("What the runs ran on", ("device", "precision", "versions", "commit", "runs"),
                 [(*key, str(n)) for key, n in sorted(said.items())], (4,))
