"""One module's updates as one A and one B at one scale, and cut apart again: how PEFT wants a fused projection.

Slices with an A of their own are put together in blocks, the rank being the sum r = r_q + r_v, and zeros where nothing
was adapted; slices that share one A keep it.

    A = [A_q]     B = [B_q   0 ]
        [A_v]         [ 0    0 ]
                      [ 0   B_v]

Where slices' scales differ, the ratio to the module's goes into B: in B's own precision if it is exact there, else in
float64, so that it can be taken out again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import torch

from engine.contract import Refused
from lora.update import Place, Update, update


def rank(updates: Sequence[Update]) -> int:
    """The rank of joined(updates): their sum, or that of the A that they share."""
    return len(updates[0].A) if _shared(updates) else sum(len(u.A) for u in updates)


def joined(updates: Sequence[Update], scale: float, outputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, d_in) and B (outputs, r) with scale · B A the sum of a module's updates, whose scales are known."""
    shared, factors = _shared(updates), [_times(u.B, _ratio(u.scale, scale)) for u in updates]
    B = torch.zeros(outputs, rank(updates), dtype=reduce(torch.promote_types, (factor.dtype for factor in factors)))
    at = 0
    for u, factor in zip(updates, factors, strict=True):
        B[u.start:u.stop, at:at + factor.shape[1]] = factor
        at += 0 if shared else factor.shape[1]
    return updates[0].A if shared else torch.cat([u.A for u in updates]), B


def cut(path: Path, module: str, places: Sequence[Place], A: torch.Tensor, B: torch.Tensor,
        scale: float) -> list[Update]:
    """The updates that A (r, d_in) and B (d_out, r) at this scale are made of. Raises Refused when the places are not
    all that is in them."""
    at, made, blocks = 0, list[Update](), sum(place.r for place in places) == len(A)
    ratios = [_ratio(place.scale, scale) for place in places]
    dtype = A.dtype if B.dtype == torch.float64 and set(ratios) != {1.0} else B.dtype
    for place, ratio in zip(places, ratios, strict=True):
        own = slice(at, at + place.r) if blocks else slice(None)
        part = B[place.start:place.stop, own]
        made.append(update(path, module, place, A[own], (part if ratio == 1 else part.double() / ratio).to(dtype)))
        at += place.r
    again = joined(made, scale, len(B))
    if any(one.shape != other.shape or not torch.allclose(one.double(), other.double(), rtol=0.01, atol=0)
           for one, other in zip(again, (A, B), strict=True)):  # 0.01: bfloat16; what must be zero is so exactly
        raise Refused(f"{path}: {module}: its metadata describes other tensors")
    return made


def _shared(updates: Sequence[Update]) -> bool:
    first = updates[0]
    return len(updates) > 1 and all(u.scale == first.scale and torch.equal(u.A, first.A) for u in updates)


def _ratio(scale: float | None, to: float) -> float:
    """What goes into B so that `to` does for `scale`; rounding of the scale itself does not."""
    return 1.0 if scale is None or not to or math.isclose(scale, to, rel_tol=1e-12) else scale / to


def _times(B: torch.Tensor, ratio: float) -> torch.Tensor:
    if ratio == 1:
        return B
    exact = B.double() * ratio
    own = exact.to(B.dtype)
    return own if torch.equal(own.double(), exact) else exact
