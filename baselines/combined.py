"""LoRA+PE and LoRA+PL: LoRA together with a prefix method (Appendix E)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from baselines.prefix import PreEmbed, PreLayer
from engine.backbone import Backbone
from lora.method import LoRA


@dataclass(frozen=True)
class LoRAWithPrefix:
    """Both at once. LoRA comes first, so that a seed gives it the matrices that it gives LoRA alone."""

    name: str
    label: str
    lora: LoRA
    prefix: PreEmbed | PreLayer

    @property
    def tokens(self) -> tuple[int, int]:
        """(l_p, l_i)"""
        return self.prefix.tokens

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Applies the two."""
        self.lora.apply(backbone, generator)
        self.prefix.apply(backbone, generator)
