"""Table 7: how much of W_q lies in the first directions of ΔW_q, of W_q itself, and of random matrices."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import torch

from analysis import base, pairs, sites, subspace
from analysis.exhibit import Exhibit, Inputs, Table, printed
from analysis.pairs import Group
from analysis.sites import Updates
from engine.record import Record
from lora.files import Update

NEEDS = ("weights of LoRA runs with r=4 and r=64 (one is enough) and the base model's; "
         "python run.py -m task=cola method=lora model=minilm r=4,64 data_root=DIR makes them")
LOW, HIGH = 4, 64  # the paper's ranks
D = 12_288  # GPT-3's width
DRAWS = 200  # of random directions
NUMBERS = ["delta", "own", "random", "expected", "norm_W", "norm_delta", "factor"]
HELD = "fro_norm_of_Ut_Wq_Vt"  # as results/paper calls it
COLUMNS = ["", "r", "U, V of ΔW_q", "of W_q", "of random", "random, expected", "‖W_q‖", "‖ΔW_q‖", "factor"]
SAYS = ("‖UᵀW_qVᵀ‖_F with U and V the first r singular directions of ΔW_q, of W_q and of random matrices, and the "
        "amplification factor ‖ΔW_q‖_F / ‖UᵀW_qVᵀ‖_F with those of ΔW_q (Appendix H.4). The paper does not say whether "
        "its ΔW has the scale alpha / r; ours has. The scale moves ‖ΔW_q‖ and with it the factor, no other number. "
        "Random directions are expected to give ‖W_q‖ r / √(d_in d_out) (root mean square); ours are {draws} draws, "
        "mean ± standard deviation. A large factor alone says nothing of ΔW's directions: random ones are expected to "
        "have ‖ΔW_q‖ √(d_in d_out) / (‖W_q‖ r), which is large too. The question is how much more of W_q ΔW's "
        "directions hold than random ones: {times} times as much in the paper.")


def make(inputs: Inputs) -> Exhibit:
    """The paper's numbers, and under them ours in the middle layer of every group of runs."""
    found, missing = pairs.each(inputs, _choose, pairs.ONE_RANK, _measured)
    table, says, data = _paper(), [SAYS.format(draws=DRAWS, times=_times())], []
    for name, records, (layer, target, numbers) in found:
        for record, each in zip(records, numbers, strict=True):
            shown = [f"{each[key]:.3g}" if each[key] == each[key] else "—" for key in NUMBERS]
            shown[NUMBERS.index("random")] += f" ± {each['random_sd']:.2g}"
            table.append([f"{name}, {target} of layer {layer}", str(record.settings["r"]), *shown])
            data.append({"group": name, "task": record.task, "model": record.model, "layer": layer, "target": target,
                         "r": record.settings["r"], "seed": record.seed, "digest": record.digest, **each})
        says.append(_read(name, layer, records, numbers))
    return Exhibit("Table 7: W_q seen from ΔW_q", says, [Table("Table 7, with the amplification factor", COLUMNS, table,
                   range(1, len(COLUMNS)))], [], pd.DataFrame(data) if data else None, missing)


def _choose(group: Group) -> list[Record]:
    return pairs.one_a_rank(group, pairs.stretch(group.ranks, LOW, HIGH))


def _paper() -> list[list[str]]:
    """What is printed, GPT-3's layer 48."""
    return [["paper: GPT-3, layer 48", r, *(_fact(HELD, r, basis) for basis in ("delta_W_q", "W_q", "random")), "",
             _fact("fro_norm_of_W_q", "", ""), _fact("fro_norm_of_delta_W_q", r, "delta_W_q"),
             _fact("amplification_factor", r, "delta_W_q")] for r in ("4", "64")]


def _fact(metric: str, r: str, basis: str) -> str:
    """A printed number."""
    facts = printed("table7_amplification")
    facts = facts[facts.source == "paper"]
    return str(facts[(facts.metric == metric) & (facts["rank"] == r) & (facts.basis == basis)].value.item())


def _times() -> str:
    """How many times as much of W_q as random directions are expected to the paper's ΔW_q holds, at both ranks."""
    W = float(_fact("fro_norm_of_W_q", "", ""))
    return " and ".join(f"{float(_fact(HELD, str(r), 'delta_W_q')) * D / (W * r):.2g} (r = {r})" for r in (LOW, HIGH))


def _measured(records: Sequence[Record], updates: Sequence[Updates]) -> tuple[int, str, list[dict[str, Any]]]:
    """The layer, the matrix and the table's numbers for every run. Raises Refused without W."""
    layer, target = sites.central(updates[0])
    W = base.of(records[0]).weight(updates[0][layer, target])
    S, _ = base.spectrum(W)
    return layer, target, [_numbers(each[layer, target], W, S) for each in updates]


def _numbers(update: Update, W: torch.Tensor, S: torch.Tensor) -> dict[str, Any]:
    r, (d_out, d_in) = len(update.A), W.shape
    scale = 1.0 if update.scale is None else update.scale
    delta, random = subspace.delta_svd(update.A, update.B, scale), _random(W, r)
    factor = subspace.amplification(delta, W)
    return {"delta": subspace.projection(delta.U, W, delta.V), "own": float(S[:r].norm()),
            "random": fmean(random), "random_sd": stdev(random),
            "expected": subspace.norm(W) * r / (d_out * d_in) ** 0.5, "norm_W": subspace.norm(W),
            "norm_delta": float(delta.S.norm()), "factor": factor,
            "unscaled": factor / abs(scale) if scale else float("nan")}


def _random(W: torch.Tensor, r: int) -> list[float]:
    """‖UᵀWVᵀ‖_F of pairs of random subspaces of r directions, one number a draw."""
    held = []
    for seed in range(DRAWS):
        sides = subspace.control(seed, sum(W.shape), r).split(list(W.shape))
        held.append(subspace.projection(torch.linalg.qr(sides[0])[0], W, torch.linalg.qr(sides[1])[0]))
    return held


def _read(name: str, layer: int, records: Sequence[Record], numbers: Sequence[dict[str, Any]]) -> str:
    """What our rows say beside the paper's conclusions."""
    said = []
    for record, each in zip(records, numbers, strict=True):
        r = record.settings["r"]
        if not each["norm_delta"]:
            said.append(f"At r = {r} ΔW is zero and has no directions.")
            continue
        random = each["norm_delta"] / each["expected"]
        apart = (each["delta"] - each["random"]) / each["random_sd"] if each["random_sd"] else 0.0
        said.append(f"At r = {r} ΔW's directions hold {each['delta'] / each['expected']:.2f} times as much of W as "
                    f"random ones are expected to ({abs(apart):.1f} standard deviations of the draws "
                    f"{'above' if apart > 0 else 'below'} their mean), and {each['delta'] / each['own']:.1%} of what "
                    f"its own first {r} hold. The factor is {each['factor']:.3g}, without the scale alpha / r "
                    f"{each['unscaled']:.3g}; random directions with the same ‖ΔW‖ are expected to have {random:.3g}.")
    ranks = pairs.other_ranks(records, (LOW, HIGH))
    return f"**{name}.** {' '.join(said)} One run a rank, one layer.{ranks} {pairs.told(records)}"
