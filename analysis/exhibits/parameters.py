"""The parameter audit: every count that the paper prints beside the count of the model that is built here.

Models are built without weights, so this needs neither downloads nor memory. What the paper prints are facts, in
results/paper/parameter_counts.csv; how they can be read is in analysis/claims.py.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from analysis import built, claims
from analysis.exhibit import PRINTED, Exhibit, Inputs, Table

FACTS = PRINTED / "parameter_counts.csv"
HEADER = ("row", "model and method", "settings", "built", "formula", "printed", "%", "reading", "also", "fp16", "Adam")
NUMBERS = (3, 4, 5, 6, 9, 10)  # its columns that are set flush right
LEGEND = """\
Each row is a count that the paper prints, in the order of `results/paper/parameter_counts.csv`. The columns:

- **built**: what trains in the model built here, the fresh head left out. **formula**: the paper's formula from the
  same settings; where the paper has none (FT, FT-Top2, BitFit) a sum over the architecture.
- **printed**, and **%**: how much the printed figure is above the built count.
- **reading**: the simplest reading that gives exactly the printed figure, or none. Of the built count: *rounded* or
  *cut* to the printed digits, *2^20* (in units of 2^20), *zeros* (a round size with zeros appended, 1500.0M).
- **also**: other readings that give it; many mean that the printed digits say little. *+head*: with the fresh head of 2
  or 3 classes. *+LN*: with the layers' own LayerNorms, one or both of each layer. *-LN*: without the adapters' own.
  *+final LN*: with the LayerNorm behind the last layer. *+LM*: with a language model's output layer (GPT: a matrix of
  its own). *bare*: without pooler (GPT: without positions). *linear*: without the biases of LayerNorms. *+layer*:
  with the tokens' embeddings beside the layers. *0.1 %*: a thousandth of the model. *2 x*: twice another figure.
- **fp16**: a checkpoint of what trains, 2 bytes a value. **Adam**: its two moments in fp32, 8 bytes. 1 MB: 10^6 bytes.
- *solved*: the paper prints no such size; it was chosen so that the count fits. *nearest*: no whole number fits."""
NEEDS = "no record: models are built without weights and counted"


@dataclass(frozen=True)
class Figure:
    """One count that the paper prints, and what the audit found out about it."""

    table: str
    model: str
    method: str
    label: str
    config: str
    known: str  # how r or the tokens are known: printed · solved · nearest · -
    printed: str
    built: int = 0
    formula: int = 0
    readings: Sequence[str] = ()  # the simplest first
    finding: str = ""  # why the built count by itself does not give the printed figure
    note: str = ""

    @property
    def percent(self) -> float:
        """How much the printed figure is above the built count."""
        return round(100 * float(claims.value(self.printed) / self.built - 1), 4) + 0.0

    @property
    def reading(self) -> str:
        """The simplest reading, or none."""
        return self.readings[0] if self.readings else "none"

    @property
    def plain(self) -> bool:
        """Whether the built count by itself gives the printed figure."""
        return self.reading in claims.NOTATIONS


def figures(path: Path) -> list[Figure]:
    """The printed counts, in the order of the file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Figure(row["table"], row["model"], row["method"], row["row_label"].strip(), row["config"],
                       row["solved_or_printed"], row["printed"]) for row in csv.DictReader(file)]


def counted(figure: Figure) -> Figure:
    """The figure with what is built, the formula, and every reading of the built count that gives it."""
    s = built.sizes(figure.model, figure.config)
    targets = tuple(re.findall(r"W_([qkvo])", figure.label)) or ("q", "v")
    body, head, dense = built.trains(figure.model, figure.method, figure.config, targets)
    pooled = figure.method == "FT" and s["pooler"] == 1
    count = body + dense if pooled else body
    readings = claims.fits(figure.method, figure.printed, count, claims.variants(figure.method, s, body, head))
    return replace(figure, built=count, formula=claims.FORMULAS[figure.method](s), readings=readings,
                   note="the classifier's dense layer stands for the pooler" if pooled else "")


