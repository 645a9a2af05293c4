"""BitFit: train the bias vectors and nothing else (Section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.backbone import Backbone
from engine.contract import Refused


@dataclass(frozen=True)
class BitFit:
    """Every vector of the body that is called bias trains: those of linear layers (q_bias where they are kept apart),
    of convolutions and of LayerNorms, the embeddings' too. The fresh head trains whole, as with every method."""

    name: str
    label: str

    tokens = (0, 0)

    def apply(self, backbone: Backbone, generator: torch.Generator) -> None:
        """Turns the biases on; draws nothing. Refuses a body without any, which it would leave as it is in silence."""
        biases = [parameter for name, parameter in backbone.model.named_parameters()
                  if name.endswith("bias") and parameter.ndim == 1 and not name.startswith(backbone.head)]
        if not biases:
            raise Refused(f"method={self.name}: {type(backbone.model).__name__} as configured has no biases to train; "
                          "choose another method or model")
        for parameter in biases:
            parameter.requires_grad_(True)
