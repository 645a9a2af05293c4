"""Full fine-tuning, the paper's FT: start from the pre-trained weights and move all of them (Section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backbone import Backbone


@dataclass(frozen=True)
class FullFineTuning:
    """Every weight and bias trains."""

    name: str
    label: str

    tokens = (0, 0)
    frozen = False  # nothing of the base is left that runs could share

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Turns every parameter on; draws nothing."""
        backbone.model.requires_grad_(True)
