"""What a training step is expected to hold in memory, without doing one: Section 4.2's argument for LoRA, itemised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from engine.backbone import Backbone
from engine.contract import Batch, Refused, generator

if TYPE_CHECKING:
    from engine.resolve import Cell

SHARE = 0.8  # of what is free may be planned with: a step needs more than what it keeps
FLOAT = 4  # bytes: weights, gradients and optimiser state are float32 in every precision; autocast casts on the way


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, each item by itself."""

    weights: int  # of the whole model
    gradients: int  # of what trains, the head too
    optimiser: int  # AdamW's two moments of what trains
    activations: int  # what the backward pass needs of the forward pass, attention weights written out, in fp32

    @property
    def sum(self) -> int:
        """All of it. A real step takes what it works on at the moment besides, and what the allocator sets aside; it
        saves where autocast keeps activations in two bytes or a kernel does not write attention weights out."""
        return self.weights + self.gradients + self.optimiser + self.activations


def expected(backbone: Backbone, examples: int, tokens: int) -> Memory:
    """For a backbone to which a method was applied, and a step on examples of so many tokens. Raises Refused where the
    model makes no forward pass without numbers."""
    parameters = list(backbone.model.parameters())
    training = sum(p.numel() for p in parameters if p.requires_grad)
    return Memory(FLOAT * sum(p.numel() for p in parameters), FLOAT * training, 2 * FLOAT * training,
                  _saved(backbone, examples, tokens))


def fitting(cell: Cell, examples: int, tokens: int, device: torch.device) -> int | None:
    """How many runs of the cell's kind can train at once on what the device has free now: each needs its own gradients,
    optimiser and activations of steps on examples of so many tokens; the weights are there already. At least one; None
    where the model's activations cannot be foreseen."""
    from engine import models

    special = sum(cell.method.tokens)
    backbone = models.shape(cell.model, cell.task.outputs, None, special)
    cell.method.apply(backbone, generator(0, "adapter"))
    try:
        needed = expected(backbone, examples, tokens)
    except Refused:
        return None
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, int(SHARE * free / (needed.sum - needed.weights)))


def _saved(backbone: Backbone, examples: int, tokens: int) -> int:
    """Bytes that autograd keeps for the backward pass: on the meta device, where nothing is computed, a forward pass
    builds the same graph. Weights are no activations, and a tensor kept twice is there once."""
    model = backbone.model
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def forward(batch: Batch) -> object:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            return model(**batch)

    was = model.training
    try:
        model.train()
        output = backbone.blank_pass(forward, examples, tokens)  # bound to a name: the graph lives as long as it
    finally:
        model.train(was)
    del output
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own)
