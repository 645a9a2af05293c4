"""Figure 3: how alike A at r = 8 and at r = 64 are in the middle layer: phi of their first i and j directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis import pairs, plots, similarity, sites
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.similarity import Picture

NEEDS = ("weights of LoRA runs with r=8 and r=64 that differ in nothing else; "
         "python run.py -m task=cola method=lora model=minilm r=8,64 data_root=DIR makes them")
LOW, HIGH = 8, 64  # the paper's ranks


def make(inputs: Inputs) -> Exhibit:
    """A row of four panels for every pair of runs (Section 7.2)."""
    return ranks("figure3", "Figure 3: subspaces at two ranks", inputs, lambda there: [sites.middle(there)],
                 list)


def ranks(name: str, title: str, inputs: Inputs, layers: Callable[[Sequence[int]], Sequence[int]],
          listed: Callable[[Sequence[int]], Sequence[int]]) -> Exhibit:
    """The exhibit with a row of panels for each of layers(those there are); its data have listed(those)."""
    made, missing = similarity.pictures(inputs, lambda group: pairs.two_ranks(group, LOW, HIGH),
                                        "needs two ranks with one seed (the paper's are r=8 and r=64): the "
                                        "same command with r=8,64 and -m")
    shown = [(picture, layers(picture.layers)) for picture in made]
    figures = [Figure(f"{name}-{picture.name}", caption(picture, which), draw(picture, which))
               for picture, which in shown]
    others = [picture for picture in made if picture.ranks != (LOW, HIGH)]
    says = ["φ(i, j) (Equation 4) is 1 where the first i directions of one A lie within the first j of the other, or "
            "the other way round, and 0 where they have nothing in common. The paper finds (GPT-3) that the "
            "top directions overlap and the others do not, and that the first is shared with φ above 0.5.",
            *(similarity.found(picture, which) + similarity.same_seed(picture) for picture, which in shown)]
    return Exhibit(title + (" (stand-in ranks)" if others else ""), says, [], figures, similarity.data(made, listed),
                   missing)


def caption(picture: Picture, layers: Sequence[int]) -> str:
    """What is shown, of which runs."""
    low, high = picture.ranks
    other = "" if (low, high) == (LOW, HIGH) else f" The paper's ranks are {LOW} and {HIGH}; these stand in."
    return (f"φ between the right-singular directions of A at r = {low} (i) and r = {high} (j), "
            f"{similarity.numbered(layers)} of {picture.layers[-1]}; on the right the first {picture.near} directions "
            f"of both, i at least j.{other} {pairs.told(picture.pair)}")


def draw(picture: Picture, layers: Sequence[int]) -> str:
    """Rows: layers; columns: the targets, and the same zoomed into the first directions (lower-left triangle)."""
    targets, (low, high) = picture.targets, picture.ranks
    k, n, first = picture.near, len(picture.targets), picture.pair[0]
    with plots.panels(len(layers), 2 * n, 2.3, 2.1) as (figure, axes):
        for row, layer in zip(axes, layers, strict=True):
            for place, target in enumerate(targets):
                phi = picture.phi[layer, target]
                close = phi[:k, :k].masked_fill(phi[:k, :k].new_ones(k, k).triu(1).bool(), float("nan"))
                title = f"{similarity.symbol(target)}, layer {layer}"
                image = similarity.panel(row[place], phi, 1, title)
                similarity.panel(row[n + place], close, 1, title)
        figure.colorbar(image, ax=axes, label=rf"$\phi(A_{{r={low}}}, A_{{r={high}}}, i, j)$")
        figure.suptitle(f"{first.task}, {first.model}", fontsize=9)
        return plots.svg(figure)
