"""The ways to train one model that are compared: LoRA by this project, by PEFT and by loralib, and everything (FT).

PEFT and loralib are imported here alone, and only when asked for: the extra [bench] brings them."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.bench import CannotRun
from engine import frozen
from engine.backbone import Backbone
from engine.contract import Batch, generator
from lora.layer import LoRALinear
from lora.method import LoRA

R, ALPHA, TARGETS = 8, 16.0, ("q", "v")
WAYS = (("ours", "lora"), ("peft", "lora"), ("loralib", "lora"), ("ours", "ft"))


def missing(way: str) -> bool:
    """Whether the package of a way is not installed."""
    return way != "ours" and importlib.util.find_spec(way) is None


@dataclass
class Way:
    """A model that trains, one step at a time: forward, backward, fused AdamW, gradients away."""

    name: str
    method: str
    model: nn.Module
    precision: str
    optimiser: torch.optim.AdamW

    def step(self, batch: Batch) -> None:
        """One training step; the loss is the model's own."""
        self.loss(batch).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def loss(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, under autocast where the precision is not fp32."""
        with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            found: torch.Tensor = self.model(**batch).loss
            return found

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """What engine/train.py does around a run's steps."""
        with frozen.held(self.model, self.precision) if self.name == "ours" else contextlib.nullcontext():
            yield


def way(name: str, method: str, backbone: Backbone, precision: str) -> Way:
    """The backbone (which this changes) made ready to be trained. Every LoRA gets the same A and B, drawn here: B is
    not zero, so that what they compute can be compared. Raises CannotRun where a package is missing."""
    if missing(name):
        raise CannotRun(f"{name} is not installed: pip install -e '.[bench]'")
    pairs = draw(backbone)
    made: Any = backbone.model
    if method == "ft":
        made.requires_grad_(True)
    elif name == "ours":
        _ours(backbone, pairs)
    elif name == "peft":
        made = _peft(backbone, pairs)
    else:
        _loralib(backbone, pairs)
    made.train()
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    return Way(name, method, made, precision, torch.optim.AdamW(trained, lr=1e-4, fused=True))


Pairs = dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]]  # module -> q, v -> A (r, d_in), B (d_out, r)


def draw(backbone: Backbone) -> Pairs:
    """A and B for every target. Targets of one fused projection get the same A: PEFT has but one there."""
    stream, found = generator(0, "adapter"), Pairs()
    for site in backbone.sites(TARGETS):
        weight = site.module.get_parameter("weight")
        wide = weight.shape[1] if isinstance(site.module, nn.Linear) else weight.shape[0]
        A = torch.empty(R, wide).normal_(0, 0.02, generator=stream).to(weight.device)
        B = torch.empty(site.stop - site.start, R).normal_(0, 0.02, generator=stream).to(weight.device)
        inside = found.setdefault(site.name, {})
        inside[site.role] = (next(iter(inside.values()))[0] if inside else A, B)
    return found


@torch.no_grad()
def _ours(backbone: Backbone, pairs: Pairs) -> None:
    LoRA("lora", "LoRA", R, ALPHA, TARGETS, 0.0, "gaussian", 0.02).apply(backbone, generator(0, "adapter"))
    for name, roles in pairs.items():
        layer: Any = backbone.model.get_submodule(name)
        for role, (A, B) in roles.items():
            layer.A[role].copy_(A)
            layer.B[role].copy_(B)


@torch.no_grad()
def _peft(backbone: Backbone, pairs: Pairs) -> nn.Module:
    """PEFT's model. A fused projection has one A and one B there, which change q, k and v."""
    import peft

    fused = any(len(roles) > 1 for roles in pairs.values())
    head = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    made: Any = peft.get_peft_model(backbone.model, peft.LoraConfig(
        r=R, lora_alpha=int(ALPHA), lora_dropout=0.0, target_modules=list(pairs), fan_in_fan_out=fused))
    for parameter in head:  # PEFT freezes it too, or trains a copy
        parameter.requires_grad_(True)
    for name, roles in pairs.items():
        layer = made.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.copy_(next(iter(roles.values()))[0])
        layer.lora_B["default"].weight.copy_(_stacked(roles) if fused else next(iter(roles.values()))[1])
    trains: nn.Module = made
    return trains


def _stacked(roles: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """B (3 d, r) of a whole fused projection: zero for the key."""
    B_q, B_v = roles["q"][1], roles["v"][1]
    return torch.cat([B_q, torch.zeros_like(B_q), B_v])


@torch.no_grad()
def _loralib(backbone: Backbone, pairs: Pairs) -> None:
    """The official code's layers; in a fused projection its MergedLinear, as the paper's GPT-2 runs had it."""
    import loralib

    for name, roles in pairs.items():
        old: Any = backbone.model.get_submodule(name)
        fused = len(roles) > 1
        d_in, d_out = old.weight.shape if fused else old.weight.shape[::-1]
        kind = loralib.MergedLinear if fused else loralib.Linear
        more = {"enable_lora": [True, False, True], "fan_in_fan_out": True} if fused else {}
        new = kind(d_in, d_out, r=R, lora_alpha=ALPHA, merge_weights=False, device=old.weight.device, **more)
        new.weight, new.bias = old.weight, old.bias
        new.lora_A.copy_(torch.cat([A for A, _ in roles.values()]))
        new.lora_B.copy_(torch.cat([B for _, B in roles.values()]))
        backbone.swap(name, new)


def gradient_of_B(made: Way) -> torch.Tensor:
    """Of the first adapted q (d_out, r): after a backward pass it is the same in all three, whatever A they share."""
    for module in made.model.modules():
        if isinstance(module, LoRALinear):
            return _known(module.B["q"])
        lora_B: Any = getattr(module, "lora_B", None)
        if lora_B is not None:
            return _known(lora_B["default"].weight if isinstance(lora_B, nn.ModuleDict) else lora_B)
    raise LookupError("no LoRA layer")


def _known(B: Any) -> torch.Tensor:
    assert B.grad is not None
    found: torch.Tensor = B.grad
    return found
