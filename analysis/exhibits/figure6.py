"""Figure 6: Figure 3 in the first layer, at one and two thirds of the way, and in the last."""

from __future__ import annotations

from analysis import sites
from analysis.exhibit import Exhibit, Inputs
from analysis.exhibits import figure3

NEEDS = ("weights of LoRA runs with r=8 and r=64 that differ in nothing else; "
         "python run.py -m task=cola method=lora model=minilm r=8,64 data_root=DIR makes them")


def make(inputs: Inputs) -> Exhibit:
    """A row of four panels for each of the layers, for every pair of runs."""
    return figure3.ranks("figure6", "Figure 6: subspaces at two ranks, other layers", inputs, sites.spread,
                         sites.spread)
