"""LoRA is W0 + (alpha / r) B A and nothing else: against the dense formula, PEFT and the paper's counts."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine import models
from engine.backbone import Backbone, Role
from engine.contract import Refused, generator
from engine.spec import ModelSpec
from lora.layer import LoRALinear, Slice
from lora.method import layers

ROOT = Path(__file__).parents[1]
D_IN, D_OUT, ALPHA = 10, 12, 7.0
SLICES = {   # name -> (start, stop, r)
    "whole": {"q": (0, 12, 3)},
    "q and v": {"q": (0, 4, 2), "v": (8, 12, 2)},
    "q, k and v": {"q": (0, 4, 2), "k": (4, 8, 2), "v": (8, 12, 2)},
    "only k": {"k": (4, 8, 1)},
    "two ranks": {"q": (0, 4, 1), "v": (8, 12, 4)},
    "given backwards": {"v": (8, 12, 3), "q": (0, 4, 2)},
}
EACH = pytest.mark.parametrize("slices", SLICES.values(), ids=SLICES.keys())
BASES = pytest.mark.parametrize("base", [nn.Linear, Conv1D])


def layer(base: type[nn.Module], slices: dict[str, tuple[int, int, int]], dropout: float = 0.0, init: str = "gaussian",
          std: float = 0.5, seed: int = 0, random_b: bool = True) -> LoRALinear:
    """A layer around a frozen Linear or Conv1D, with a B that is not zero unless asked."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = nn.Linear(D_IN, D_OUT) if base is nn.Linear else Conv1D(D_OUT, D_IN)
        nn.init.normal_(module.bias)
    module.requires_grad_(False)
    made = LoRALinear(module, [Slice(name, *rest) for name, rest in slices.items()], ALPHA, dropout, init, std,
                      torch.Generator().manual_seed(seed))
    if random_b:
        tiny.randomise(made, 1.0)
    return made


