"""FT-Top2: fine-tune the last layers alone (a GPT-2 baseline that the paper takes from prior work, Section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backbone import Backbone
from engine.contract import Refused, number


@dataclass(frozen=True)
class TopLayers:
    """The last `top` Transformer layers train, all of each; what follows them (GPT-2's last LayerNorm) does not."""

    name: str
    label: str
    top: int

    tokens = (0, 0)

    def __post_init__(self) -> None:
        number("top", self.top, 1, whole=True)

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Turns the last layers on; draws nothing."""
        blocks = backbone.blocks()[1]
        if self.top > len(blocks):
            raise Refused(f"top={self.top}: the model has {len(blocks)} layers")
        for block in blocks[-self.top:]:
            block.requires_grad_(True)
