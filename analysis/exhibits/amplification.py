"""The amplification factor of Section 7.3 in every layer and for every matrix, where the paper has one layer's W_q."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import base, pairs, plots, similarity, spectra, subspace
from analysis.exhibit import Exhibit, Figure, Inputs, Table
from analysis.sites import Updates
from engine.record import Record

NEEDS = ("weights of LoRA runs and the base model's; "
         "python run.py -m task=cola method=lora model=minilm r=4,64 data_root=DIR makes them")


def make(inputs: Inputs) -> Exhibit:
    """A table and a figure for every group of runs: a run of each rank."""
    found, missing = pairs.each(inputs, pairs.every_rank, pairs.ONE_RANK, _measured)
    says = ["‖ΔW‖_F / ‖UᵀWVᵀ‖_F with U and V the singular directions of ΔW (Appendix H.4), ΔW with the scale "
            "alpha / r. The paper prints 21.5 at r = 4 and about 2 at r = 64, for W_q in layer 48 of GPT-3. A "
            "large factor alone says nothing of ΔW's directions: random ones with the same ‖ΔW‖ are expected to have "
            "‖ΔW‖ √(d_in d_out) / (‖W‖ r), which is large and falls with r too. The question is how much more of W "
            "ΔW's directions hold than random ones."]
    tables, figures, data = [], [], []
    for name, records, rows in found:
        tables.append(_table(name, rows))
        figures.append(Figure(f"amplification-{name}", "The amplification factor by layer. " + pairs.told(records),
                              _draw(records[0], rows)))
        says.append(_read(name, rows))
        data += [{"group": name, **row} for row in rows]
    return Exhibit("Amplification in every layer", says, tables, figures, pd.DataFrame(data) if data else None, missing)


def _measured(records: Sequence[Record], updates: Sequence[Updates]) -> list[dict[str, Any]]:
    """A row for each run, layer and matrix. Raises Refused without W."""
    model, rows = base.of(records[0]), []
    deltas = [dict(zip(each, spectra.decomposed(list(each.values())), strict=True)) for each in updates]
    for (layer, target), first in updates[0].items():
        W = model.weight(first)
        norm = subspace.norm(W)
        for record, each in zip(records, deltas, strict=True):
            delta, r = each[layer, target], record.settings["r"]
            expected, size = norm * r / (W.shape[0] * W.shape[1]) ** 0.5, float(delta.S.norm())
            rows.append({"task": record.task, "model": record.model, "seed": record.seed,
                         "digest": record.digest, "layer": layer, "target": target, "r": r, "norm_W": norm,
                         "norm_delta": size, "projection": subspace.projection(delta.U, W, delta.V),
                         "random": expected, "factor": subspace.amplification(delta, W),
                         "random_factor": size / expected})
    return rows


def _lines(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], dict[int, float]]:
    """The factor by layer, for every matrix and rank."""
    lines: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        lines.setdefault((row["target"], row["r"]), {})[row["layer"]] = row["factor"]
    return lines


def _table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    lines = _lines(rows)
    columns = ["layer", *(f"{target}, r = {r}" for target, r in lines)]
    body = [[str(layer), *(similarity.word(line.get(layer, float("nan"))) for line in lines.values())]
            for layer in sorted({row["layer"] for row in rows})]
    return Table(f"Amplification factor: {name}", columns, body, range(len(columns)))


def _draw(record: Record, rows: Sequence[dict[str, Any]]) -> str:
    targets = list(dict.fromkeys(row["target"] for row in rows))
    ranks = list(dict.fromkeys(row["r"] for row in rows))
    with plots.panels(1, 1, 5.2, 3.2) as (figure, ((axes,),)):
        for (target, r), line in _lines(rows).items():
            place = targets.index(target) * len(ranks) + ranks.index(r)
            axes.plot(list(line), list(line.values()), color=plots.COLOURS[place % 8], marker=plots.MARKERS[place % 8],
                      linestyle=("-", "--", ":", "-.")[place // 8 % 4], label=f"{similarity.symbol(target)}, r = {r}")
        axes.set(xlabel="layer", ylabel=r"$\|\Delta W\|_F \,/\, \|U^T W V^T\|_F$", yscale="log",
                 title=f"{record.task}, {record.model}", xticks=similarity.ticks(max(row["layer"] for row in rows)))
        figure.legend(loc="outside right upper")
        return plots.svg(figure)


def _read(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """The range over the layers for every matrix and rank, and how much of W its directions hold."""
    said = []
    for (target, r), line in _lines(rows).items():
        values = sorted(value for value in line.values() if value == value)
        own = [row for row in rows if (row["target"], row["r"]) == (target, r) and row["factor"] == row["factor"]]
        held = sorted(row["projection"] / row["random"] for row in own)
        random = sorted(row["random_factor"] for row in own)
        said.append(f"{similarity.delta(target)} at r = {r}: " + (
            f"{values[0]:.2f} to {values[-1]:.2f}, where random directions are expected to have {random[0]:.2f} to "
            f"{random[-1]:.2f}; its own hold {held[0]:.2f} to {held[-1]:.2f} times as much of W as random ones are "
            "expected to." if values else "zero, so it has no directions."))
    return f"**{name}.** Over the layers, one run a rank: {' '.join(said)}"
