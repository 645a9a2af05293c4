"""The exhibits made from adapter files, end to end: planted runs and base weights in, the planted picture out."""

import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache as cache_of
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT, Cli, ran
from safetensors.torch import save_file

from analysis import adapters, base, exhibit, markdown, matrices, pairs, similarity, sites, spectra
from analysis.exhibit import Exhibit, Inputs, printed
from analysis.exhibits import table7
from analysis.write import write
from engine import hub, record, weights
from engine.contract import Refused
from engine.record import Record
from lora.files import Adapter, Update, read, write_peft

pytestmark = pytest.mark.usefixtures("own_cache")
D, L = 96, 6
EXHIBITS = ("figure3", "figure4", "figure6", "figure7", "figure8", "table7", "amplification", "spectrum")
BASE = "results/runs/paper/cola/minilm-lora-s0-b0630aff14.json"
Factors = Callable[[int, int, str], tuple[torch.Tensor, torch.Tensor]]   # r, layer, target -> A, B


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def basis(k: int, seed: int) -> torch.Tensor:
    """k orthonormal columns of R^D."""
    return torch.linalg.qr(normal(D, k, seed=seed))[0]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out but not drawn, which takes longest."""
    monkeypatch.setattr("analysis.plots.svg", lambda figure: "")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base weights of L layers as a bare encoder has them: random W_q and W_v. Not to be changed."""
    return write_base(tmp_path_factory.mktemp("model") / "base", random_W)


def random_W(layer: int, target: str) -> torch.Tensor:
    return normal(D, D, seed=1000 + layer + 50 * (target == "v"))


