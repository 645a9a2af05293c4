"""Row (e): the SVD of ΔW = BA from its factors against that of the dense product, and all of Equation 4."""

from __future__ import annotations

from functools import partial

import torch

from analysis import subspace
from benchmarks.bench import Bench, Cells, Table, ratio, same, spread
from engine.contract import generator

LETTER, TITLE = "e", "Singular values and subspaces, from the factors"
WIDTHS, RANKS = (1024, 4096), (8, 64)  # of RoBERTa large and GPT-2 medium, and wider; the ranks of Figures 3 to 7
LAYERS, D = 24, 1024


def run(bench: Bench) -> list[Table]:
    """The SVD of one ΔW at every width and rank; phi of a whole model."""
    widths = (32, 64) if bench.quick else WIDTHS
    ranks = (2, 4) if bench.quick else RANKS
    agree(widths[0], ranks[0])
    rows = [line for d in widths for line in _one(bench, d, ranks, 1 if d == max(widths) else bench.rounds)]
    about = ["float64 on the CPU, random A and B; `ratio`: the dense product's time over this one's",
             "the dense SVD hardly depends on r and is measured once for both; at the largest width for one round: it "
             "lasts"]
    return [Table("spectra", rows, about), _phi(bench, ranks)]


def agree(d: int, r: int) -> None:
    """Raises Unequal unless both ways give the same singular values."""
    A, B = _factors(d, r)
    found = subspace.delta_svd(A, B, 2.0).S
    same(f"singular values, d={d}, r={r}", dense(A, B, 2.0)[:r], found, 1e-9)


def dense(A: torch.Tensor, B: torch.Tensor, scale: float) -> torch.Tensor:
    """The singular values of scale · B A, from the whole SVD of the product."""
    return torch.linalg.svd(scale * B.double() @ A.double(), full_matrices=False).S


def _one(bench: Bench, d: int, ranks: tuple[int, ...], slow: int) -> list[Cells]:
    factors = {r: _factors(d, r) for r in ranks}
    calls = [partial(subspace.delta_svd, A, B, 2.0) for A, B in factors.values()]
    whole = partial(dense, *factors[max(ranks)], 2.0)
    taken = bench.measure(f"SVD d={d}", [whole, *calls], warmup=0, rounds=slow)
    if slow < bench.rounds:
        taken = [taken[0], *bench.measure(f"SVD d={d}, factors", calls)]
    base = taken[0]
    lines: list[Cells] = [{"d": d, "r": None, "way": "dense", **spread(base), **ratio(base, base)}]
    for r, times in zip(ranks, taken[1:], strict=True):
        against = base if len(base) == len(times) else base * len(times)
        lines.append({"d": d, "r": r, "way": "factors", **spread(times), **ratio(against, times)})
    return lines


def _phi(bench: Bench, ranks: tuple[int, ...]) -> Table:
    """Equation 4 for every i and j of every layer's W_q and W_v, the SVDs of A included."""
    layers, d = (2, 32) if bench.quick else (LAYERS, D)
    small, large, other = (_draw(2 * layers, r, d, seed) for seed, r in enumerate((ranks[0], ranks[1], ranks[1])))
    asked = {f"r = {ranks[0]} and r = {ranks[1]} (Figures 3 and 6)": partial(subspace.phi_of, small, large),
             f"two seeds, r = {ranks[1]} (Figures 4 and 7)": partial(subspace.phi_of, large, other)}
    taken = bench.measure("phi", list(asked.values()))
    return Table("phi", [{"what": what, **spread(times)} for what, times in zip(asked, taken, strict=True)],
                 [f"a model of {layers} layers, W_q and W_v, d = {d}"])


def _factors(d: int, r: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _draw(1, r, d, 0)[0], _draw(1, r, d, 1)[0].T.contiguous()


def _draw(count: int, r: int, d: int, seed: int) -> torch.Tensor:
    """count matrices (r, d) as adapter files have them, float32."""
    return torch.empty(count, r, d).normal_(generator=generator(seed, "benchmark"))
