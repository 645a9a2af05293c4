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
        self._plain: list[nn.Parameter] = []  # W0 while merged; in a list, so that it is no second parameter of ours
        self.scale = {s.name: alpha / s.r for s in slices}
        self.dropout = nn.Dropout(dropout)
        device = weight.device  # B zero: delta is 0 at the start
        self.A = nn.ParameterDict({s.name: _draw(s.r, d_in, init, std, generator, device) for s in self.slices})
        self.B = nn.ParameterDict({s.name: torch.zeros(s.stop - s.start, s.r, device=device) for s in self.slices})

    @property
    def merged(self) -> bool:
        """Whether the base's weight is W0 + delta."""
        return bool(self._plain)

    @property
    def gains(self) -> dict[str, float]:
        """What the effect of each B is multiplied by, alpha / r."""
        return {f"B.{name}": scale for name, scale in self.scale.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.merged:
            x = _cast(x)
        h = self.base(x)  # (…, d_out)
        return h if self.merged else h + self._update(self.dropout(x))

    def _update(self, x: torch.Tensor) -> torch.Tensor:
        """(alpha / r) B A x (…, d_out), zero outside the adapted slices; the scale goes on the r-wide middle, the
        smallest tensor. Zeros are added rather than h taken apart, whose gradient would have to be put together."""
        pieces, at = [], 0
        for s in self.slices:
            update = F.linear(F.linear(x, self.A[s.name]) * self.scale[s.name], self.B[s.name])
            pieces += [update.new_zeros(*x.shape[:-1], s.start - at), update] if s.start > at else [update]
            at = s.stop
        if at < self.d_out:
            pieces.append(x.new_zeros(*x.shape[:-1], self.d_out - at, dtype=pieces[0].dtype))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

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
        """The base's weight becomes W0 + delta, summed in float32: no cost at inference (Section 4.1). W0 is kept, and
        not written to: other models may share it. Raises RuntimeError if merged already."""
        if self.merged:
            raise RuntimeError("already merged")
        weight = self.base.get_parameter("weight")
        delta = self.delta().T if self.transposed else self.delta()
        self.base.weight = nn.Parameter((weight.to(delta.dtype) + delta).to(weight.dtype), weight.requires_grad)
        self._plain = [weight]

    @torch.no_grad()
    def unmerge(self) -> None:
        """The base's weight is W0 again, the very one, wherever the model has moved. Raises RuntimeError if not
        merged."""
        if not self.merged:
            raise RuntimeError("already unmerged")
        [weight] = self._plain
        weight.data = weight.data.to(self.base.get_parameter("weight"))
        self.base.weight, self._plain = weight, []

    def extra_repr(self) -> str:
        return ", ".join(f"{s.name}[{s.start}:{s.stop}] r={s.r} scale={self.scale[s.name]:g}" for s in self.slices)


def _cast(x: torch.Tensor) -> torch.Tensor:
    """x as autocast would hand it to the base and to every A, each by itself: once for all, before dropout."""
    device = x.device.type
    if x.dtype == torch.float32 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x


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