def write_base(folder: Path, W: Callable[[int, str], torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file({f"encoder.layer.{layer - 1}.attention.self.{name}.weight": W(layer, target).float().contiguous()
               for layer in range(1, L + 1) for target, name in (("q", "query"), ("v", "value"))},
              folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


def run(results: Path, model: Path, r: Any, seed: int, factors: Factors | None, **settings: Any) -> Record:
    """A LoRA run's record and, with factors, its weights, as a run leaves them."""
    known = record.read(ROOT / BASE)
    method = {**known.settings["method"], "r": r}
    said = {**known.settings, "r": r, "seed": seed, "method": method, "model": {
        **known.settings["model"], "path": str(model), "package": None, "sha256": None}, **settings}
    digest = record.digest(said, known.data_sha256, None, None)
    path = record.path_of(results, "paper", "cola", "minilm", "lora", seed, digest)
    made = replace(known, digest=digest, seed=seed, variant=f"r={r} alpha=16 targets=q,v", settings=said,
                   model_revision=hub.revision_of(model, None),
                   weights=str(path.with_suffix("").relative_to(results)))
    record.write(made, path)
    if factors is not None:
        tensors = {"classifier.weight": torch.zeros(2, D)}
        for layer in range(1, L + 1):
            for target, name in (("q", "query"), ("v", "value")):
                module = f"bert.encoder.layer.{layer - 1}.attention.self.{name}"
                A, B = factors(r, layer, target)
                tensors |= {f"{module}.A.{target}": A.float().contiguous(),
                            f"{module}.B.{target}": B.float().contiguous()}
        weights.save(tensors, path.with_suffix("") / "best.safetensors", {
            "task": "cola", "model": "minilm", "output": "classifier", "method": method})
    return made


def planted(seed: int, shared: int = 2) -> Factors:
    """A whose first directions are the same in every run for W_q, and a run's own for W_v; the rest is weak noise."""
    def factors(r: int, layer: int, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        here = layer * 100 + (target == "v")
        V = basis(shared, here if target == "q" else here + 7919 * (seed + 1) + r)
        A = 0.02 * normal(r, D, seed=here + seed * 31 + r)
        A[:shared] += torch.tensor([9.0, 5.0], dtype=torch.float64)[:shared, None] * V.T
        return A, normal(D, r, seed=here + seed + r)
    return factors


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Ranks 4, 8 and 64 with seed 0, and 64 with seed 1, all planted. Not to be changed."""
    folder = tmp_path_factory.mktemp("results")
    for r, seed in ((4, 0), (8, 0), (64, 0), (64, 1)):
        run(folder, model, r, seed, planted(seed))
    return folder


@pytest.fixture(scope="module")
def made(results: Path) -> Callable[[str], Exhibit]:
    """The exhibits of these, each made once."""
    return cache_of(lambda name: make(name, results))


def make(name: str, results: Path) -> Exhibit:
    made: Exhibit = import_module(f"analysis.exhibits.{name}").make(exhibit.inputs(results))
    return made


def frame(made: Exhibit) -> pd.DataFrame:
    assert made.data is not None
    return made.data


@pytest.mark.parametrize(("name", "layers"), [("figure3", range(1, 7)), ("figure6", (1, 2, 4, 6)),
                                              ("figure4", range(1, 7)), ("figure7", (1, 2, 4, 6))])
def test_what_two_runs_share_is_what_is_seen(name: str, layers: Sequence[int],
                                             made: Callable[[str], Exhibit]) -> None:
    """Two directions of A_q are planted in all runs, none of A_v."""
    one = made(name)
    data = frame(one)
    ranks = (8, 64) if name in ("figure3", "figure6") else (64, 64)
    seeds = (0, 0) if name in ("figure3", "figure6") else (0, 1)
    assert set(zip(data.r_1, data.r_2, data.seed_1, data.seed_2, strict=True)) == {(*ranks, *seeds)}
    assert sorted(set(data.layer)) == list(layers) and set(data.target) == {"q", "v"}
    for target, low, high in (("q", 0.95, 1), ("v", 0, 0.2)):
        here = data[(data.target == target) & data.i.isin([1, 2])]
        assert len(here) == 2 * len(layers) and here.phi.between(low, high).all()
    eight = data[(data.target == "q") & (data.i == 8)].phi   # two of eight, and what chance adds
    assert eight.between(0.25, 0.45).all() and (data[data.i == 8].random == 8 / D).all()
    assert [figure.name for figure in one.figures] == [f"{name}-cola-minilm"] and not one.missing
    assert "stand-in" not in one.title and all(f"r={r}" in one.figures[0].caption for r in ranks)
    said = "\n".join(one.says)
    assert "ΔW_q: φ(1, 1) is 1.00 in layer" in said and f"above 0.5 in {L} of {L} layers" in said
    assert f"above 0.5 in 0 of {L} layers" in said
    assert ("Both runs have seed 0 and with it one order" in said) == (seeds == (0, 0))   # rank confounded with seed
    assert ("does not tell which matrix has more in common" in said) == (seeds == (0, 1))


def test_the_data_are_equation_4_of_the_files(results: Path, made: Callable[[str], Exhibit]) -> None:
    """Against a dense float64 computation from the tensors on disk."""
    import numpy as np
    from safetensors.torch import load_file

    files = {r: load_file(next(results.rglob(f"*{one.digest}/best.safetensors")))
             for one in exhibit.inputs(results).records if one.seed == 0 for r in [one.settings["r"]]}
    U, V = (np.linalg.svd(files[r]["bert.encoder.layer.2.attention.self.value.A.v"].double().numpy())[2].T
            for r in (8, 64))
    data = frame(made("figure3"))
    for k in (1, 2, 4, 8):
        row, = data[(data.layer == 3) & (data.target == "v") & (data.i == k)].phi
        assert row == pytest.approx(np.linalg.norm(U[:, :k].T @ V[:, :k]) ** 2 / k, abs=1e-10)


def test_the_figures_have_the_papers_panels(made: Callable[[str], Exhibit]) -> None:
    svg = made("figure3").figures[0].svg
    titles = re.findall(r"<!-- (.*layer 3) -->", svg)
    assert len(titles) == 4 and sum("_q" in title for title in titles) == 2
    assert svg.count("<image") >= 4
    assert len(re.findall(r"<!-- .*layer \d -->", made("figure6").figures[0].svg)) == 16
    assert len(re.findall(r"<!-- .*layer \d -->", made("figure7").figures[0].svg)) == 8
    assert "random Gaussian" in made("figure4").figures[0].svg


def test_figure_8_sees_a_that_repeats_w(tmp_path: Path, model: Path, undrawn: None) -> None:
    """A run whose first direction is W_q's first and whose others are its last, and one with the last alone."""
    for r, inside in ((4, True), (8, False)):
        def factors(r: int, layer: int, target: str, inside: bool = inside) -> tuple[torch.Tensor, torch.Tensor]:
            _, _, Vh = torch.linalg.svd(random_W(layer, target).float().double())
            rows = torch.cat([5 * Vh[:1], Vh[1 - r:]]) if inside else Vh[-r:]
            return rows.flip(0), normal(D, r, seed=r)
        run(tmp_path / "results", model, r, 0, factors)
    made = make("figure8", tmp_path / "results")
    data = frame(made).query("i == 9")   # a tenth of 96
    assert data[data.matrix == "r = 4"].phi.tolist() == pytest.approx([1, 1 / 4], abs=1e-5)   # j = 1 and 4
    assert data[data.matrix == "r = 8"].phi.tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert data[data.matrix == "random"].phi.between(0, 0.5).all()
    assert (data.random == [max(i, j) / D for i, j in zip(data.i, data.j, strict=True)]).all()   # not of 9 tenths
    assert "0.25 for r = 4 (j = 4, 2.7 times)" in made.says[1]   # 1 / 4 over 9 / 96
    assert "random directions have 0.094 on average" in made.says[1]
    assert "wider" in made.figures[0].caption and "Above 0.2: r = 4." in made.says[1]
    assert "there are 4, 8" in made.figures[0].caption and not made.missing


def suppressed(tmp_path: Path) -> tuple[Path, dict[int, float]]:
    """Base weights in which ΔW's directions are nearly empty, and the factors that this makes, by rank."""
    scale, factors, strengths = {4: 4.0, 64: 0.25}, {}, {4: 0.1, 64: 2.0}
    W = normal(D, D, seed=5)
    sides = {r: (basis(r, 600 + r), basis(r, 700 + r)) for r in (4, 64)}
    sides[64] = tuple(torch.linalg.qr(torch.cat([sides[4][n], normal(D, 60, seed=800 + n)], 1))[0] for n in (0, 1))
    for r in (64, 4):   # the smaller within the larger
        U, V = sides[r]
        W = W - U @ (U.T @ W @ V) @ V.T + strengths[r] * U @ V.T
    for r in (4, 64):
        U, V = sides[r]
        factors[r] = float(scale[r] * torch.arange(1, r + 1).double().norm() / (U.T @ W @ V).norm())

    def planted(r: int, layer: int, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        U, V = sides[r]   # B A = U diag(1 … r) Vᵀ, in factors that are not orthogonal
        mix = normal(r, r, seed=r) + 5 * torch.eye(r)
        return torch.linalg.solve(mix, V.T), U * torch.arange(1, r + 1) @ mix

    model = write_base(tmp_path / "planted", lambda layer, target: W)
    for r in (4, 64):
        run(tmp_path / "results", model, r, 0, planted)
    return tmp_path / "results", factors


def test_a_suppressed_direction_is_found_amplified(tmp_path: Path, undrawn: None) -> None:
    results, factors = suppressed(tmp_path)
    assert factors[4] == pytest.approx(4.0 * math.sqrt(30) / (0.1 * 2))   # by hand: ‖1 … 4‖ alpha / r over 0.1 ‖I_4‖
    made = make("table7", results)
    data = frame(made).set_index("r")
    for r in (4, 64):
        assert data.factor[r] == pytest.approx(factors[r], rel=1e-4)
        assert data.norm_delta[r] == pytest.approx(16 / r * torch.arange(1, r + 1).double().norm().item(), rel=1e-5)
    everywhere = frame(make("amplification", results))
    assert len(everywhere) == 2 * L * 2
    for r in (4, 64):
        assert everywhere[everywhere.r == r].factor.to_numpy() == pytest.approx(factors[r], rel=1e-4)
    spectrum = frame(make("spectrum", results))
    row = spectrum[(spectrum.r == 4) & (spectrum.target == "v")].iloc[0]
    p = torch.arange(1, 5).double() / 10
    assert row.effective_rank == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-5)
    assert row.stable_rank == pytest.approx(30 / 16, rel=1e-5)
    assert [float(s) for s in row.singular_values.split()] == pytest.approx([16, 12, 8, 4], rel=1e-5)
    W = base.of(exhibit.inputs(results).records[0]).weight(updates_of(results)[3, "q"])
    assert data.own[4] == pytest.approx(torch.linalg.svdvals(W.double())[:4].norm().item(), rel=1e-10)
    for r in (4, 64):   # their mean square is the expected one, within the error of the draws
        square = math.hypot(data.random[r], data.random_sd[r])
        assert square == pytest.approx(data.expected[r], abs=4 * data.random_sd[r] / table7.DRAWS ** 0.5)
        assert data.unscaled[r] == pytest.approx(factors[r] * r / 16, rel=1e-4)
        alike = everywhere[everywhere.r == r]
        assert (alike.random_factor / alike.factor).to_numpy() == pytest.approx(alike.projection / alike.random)
    assert "standard deviations of the draws below their mean" in made.says[1]   # ΔW's directions are nearly empty in W
    assert "16 (r = 4) and 5.9 (r = 64) times as much in the paper" in made.says[0]


@pytest.mark.parametrize(("L", "middle", "spread"), [(96, 48, [1, 32, 64, 96]), (24, 12, [1, 8, 16, 24]),
                                                     (6, 3, [1, 2, 4, 6]), (2, 1, [1, 2]), (1, 1, [1])])
def test_which_layers_stand_for_the_papers(L: int, middle: int, spread: list[int]) -> None:
    there = list(range(1, L + 1))
    assert sites.middle(there) == middle and sites.spread(there) == spread


def test_which_layers_and_matrices_where_not_all_are_adapted() -> None:
    assert sites.middle([1, 2, 11, 12]) == 2 and sites.spread([3, 4, 12]) == [3, 4, 12]
    every = [(layer, target) for layer in (1, 2) for target in ("q", "k", "v", "o")]
    assert sites.shown(every) == ["q", "v"]
    assert sites.shown([(1, "k"), (1, "o"), (1, "ff mlp.c_fc")]) == ["k", "o"]
    assert sites.shown([(1, "q"), (2, "v")]) == ["q"] and sites.layers([(1, "q"), (2, "v")], ["q"]) == [1]
    assert pairs.stretch([2, 8, 16, 64], 8, 64) == (8, 64) and pairs.stretch([2, 8], 8, 64) == (2, 8)
    assert pairs.stretch([16], 8, 64) == (16,) and pairs.stretch([], 8, 64) == ()


def updates_of(results: Path) -> dict[tuple[int, str], Update]:
    inputs = exhibit.inputs(results)
    return pairs.updates(inputs, inputs.records[0])


def test_table_7_has_the_papers_numbers_with_or_without_runs(tmp_path: Path) -> None:
    table = make("table7", tmp_path).tables[0]
    facts = printed("table7_amplification")
    for value in facts[facts.source == "paper"].value:
        assert value in [cell for row in table.rows for cell in row]
    assert len(table.rows) == 2 and table.rows[0][2:5] == ["0.32", "21.67", "0.02"]


@pytest.mark.parametrize("name", EXHIBITS)
def test_an_exhibit_is_the_same_twice_and_is_written(name: str, results: Path, made: Callable[[str], Exhibit],
                                                     tmp_path: Path) -> None:
    one = made(name)
    assert not one.missing and "nan" not in markdown.page(one)
    assert all(figure.name.startswith(name) for figure in one.figures)
    first = {path: path.read_bytes() for path in write(name, one, tmp_path)}
    assert first == {path: path.read_bytes() for path in write(name, make(name, results), tmp_path)}
    for figure in one.figures:
        assert "not GPT-3's" in figure.caption
        assert any(one.digest in figure.caption for one in exhibit.inputs(results).records)


@pytest.mark.parametrize("name", EXHIBITS)
def test_what_lacks_runs_says_what_is_missing(name: str, tmp_path: Path, model: Path, undrawn: None) -> None:
    def missing(results: Path) -> str:
        made = make(name, results)
        assert made.data is None and not made.figures and len(made.missing) == 1
        return made.missing[0]

    none, bare, broken = (tmp_path / word for word in ("none", "bare", "broken"))
    assert "no LoRA run" in missing(none) and "python run.py -m task=cola" in missing(none)
    run(bare, model, 8, 0, None)
    assert "1 LoRA runs (cola-minilm) have no best.safetensors" in make(name, bare).missing[0]
    real = run(tmp_path / "demo", model, 8, 0, planted(0))
    for other in ({"scale": "demo"}, {"data": "synthetic"}, {"label": "LoRA+PE"}):
        inputs = Inputs(tmp_path / "demo", [replace(real, **other)], [])
        assert "no LoRA run" in import_module(f"analysis.exhibits.{name}").make(inputs).missing[0]
    for r, seed in ((8, 0), (64, 0), (64, 1)):
        run(broken, model, r, seed, planted(seed))
    for path in broken.rglob("best.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    assert "cola-minilm: " in missing(broken) and "best.safetensors" in missing(broken)


@pytest.mark.parametrize("name", ["figure3", "figure4", "figure6", "figure7"])
def test_one_run_is_no_pair(name: str, tmp_path: Path, model: Path) -> None:
    run(tmp_path, model, 8, 0, planted(0))
    said, = make(name, tmp_path).missing
    assert "cola-minilm: needs two" in said and "r=8 alpha=16 targets=q,v seed 0" in said


def test_runs_that_differ_in_more_than_rank_and_seed_are_no_pair(tmp_path: Path, model: Path, undrawn: None) -> None:
    run(tmp_path, model, 8, 0, planted(0))
    run(tmp_path, model, 64, 0, planted(0), lr=0.5)
    assert len(make("figure3", tmp_path).missing) == 2
    run(tmp_path, model, 64, 0, planted(0))
    made = make("figure3", tmp_path)
    assert len(made.figures) == 1 and len(made.missing) == 1
    run(tmp_path, model, 8, 0, planted(0), lr=0.5)
    assert [figure.name for figure in make("figure3", tmp_path).figures] == ["figure3-cola-minilm",
                                                                             "figure3-cola-minilm-2"]


def test_runs_from_different_files_are_no_pair(tmp_path: Path, model: Path, undrawn: None) -> None:
    """Of init_from=mnli the runs are the same, whichever was the best then; that they share it is not said."""
    for r, seed in ((8, 0), (64, 0), (64, 1)):
        run(tmp_path, model, r, seed, planted(seed))
    known = exhibit.inputs(tmp_path).records

    def started(word: str, *parents: str) -> Inputs:
        return Inputs(tmp_path, [replace(one, init_from=parent, settings={**one.settings, "init_from": word})
                                 for one, parent in zip(known, parents, strict=True)], [])

    assert [len(group.records) for group in pairs.groups(started("file", "a", "b", "c"))] == [1, 1, 1]
    for name in ("figure3", "figure4"):
        assert not import_module(f"analysis.exhibits.{name}").make(started("file", "a", "b", "c")).figures
    one, = pairs.groups(started("file", "a", "a", "a"))
    assert "and share what these share." in pairs.told(one.records)
    other, = pairs.groups(started("mnli", "a", "b", "b"))
    assert len(other.records) == 3 and "share what" not in pairs.told(other.records)
    assert "(init_from=mnli), not all from the same." in pairs.told(other.records)


def test_of_two_records_of_one_run_the_later_counts(tmp_path: Path, model: Path) -> None:
    run(tmp_path, model, 8, 0, planted(0))
    one, = exhibit.inputs(tmp_path).records
    for order in (1, -1):
        both = [replace(one, digest="old", started="2026-01-01"), replace(one, digest="new", started="2026-01-02")]
        group, = pairs.groups(Inputs(tmp_path, both[::order], []))
        assert [record.digest for record in group.records] == ["new"]


def test_other_ranks_stand_in_and_are_called_so(tmp_path: Path, model: Path, undrawn: None) -> None:
    for r, seed in ((2, 1), (4, 1), (16, 1), (16, 2), (4, 0)):
        run(tmp_path, model, r, seed, planted(seed))
    two, seeds = make("figure3", tmp_path), make("figure4", tmp_path)
    assert set(zip(frame(two).r_1, frame(two).r_2, frame(two).seed_1, strict=True)) == {(2, 16, 1)}
    assert set(zip(frame(seeds).r_1, frame(seeds).seed_1, frame(seeds).seed_2, strict=True)) == {(16, 1, 2)}
    for made in (two, seeds):
        assert "stand-in ranks" in made.title and "stand" in made.figures[0].caption
    assert set(frame(make("table7", tmp_path)).r) == {4, 16}
    run(tmp_path, model, 8, 2, planted(2))   # one of the paper's two
    two = frame(make("figure3", tmp_path))
    assert set(zip(two.r_1, two.r_2, two.seed_1, strict=True)) == {(8, 16, 2)}


def test_an_untrained_adapter_has_norm_zero_and_no_directions(tmp_path: Path, model: Path, undrawn: None) -> None:
    def untrained(r: int, layer: int, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(r, D, seed=r + layer), torch.zeros(D, r)

    for r in (4, 64):
        run(tmp_path / "results", model, r, 0, untrained)
    for name in ("table7", "amplification", "spectrum"):
        made = make(name, tmp_path / "results")
        page = markdown.page(made)
        assert "—" in page and "nan" not in page and "zero" in page
    assert (frame(make("spectrum", tmp_path / "results")).norm == 0).all()


def test_at_one_rank_that_is_not_the_papers_the_pictures_say_so(tmp_path: Path, model: Path, undrawn: None,
                                                                made: Callable[[str], Exhibit]) -> None:
    run(tmp_path, model, 8, 0, planted(0))
    assert "The paper's ranks are 4 and 64; there is 8." in make("table7", tmp_path).says[1]
    assert "The paper's ranks are 4, 8 and 64; there is 8." in make("figure8", tmp_path).figures[0].caption
    assert "The paper's ranks" not in made("table7").says[1] + made("figure8").figures[0].caption


def test_a_diverged_run_is_named(tmp_path: Path, model: Path) -> None:
    run(tmp_path, model, 8, 0, lambda r, layer, target: (torch.full((r, D), math.nan), torch.zeros(D, r)))
    assert "not finite" in make("spectrum", tmp_path).missing[0]


def test_a_norm_beyond_float64_is_refused_and_zero_is_only_called_zero() -> None:
    one = planted(0)(4, 1, "q")
    for scale, size, refused in ((1e300, 1e10, True), (2.0, 1e160, True), (1e-300, 1e300, True), (2.0, 1.0, False),
                                 (0.0, 1.0, False)):
        adapter = Adapter("x", "peft", [update("h.0.attn.q", "q", (one[0] * size, one[1] * size), scale=scale)], {}, {})
        if refused:
            with pytest.raises(Refused, match="norm of its ΔW is not finite"):
                adapters.exhibit([adapter])
        else:
            made = adapters.exhibit([adapter])
            said = [paragraph for paragraph in made.says if "zero" in paragraph]
            assert said == ([] if scale else ["x: ΔW is zero in 1 of 1 matrices; it has no directions there."])


def test_base_weights_that_are_gone_or_others_are_missing_and_can_be_pointed_at(
        results: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> None:
    away = shutil.copytree(model, tmp_path / "away")
    results = shutil.copytree(results, tmp_path / "results")
    for path in (results / "runs").rglob("minilm*.json"):
        text = json.loads(path.read_text())
        path.write_text(json.dumps(text | {"settings": text["settings"] | {
            "model": text["settings"]["model"] | {"path": "folder"}}}))
    for name in ("figure8", "table7", "amplification"):
        said, = make(name, results).missing
        assert "LORA_BASE=DIR" in said and not make(name, results).figures
    monkeypatch.setenv("LORA_BASE", f"{tmp_path / 'nowhere'}:{away}")
    assert not make("table7", results).missing
    base._revision.cache_clear()
    (away / "config.json").write_text('{"model_type": "bert", "other": 1}')   # no longer what the run saw
    assert "LORA_BASE" in make("table7", results).missing[0]
    hub_run = replace(exhibit.inputs(results).records[0], model_revision="0" * 40)
    hub_run.settings["model"].update(path="nobody/nothing", revision="0" * 40)
    with pytest.raises(Refused, match="HF_HUB_OFFLINE"):
        base.of(hub_run)


def test_other_weights_than_the_runs_are_not_taken(results: Path, model: Path) -> None:
    one = replace(exhibit.inputs(results).records[0], model_revision="sha256:0")
    with pytest.raises(Refused, match="other weights"):
        base.of(one)


def test_w_of_a_fused_transposed_sharded_model(tmp_path: Path) -> None:
    """GPT-2: c_attn is (in, out) and [q|k|v]; the hub's names lack the prefix; the files are two."""
    W, out = normal(D, 3 * D, seed=0).float(), normal(D, D, seed=1).float()
    for file, tensors in (("a", {"h.0.attn.c_attn.weight": W}), ("b", {"h.0.attn.c_proj.weight": out})):
        save_file(tensors, tmp_path / f"{file}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {
        "h.0.attn.c_attn.weight": "a.safetensors", "h.0.attn.c_proj.weight": "b.safetensors"}}))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')

    def update(name: str, target: str, start: int, stop: int, layer: int = 0) -> Update:
        return Update(f"transformer.h.{layer}.attn.{name}", layer + 1, target, torch.zeros(2, D),
                      torch.zeros(stop - start, 2), 1.0, start, stop)

    opened = base._opened(tmp_path)
    for place, target in enumerate("qkv"):
        found = opened.weight(update("c_attn", target, place * D, (place + 1) * D))
        assert torch.equal(found, W[:, place * D:(place + 1) * D].T)
    assert torch.equal(opened.weight(update("c_proj", "o", 0, D)), out.T)
    with pytest.raises(Refused, match="no tensor"):
        opened.weight(update("c_attn", "q", 0, D, layer=1))
    with pytest.raises(Refused, match="not the model"):
        opened.weight(update("c_attn", "q", 0, 4 * D))


def test_the_command_compares_two_adapter_files(results: Path, made: Callable[[str], Exhibit], tmp_path: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    """Ours against PEFT's form of another run, and the official repository's form, which does not say alpha."""
    ours, other = (next(results.rglob(f"*{one.digest}/best.safetensors")) for one in exhibit.inputs(results).records
                   if one.settings["r"] in (8, 64) and one.seed == 0)
    peft = write_peft(read(other), tmp_path / "peft")
    out = tmp_path / "out"
    assert adapters.main([str(ours.parent), str(peft), "--results", str(out)]) == 0
    said = capsys.readouterr().out
    assert "written to" in said.splitlines()[-1] and "tables/adapters.md" in said.splitlines()[-1]
    assert {path.name for path in out.rglob("*.*")} == {"adapters.md", "adapters.tex", "adapters.csv",
                                                        "adapters-spectrum.svg", "adapters-similarity.svg"}
    data = pd.read_csv(out / "tables" / "adapters.csv")
    both = data[data.phi_first.notna()]
    assert len(both) == 2 * L and (both[both.target == "q"].phi_first > 0.99).all() and (both.k == 8).all()
    assert (both[both.target == "v"].phi_first < 0.2).all() and both.random_k.to_numpy() == pytest.approx(8 / D)
    same = frame(made("figure3")).query("i == 8").set_index(["layer", "target"]).phi
    assert both.set_index(["layer", "target"]).phi_k.sort_index().to_numpy() == pytest.approx(
        same.sort_index().to_numpy(), abs=1e-9)

    A, B = planted(0)(8, 1, "q")
    torch.save({"roberta.encoder.layer.0.attention.self.query.lora_A": A.float(),
                "roberta.encoder.layer.0.attention.self.query.lora_B": B.float()}, tmp_path / "official.bin")
    assert adapters.main([str(tmp_path / "official.bin"), "--results", str(out)]) == 0
    assert "does not say alpha" in capsys.readouterr().out
    assert not (out / "figures" / "adapters-similarity.svg").exists()
    assert adapters.main([str(tmp_path / "official.bin"), "--alpha", "16", "--results", str(out)]) == 0
    assert "does not say alpha" not in capsys.readouterr().out
    norm = pd.read_csv(out / "tables" / "adapters.csv").norm[0]
    assert norm == pytest.approx(float((2 * B.float().double() @ A.float().double()).norm()), rel=1e-6)


def update(module: str, target: str, factors: tuple[torch.Tensor, torch.Tensor] | None = None, layer: int = 1,
           scale: float = 2.0) -> Update:
    """An update of [0, D), with the module's own random factors where none are given."""
    seed = sum(map(ord, module))
    A, B = factors or (normal(4, D, seed=seed), normal(D, 4, seed=seed + 1))
    return Update(module, layer, target, A, B, scale, 0, D)


BART = [f"model.{side}.layers.{layer}.{attention}.q_proj" for layer in (0, 1) for side, attention in (
    ("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn"))]


def test_an_encoder_is_not_taken_for_a_decoder(undrawn: None) -> None:
    """A file compared with itself has φ = 1 in every matrix, in whatever order the two hold them."""
    whole = Adapter("x", "peft", [update(name, "q", layer=1 + place // 3) for place, name in enumerate(BART)], {}, {})
    turned = replace(whole, updates=whole.updates[::-1])
    for other in (whole, turned):
        rows = adapters._compared(whole, other)
        assert [row["phi_k"] for row in rows] == pytest.approx([1] * 6, abs=1e-9)
        assert [row["layer"] for row in rows] == [1, 1, 1, 2, 2, 2]
    names = ["q encoder.layers.self_attn", "q decoder.layers.self_attn", "q decoder.layers.encoder_attn"] * 2
    assert [row["target"] for row in rows] == names == matrices.names(whole.updates)
    assert [each.target for each in spectra.spectra(whole.updates)] == names
    made = adapters.exhibit([whole, turned])
    for table in made.tables:
        assert len({tuple(row[:2]) for row in table.rows}) == 6
    half = replace(whole, updates=[replace(u, module=u.module.removeprefix("model.")) for u in whole.updates[1:2]])
    with pytest.raises(Refused, match="no module in common"):   # two in the other could be meant
        adapters._compared(whole, half)
    pair = replace(whole, updates=[u for u in whole.updates if "encoder_attn" in u.module])
    bare = replace(pair, updates=[replace(u, module=u.module.removeprefix("model.decoder.")) for u in pair.updates])
    assert [row["phi_k"] for row in adapters._compared(pair, bare)] == pytest.approx([1, 1], abs=1e-9)


@pytest.mark.parametrize(("modules", "expected"), [
    (["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q",
      "decoder.block.0.layer.1.EncDecAttention.q"],
     ["q encoder.block.layer.0.SelfAttention", "q decoder.block.layer.0.SelfAttention",
      "q decoder.block.layer.1.EncDecAttention"]),
    (["layers.0.experts.0.q", "layers.0.experts.1.q"], ["q 0", "q 1"]),
    (["a.0.q", "a.0.b.q"], ["q q", "q b.q"]), (["a.0.q", "a.1.q"], ["q", "q"])])
def test_matrices_of_one_layer_are_told_apart(modules: list[str], expected: list[str]) -> None:
    layer = [1 + int(name.startswith("a.1")) for name in modules]
    updates = [update(name, "q", layer=own) for name, own in zip(modules, layer, strict=True)]
    assert matrices.names(updates) == expected


def test_feed_forward_matrices_are_told_apart_by_their_ends() -> None:
    both = [update("h.0.mlp.c_fc", "ff"), update("h.0.mlp.c_proj", "ff")]
    assert matrices.names(both) == ["ff mlp.c_fc", "ff mlp.c_proj"]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 9, 64, 100])
def test_ticks_have_both_ends(n: int) -> None:
    there = similarity.ticks(n)
    assert there[0] == 1 and there[-1] == n and len(there) == min(n, 4) and there == sorted(set(there))


@pytest.mark.parametrize("name", [*EXHIBITS, "MAKE"])
def test_the_command_that_makes_the_runs_composes(name: str, cli: Cli, tmp_path: Path) -> None:
    """Its first point of each sweep: -m and runtime.show do not go together."""
    said = pairs.MAKE if name == "MAKE" else import_module(f"analysis.exhibits.{name}").NEEDS
    command, = re.findall(r"python run\.py -m (.+?) makes", said)
    assert "model=minilm" in command and "data_root=DIR" in command
    words = [word.partition(",")[0] for word in command.replace("DIR", str(tmp_path)).split()]
    shown = ran(cli, *words, "runtime.show=recipe")
    assert shown.startswith("recipe minilm/lora for task=cola") and re.search(r"init_from +none", shown)


def test_the_command_refuses_what_it_cannot_compare(results: Path, tmp_path: Path) -> None:
    ours = str(next(results.rglob("best.safetensors")))
    for name, module, width in (("gpt", "transformer.h.0.attn.c_proj", D),
                                ("wide", "bert.encoder.layer.0.attention.self.query", 50)):
        torch.save({f"{module}.lora_A": torch.ones(2, width), f"{module}.lora_B": torch.ones(D, 2)},
                   tmp_path / f"{name}.bin")
    with pytest.raises(Refused, match="no module in common"):
        adapters.main([ours, str(tmp_path / "gpt.bin"), "--results", str(tmp_path / "out")])
    with pytest.raises(Refused, match="not adapters of one model"):
        adapters.main([ours, str(tmp_path / "wide.bin"), "--results", str(tmp_path / "out")])
    with pytest.raises(Refused, match="no such file"):
        adapters.main([str(tmp_path / "nothing")])
    assert not (tmp_path / "out").exists()
    for words in ([], [ours] * 3, [ours, "--alpha", "much"]):
        with pytest.raises(SystemExit, match="2"):
            adapters.main(words)
