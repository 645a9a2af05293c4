"""LoRA as a method: which matrices of a model get an update (Section 4.2: W_q and W_v in most experiments)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from engine.backbone import Backbone
from engine.contract import Refused, number, one_of
from lora.layer import LoRALinear, Slice


@dataclass(frozen=True)
class LoRA:
    """Low-rank updates of rank r on the targets, scaled by alpha / r; everything else in the body stays frozen.

    r is one rank for all targets or one for each, {q: 8, v: 4}, each with its own scale alpha / r (Table 15 varies r_q
    and r_v)."""

    name: str
    label: str
    r: int | Mapping[str, int]
    alpha: float
    targets: Sequence[str]
    dropout: float
    init: str
    std: float

    tokens = (0, 0)

    def __post_init__(self) -> None:
        names = list(self.targets) if isinstance(self.targets, (list, tuple)) else []
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise Refused(f"targets={self.targets}: targets must be a list such as [q,v], each name once")
        self._check_ranks(names)
        number("alpha", self.alpha, 0, open_low=True)
        number("method.dropout", self.dropout, 0, 0.999)
        number("method.std", self.std, 0, open_low=True)
        one_of("method.init", self.init, ("gaussian", "kaiming"))

    def _check_ranks(self, names: Sequence[str]) -> None:
        if isinstance(self.r, str) and ":" in self.r:
            raise Refused(f"r={self.r}: a rank for each target needs quotes, or the shell takes it apart: "
                          f"'r={{{','.join(f'{name}:8' for name in names)}}}'")
        if not isinstance(self.r, Mapping):
            number("r", self.r, 1, whole=True)
            return
        said = "{" + ",".join(f"{name}:{rank}" for name, rank in self.r.items()) + "}"
        odd = [name for name in self.r if name not in names] + [name for name in names if name not in self.r]
        if odd:
            what = "no target, so it needs no rank" if odd[0] in self.r else "a target without a rank"
            raise Refused(f"r={said}: {odd[0]} is {what}; targets are {', '.join(names)}")
        for name, rank in self.r.items():
            number(f"r.{name}", rank, 1, whole=True)
        if len(set(self.r.values())) == 1:  # one run, one spelling
            raise Refused(f"r={said}: one rank for all is said r={self.r[names[0]]}")

    def rank(self, target: str) -> int:
        """The rank of a target's updates."""
        return self.r[target] if isinstance(self.r, Mapping) else self.r

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Swaps every target for a LoRALinear around it. All sites are found before the first one changes."""
        sites = backbone.sites(self.targets)
        for site in sites:
            widest = min(site.stop - site.start, min(site.module.get_parameter("weight").shape))
            if self.rank(site.role) > widest:
                raise Refused(f"r={self.rank(site.role)}: {site.name} ({site.role}) allows ranks up to {widest}")
        for name, group in groupby(sites, key=lambda site: site.name):
            members = list(group)
            slices = [Slice(site.role, site.start, site.stop, self.rank(site.role)) for site in members]
            layer = LoRALinear(members[0].module, slices, self.alpha, self.dropout, self.init, self.std, generator)
            backbone.swap(name, layer)


def layers(model: nn.Module) -> list[LoRALinear]:
    """Every LoRA layer of a model, in order: to merge, unmerge or look at them."""
    return [module for module in model.modules() if isinstance(module, LoRALinear)]
