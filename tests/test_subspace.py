"""Subspaces, spectra and projections against dense float64 formulas written out naively, with numpy, element by
element."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import base, subspace
from analysis.spectra import decomposed
from lora.files import Update

Array = np.ndarray


def factors(kind: str, seed: int, d_out: int = 40, d_in: int = 30, r: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 A (r, d_in) and B (d_out, r): Gaussian, or as training leaves them: A a small Gaussian and B small, with
    a few strong directions."""
    draw = torch.Generator().manual_seed(seed)
    A, B = torch.randn(r, d_in, generator=draw), torch.randn(d_out, r, generator=draw)
    if kind == "trained":
        strong = 10.0 ** -torch.arange(r)
        A = 0.02 * A + strong[:, None] * torch.randn(r, d_in, generator=draw)
        B = 0.001 * B * strong
    return A, B


def reference_phi(A_1: torch.Tensor, A_2: torch.Tensor) -> Array:
    """Equation 4, one i and j after the other."""
    U, V = (np.linalg.svd(A.double().numpy())[2].T for A in (A_1, A_2))
    out = np.zeros((len(A_1), len(A_2)))
    for i in range(1, len(A_1) + 1):
        for j in range(1, len(A_2) + 1):
            out[i - 1, j - 1] = np.linalg.norm(U[:, :i].T @ V[:, :j], "fro") ** 2 / min(i, j)
    return out


