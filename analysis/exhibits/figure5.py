"""How much slower adapters make a forward pass, over batch size, length and bottleneck (Figure 5)."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from analysis import plots
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.exhibits import table1
from engine.record import Record

NEEDS = "a latency record of GPT-2 medium, without data or weights; python run.py task=latency model=gpt2-medium"
BATCHES, LENGTHS, RANKS = (1, 2, 4, 8, 16, 32), (128, 256, 512), (10, 100, 250)  # the paper's axes, without r = 0
ROWS = {"adapter-h": "Adapter-H", "adapter-l": "Adapter-L"}
TOP = 35  # percent, the end of the paper's colour scale


def make(inputs: Inputs) -> Exhibit:
    """A figure for every recorded study; the paper's values were not printed as numbers."""
    found, faults = table1.studies(inputs)
    names = [f"figure5-{record.model}-{_slug(record.device)}" for record in found]
    twice = {name for name, count in Counter(names).items() if count > 1}
    figures = [Figure(f"{name}-{record.digest}" if name in twice else name, _caption(record), draw(record))
               for name, record in zip(names, found, strict=True)]
    frames = [_grid(record).assign(whose=table1.whose(record)) for record in found]
    says = ["The slow-down in percent against no adapter (r = 0). Adapter-H above, Adapter-L below; colours from 0 to "
            f"{TOP} as in the paper, which varies batch size, length and bottleneck on GPT-2 medium and a Quadro "
            "RTX8000 and finds more than 30 % at worst, for a small batch of short sequences. Its values were not "
            "printed, so there are none to put beside ours; Table 1 has three of its batches and lengths, "
            "with other bottlenecks. In brackets: the quartiles over the rounds include 0. That is no test: Table 1 "
            "says how often it errs."]
    return Exhibit("Figure 5: the slow-down of adapters", says, [], figures,
                   pd.concat(frames, ignore_index=True) if frames else None, [*faults, *_missing(found)])


def draw(record: Record) -> str:
    """Heat maps as SVG: adapters downwards, lengths across; cells that were not timed stay empty."""
    task, rows = record.settings["task"], _grid(record)
    batches, ranks = task["batches"], [0, *task["ranks"]]
    with plots.panels(len(ROWS), len(task["lengths"]), 2.7, 1.9) as (figure, axes):
        for (name, label), line in zip(ROWS.items(), axes, strict=True):
            for length, panel in zip(task["lengths"], line, strict=True):
                values = np.full((len(ranks), len(batches)), np.nan)
                unsure = set()
                for row in rows[(rows.length == length) & rows.method.isin([name, "none"])].itertuples():
                    place = ranks.index(row.r), batches.index(row.batch)
                    values[place] = row.slowdown
                    unsure |= {place} if row.r and row.slowdown_low <= 0 <= row.slowdown_high else set()
                image = _panel(panel, values, unsure, batches, ranks)
                panel.set_title(f"{label}, length {length}")
            line[0].set_ylabel("bottleneck r")
        for panel in axes[-1]:
            panel.set_xlabel("batch size")
        figure.colorbar(image, ax=axes.ravel().tolist(), label="slow-down (%)")
        return plots.svg(figure)


def _panel(axes: Any, values: np.ndarray, unsure: set[tuple[int, int]], batches: list[int], ranks: list[int]) -> Any:
    """One heat map with its values written into it, the unsure ones in brackets; returns the image."""
    image = plots.heat(axes, values, 0, TOP, range(len(batches)), range(len(ranks)))
    axes.set_xticks(range(len(batches)), batches)
    axes.set_yticks(range(len(ranks)), ranks)
    for (down, across), value in np.ndenumerate(values):
        if not np.isnan(value):  # plain black and white: they stand on the map's colours, in dark mode too
            said = f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"
            axes.text(across, down, f"({said})" if (down, across) in unsure else said, ha="center", va="center",
                      fontsize=8, color="#000000" if value > 0.6 * TOP else "#ffffff")
    return image


def _grid(record: Record) -> pd.DataFrame:
    """The study's rows on the figure's grid: no adapter, and both adapters at its ranks."""
    rows = table1.measured(record)
    return rows[(rows.method == "none") | (rows.method.isin(ROWS) & rows.r.isin(record.settings["task"]["ranks"]))]


def _caption(record: Record) -> str:
    rows = _grid(record)
    rows = rows[rows.method != "none"]
    if rows.empty:
        return f"{table1.whose(record)}. No adapter was timed at the figure's bottlenecks."
    worst = rows.loc[rows.slowdown.idxmax()]
    return (f"{table1.whose(record)}. Most: {worst.label}, r={worst.r}, batch {worst.batch}, length {worst.length}: "
            f"{worst.slowdown:+.1f} %.")


def _missing(found: list[Record]) -> list[str]:
    """How much of the paper's grid no study of GPT-2 medium has."""
    wanted = {(batch, length, name, r) for batch in BATCHES for length in LENGTHS for name in ROWS for r in RANKS}
    there = {(row.batch, row.length, row.method, row.r) for record in found if record.model == "gpt2-medium"
             for row in table1.measured(record).itertuples()}
    lost = len(wanted - there)
    return [f"{lost} of the {len(wanted)} points on GPT-2 medium; {table1.COMMAND} times them all"] if lost else []


def _slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
