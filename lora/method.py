"""LoRA as a method: which matrices of a model get an update (Section 4.2: W_q and W_v in most experiments)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from engine.contract import Backbone, Refused, number, one_of
from lora.layer import LoRALinear, Slice


@dataclass(frozen=True)
class LoRA:
    """Low-rank updates of rank r on the targets, scaled by alpha / r; everything else in the body stays frozen."""

    name: str
    label: str
    r: int
    alpha: float
    targets: Sequence[str]
    dropout: float
    init: str
    std: float

    def __post_init__(self) -> None:
        number("r", self.r, 1, whole=True)
        number("alpha", self.alpha, 0, open_low=True)
        number("method.dropout", self.dropout, 0, 0.999)
        number("method.std", self.std, 0, open_low=True)
        one_of("method.init", self.init, ("gaussian", "kaiming"))
        names = list(self.targets) if isinstance(self.targets, (list, tuple)) else []
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise Refused(f"targets={self.targets}: targets must be a list such as [q,v], each name once")

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Swaps every target for a LoRALinear around it. All sites are found before the first one changes."""
        sites = backbone.sites(self.targets)
        for site in sites:
            widest = min(site.stop - site.start, min(site.module.get_parameter("weight").shape))
            if self.r > widest:
                raise Refused(f"r={self.r}: {site.name} ({site.role}) allows ranks up to {widest}")
        for name, group in groupby(sites, key=lambda site: site.name):
            members = list(group)
            slices = [Slice(site.role, site.start, site.stop, self.r) for site in members]
            layer = LoRALinear(members[0].module, slices, self.alpha, self.dropout, self.init, self.std, generator)
            parent, _, child = name.rpartition(".")
            setattr(backbone.model.get_submodule(parent), child, layer)


def layers(model: nn.Module) -> list[LoRALinear]:
    """Every LoRA layer of a model, in order: to merge, unmerge or look at them."""
    return [module for module in model.modules() if isinstance(module, LoRALinear)]
