"""A training step does nothing for what is frozen: no cast, no gradient, no activation kept, no optimiser state; and
what it does instead changes no number."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from test_lora import BASES, EACH, SLICES, layer
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from engine.backbone import Backbone, Role
from engine.contract import generator
from engine.frozen import held, merged
from engine.together import share
from lora.layer import LoRALinear
from lora.method import layers

KINDS = pytest.mark.parametrize("kind", tiny.KINDS)
EACH_ON = pytest.mark.parametrize(("name", "kind"), tiny.pairs())
METHODS = pytest.mark.parametrize("name", sorted(tiny.methods()))
BF16 = {"device_type": "cpu", "dtype": torch.bfloat16}


def step(made: Backbone, batch: dict[str, torch.Tensor], bf16: bool = True) -> tuple[Any, ...]:
    """Logits, loss and gradients of one step, dropout always drawn alike."""
    torch.manual_seed(7)
    made.model.train().zero_grad()
    with torch.autocast(**BF16, enabled=bf16):
        logits = tiny.logits(made.model, batch)
    loss = F.cross_entropy(logits.float(), torch.arange(len(logits)) % 2)
    loss.backward()
    return logits, loss, {name: p.grad for name, p in made.model.named_parameters() if p.requires_grad}


def linears(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What autocast casts: weights and biases by name."""
    return [(f"{name}.{own}", p) for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv1d, Conv1D)) for own, p in module.named_parameters(recurse=False)]


# --- held in 16 bits ------------------------------------------------------------------------------------------------


@EACH_ON
def test_held_weights_change_no_bit_of_logits_loss_and_gradients(name: str, kind: str) -> None:
    method = tiny.methods()[name]
    made = tiny.adapted(method, kind, dropout=0.1)
    tiny.randomise(made.model)
    batch = tiny.inputs(method, kind)
    logits, loss, gradients = step(made, batch)
    with held(made.model, "bf16"):
        for place, parameter in linears(made.model):
            assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), place
        again = step(made, batch)
    assert torch.equal(logits, again[0]) and torch.equal(loss, again[1]) and gradients.keys() == again[2].keys()
    for place, gradient in gradients.items():
        assert (gradient is None and again[2][place] is None) or torch.equal(gradient, again[2][place]), place


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_very_same_parameters_are_back_also_after_a_failure(precision: str, fails: bool) -> None:
    made = tiny.adapted(tiny.lora()).model
    before, numbers = list(made.named_parameters()), tiny.state(made)
    with pytest.raises(KeyError) if fails else nullcontext(), held(made, precision):
        assert [p is q for (_, p), (_, q) in zip(before, made.named_parameters(), strict=True)].count(False) == (
            0 if precision == "fp32" else len([p for _, p in linears(made) if not p.requires_grad]))
        if fails:
            raise KeyError
    assert [(name, id(p)) for name, p in made.named_parameters()] == [(name, id(p)) for name, p in before]
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize("kind", tiny.DECODERS)
@pytest.mark.parametrize("method", [tiny.lora(), tiny.prefix()], ids=["lora", "preembed"])
def test_an_embedding_tied_to_the_output_layer_stays_in_float32(method: Any, kind: str) -> None:
    made = tiny.adapted(method, kind, outputs=0).model
    tied = made.get_output_embeddings()
    assert tied.weight is made.get_input_embeddings().weight
    with held(made, "bf16"):
        assert tied.weight.dtype == torch.bfloat16 and made.get_input_embeddings().weight.dtype == torch.float32
    assert tied.weight is made.get_input_embeddings().weight


def test_models_that_share_their_weights_share_the_copies() -> None:
    one, other = tiny.adapted(tiny.lora()).model, tiny.adapted(tiny.lora(), seed=1).model
    share(one, other)
    with held(nn.ModuleList([one, other]), "bf16"):
        pairs = [(p, q) for (_, p), (_, q) in zip(linears(one), linears(other), strict=True) if not p.requires_grad]
        assert len(pairs) >= 20 and all(p is q for p, q in pairs)
    assert all(p is not q and p.data_ptr() == q.data_ptr()
               for (_, p), (_, q) in zip(linears(one), linears(other), strict=True) if not p.requires_grad)