def dense(made: LoRALinear, slices: dict[str, tuple[int, int, int]]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """W0 + (alpha / r) B A written out row by row, and the copies of A and B that it is made of."""
    leaves = {f"{kind}.{name}": getattr(made, kind)[name].detach().clone().requires_grad_()
              for name in slices for kind in "AB"}
    weight = made.base.weight.detach().clone()
    rows = list((weight.T if isinstance(made.base, Conv1D) else weight).unbind(0))
    for name, (start, stop, r) in slices.items():
        for i in range(start, stop):
            for j in range(r):
                rows[i] = rows[i] + ALPHA / r * leaves[f"B.{name}"][i - start, j] * leaves[f"A.{name}"][j]
    return torch.stack(rows), leaves


# --- the formula ----------------------------------------------------------------------------------------------------


@BASES
@EACH
def test_outputs_and_gradients_are_those_of_the_dense_formula(base: type[nn.Module], slices: Any) -> None:
    made = layer(base, slices).double()
    weight, leaves = dense(made, slices)
    x = torch.randn(2, 5, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, reference = made(ours), theirs @ weight.T + made.base.bias
    assert out.shape == (2, 5, D_OUT) and (out - reference).abs().max() < 1e-10
    pull = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (out * pull).sum().backward()
    (reference * pull).sum().backward()
    assert (ours.grad - theirs.grad).abs().max() < 1e-10
    for name, leaf in leaves.items():
        assert leaf.grad.abs().max() > 0.01 and (made.get_parameter(name).grad - leaf.grad).abs().max() < 1e-10
    assert made.base.weight.grad is None and made.base.bias.grad is None


@BASES
@EACH
def test_delta_is_the_dense_update(base: type[nn.Module], slices: Any) -> None:
    made = layer(base, slices).double()
    weight = made.base.weight if base is nn.Linear else made.base.weight.T
    assert (made.delta() - (dense(made, slices)[0] - weight)).abs().max() < 1e-10


@BASES
def test_a_fused_layer_leaves_k_alone_and_has_an_a_for_each_slice(base: type[nn.Module]) -> None:
    made = layer(base, SLICES["q and v"])
    assert made.delta()[:4].all() and made.delta()[8:].all() and not made.delta()[4:8].any()
    assert not torch.equal(made.A["q"], made.A["v"])
    x = torch.randn(6, D_IN)
    assert torch.equal(made(x)[..., 4:8], made.base(x)[..., 4:8])


def test_each_slice_is_scaled_by_its_own_rank() -> None:
    made = layer(nn.Linear, SLICES["two ranks"])
    assert made.scale == {"q": ALPHA, "v": ALPHA / 4}


@pytest.mark.parametrize("kind", ["roberta", "bert", "mpnet", "gpt2", "llama"])
@pytest.mark.parametrize("targets", [["q", "v"], ["v", "k", "q", "o"]])
def test_an_adapted_model_is_the_base_with_the_update_added_to_its_weights(kind: str, targets: list[str]) -> None:
    made, base = tiny.adapted(tiny.lora(targets=targets), kind), tiny.backbone(kind)
    tiny.randomise(made.model)
    deltas = {name: module for name, module in made.model.named_modules() if isinstance(module, LoRALinear)}
    with torch.no_grad():
        for name, module in deltas.items():
            weight = base.model.get_parameter(f"{name}.weight")
            for s in module.slices:
                update = 2.0 * module.B[s.name] @ module.A[s.name]   # alpha / r = 8 / 4
                if kind == "gpt2":
                    weight[:, s.start:s.stop] += update.T
                else:
                    weight[s.start:s.stop] += update
        batch = tiny.Rows(9).batch(range(9))
        out = tiny.logits(made.model, batch)
        assert (out - tiny.logits(base.model, batch)).abs().max() < 1e-5
        assert (out - tiny.logits(tiny.backbone(kind).model, batch)).abs().max() > 1e-3


def test_gpt2_slices_are_the_columns_that_gpt2_splits_into_q_k_and_v() -> None:
    sites = tiny.backbone("gpt2").sites(["v", "q"])
    assert [(s.name[-18:], s.role, s.start, s.stop) for s in sites] == [
        (f"transformer.h.{i}.attn.c_attn"[-18:], role, *span) for i in (0, 1)
        for role, span in (("q", (0, 16)), ("v", (32, 48)))]
    assert sites[0].module is sites[1].module and isinstance(sites[0].module, Conv1D)


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_at_the_start_the_model_is_the_base_model_bit_for_bit(kind: str, mode: str) -> None:
    made, base = tiny.adapted(tiny.lora(dropout=0.5), kind), tiny.backbone(kind)
    batch = tiny.Rows(9).batch(range(9))
    made.model.train(mode == "train"), base.model.train(mode == "train")
    assert torch.equal(tiny.logits(made.model, batch), tiny.logits(base.model, batch))


def test_grouped_keys_and_values_have_fewer_outputs_and_so_lower_ranks() -> None:
    made = tiny.adapted(tiny.lora(targets=["q", "k", "v", "o"]), "llama")
    shapes = {s.name: tuple(module.B[s.name].shape) for module in layers(made.model) for s in module.slices}
    assert shapes == {"q": (16, 4), "k": (8, 4), "v": (8, 4), "o": (16, 4)}
    with pytest.raises(Refused, match=r"r=9: .*k_proj \(k\) allows ranks up to 8"):
        tiny.adapted(tiny.lora(targets=["q", "k"], r=9), "llama")


# --- PEFT -----------------------------------------------------------------------------------------------------------


def theirs(ours: Backbone, dtype: torch.dtype, **ranks: int) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """PEFT's LoRA on the same base with our A copied in, and its trainable parameters under our names."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"], lora_dropout=0.0, rank_pattern=ranks,
                        modules_to_save=["classifier"])
    model = get_peft_model(tiny.backbone().model.to(dtype), config)
    named = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            role = "q" if ".query." in name else "v"
            for old, new in (("base_model.model.", ""), ("modules_to_save.default.", ""),
                             ("lora_A.default.weight", f"A.{role}"), ("lora_B.default.weight", f"B.{role}")):
                name = name.replace(old, new)
            named[name] = parameter
    own = {name: p for name, p in ours.model.named_parameters() if p.requires_grad}
    assert own.keys() == named.keys()
    with torch.no_grad():
        for name, parameter in named.items():
            if ".A." in name:
                parameter.copy_(own[name])
    assert all(torch.equal(own[name], named[name]) for name in own)
    return model, named


@pytest.mark.parametrize("r", [4, {"q": 6, "v": 1}], ids=["one rank", "a rank each"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["fp32", "fp64"])
def test_ten_adamw_steps_and_the_merged_model_are_pefts(dtype: torch.dtype, bound: float, r: Any) -> None:
    made = tiny.adapted(tiny.lora(r=r))
    made.model.to(dtype)
    peft, named = theirs(made, dtype, **({"query": r["q"], "value": r["v"]} if isinstance(r, dict) else {}))
    own = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    begin = {name: p.detach().clone() for name, p in own.items()}
    optimisers = [torch.optim.AdamW(list(group.values()), lr=1e-2, weight_decay=0.01) for group in (own, named)]
    rows = tiny.Rows(40)
    for step in range(10):
        batch = rows.batch(range(4 * step, 4 * step + 4))
        losses = [F.cross_entropy(tiny.logits(model, batch), batch["labels"]) for model in (made.model, peft)]
        assert abs(losses[0] - losses[1]) < bound
        for optimiser, loss in zip(optimisers, losses, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert all((own[name] - named[name]).abs().max() < bound for name in own)
    assert all((own[name] - begin[name]).abs().max() > 1e-3 for name in own)
    batch = rows.batch(range(20))
    with torch.no_grad():
        unmerged = tiny.logits(made.model, batch)
        for module in layers(made.model):
            module.merge()
        merged, reference = tiny.logits(made.model, batch), tiny.logits(peft.merge_and_unload(), batch)
    assert (merged - reference).abs().max() < 10 * bound and (merged - unmerged).abs().max() < 10 * bound


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_any_subset_of_the_matrices_can_have_a_rank_of_its_own(kind: str) -> None:
    """ΔW has the rank of its target, in GPT-2 in its own third of the fused projection, and alpha stays what it is."""
    ranks = {"q": 1, "k": 2, "o": 3, "ff": 5}
    made = tiny.adapted(tiny.lora(r=ranks, targets=list(ranks), alpha=6), kind)
    tiny.randomise(made.model, 1.0)
    found: dict[str, set[int]] = {}
    for module in layers(made.model):
        delta = module.delta().double()
        for s in module.slices:
            found.setdefault(s.name, set()).add(int(torch.linalg.matrix_rank(delta[s.start:s.stop], rtol=1e-5)))
            assert module.scale[s.name] == 6 / ranks[s.name]
        if kind == "gpt2" and "q" in module.scale:
            assert not delta[32:].any() and not torch.equal(module.A["q"][:1], module.A["k"][:1])
    assert found == {name: {rank} for name, rank in ranks.items()}


# --- merging --------------------------------------------------------------------------------------------------------


@BASES
@EACH
def test_merge_then_unmerge_gives_the_base_back_and_changes_no_output(base: type[nn.Module], slices: Any) -> None:
    made, x = layer(base, slices), torch.randn(6, D_IN)
    weight, out = made.base.weight.clone(), made(x)
    made.merge()
    assert made.merged and (made(x) - out).abs().max() < 1e-5 and (made.base.weight - weight).abs().max() > 0.1
    made.unmerge()
    assert not made.merged and torch.equal(made.base.weight, weight) and torch.equal(made(x), out)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_merged_model_gives_the_same_outputs(kind: str) -> None:
    made = tiny.adapted(tiny.lora(targets=["q", "k", "v", "o"]), kind)
    tiny.randomise(made.model)
    batch, before = tiny.Rows(9).batch(range(9)), tiny.state(made.model)
    with torch.no_grad():
        out = tiny.logits(made.model, batch)
        for module in layers(made.model):
            module.merge()
        assert (tiny.logits(made.model, batch) - out).abs().max() < 1e-5
        for module in layers(made.model):
            module.unmerge()
    assert tiny.furthest(before, tiny.state(made.model)) == 0


def test_merging_or_unmerging_twice_raises_and_changes_nothing() -> None:
    made = layer(nn.Linear, SLICES["whole"])
    with pytest.raises(RuntimeError, match="already unmerged"):
        made.unmerge()
    made.merge()
    weight = made.base.weight.clone()
    with pytest.raises(RuntimeError, match="already merged"):
        made.merge()
    assert torch.equal(made.base.weight, weight)


@pytest.mark.parametrize("merged", [False, True])
def test_train_and_eval_change_no_bit_and_return_self(merged: bool) -> None:
    made = tiny.adapted(tiny.lora()).model
    tiny.randomise(made)
    for module in layers(made):
        if merged:
            module.merge()
    before = tiny.state(made)
    for _ in range(2):
        assert made.train() is made and made.eval() is made
        assert all(module.train() is module and module.eval() is module for module in layers(made))
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())
    assert all(module.merged == merged for module in layers(made))


def pickled(made: LoRALinear) -> LoRALinear:
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@BASES
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_copied_layer_is_the_same_and_independent(base: type[nn.Module], copied: Callable[[Any], Any]) -> None:
    made, x = layer(base, SLICES["q and v"]), torch.randn(6, D_IN)
    twin, out = copied(made), made(x)
    assert torch.equal(twin(x), out)
    twin.merge()
    assert torch.equal(made(x), out) and not made.merged and "scale" in repr(twin)


# --- dropout --------------------------------------------------------------------------------------------------------


@BASES
@EACH
def test_dropout_acts_on_the_input_of_a_only(base: type[nn.Module], slices: Any) -> None:
    made, x = layer(base, slices, dropout=0.5, random_b=False), torch.randn(6, D_IN)
    assert torch.equal(made.train()(x), made.base(x))   # B is zero: whatever is dropped, the base path has all of x
    tiny.randomise(made)
    torch.manual_seed(0)
    kept = F.dropout(torch.ones(6, D_IN), 0.5)   # 0 or 2
    torch.manual_seed(0)
    expected = made.base(x) + (x * kept) @ made.delta().T
    assert (made(x) - expected).abs().max() < 1e-5
    assert not torch.allclose(made(x), made(x))


def test_dropout_does_nothing_in_eval_mode() -> None:
    x = torch.randn(6, D_IN)
    dropping, plain = (layer(nn.Linear, SLICES["whole"], dropout=p) for p in (0.5, 0.0))
    assert torch.equal(dropping.eval()(x), plain(x))


# --- the start ------------------------------------------------------------------------------------------------------


def drawn(init: str, std: float = 0.02, seed: int = 0, d_in: int = 400, r: int = 100) -> LoRALinear:
    return LoRALinear(nn.Linear(d_in, 300), [Slice("q", 0, 300, r)], 1.0, 0.0, init, std,
                      torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("std", [0.02, 0.5])
def test_gaussian_has_the_std_asked_for(std: float) -> None:
    a = drawn("gaussian", std).A["q"]
    assert a.std().item() == pytest.approx(std, rel=0.02) and abs(a.mean().item()) < 0.02 * std
    assert (a.abs() > 3 * std).float().mean().item() == pytest.approx(0.0027, abs=0.001)   # tails: not a uniform


def test_kaiming_is_the_uniform_of_torchs_kaiming_with_a_sqrt_5() -> None:
    a = drawn("kaiming").A["q"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = nn.init.kaiming_uniform_(torch.empty_like(a), a=math.sqrt(5))
    bound = 1 / math.sqrt(400)
    assert a.abs().max() <= bound and a.abs().max() > 0.999 * bound
    assert a.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert torch.allclose(a, reference, atol=1e-8)   # the same stream, so the very numbers


@pytest.mark.parametrize("init", ["gaussian", "kaiming"])
def test_the_seed_decides_a_and_b_is_zero(init: str) -> None:
    one, same, other = drawn(init), drawn(init), drawn(init, seed=1)
    assert torch.equal(one.A["q"], same.A["q"]) and not torch.equal(one.A["q"], other.A["q"])
    assert not one.B["q"].any() and one.A["q"].dtype == one.B["q"].dtype == torch.float32


def test_drawing_the_adapter_leaves_the_global_random_state_alone() -> None:
    made = tiny.backbone()
    before = torch.get_rng_state()
    tiny.lora(init="gaussian").apply(made, generator(0, "adapter"))
    tiny.lora(init="kaiming").apply(tiny.backbone("gpt2"), generator(0, "adapter"))
    assert torch.equal(before, torch.get_rng_state())


def test_every_layer_of_a_model_has_another_a() -> None:
    drawn_a = [p for name, p in tiny.adapted(tiny.lora()).model.named_parameters() if ".A." in name]
    assert len(drawn_a) == 4
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn_a) for other in drawn_a[:i])


def test_the_order_of_the_targets_does_not_matter() -> None:
    one, other = (tiny.adapted(tiny.lora(targets=targets)).model for targets in (["q", "v"], ["v", "q"]))
    assert tiny.furthest(one.state_dict(), other.state_dict()) == 0


# --- what trains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["roberta", "bert", "gpt2"])
def test_only_a_b_and_the_head_train_and_move(kind: str) -> None:
    made = tiny.adapted(tiny.lora(), kind)
    heads = {"roberta": "classifier.", "bert": ("classifier.", "bert.pooler."), "gpt2": "score."}[kind]
    expected = {name for name, _ in made.model.named_parameters()
                if ".A." in name or ".B." in name or name.startswith(heads)}
    assert {name for name, p in made.model.named_parameters() if p.requires_grad} == expected
    before = tiny.state(made.model)
    tiny.train(made, rows=tiny.splits(24), epochs=1, batch=8, weight_decay=0.1, decay_on="all", warmup=0)
    moved = {name for name, tensor in made.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == expected and len(moved) >= 9


# --- the paper's counts ---------------------------------------------------------------------------------------------


def real(name: str, method: Any, outputs: int = 3) -> tuple[Backbone, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        config = OmegaConf.to_container(compose(f"model/{name}").model, resolve=True)
    made = models.shape(ModelSpec(**config), outputs, None, 0)
    method.apply(made, generator(0, "adapter"))
    return made, models.footprint(made)


@pytest.mark.parametrize(("name", "expected"), [("roberta-base", 294_912), ("roberta-large", 786_432)])
def test_lora_of_rank_8_on_q_and_v_trains_the_papers_number(name: str, expected: int) -> None:
    made, counts = real(name, tiny.lora(r=8, alpha=8))
    d = {"roberta-base": 768, "roberta-large": 1024}[name]
    assert counts.trainable == expected
    assert counts.head == d * d + d + 3 * d + 3
    assert counts.total == sum(p.numel() for p in made.model.parameters())


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [
    {"r": 0}, {"r": -4}, {"r": 2.5}, {"r": True}, {"r": None}, {"r": "4"}, {"alpha": 0}, {"alpha": -1},
    {"r": {"q": 4}}, {"r": {"q": 4, "v": 4, "k": 4}}, {"r": {"q": 4, "v": 0}}, {"r": {}}, {"r": [4]},
    {"alpha": math.nan}, {"alpha": math.inf}, {"targets": []}, {"targets": ["q", "q"]}, {"targets": "qv"},
    {"dropout": 1.0}, {"dropout": -0.1}, {"std": 0}, {"init": "zeros"},
], ids=str)
def test_settings_out_of_range_are_refused(changes: Mapping[str, Any]) -> None:
    with pytest.raises(Refused, match=next(iter(changes))):
        tiny.lora(**changes)


@pytest.mark.parametrize("changes", [
    {"targets": ["z"]}, {"targets": ["q", "z"]}, {"r": 17}, {"r": 20, "targets": ["q", "ff"]}], ids=str)
@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_a_refused_apply_leaves_the_model_as_it_was(changes: dict[str, Any], kind: str) -> None:
    made = tiny.backbone(kind)
    shape, before = repr(made.model), tiny.state(made.model)
    trains = {name for name, p in made.model.named_parameters() if p.requires_grad}
    with pytest.raises(Refused):
        tiny.lora(**changes).apply(made, generator(0, "adapter"))
    assert repr(made.model) == shape and tiny.furthest(before, made.model.state_dict()) == 0
    assert {name for name, p in made.model.named_parameters() if p.requires_grad} == trains


def test_a_role_without_a_module_is_refused_before_surgery() -> None:
    made = tiny.backbone()
    made = Backbone(made.model, None, {**made.roles, "o": Role("nowhere", 0, 1)}, made.head, made.output)
    with pytest.raises(Refused, match="'o'"):
        tiny.lora(targets=["q", "o"]).apply(made, generator(0, "adapter"))
    assert not layers(made.model)


def test_the_largest_rank_is_the_smaller_side_of_the_matrix() -> None:
    assert len(layers(tiny.adapted(tiny.lora(r=16)).model)) == 4   # d = 16
