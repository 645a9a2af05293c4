"""One LoRA layer (Section 4.1):   h = W0 x + (alpha / r) B A x,   A random, B zero, W0 frozen.

    x ────────────── W0 ─────────────(+)── h        x (…, d_in)   h (…, d_out)
    └── dropout ── A ── alpha/r ── B ─┘             A (r, d_in)   B (d_out, r)

A fused projection (GPT-2's c_attn = [q|k|v]) has one A and B per adapted slice of its output and none elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Slice:
    """The outputs [start, stop) of a projection, adapted with rank r under the paper's name for them (q, k, v, …)."""

    name: str
    start: int
    stop: int
    r: int


class LoRALinear(nn.Module):
    """Wraps a frozen nn.Linear (weight (d_out, d_in)) or transformers Conv1D (weight (d_in, d_out)).

    train() and eval() never touch a weight; merge() and unmerge() do, and only when called.
    """

    def __init__(self, base: nn.Module, slices: list[Slice], alpha: float, dropout: float, init: str, std: float,
                 generator: torch.Generator) -> None:
        super().__init__()
        weight = base.get_parameter("weight")
        self.transposed = not isinstance(base, nn.Linear)  # Conv1D keeps W0 as (d_in, d_out)
        d_in, d_out = weight.shape if self.transposed else weight.shape[::-1]
        self.base = base
        self.slices = sorted(slices, key=lambda s: s.start)
        self.d_out = d_out
        self.merged = False
        self.scale = {s.name: alpha / s.r for s in slices}
        self.dropout = nn.Dropout(dropout)
        device = weight.device  # B zero: delta is 0 at the start
        self.A = nn.ParameterDict({s.name: _draw(s.r, d_in, init, std, generator, device) for s in self.slices})
        self.B = nn.ParameterDict({s.name: torch.zeros(s.stop - s.start, s.r, device=device) for s in self.slices})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.base(x)  # (…, d_out)
        if self.merged:
            return h
        x = self.dropout(x)
        updates = [self._update(x, s.name) for s in self.slices]
        if len(updates) == 1 and updates[0].shape[-1] == self.d_out:
            return h + updates[0]
        pieces, at = [], 0  # only the adapted slices of a fused projection change
        for s, update in zip(self.slices, updates, strict=True):
            pieces += [h[..., at:s.start], h[..., s.start:s.stop] + update]
            at = s.stop
        return torch.cat([*pieces, h[..., at:]], dim=-1)

    def _update(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """(alpha / r) B A x for one slice; the scale goes on the r-wide middle, the smallest tensor."""
        return F.linear(F.linear(x, self.A[name]) * self.scale[name], self.B[name])

    @torch.no_grad()
    def delta(self) -> torch.Tensor:
        """The scaled update as a dense matrix (d_out, d_in), float32 or finer, zero outside the adapted slices."""
        first = self.A[self.slices[0].name]
        exact = torch.promote_types(first.dtype, torch.float32)
        out = torch.zeros(self.d_out, first.shape[1], device=first.device, dtype=exact)
        for s in self.slices:
            out[s.start:s.stop] = self.scale[s.name] * (self.B[s.name].to(exact) @ self.A[s.name].to(exact))
        return out

    @torch.no_grad()
    def merge(self) -> None:
        """W0 <- W0 + delta, in float32: no cost at inference (Section 4.1). Raises RuntimeError if merged already."""
        self._add(+1.0, merged=True)

    @torch.no_grad()
    def unmerge(self) -> None:
        """W0 <- W0 - delta, in float32: the base again, up to rounding. Raises RuntimeError if not merged."""
        self._add(-1.0, merged=False)

    def _add(self, sign: float, merged: bool) -> None:
        if self.merged == merged:
            raise RuntimeError(f"already {'merged' if merged else 'unmerged'}")
        weight = self.base.get_parameter("weight")
        delta = self.delta().T if self.transposed else self.delta()
        weight.copy_(weight.to(delta.dtype) + sign * delta)
        self.merged = merged

    def extra_repr(self) -> str:
        return ", ".join(f"{s.name}[{s.start}:{s.stop}] r={s.r} scale={self.scale[s.name]:g}" for s in self.slices)


def _draw(r: int, d_in: int, init: str, std: float, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """A (r, d_in): `gaussian` N(0, std²) as Figure 1 has it, or `kaiming`, the official code's Kaiming-uniform with
    a = sqrt(5), which is U(-1/sqrt(d_in), 1/sqrt(d_in))."""
    if init == "gaussian" or device.type == "meta":
        return gaussian((r, d_in), std, generator, device)
    bound = 1 / math.sqrt(d_in)
    return torch.empty(r, d_in).uniform_(-bound, bound, generator=generator).to(device)


def gaussian(shape: Sequence[int], std: float, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """N(0, std²), drawn on the CPU in float32 so that a seed gives the same numbers on every device; on the meta device
    nothing is drawn."""
    if device.type == "meta":
        return torch.empty(*shape, device=device)
    return torch.empty(*shape).normal_(0.0, std, generator=generator).to(device)
