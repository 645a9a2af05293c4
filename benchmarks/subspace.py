"""The SVD of ΔW from its factors against that of the dense product, and all of phi: python -m benchmarks.subspace

Random A and B: the numbers in them are the same to the clock. The ways take turns, so that a busy machine slows all of
them. At the largest of the widths the dense SVD takes one round: it lasts."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from analysis import subspace
from engine import device as devices
from engine.contract import generator
from engine.hub import ROOT

LAYERS, D, RANKS = 24, 1024, (8, 64)  # the size of RoBERTa large and GPT-2 medium, and the ranks of Figures 3 to 7


def main() -> None:
    """Prints and writes two tables: seconds (median), the spread over the rounds, the ratio."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--widths", type=int, nargs="+", default=[1024, 4096], metavar="D")
    said = ask.parse_args()
    lines = [f"{devices.name_of(torch.device('cpu'))}, {said.rounds} rounds, float64", "",
             "## SVD of one ΔW (d x d)", "", "| d | r | way | seconds (median) | least to most | rounds | ratio |",
             "|---:|---:|---|---:|---:|---:|---:|"]
    for d in said.widths:
        lines += _one(d, said.rounds, 1 if d == max(said.widths) else said.rounds)
    lines += ["", f"## φ for a model of {LAYERS} layers, W_q and W_v, d = {D}", "",
              "Every layer, all i and j, the SVDs of A included.", "",
              "| what | seconds (median) | least to most |", "|---|---:|---:|"]
    runs = [_draw(2 * LAYERS, r, D) for r in (8, 64, 64)]
    for what, one, other in (("r = 8 and r = 64 (Figures 3 and 6)", runs[0], runs[1]),
                             ("two seeds, r = 64 (Figures 4 and 7)", runs[1], runs[2])):
        took = [_clock(subspace.phi_of, one, other) for _ in range(said.rounds + 1)][1:]
        lines.append(f"| {what} | {statistics.median(took):.3f} | {min(took):.3f} to {max(took):.3f} |")
    print("\n".join(lines))
    place = ROOT / "results" / "benchmarks" / "subspace-cpu.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(["# Subspaces", "", *lines]) + "\n", encoding="utf-8")


def _one(d: int, rounds: int, dense: int) -> list[str]:
    """Rows for one width: of the dense product, `dense` times (its time hardly depends on r), and from the factors."""
    factors = {r: (_draw(1, r, d)[0], _draw(2, r, d)[0].T.contiguous(), 2.0) for r in RANKS}
    took: dict[str, list[float]] = {f"| {d} | {max(RANKS)} | dense |": []}
    took |= {f"| {d} | {r} | factors |": [] for r in RANKS}
    for each in range(rounds + 1):  # the first round warms the factors up
        for (r, given), name in zip(factors.items(), list(took)[1:], strict=True):
            seconds = _clock(subspace.delta_svd, *given)
            took[name] += [seconds] if each else []
            if each < dense and r == max(RANKS):
                took[next(iter(took))].append(_clock(_dense, *given))
    slow = statistics.median(next(iter(took.values())))
    return [f"{name} {statistics.median(times):.5f} | {min(times):.5f} to {max(times):.5f} | {len(times)} | "
            f"{slow / statistics.median(times):.0f} |" for name, times in took.items()]


def _draw(count: int, r: int, d: int) -> torch.Tensor:
    """count matrices (r, d) as adapter files have them, float32."""
    return torch.empty(count, r, d).normal_(generator=generator(count + r, "benchmark"))


def _dense(A: torch.Tensor, B: torch.Tensor, scale: float) -> object:
    return torch.linalg.svd(scale * B.double() @ A.double(), full_matrices=False)


def _clock(work: Callable[..., object], *given: object) -> float:
    begin = time.perf_counter()
    work(*given)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
