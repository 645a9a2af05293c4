"""The singular values of updates: norms, effective and stable ranks, and their picture; of runs and of any adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from analysis import matrices, plots, similarity, subspace
from analysis.exhibit import Table
from analysis.subspace import SVD
from lora.files import Update

HEAD = 4  # singular values that a table shows
SHOWN = 1e4  # times the smallest singular value in a picture is below the largest
MARKED = 16  # up to so many, each has its mark: marks make a file large


@dataclass(frozen=True)
class Spectrum:
    """ΔW of one matrix: its singular values, first to last, and what follows from them; NaN where ΔW = 0."""

    layer: int
    target: str
    S: torch.Tensor  # (r,)

    def numbers(self) -> dict[str, Any]:
        """As one row of data."""
        return {"layer": self.layer, "target": self.target, "r": len(self.S), "norm": float(self.S.norm()),
                "effective_rank": subspace.effective_rank(self.S), "stable_rank": subspace.stable_rank(self.S),
                "singular_values": " ".join(f"{value:.10g}" for value in self.S.tolist())}


def decomposed(updates: Sequence[Update]) -> list[SVD]:
    """The SVD of every ΔW = scale · B A, of BA where the scale is unknown."""
    def all_of(A: torch.Tensor, B: torch.Tensor, scale: torch.Tensor) -> Sequence[torch.Tensor]:
        svd = subspace.delta_svd(A, B, scale)
        return svd.U, svd.S, svd.V

    scales = [torch.tensor(1.0 if update.scale is None else update.scale, dtype=torch.float64) for update in updates]
    return [SVD(*each) for each in subspace.stacked(all_of, [
        (update.A, update.B, scale) for update, scale in zip(updates, scales, strict=True)])]


def spectra(updates: Sequence[Update]) -> list[Spectrum]:
    """The spectrum of every update of an adapter, in their order."""
    return [Spectrum(update.layer, name, svd.S)
            for update, name, svd in zip(updates, matrices.names(updates), decomposed(updates), strict=True)]


def table(title: str, found: Sequence[Spectrum]) -> Table:
    """A row for every matrix; k: the k-th singular value."""
    columns = ["layer", "matrix", "r", "‖ΔW‖", *(f"k = {k}" for k in range(1, HEAD + 1)), "effective rank",
               "stable rank"]
    rows = []
    for each in found:
        numbers = each.numbers()
        head = [f"{value:.3g}" for value in each.S[:HEAD].tolist()]
        rows.append([str(each.layer), each.target, str(numbers["r"]), f"{numbers['norm']:.3g}",
                     *head, *["—"] * (HEAD - len(head)),
                     *(similarity.word(numbers[key]) for key in ("effective_rank", "stable_rank"))])
    return Table(title, columns, rows, [0, *range(2, len(columns))])


def draw(title: str, rows: Sequence[tuple[str, Sequence[Spectrum]]]) -> str:
    """The singular values as SVG: a row of panels for each named set of spectra, a column for each matrix, a line for
    each layer, dark to light. ΔW = 0 has no line."""
    targets = list(dict.fromkeys(each.target for _, found in rows for each in found))
    layers = sorted({each.layer for _, found in rows for each in found})
    colours = matplotlib.colormaps[plots.MAP]
    with plots.panels(len(rows), len(targets), 2.8, 2.3) as (figure, axes):
        for row, (name, found) in zip(axes, rows, strict=True):
            for panel, target in zip(row, targets, strict=True):
                for each in found:
                    if each.target == target and each.S[0] > 0:
                        shade = 0.9 * layers.index(each.layer) / max(len(layers) - 1, 1)
                        panel.plot(range(1, len(each.S) + 1), each.S.tolist(), color=colours(shade),
                                   marker="." if len(each.S) <= MARKED else "")
                here = [each.S for each in found if each.target == target]
                top = max((float(S[0]) for S in here), default=0.0) or 1.0
                panel.set(title=f"{similarity.symbol(target)}, {name}", xlabel="k", ylabel=r"$\sigma_k$", yscale="log",
                          ylim=(top / SHOWN, 1.5 * top), xticks=similarity.ticks(max(map(len, here), default=1)))
        span = Normalize(layers[0], max(layers[-1], layers[0] + 1))
        figure.colorbar(ScalarMappable(span, ListedColormap(colours([0.9 * n / 255 for n in range(256)]))), ax=axes,
                        label="layer", ticks=similarity.ticks(layers[-1]))
        figure.suptitle(title, fontsize=9)
        return plots.svg(figure)