class Casts(TorchDispatchMode):
    """Counts the conversions of tensors in given memory."""

    def __init__(self, watched: set[int]) -> None:
        super().__init__()
        self.watched, self.count = watched, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.watched:
            self.count += 1
        return func(*args, **(kwargs or {}))


@KINDS
def test_nothing_frozen_is_cast_while_held(kind: str) -> None:
    made, batch = tiny.adapted(tiny.lora(), kind), tiny.inputs(tiny.lora(), kind)
    counts = []
    for precision in ("fp32", "bf16"):
        with held(made.model, precision):
            frozen = [p for _, p in linears(made.model) if not p.requires_grad]
            with Casts({p.data_ptr() for p in frozen}) as casts:
                step(made, batch)
            counts.append(casts.count)
    assert counts[0] >= len(frozen) and counts[1] == 0


# --- what is kept for the backward ----------------------------------------------------------------------------------


@contextmanager
def kept(model: nn.Module) -> Iterator[dict[int, tuple[torch.Tensor, str]]]:
    """What autograd keeps, within, by its memory, parameters left out: the tensor, and which module was running."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, tuple[torch.Tensor, str]] = {}
    running, hooks = [""], []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found.setdefault(tensor.untyped_storage().data_ptr(), (tensor, running[-1]))
        return tensor

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    for name, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(enter(name)),
                  module.register_forward_hook(lambda *_: (running.pop(), None)[1])]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found
    for hook in hooks:
        hook.remove()


def size(found: dict[int, tuple[torch.Tensor, str]]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor, _ in found.values())


def on_the_last_layer() -> Backbone:
    """LoRA, its targets in layer 2 of 0, 1, 2 alone."""
    made = tiny.backbone(layers=3, dropout=0.1)
    roles = {role: Role(tiny.BERT[role].replace(r"\d+", "2"), 0, 1) for role in "qv"}
    made = replace(made, roles=roles)
    tiny.lora(dropout=0.1).apply(made, generator(0, "adapter"))
    return made


@pytest.mark.parametrize("make", [
    on_the_last_layer, lambda: tiny.adapted(tiny.adapter("pfeiffer", drop=2), layers=3, dropout=0.1),
    lambda: tiny.adapted(tiny.adapter("lin", drop=2), "gpt2", layers=3, dropout=0.1),
    lambda: tiny.adapted(replace(tiny.methods()["ft-top2"], top=1), layers=3, dropout=0.1)],
    ids=["lora", "adapter-d", "gpt2", "ft-top1"])
def test_nothing_is_kept_below_the_first_layer_that_trains(make: Callable[[], Backbone]) -> None:
    made = make()
    holder, blocks = made.blocks()
    needs: list[bool] = []
    for block in blocks:
        block.register_forward_pre_hook(lambda _, args: needs.append(args[0].requires_grad))
    made.model.train()
    with kept(made.model) as found:
        output = tiny.logits(made.model, tiny.inputs(tiny.lora(), "gpt2" if ".h" in holder else "roberta"))
    assert output.requires_grad and needs == [False, False, False]   # what layers 0, 1, 2 read
    places = [name for _, name in found.values()]
    assert any(name.startswith(f"{holder}.2.") for name in places)
    assert not [name for name in places if "embed" in name or ".wte" in name
                or name.startswith((f"{holder}.0", f"{holder}.1"))]


@EACH_ON
def test_embeddings_run_without_a_graph_unless_they_train(name: str, kind: str) -> None:
    method = tiny.methods()[name]
    made = tiny.adapted(method, kind)
    _, blocks = made.blocks()
    needs: list[bool] = []
    blocks[0].register_forward_pre_hook(lambda _, args: needs.append(args[0].requires_grad))
    tiny.logits(made.model, tiny.inputs(method, kind))
    trains = name in ("ft", "preembed", "prelayer", "lora-pe", "lora-pl") or (name == "bitfit" and kind != "gpt2")
    assert needs == [trains]   # GPT-2's embeddings have no bias


@pytest.mark.parametrize("kind", ["roberta", "bert", "gpt2"])
def test_what_only_a_frozen_weights_gradient_needs_is_not_kept(kind: str) -> None:
    """The inputs of the MLP's two projections: what is in front of them (LayerNorm, GELU) keeps what it read."""
    sizes = []
    for name in ("ft", "lora"):
        made = tiny.adapted(tiny.methods()[name], kind)
        made.model.train()
        inputs: list[torch.Tensor] = []
        for site in made.sites(["ff"]):
            site.module.register_forward_pre_hook(lambda _, args, inputs=inputs: inputs.append(args[0]))
        with kept(made.model) as found:
            output = tiny.logits(made.model, tiny.inputs(tiny.lora(), kind))
        assert output.requires_grad and len(inputs) == 4
        assert [x.untyped_storage().data_ptr() in found for x in inputs] == [name == "ft"] * 4
        sizes.append((size(found), sum(x.untyped_storage().nbytes() for x in inputs)))
    assert sizes[1][0] <= sizes[0][0] - sizes[0][1]


