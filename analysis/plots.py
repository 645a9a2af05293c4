"""How figures look: one style, colours that colour-blind readers can tell apart, SVG that is the same byte for byte."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, PAPER = "#1a1a1b", "#fffffe"  # text and axes, background: odd on purpose, the report exchanges them in dark mode
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#999999")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # beside the colours, so that no one needs them
MAP = "viridis"  # of heat maps
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "lora-paper", "font.family": "sans-serif", "font.size": 9,
    "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK,
    "axes.labelcolor": INK, "axes.titlecolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "legend.frameon": False,
    "image.interpolation": "none", "image.composite_image": False, "figure.constrained_layout.use": True,
    "axes.grid": False, "lines.linewidth": 1.4, "lines.markersize": 5,
}


@contextmanager
def panels(rows: int, columns: int, width: float, height: float) -> Iterator[tuple[Figure, Any]]:
    """A figure and its rows x columns axes (always a 2-d array), each panel width x height inches, in our style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(columns * width, rows * height))
        yield figure, figure.subplots(rows, columns, squeeze=False)


def svg(figure: Figure) -> str:
    """The figure as SVG without dates or versions. Call it inside `panels`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"[ \t]+$", "", out.getvalue(), flags=re.MULTILINE)


def heat(axes: Any, values: Any, low: float, high: float, across: Sequence[float], down: Sequence[float]) -> Any:
    """A heat map of values (rows downwards from the top) with the colour scale [low, high]; a cell's centre lies at its
    entry of across (x) and down (y), both evenly spaced. Returns the image, for a colour bar."""
    half_x = (across[-1] - across[0]) / max(len(across) - 1, 1) / 2 or 0.5
    half_y = (down[-1] - down[0]) / max(len(down) - 1, 1) / 2 or 0.5
    box = (across[0] - half_x, across[-1] + half_x, down[-1] + half_y, down[0] - half_y)
    axes.spines[:].set_visible(True)  # else its darkest cells have no edge on a dark page
    return axes.imshow(values, cmap=MAP, vmin=low, vmax=high, aspect="auto", extent=box, interpolation="none")