def orthonormal(d: int, k: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("seed", range(3))
def test_phi_is_equation_4_for_every_i_and_j(kind: str, seed: int) -> None:
    A_1, A_2 = factors(kind, seed, r=4)[0], factors(kind, seed + 10, r=9)[0]
    A_2[0] = A_1[0]
    values = subspace.phi_of(A_1, A_2)
    assert values.shape == (4, 9)
    np.testing.assert_allclose(values.numpy(), reference_phi(A_1, A_2), rtol=0, atol=1e-10)
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("seed", range(5))
def test_phi_of_a_subspace_with_itself_with_its_complement_and_in_between(seed: int) -> None:
    Q = orthonormal(24, 24, seed)
    U, rest = Q[:, :5], Q[:, 5:]
    turned = U @ orthonormal(5, 5, seed + 50)   # the same subspace, other directions in it
    assert torch.allclose(subspace.phi(U, U).diagonal(), torch.ones(5, dtype=torch.float64), atol=1e-12)
    assert subspace.phi(U, turned)[4, 4] == pytest.approx(1, abs=1e-12)
    assert subspace.phi(U, turned)[0, 0] < 1 - 1e-6
    assert subspace.phi(U, rest).abs().max() < 1e-24
    assert subspace.phi(U, Q[:, [0, 9]])[:, 1].tolist() == pytest.approx([1, *[0.5] * 4])   # 1 of min(i, 2) is shared
    with pytest.raises(ValueError, match="orthonormal"):
        subspace.phi(2 * U, U)


def test_phi_and_the_projection_metric_have_the_corrected_identity() -> None:
    """phi = 1 - d² / p, not the printed (1 - d²) / p, with d from the singular values themselves."""
    U, V = orthonormal(20, 3, 1), orthonormal(20, 7, 2)
    sigma = np.linalg.svd(U.numpy().T @ V.numpy(), compute_uv=False)
    assert subspace.distance(U, V) == pytest.approx(math.sqrt(3 - (sigma**2).sum()), abs=1e-12)
    phi = float(subspace.phi(U, V)[-1, -1])
    assert phi == pytest.approx(1 - subspace.distance(U, V) ** 2 / 3, abs=1e-12)
    assert abs(phi - (1 - subspace.distance(U, V) ** 2) / 3) > 0.1
    assert subspace.distance(U, U) == pytest.approx(0, abs=1e-7)


def test_the_random_control_has_its_expectation() -> None:
    d, r = 96, 16
    numbers = subspace.control(0, 40, 2, r, d)
    mean = torch.stack([subspace.phi_of(one, other) for one, other in numbers]).mean(0)
    for i, j in ((1, 1), (1, 16), (8, 8), (8, 16), (16, 16)):
        assert subspace.expected_phi(i, j, d) == pytest.approx(i * j / d / min(i, j))
        near = pytest.approx(subspace.expected_phi(i, j, d), rel=0.5 if i * j < 20 else 0.1)
        assert float(mean[i - 1, j - 1]) == near
    assert torch.equal(subspace.control(0, 3, 4), subspace.control(0, 3, 4))
    assert not torch.equal(subspace.control(0, 3, 4), subspace.control(1, 3, 4))


@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("shape", [(40, 30, 6), (30, 40, 6), (6, 30, 6)])
def test_the_svd_from_factors_is_that_of_the_dense_product(kind: str, shape: tuple[int, int, int]) -> None:
    A, B = factors(kind, 3, *shape)
    dense = 2.5 * B.double().numpy() @ A.double().numpy()
    found, r = subspace.delta_svd(A, B, 2.5), shape[2]
    U, S, Vh = np.linalg.svd(dense)
    np.testing.assert_allclose(found.S.numpy(), S[:r], rtol=0, atol=1e-10 * S[0])
    np.testing.assert_allclose((found.U * found.S @ found.V.T).numpy(), dense, rtol=0, atol=1e-12 * S[0])
    for mine, theirs in ((found.U, U[:, :r]), (found.V, Vh[:r].T)):   # each direction, up to its sign
        np.testing.assert_allclose(np.abs((mine.numpy() * theirs).sum(0)), 1, rtol=0, atol=1e-10)


def test_updates_of_one_shape_go_as_a_batch_and_come_back_in_order() -> None:
    shapes, scales = [(40, 30, 6), (30, 30, 4), (40, 30, 6), (30, 30, 2), (40, 30, 6)], [1.0, 2.0, 0.5, None, 3.0]
    updates = [Update(f"layer.{n}.q", n + 1, "q", *factors("random", n, *shape), scale, 0, shape[0])
               for n, (shape, scale) in enumerate(zip(shapes, scales, strict=True))]
    for update, svd in zip(updates, decomposed(updates), strict=True):
        dense = (update.scale or 1) * (update.B.double() @ update.A.double())
        assert torch.allclose(svd.S, torch.linalg.svdvals(dense)[:len(svd.S)], atol=1e-10)


@pytest.mark.parametrize("kind", ["random", "trained"])
def test_projection_and_amplification_are_the_dense_formulas(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subspace, "BLOCK", 7)   # as if W were large: sums over blocks of rows
    A, B = factors(kind, 4)
    W = torch.randn(40, 30, generator=torch.Generator().manual_seed(9))
    U, S, Vh = np.linalg.svd(0.25 * B.double().numpy() @ A.double().numpy())
    kept = np.linalg.norm(U[:, :6].T @ W.double().numpy() @ Vh[:6].T, "fro")
    delta = subspace.delta_svd(A, B, 0.25)
    assert subspace.projection(delta.U, W, delta.V) == pytest.approx(kept, rel=1e-10)
    assert subspace.norm(W) == pytest.approx(np.linalg.norm(W.double().numpy()), rel=1e-12)
    assert subspace.amplification(delta, W) == pytest.approx(np.linalg.norm(S) / kept, rel=1e-10)
    twice = subspace.amplification(subspace.delta_svd(A, B, 0.5), W)   # the scale is in the numerator alone
    assert twice == pytest.approx(2 * subspace.amplification(delta, W), rel=1e-10)


def test_what_has_no_directions_says_so() -> None:
    A, B = factors("random", 1)
    untrained = subspace.delta_svd(A, torch.zeros_like(B), 2.0)
    assert untrained.S.tolist() == [0] * 6 and untrained.U.isnan().all() and untrained.V.isnan().all()
    assert math.isnan(subspace.projection(untrained.U, torch.ones(40, 30), untrained.V))
    assert math.isnan(subspace.amplification(untrained, torch.ones(40, 30)))
    assert math.isnan(subspace.effective_rank(untrained.S)) and math.isnan(subspace.stable_rank(untrained.S))

    B[:, 2:] = 0   # rank 2 of 6: two directions are there, four are not, and the projection uses the two
    part = subspace.delta_svd(A, B, 1.0)
    assert (part.S > 0).tolist() == [True] * 2 + [False] * 4
    assert part.U.isfinite().all(0).tolist() == [True] * 2 + [False] * 4
    U, _, Vh = np.linalg.svd(B.double().numpy() @ A.double().numpy())
    W = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert subspace.projection(part.U, W, part.V) == pytest.approx(
        np.linalg.norm(U[:, :2].T @ W.numpy() @ Vh[:2].T), rel=1e-10)

    A[3:] = 0   # phi is known where both have directions, and only there
    phi = subspace.phi_of(A, factors("random", 2)[0])
    assert phi[:3].isfinite().all() and phi[3:].isnan().all()


def test_ranks_of_known_spectra() -> None:
    for S, effective, stable in (([3.0] * 5, 5, 5), ([2.0, 0, 0], 1, 1), ([1.0, 1.0, 0], 2, 2),
                                 ([4.0, 2.0, 2.0], math.exp(1.5 * math.log(2)), 24 / 16)):
        values = torch.tensor(S, dtype=torch.float64)
        assert subspace.effective_rank(values) == pytest.approx(effective, abs=1e-12)
        assert subspace.stable_rank(values) == pytest.approx(stable, abs=1e-12)


def test_the_svd_of_w_is_kept_and_a_damaged_cache_is_not_believed(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    W = torch.randn(40, 60, generator=torch.Generator().manual_seed(0))
    S, V = base.spectrum(W)
    reference = np.linalg.svd(W.double().numpy())
    np.testing.assert_allclose(S.numpy(), reference[1], atol=1e-10)
    np.testing.assert_allclose(np.abs(np.diag(V.numpy().T @ reference[2][:4].T)), 1, atol=1e-10)
    file, = tmp_path.rglob("*.safetensors")
    kept = file.read_bytes()

    with monkeypatch.context() as patch:   # the second time nothing is computed, and it is the same to the bit
        patch.setattr(torch.linalg, "svd", None)
        again = base.spectrum(W)
    assert torch.equal(again[0], S) and torch.equal(again[1], V)
    for damaged in (kept[:100], kept[:-64] + bytes(64), b"", b"\x00" * len(kept)):
        file.write_bytes(damaged)
        again = base.spectrum(W)
        assert torch.equal(again[0], S) and torch.equal(again[1], V) and file.read_bytes() == kept
    base.spectrum(W + 1)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))   # a place that cannot be written: no cache, no error
    assert torch.equal(base.spectrum(W)[0], S)
