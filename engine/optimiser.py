"""How a run goes down: its optimiser, and how long its learning rate warms up."""

from __future__ import annotations

import math

import torch
from torch import nn

from engine.contract import Refused
from engine.spec import Recipe


def warm_up(recipe: Recipe, steps: int) -> int:
    """Steps of warm-up. Refuses a run that would do nothing else."""
    warm = math.ceil(steps * recipe.warmup) if recipe.warmup < 1 else int(recipe.warmup)
    if warm >= steps:
        raise Refused(f"warmup={recipe.warmup}: all {steps} steps of this run are warm-up, so it would learn nothing; "
                      "set a smaller batch, more epochs or warmup=0")
    return warm


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over what trains. decay_on=matrices leaves biases and LayerNorms undecayed, as the official Trainer."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trainable if recipe.decay_on == "all" or p.ndim > 1]
    others = [p for p in trainable if recipe.decay_on != "all" and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, betas=betas, eps=recipe.eps, fused=True)
