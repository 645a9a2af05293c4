"""Figure 4: how alike A is in two runs with different seeds at r = 64, in the middle layer, beside random matrices."""

from __future__ import annotations

from statistics import fmean

from analysis import pairs, plots, similarity, sites, subspace
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.similarity import Picture

NEEDS = ("weights of LoRA runs with r=64 and two seeds that differ in nothing else; "
         "python run.py -m task=cola method=lora model=minilm r=64 seed=0,1 data_root=DIR makes them")
R = 64  # the paper's rank
NEED = "needs two seeds with one rank (the paper's is r=64): the same command with r=64 seed=0,1 and -m"


def make(inputs: Inputs) -> Exhibit:
    """Three panels for every pair of runs (Section 7.2)."""
    made, missing = similarity.pictures(inputs, lambda group: pairs.two_seeds(group, R), NEED)
    beside = "; on the right, φ of two random Gaussian matrices of this shape"
    figures = [Figure(f"figure4-{picture.name}", caption(picture, [sites.middle(picture.layers)], beside),
                      _draw(picture)) for picture in made]
    says = ["φ between two runs that differ in the seed alone says how much of A the task decides, and how much "
            "chance. The paper finds more in common in ΔW_q than in ΔW_v, and no common directions between random "
            "matrices.",
            *(paragraph(picture, [sites.middle(picture.layers)]) for picture in made)]
    return Exhibit("Figure 4: subspaces of two seeds" + stand_in(made), says, [], figures,
                   similarity.data(made, list), missing)


def caption(picture: Picture, layers: list[int], beside: str) -> str:
    """What is shown, of which runs."""
    r = picture.ranks[0]
    other = "" if r == R else f" The paper's rank is {R}; this one stands in."
    return (f"φ between the right-singular directions of A in two runs with r = {r} and different seeds, "
            f"{similarity.numbered(layers)} of {picture.layers[-1]}{beside}. The colour scale is the "
            f"paper's; values above it look alike.{other} {pairs.told(picture.pair)}")


def stand_in(made: list[Picture]) -> str:
    """What the title adds where a picture's rank is not the paper's."""
    return " (stand-in ranks)" if any(picture.ranks[0] != R for picture in made) else ""


def paragraph(picture: Picture, layers: list[int]) -> str:
    """What the data say: the first directions, and in which of the targets phi is higher, in these layers alone."""
    means = {target: fmean(float(picture.phi[layer, target].mean()) for layer in layers) for target in picture.targets}
    said = " and ".join(f"{similarity.word(mean)} for {similarity.delta(target)}" for target, mean in means.items())
    order = ""
    if len(means) == 2:
        (one, mean), (other, less) = sorted(means.items(), key=lambda item: -item[1])
        order = f", higher for {similarity.delta(one)} than for {similarity.delta(other)}" if mean > less else ""
    r, d = picture.ranks[0], picture.d[layers[0], picture.targets[0]]
    chance = fmean(subspace.expected_phi(i, j, d) for i in range(1, r + 1) for j in range(1, r + 1))
    return (f"{similarity.found(picture, layers)} In {similarity.numbered(layers)}, φ is {said} on average over all i "
            f"and j{order}; random subspaces have {similarity.word(chance)}, since φ between them is about max(i, j) / "
            f"{d}. These are A's directions, the right ones of ΔW; its left ones, B's, may be in another order. One "
            "pair of runs does not tell which matrix has more in common in general.")


def _draw(picture: Picture) -> str:
    layer, first = sites.middle(picture.layers), picture.pair[0]
    d = picture.d[layer, picture.targets[0]]
    noise = subspace.phi_of(*subspace.control(0, 2, picture.ranks[0], d))
    with plots.panels(1, len(picture.targets) + 1, 2.6, 2.4) as (figure, axes):
        for place, target in enumerate(picture.targets):
            similarity.panel(axes[0][place], picture.phi[layer, target], 0.5,
                             f"{similarity.symbol(target)}, layer {layer}")
        image = similarity.panel(axes[0][-1], noise, 0.5, "random Gaussian")
        figure.colorbar(image, ax=axes, label=rf"$\phi(A_{{r={picture.ranks[0]}}}, A'_{{r={picture.ranks[0]}}}, i, j)$")
        figure.suptitle(f"{first.task}, {first.model}", fontsize=9)
        return plots.svg(figure)
