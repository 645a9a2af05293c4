"""Adapters: small bottleneck networks put into every layer of a frozen model (Section 5.1).

With x what enters a sub-layer, h its output behind its dropout, f(y) = W_up act(W_down y + b) + b' the bottleneck:

    H  houlsby    LN(h + f(h) + x)           behind attention and MLP        2 d r + r + d  each, twice a layer
    P  pfeiffer   LN(h + x + f(LN(h + x)))   behind the MLP; one LN, twice   2 d r + r + d  a layer
    L  lin        y + f(LN'(y))              y: the layer's output, LN' new  2 d r + r + d + 2 d  a layer
    D             P without an adapter in some layers

GPT-2 and Llama normalise in front of their sub-layers: there H is h + f(h) + x, and P y + f(y) of the layer's output
y = h + x. Which of the two a layer does, and which module gives h, baselines/sublayers.py reads off a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from baselines.sublayers import Trace
from engine.backbone import Backbone, Site
from engine.contract import Refused, number, one_of
from lora.layer import gaussian

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "swish": nn.SiLU, "gelu": nn.GELU}


class Bottleneck(nn.Module):
    """f(y), of y itself or (norm) of a new LayerNorm of it. y and f(y): (…, d)."""

    def __init__(self, d: int, r: int, activation: str, norm: bool, std: float, generator: torch.Generator,
                 device: torch.device) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d, device=device) if norm else nn.Identity()
        self.down = nn.utils.skip_init(nn.Linear, d, r, device=device)  # W_down (r, d); no draw from the global state
        self.up = nn.utils.skip_init(nn.Linear, r, d, device=device)  # W_up (d, r)
        self.activation = ACTIVATIONS[activation]()
        with torch.no_grad():
            for linear in (self.down, self.up):
                linear.weight.copy_(gaussian(linear.weight.shape, std, generator, device))
                linear.bias.zero_()

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.up(self.activation(self.down(self.norm(y))))


class StandIn(nn.Module):
    """Stands where the last module of a sub-layer stood, with the adapter beside it."""

    def __init__(self, last: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.last, self.adapter = last, adapter


class BehindSublayer(StandIn):
    """For the module that gives h: h + f(h)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.last(x)
        return h + self.adapter(h)


class AroundNorm(StandIn):
    """For the LayerNorm, which gets y = h + x: LN(y + f(LN(y))), one LN for both."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.last(y + self.adapter(self.last(y)))


def behind_block(block: nn.Module, args: object, y: torch.Tensor | Sequence[torch.Tensor]) -> object:
    """A forward hook: y + f(y) of a layer's output, which some models return as the first of several."""
    adapter = block.get_submodule("adapter")
    return y + adapter(y) if isinstance(y, torch.Tensor) else (y[0] + adapter(y[0]), *y[1:])


@dataclass(frozen=True)
class Adapter:
    """Adapter-H, -P, -L and -D. drop: how many of the first layers go without, as in AdapterDrop, or a list of layers,
    the first being 0."""

    name: str
    label: str
    design: str  # houlsby · pfeiffer · lin
    r: int
    activation: str
    std: float  # of the Gaussian that both matrices start from; biases start at zero
    drop: int | Sequence[int]

    tokens = (0, 0)

    def __post_init__(self) -> None:
        number("r", self.r, 1, whole=True)
        number("method.std", self.std, 0, open_low=True)
        one_of("method.design", self.design, ("houlsby", "pfeiffer", "lin"))
        one_of("method.activation", self.activation, tuple(ACTIVATIONS))
        several = self.drop if isinstance(self.drop, (list, tuple)) else ()
        for layer in several or (self.drop,):
            number("drop", layer, 0, whole=True)
        if several and sorted(several) == list(range(len(several))):  # one run, one spelling
            raise Refused(f"drop={self.drop}: these are the first layers; say drop={len(several)}")
        if list(several) != sorted(set(several)):
            raise Refused(f"drop={self.drop}: name each layer once, in order")

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Puts the adapters in, first layer first. All places are found before the first one changes."""
        holder, blocks = backbone.blocks()
        dropped = range(self.drop) if isinstance(self.drop, int) else self.drop
        if len(dropped) >= len(blocks) or (len(dropped) and dropped[-1] >= len(blocks)):
            raise Refused(f"drop={self.drop}: the model has layers 0 to {len(blocks) - 1}, and one of them at least "
                          "must keep its adapter")
        if any(isinstance(module, Bottleneck) for module in backbone.model.modules()):
            raise Refused("this model has adapters already")
        d, device = backbone.model.config.hidden_size, next(blocks[0].parameters()).device
        if self.r > d:
            raise Refused(f"r={self.r}: a bottleneck is at most as wide as the model, {d}")
        sites = backbone.sites(["o", "ff"])
        kept = [f"{holder}.{layer}" for layer in range(len(blocks)) if layer not in dropped]
        trace = Trace(backbone) if self.design != "lin" else None
        places = [place for block in kept for place in self._places(trace, block, sites)]
        for name, stand_in in places:
            module = backbone.model.get_submodule(name)
            adapter = Bottleneck(d, self.r, self.activation, self.design == "lin", self.std, generator, device)
            if stand_in is not None:
                backbone.swap(name, stand_in(module, adapter))
            else:
                module.add_module("adapter", adapter)
                module.register_forward_hook(behind_block)

    def _places(self, trace: Trace | None, block: str,
                sites: Sequence[Site]) -> list[tuple[str, type[StandIn] | None]]:
        """Where this layer's adapters go: which module, and what stands in for it (None: a hook behind it)."""
        inside = [site for site in sites if site.name.startswith(f"{block}.")]
        projections = {site.role: site.name for site in inside}  # the last of each role: ff ends the MLP
        if projections.keys() != {"o", "ff"}:
            raise Refused(f"method={self.name}: nothing in {block} matches model.roles.o (attention's output "
                          "projection) and model.roles.ff (the MLP's layers)\nset both, as regular expressions of "
                          "module names")
        if trace is None:
            return [(block, None)]
        attention, mlp = (trace.sublayer(block, projections[role]) for role in ("o", "ff"))
        if attention is None or mlp is None or attention.last or not mlp.last:
            raise Refused(f"method={self.name}: it needs layers that compute x + sublayer(x), as those of BERT, MPNet, "
                          f"GPT-2 and Llama do, and {block} does not\nmethod=adapter-l works with any layer")
        if self.design == "pfeiffer":
            return [(mlp.norm, AroundNorm) if mlp.norm else (block, None)]
        return [(sublayer.h, BehindSublayer) for sublayer in (attention, mlp)]