@pytest.mark.parametrize("held_as", ["fp32", "bf16"])
def test_casts_of_frozen_weights_are_not_kept_while_held(held_as: str) -> None:
    made, shapes = tiny.adapted(tiny.lora()), []
    made.model.train()
    with held(made.model, held_as), kept(made.model) as found, torch.autocast(**BF16):
        output = tiny.logits(made.model, tiny.inputs(tiny.lora()))
        shapes = [tuple(tensor.shape) for tensor, name in found.values() if "intermediate.dense" in name]
    assert output.requires_grad and sorted({(24, 16), (16, 24)} & set(shapes)) == (
        [] if held_as == "bf16" else [(16, 24)])   # as F.linear keeps it, transposed


@BASES
@EACH
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_lora_layer_keeps_its_input_once_and_the_r_wide_middles(base: type[nn.Module], slices: Any, dropout: float,
                                                                  bf16: bool) -> None:
    made = layer(base, slices, dropout).train()
    x = torch.randn(2, 5, 10, requires_grad=True) * 1.0
    with held(made, "bf16" if bf16 else "fp32"), kept(made) as found, torch.autocast(**BF16, enabled=bf16):
        output = made(x)
    held_numbers = sum(tensor.numel() for tensor, _ in found.values())
    ranks = sum(r for _, _, r in slices.values())
    weights = sum(r * (10 + stop - start) for start, stop, r in slices.values()) if bf16 else 0  # A and B, cast
    read = 2 * 5 * 10 * (2 if dropout else 1)   # what A reads; and dropout's mask
    assert output.requires_grad and held_numbers == read + 2 * 5 * ranks + weights
    assert {tensor.dtype for tensor, _ in found.values()} <= {torch.bfloat16 if bf16 else torch.float32, torch.bool}


@METHODS
def test_the_optimiser_keeps_state_of_what_trains_alone(name: str) -> None:
    made = tiny.adapted(tiny.methods()[name], dropout=0.1)
    special = tiny.backbone().special(tiny.methods()[name].tokens)
    states: list[set[int]] = []
    hook = register_optimizer_step_post_hook(
        lambda optimiser, *_: states.append({id(parameter) for parameter in optimiser.state}))
    try:
        tiny.train(made, rows=tiny.splits(8, special=special), epochs=1, batch=8, warmup=0)
    finally:
        hook.remove()
    assert states == [{id(p) for p in made.model.parameters() if p.requires_grad}]
    assert all(p.grad is None for p in made.model.parameters() if not p.requires_grad)


