"""Figure 7: Figure 4 in the first layer, at one and two thirds of the way, and in the last."""

from __future__ import annotations

from analysis import pairs, plots, similarity, sites
from analysis.exhibit import Exhibit, Figure, Inputs
from analysis.exhibits import figure4
from analysis.similarity import Picture

NEEDS = ("weights of LoRA runs with r=64 and two seeds that differ in nothing else; "
         "python run.py -m task=cola method=lora model=minilm r=64 seed=0,1 data_root=DIR makes them")


def make(inputs: Inputs) -> Exhibit:
    """A pair of panels (ΔW_q, ΔW_v) for each layer, two pairs a row, for every pair of runs."""
    made, missing = similarity.pictures(inputs, lambda group: pairs.two_seeds(group, figure4.R), figure4.NEED)
    shown = [(picture, sites.spread(picture.layers)) for picture in made]
    figures = [Figure(f"figure7-{picture.name}", figure4.caption(picture, layers, ""), _draw(picture, layers))
               for picture, layers in shown]
    says = ["Figure 4 in other layers.", *(figure4.paragraph(picture, layers) for picture, layers in shown)]
    return Exhibit("Figure 7: subspaces of two seeds, other layers" + figure4.stand_in(made), says, [], figures,
                   similarity.data(made, sites.spread), missing)


def _draw(picture: Picture, layers: list[int]) -> str:
    targets, first = picture.targets, picture.pair[0]
    places = [(layer, target) for layer in layers for target in targets]
    columns = min(2 * len(targets), len(places))
    with plots.panels(-(-len(places) // columns), columns, 2.3, 2.1) as (figure, axes):
        for each in axes.flat[len(places):]:
            each.set_axis_off()
        for each, (layer, target) in zip(axes.flat, places, strict=False):
            title = f"{similarity.symbol(target)}, layer {layer}"
            image = similarity.panel(each, picture.phi[layer, target], 0.8, title)
        figure.colorbar(image, ax=axes, label=rf"$\phi(A_{{r={picture.ranks[0]}}}, A'_{{r={picture.ranks[0]}}}, i, j)$")
        figure.suptitle(f"{first.task}, {first.model}", fontsize=9)
        return plots.svg(figure)
