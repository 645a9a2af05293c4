"""The linear algebra of Section 7 and Appendices G and H, in float64 and from the factors: ΔW is never formed.

A matrix of low rank has no directions beyond its rank: such columns are NaN, and so is what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.contract import generator

ROUNDING = 1e-9  # how far outside [0, 1] rounding may carry a similarity
BLOCK = 4096  # rows of W that are float64 at once


@dataclass(frozen=True)
class SVD:
    """U diag(S) Vᵀ, S descending; a leading dimension is a batch."""

    U: torch.Tensor  # (…, d_out, k)
    S: torch.Tensor  # (…, k)
    V: torch.Tensor  # (…, d_in, k)


def delta_svd(A: torch.Tensor, B: torch.Tensor, scale: float | torch.Tensor) -> SVD:
    """The SVD of ΔW = scale · B A from A (…, r, d_in), B (…, d_out, r) and scale (…): QR of B and Aᵀ, then of the r x r
    core."""
    scale = torch.as_tensor(scale, dtype=torch.float64)
    Q_B, R_B = torch.linalg.qr(B.double())
    Q_A, R_A = torch.linalg.qr(A.double().mT)
    U, S, Vh = torch.linalg.svd(scale[..., None, None] * (R_B @ R_A.mT), full_matrices=False)
    size = scale.abs() * torch.linalg.matrix_norm(R_B) * torch.linalg.matrix_norm(R_A)
    none = _negligible(S, size, max(A.shape[-1], B.shape[-2]))
    return SVD(_without(Q_B @ U, none), S.masked_fill(none, 0), _without(Q_A @ Vh.mT, none))


def right(A: torch.Tensor) -> torch.Tensor:
    """The right-singular directions (…, d, r) of A (…, r, d), first to last: Equation 4's U before it is cut."""
    Q, R = torch.linalg.qr(A.double().mT)  # half the time of A's SVD at once
    U, S, _ = torch.linalg.svd(R, full_matrices=False)
    return _without(Q @ U, _negligible(S, torch.linalg.vector_norm(S, dim=-1), max(A.shape[-2:])))


def stacked(function: Callable[..., Sequence[torch.Tensor]], tensors: Sequence[Sequence[torch.Tensor]],
            ) -> list[list[torch.Tensor]]:
    """function(*t) for every t of tensors, in their order; those of the same shapes go through it as one batch."""
    alike: dict[tuple[torch.Size, ...], list[int]] = {}
    for place, each in enumerate(tensors):
        alike.setdefault(tuple(tensor.shape for tensor in each), []).append(place)
    out: dict[int, list[torch.Tensor]] = {}
    for places in alike.values():
        batches = [torch.stack(column) for column in zip(*(tensors[place] for place in places), strict=True)]
        results = [result.unbind() for result in function(*batches)]
        out |= {place: list(each) for place, each in zip(places, zip(*results, strict=True), strict=True)}
    return [out[place] for place in range(len(tensors))]


def phi(U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Equation 4 for all i and j at once: ‖U_iᵀ V_j‖_F² / min(i, j), (…, m, n), of directions U (…, d, m), V (…, d, n).

    Raises ValueError where a value lies outside [0, 1] by more than rounding: columns that are not orthonormal."""
    sums = (U.mT @ V).square().cumsum(-2).cumsum(-1)
    i, j = torch.arange(1, U.shape[-1] + 1), torch.arange(1, V.shape[-1] + 1)
    values = sums / torch.minimum(i[:, None], j[None, :])
    if (values > 1 + ROUNDING).any():
        raise ValueError("phi above 1: the columns are not orthonormal")
    return values.clamp(max=1)


def phi_of(A_1: torch.Tensor, A_2: torch.Tensor) -> torch.Tensor:
    """phi(A_1, A_2, i, j) of A_1 (…, r_1, d) and A_2 (…, r_2, d) by their right-singular directions (Section 7.2)."""
    return phi(right(A_1), right(A_2))


def expected_phi(i: int, j: int, d: int) -> float:
    """What phi is on average between random subspaces of R^d: (i j / d) / min(i, j)."""
    return max(i, j) / d


def distance(U: torch.Tensor, V: torch.Tensor) -> float:
    """The Projection Metric of Appendix G, sqrt(p - Σ σ²) with σ the singular values of Uᵀ V and p the smaller number
    of columns. Its definitions give phi = 1 - d² / p, where it prints (1 - d²) / p."""
    p = min(U.shape[-1], V.shape[-1])
    return max(p - float((U.mT @ V).square().sum()), 0.0) ** 0.5


def projection(U: torch.Tensor, W: torch.Tensor, V: torch.Tensor) -> float:
    """‖Uᵀ W V‖_F (Table 7) of directions U (d_out, m), V (d_in, n); undefined ones are left out, NaN without any."""
    U, V = (each[:, each.isfinite().all(0)] for each in (U, V))
    if not U.shape[1] or not V.shape[1]:
        return float("nan")
    parts = [U[at:at + BLOCK].mT @ (W[at:at + BLOCK].double() @ V) for at in range(0, len(W), BLOCK)]
    return float(torch.stack(parts).sum(0).norm())


def norm(W: torch.Tensor) -> float:
    """‖W‖_F, summed in float64."""
    return sum(float(W[at:at + BLOCK].double().square().sum()) for at in range(0, len(W), BLOCK)) ** 0.5


def amplification(delta: SVD, W: torch.Tensor) -> float:
    """‖ΔW‖_F / ‖Uᵀ W V‖_F with U, V of ΔW (Appendix H.4); NaN for ΔW = 0, infinite where W has nothing there."""
    kept = projection(delta.U, W, delta.V)
    return float(delta.S.norm()) / kept if kept else float("inf")


def effective_rank(S: torch.Tensor) -> float:
    """exp of the entropy of S / ΣS (Roy and Vetterli 2007): k for k equal singular values; NaN for a zero matrix."""
    p = S[S > 0] / S.sum()
    return float(torch.exp(-(p * p.log()).sum())) if len(p) else float("nan")


def stable_rank(S: torch.Tensor) -> float:
    """‖ΔW‖_F² / ‖ΔW‖_2², at most the rank; NaN for a zero matrix."""
    return float(S.square().sum() / S[0] ** 2)


def control(seed: int, *shape: int) -> torch.Tensor:
    """The random Gaussian control: the seed's own N(0, 1) numbers of this shape."""
    return torch.empty(*shape, dtype=torch.float64).normal_(generator=generator(seed, "control"))


def _negligible(S: torch.Tensor, size: torch.Tensor, d: int) -> torch.Tensor:
    """Which singular values are zero but for the rounding of a computation with numbers of that size."""
    return torch.finfo(S.dtype).eps * d * size[..., None] >= S


def _without(directions: torch.Tensor, none: torch.Tensor) -> torch.Tensor:
    return directions.masked_fill(none[..., None, :], float("nan"))