# --- the LoRA layer -------------------------------------------------------------------------------------------------


def plainly(made: LoRALinear, x: torch.Tensor) -> torch.Tensor:
    """Every product by itself, as it stands in the paper."""
    h = made.base(x)
    for s in made.slices:
        update = F.linear(F.linear(x, made.A[s.name]) * made.scale[s.name], made.B[s.name])
        h = torch.cat([h[..., :s.start], h[..., s.start:s.stop] + update, h[..., s.stop:]], dim=-1)
    return h


@BASES
@EACH
def test_under_autocast_a_lora_layer_is_the_formula_cast_by_cast(base: type[nn.Module], slices: Any) -> None:
    """Casting the input once instead of for every product changes no output and no gradient of A and B; the gradient of
    the input is summed in bf16, so rounded once more."""
    made, leaf = layer(base, slices), torch.randn(4, 6, 10)
    results = []
    for ours in (True, False):
        x = leaf.clone().requires_grad_()
        y = x * 1.0   # no leaf, whose cast autocast would remember
        made.zero_grad()
        with torch.autocast(**BF16):
            out = made(y) if ours else plainly(made, y)
        out.backward(torch.ones_like(out))
        results.append((out, x.grad, {name: p.grad for name, p in made.named_parameters() if p.requires_grad}))
    (out, dx, own), (reference, dx_reference, theirs) = results
    assert out.dtype == torch.bfloat16 and torch.equal(out, reference)
    assert all(torch.equal(own[name], gradient) for name, gradient in theirs.items())
    assert (dx - dx_reference).abs().max() <= 2 ** -7 * dx_reference.abs().max()


# --- merged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_fifty_merges_with_training_between_them_leave_the_base_to_the_bit(kind: str) -> None:
    made, base = tiny.adapted(tiny.lora(targets=["q", "v", "o"]), kind).model, tiny.backbone(kind).model
    batch = tiny.Rows(9).batch(range(9))
    with torch.no_grad():
        for round in range(50):
            for module in layers(made):
                for b in module.B.values():
                    b.normal_(0, 0.3)
            out = tiny.logits(made, batch)
            with merged(made):
                assert (tiny.logits(made, batch) - out).abs().max() < 2e-5, round
            assert torch.equal(tiny.logits(made, batch), out)
    frozen = {name.replace(".base.", "."): p for name, p in made.named_parameters() if not p.requires_grad}
    assert frozen and all(torch.equal(p, base.get_parameter(name)) for name, p in frozen.items())


def test_merging_one_model_leaves_another_on_the_same_weights_alone() -> None:
    one, other = tiny.adapted(tiny.lora()).model, tiny.adapted(tiny.lora(), seed=1).model
    share(one, other)
    tiny.randomise(one)
    batch = tiny.Rows(9).batch(range(9))
    with torch.no_grad():
        out = tiny.logits(other, batch)
        with merged(one):
            assert all(module.merged for module in layers(one)) and torch.equal(tiny.logits(other, batch), out)


def test_a_failure_while_merged_or_merging_leaves_no_layer_merged() -> None:
    made = tiny.adapted(tiny.lora()).model
    with pytest.raises(KeyError), merged(made):
        raise KeyError
    layers(made)[-1].merge()
    with pytest.raises(RuntimeError, match="already merged"), merged(made):
        raise AssertionError("not reached")
    assert [module.merged for module in layers(made)] == [False, False, False, True]


def test_a_merged_layer_that_was_moved_or_copied_is_unmerged_there() -> None:
    made = layer(nn.Linear, SLICES["whole"])
    weight = made.base.weight.detach().clone()
    made.merge()
    other = copy.deepcopy(made)
    assert "_plain" not in "".join(made.state_dict()) and len(list(made.parameters())) == 4
    made.double().unmerge()
    assert made.base.weight.dtype == torch.float64 and torch.equal(made.base.weight, weight.double())
    other.unmerge()
    assert torch.equal(other.base.weight, weight)
