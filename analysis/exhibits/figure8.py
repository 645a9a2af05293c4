"""Figure 8: what W_q's first tenth of directions has in common with A at r = 4, 8 and 64, and with a random matrix."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch

from analysis import base, pairs, plots, similarity, sites, subspace
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.pairs import Group
from analysis.sites import Updates
from engine.record import Record

NEEDS = ("weights of LoRA runs with r=4, 8 and 64 (one is enough) and the base model's; "
         "python run.py -m task=cola method=lora model=minilm r=4,8,64 data_root=DIR makes them")
RANKS = (4, 8, 64)  # the paper's
FIRST, D = 451, 12_288  # the first tick of the paper's vertical axis, and GPT-3's width
COLUMNS = ["picture", "task", "model", "layer", "target", "matrix", "i", "j", "phi", "random"]


def make(inputs: Inputs) -> Exhibit:
    """A heat map for each rank and one for a random matrix, for every group of runs (Appendix H.3)."""
    found, missing = pairs.each(inputs, _choose, pairs.ONE_RANK, _maps)
    figures, says, rows = [], [], []
    for name, records, (layer, target, d, maps) in found:
        low, high = _scale(maps)
        figures.append(Figure(f"figure8-{name}", _caption(records, layer, target, low, high, maps),
                              _draw(records[0], layer, target, maps, low, high)))
        says.append(_found(name, layer, target, d, maps))
        rows += _rows(name, records[0], layer, target, d, maps)
    about = ("φ(i, j) between the first i right-singular directions of W_q and the first j of A. A high value would "
             "mean that the update repeats what W_q emphasises already. The paper: the first 4 directions of ΔW have a "
             "similarity of hardly more than 0.2 with the first tenth of W's. Random directions have max(i, j) / d on "
             "average, so about 0.1 with a tenth.")
    return Exhibit("Figure 8: W_q against its update, direction by direction", [about, *says], [], figures,
                   pd.DataFrame(rows, columns=COLUMNS) if rows else None, missing)


def _choose(group: Group) -> list[Record]:
    return pairs.one_a_rank(group, [r for r in RANKS if r in group.ranks] or pairs.stretch(group.ranks, 4, 64))


def _maps(records: list[Record], updates: list[Updates]) -> tuple[int, str, int, dict[str, torch.Tensor]]:
    """The layer, the matrix, the inputs d that it has, and phi (d / 10, r) by what it is compared with. Raises Refused
    without W."""
    layer, target = sites.central(updates[0])
    first = updates[0][layer, target]
    _, V = base.spectrum(base.of(records[0]).weight(first))
    maps = {f"r = {record.settings['r']}": subspace.phi(V, subspace.right(each[layer, target].A))
            for record, each in zip(records, updates, strict=True)}
    widest = max(record.settings["r"] for record in records)
    maps["random"] = subspace.phi(V, subspace.right(subspace.control(0, widest, V.shape[0])))
    return layer, target, V.shape[0], maps


def _from(maps: dict[str, torch.Tensor]) -> int:
    """The first i that is shown: the paper's, as a share of the tenth of d."""
    return max(math.ceil(FIRST / (D // base.SHARE) * len(maps["random"])), 1)


def _scale(maps: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The paper's 0.1 to 0.2, or as much wider as the data need, in steps of 0.05."""
    values = torch.cat([phi[_from(maps) - 1:].flatten() for phi in maps.values()])
    values = values[values.isfinite()]
    return (min(0.1, math.floor(float(values.min()) * 20) / 20), max(0.2, math.ceil(float(values.max()) * 20) / 20))


def _caption(records: list[Record], layer: int, target: str, low: float, high: float,
             maps: dict[str, torch.Tensor]) -> str:
    scale = "the paper's" if (low, high) == (0.1, 0.2) else "wider than the paper's 0.1 to 0.2, because the values are"
    n = len(maps["random"])
    return (f"φ(W_{target}, A_r, i, j) in layer {layer} (the paper does not say which), i from {_from(maps)} to {n}, a "
            f"tenth of the directions, as the paper's axis; j to r. The random matrix is Gaussian. The colours go from "
            f"{low:.2f} to {high:.2f}, {scale}.{pairs.other_ranks(records, RANKS)} {pairs.told(records)}")


def _draw(record: Record, layer: int, target: str, maps: dict[str, torch.Tensor], low: float, high: float) -> str:
    start = _from(maps)
    with plots.panels(1, len(maps), 2.1, 2.6) as (figure, axes):
        for each, (name, phi) in zip(axes[0], maps.items(), strict=True):
            down = range(start, len(phi) + 1)
            image = plots.heat(each, phi[start - 1:].numpy(), low, high, range(1, phi.shape[1] + 1), down)
            each.set(title=name, xlabel="j", ylabel="i", xticks=similarity.ticks(phi.shape[1]))
        figure.colorbar(image, ax=axes, label=rf"$\phi(W_{{{target}}}, A_r, i, j)$")
        figure.suptitle(f"{record.task}, {record.model}, layer {layer}", fontsize=9)
        return plots.svg(figure)


def _found(name: str, layer: int, target: str, d: int, maps: dict[str, torch.Tensor]) -> str:
    """A Markdown paragraph: the first four directions against the tenth of W's."""
    said = []
    chance = subspace.expected_phi(len(maps["random"]), 1, d)  # of so many against one, or up to as many
    for matrix, phi in maps.items():
        j = min(4, phi.shape[1])
        value = float(phi[-1, j - 1])
        times = f", {value / chance:.1f} times" if math.isfinite(value) and matrix != "random" else ""
        said.append(f"{similarity.word(value)} for {matrix} (j = {j}{times})")
    above = [matrix for matrix, phi in maps.items() if float(phi[-1, min(4, phi.shape[1]) - 1]) > 0.2]
    return (f"**{name}.** In layer {layer}, W_{target}'s first {len(maps['random'])} directions and the first j of the "
            f"other matrix have φ = {', '.join(said)}; random directions have {chance:.3f} on average, and the random "
            f"matrix is one draw. Above 0.2: {', '.join(above) or 'none'}. One run a rank, one layer.")


def _rows(name: str, record: Record, layer: int, target: str, d: int,
          maps: dict[str, torch.Tensor]) -> list[tuple[Any, ...]]:
    return [(name, record.task, record.model, layer, target, matrix, i, j, float(phi[i - 1, j - 1]),
             subspace.expected_phi(i, j, d))
            for matrix, phi in maps.items() for i in sorted({_from(maps), len(phi)})
            for j in sorted({1, min(4, phi.shape[1]), phi.shape[1]})]
