"""What tells a sick run from a healthy one: losses that are none, weights that never move, predictions all alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def zeros(model: nn.Module) -> list[str]:
    """The trainable matrices that begin at zero, LoRA's B above all."""
    return [name for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1 and not p.any()]


def finite(total: torch.Tensor, epoch: int) -> float:
    """The sum of the losses so far; raises FloatingPointError when it is none."""
    value = total.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} in epoch {epoch}: lower lr, or precision=fp32 or bf16")
    return value


def check_moved(model: nn.Module, zeros: Sequence[str], step: int) -> None:
    """Stops a run whose optimiser never reaches a matrix that began at zero, LoRA's B above all."""
    parameters = dict(model.named_parameters())
    still = [name for name in zeros if not parameters[name].any()]
    if still:
        raise RuntimeError(f"{len(still)} trainable matrices are still zero after {step} steps, e.g. {still[0]}: "
                           "their gradient is zero, or the optimiser does not have them")


def notes(curve: Sequence[dict[str, Any]], best_epoch: int) -> list[str]:
    """What the collapse detector saw, in words; empty for a healthy run."""
    constant = [entry["epoch"] for entry in curve if entry["constant"]]
    epochs = ", ".join(map(str, constant))
    found = [f"every prediction was the same in epochs {epochs} of {len(curve)}"] if constant else []
    if best_epoch in constant:
        found.append("collapsed: the best epoch predicts one value for everything; try a lower lr or a larger batch")
    return found