def audit(path: Path) -> list[Figure]:
    """Every figure of the file, counted; then those that are twice another one, and why the others do not fit."""
    found = [counted(figure) for figure in tqdm(figures(path), desc="counting", unit="row", leave=False, disable=None)]
    for place, one in enumerate(found):
        like = [other for other in found if other.plain and (other.table, other.method) == (one.table, one.method)]
        halves = [other.printed for other in like if 2 * other.built == one.built
                  and 2 * claims.value(other.printed) == claims.value(one.printed)]
        if halves and one.reading != "rounded":
            one = replace(one, readings=[*one.readings, f"2 x {halves[0]}"])
        if not one.plain:
            one = replace(one, finding=claims.reason(one.model, one.method, one.printed))
        found[place] = one
    return found


def make(inputs: Inputs) -> Exhibit:
    """A table for each of the paper's, the headline claims, and every figure that the built count does not give."""
    found = audit(FACTS)
    data = pd.DataFrame([{
        "table": f.table, "model": f.model, "method": f.method, "row_label": f.label, "config": f.config,
        "config_known": f.known, "built": f.built, "formula": f.formula, "printed": f.printed,
        "printed_params": int(claims.value(f.printed)), "difference_percent": f"{f.percent:.4f}",
        "reading": f.reading, "also": "; ".join(f.readings[1:]), "finding": f.finding, "note": f.note,
        "checkpoint_fp16_bytes": 2 * f.built, "adam_fp32_bytes": 8 * f.built} for f in found])
    tables = [Table(f"Table {table}", HEADER, [cells(f) for f in rows], NUMBERS)
              for table, rows in groupby(found, key=lambda f: f.table)]
    gpt3 = {f.config if f.method == "LoRA" else f.method: f.built for f in found if f.model == "gpt3-175b"}
    lora = {r: gpt3[f"r_q={r};r_v={r}"] for r in (1, 2, 4, 8)}  # Table 15
    return Exhibit("Parameter counts: printed, by the formula, and built",
                   [LEGEND, summary(found), "Findings:\n\n" + "\n".join(findings(found)), claims.MEMORY_SAYS],
                   [*tables, claims.headline(gpt3["FT"], lora), claims.memory(gpt3["FT"], lora[4])], [], data, [])


def summary(found: Sequence[Figure]) -> str:
    """How many figures fit in which way."""
    ways = Counter(f.reading for f in found if f.plain)
    said = ", ".join(f"{ways[way]} *{way}*" for way in claims.NOTATIONS)
    wide = sum(not f.plain and bool(f.readings) for f in found)
    return (f"{len(found)} printed counts; {sum(f.built == f.formula for f in found)} models built have the formula's. "
            f"{sum(ways.values())} figures are the built count:\n{said}. {wide} are given by another reading only, "
            f"{sum(not f.readings for f in found)} by none; see Findings.")


def cells(f: Figure) -> list[str]:
    """The figure as a row of the page."""
    settings = re.sub(r";\s*", ", ", re.sub(r"^d=\d+;\s*", "", f.config))
    settings += f" ({f.known})" if f.known in ("solved", "nearest") else ""
    return [f.label, f"{f.model} {f.method}", settings + (f"; {f.note}" if f.note else ""),
            f"{f.built:,}", f"{f.formula:,}", f.printed, signed(f.percent), f.reading, "; ".join(f.readings[1:]),
            claims.size(2 * f.built), claims.size(8 * f.built)]


def signed(percent: float) -> str:
    """Two decimals and a sign, never -0.00."""
    return f"{round(percent, 2) + 0.0:+.2f}"


def findings(found: Sequence[Figure]) -> list[str]:
    """A line for each figure that the built count by itself does not give; tables that print the same share one."""
    tables: dict[tuple[str, ...], list[str]] = {}
    for f in found:
        if f.finding:
            said = f"{f.printed} printed ({signed(f.percent)} %), {f.built:,} built; "
            said += f"given only by {'; '.join(f.readings)}" if f.readings else "nothing gives it"
            tables.setdefault((f"{f.model} {f.method}", said, f.finding), []).append(f.table)
    return [f"- {'Tables' if len(where) > 1 else 'Table'} {', '.join(where)}, {who}: {said}. {why[0].upper()}{why[1:]}."
            for (who, said, why), where in tables.items()]
