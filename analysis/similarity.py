"""Figures 3, 4, 6 and 7 have this in common: pairs of runs, phi of their A in every layer, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
import torch

from analysis import pairs, plots, sites, subspace
from analysis.exhibit import Inputs
from analysis.pairs import Group
from analysis.sites import Site
from engine.record import Record

COLUMNS = ["picture", "task", "model", "layer", "target", "r_1", "seed_1", "r_2", "seed_2", "i", "j", "phi", "random"]
NEAR = 8  # the paper's zoom shows the first eight directions


@dataclass(frozen=True)
class Picture:
    """phi (r_1, r_2) of a pair of runs for every matrix that both adapted."""

    name: str
    pair: tuple[Record, Record]
    phi: Mapping[Site, torch.Tensor]
    d: Mapping[Site, int]  # the columns of A

    @property
    def targets(self) -> list[str]:
        """The matrices to show."""
        return sites.shown(self.phi.keys())

    @property
    def layers(self) -> list[int]:
        """The layers that have all of these."""
        return sites.layers(self.phi.keys(), self.targets)

    @property
    def ranks(self) -> tuple[int, int]:
        """r of the two runs."""
        return self.pair[0].settings["r"], self.pair[1].settings["r"]

    @property
    def near(self) -> int:
        """How many first directions are looked at closely."""
        return min(NEAR, *self.ranks)


def pictures(inputs: Inputs, choose: Callable[[Group], tuple[Record, Record] | None], need: str,
             ) -> tuple[list[Picture], list[str]]:
    """A picture for every group of runs that has such a pair, and what is missing."""
    found, missing = pairs.each(inputs, choose, need, lambda _, updates: updates)
    made = []
    for name, (one, other), (first, second) in found:
        places = [place for place in first if place in second]
        values = subspace.stacked(lambda A, B: [subspace.phi_of(A, B)],
                                  [(first[place].A, second[place].A) for place in places])
        made.append(Picture(name, (one, other), {place: phi for place, (phi,) in zip(places, values, strict=True)},
                            {place: first[place].A.shape[1] for place in places}))
    return made, missing


def data(made: Sequence[Picture], layers: Callable[[Sequence[int]], Sequence[int]]) -> pd.DataFrame | None:
    """phi at i = j = 1, 2, 4, … of these layers, and what random subspaces of these sizes have on average."""
    rows: list[tuple[Any, ...]] = []
    for picture in made:
        (one, other), (r_1, r_2) = picture.pair, picture.ranks
        sizes = sorted({2**n for n in range(min(r_1, r_2).bit_length())} | {min(r_1, r_2)})
        rows += [(picture.name, one.task, one.model, layer, target, r_1, one.seed, r_2, other.seed, k, k,
                  float(phi[k - 1, k - 1]), subspace.expected_phi(k, k, picture.d[layer, target]))
                 for (layer, target), phi in picture.phi.items() if layer in layers(picture.layers) for k in sizes]
    return pd.DataFrame(rows, columns=COLUMNS) if rows else None


def found(picture: Picture, layers: Sequence[int]) -> str:
    """A Markdown paragraph of what the data say of the first and of the first eight directions."""
    k, said = picture.near, []
    for target in picture.targets:
        top = {layer: float(phi[0, 0]) for (layer, name), phi in picture.phi.items() if name == target}
        near = [float(phi[k - 1, k - 1]) for (_, name), phi in picture.phi.items() if name == target]
        d = next(d for (_, name), d in picture.d.items() if name == target)
        here = ", ".join(f"{word(top[layer])} in layer {layer}" for layer in layers if layer in top)
        said.append(f"{delta(target)}: φ(1, 1) is {here}; it is above 0.5 in {sum(v > 0.5 for v in top.values())} of "
                    f"{len(top)} layers. At i = j = {k} the mean over the layers is {word(fmean(near))}, where random "
                    f"subspaces have {subspace.expected_phi(k, k, d):.3f}.")
    return f"**{picture.name}.** " + " ".join(said)


def same_seed(picture: Picture) -> str:
    """A warning where two runs have one seed: what it gave both is not told from what the task decides."""
    one, other = picture.pair
    if one.seed != other.seed:
        return ""
    said = (f" Both runs have seed {one.seed} and with it one order of the data: whether A is alike because of the "
            "task or because of the seed, this pair cannot tell. Pairs of different seeds can (`python -m analysis "
            "adapters` compares any two).")
    drawn = (" In the first adapted matrix (layer 1) the smaller A also starts as the first rows of the larger: that "
             "likeness is older than training, and it is in the mean. No other matrix has it.")
    return said + drawn * (one.init_from is None)


def panel(axes: Any, phi: torch.Tensor, high: float, title: str) -> Any:
    """A heat map of phi (i downwards, j across) with the colour scale [0, high]."""
    m, n = phi.shape
    image = plots.heat(axes, phi.numpy(), 0, high, range(1, n + 1), range(1, m + 1))
    axes.set(title=title, xlabel="j", ylabel="i", xticks=ticks(n), yticks=ticks(m))
    return image


def numbered(layers: Sequence[int]) -> str:
    """layer 3; layers 1, 2."""
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def ticks(n: int) -> list[int]:
    """At most four numbers from 1 to n, both ends among them: most of a figure's time goes into its ticks."""
    return sorted({round(1 + (n - 1) * part / 3) for part in range(4)})


def delta(target: str) -> str:
    """ΔW_q, in prose; a matrix that the paper does not name: ΔW (ff output.dense)."""
    return f"ΔW_{target}" if len(target) == 1 else f"ΔW ({target})"


def symbol(target: str) -> str:
    """The same for a figure."""
    return rf"$\Delta W_{target}$" if len(target) == 1 else rf"$\Delta W$ ({target})"


def word(value: float) -> str:
    """Two decimals; a dash for what is not defined."""
    return f"{value:.2f}" if math.isfinite(value) else "—"
