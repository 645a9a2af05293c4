"""fit() does what a plain loop does: the same steps from the same seed, whatever the method and the micro-batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from baselines.full import FullFineTuning
from engine import batches, models, progress, train
from engine.backbone import Backbone
from engine.contract import Batch, Refused, Splits, generator
from engine.member import Asked
from engine.predict import Predictor
from engine.train import Fitted
from engine.weights import trained
from lora.method import layers

FT = FullFineTuning("ft", "FT")
ALONE: Any = SimpleNamespace(process_index=0, num_processes=1, device=tiny.CPU, mixed_precision="no")
METHODS = pytest.mark.parametrize("method", [tiny.lora(), FT], ids=["lora", "ft"])


def same(one: Fitted, other: Fitted) -> bool:
    tensors = [(one.best, other.best), (one.last, other.last)]
    return (all(torch.equal(a[name], b[name]) for a, b in tensors for name in a.keys() | b.keys())
            and one.outcome.curve == other.outcome.curve)


# --- seeds ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A RoBERTa body without a head, as the hub has it; the tokenizer is not needed here."""
    tiny.backbone().model.base_model.save_pretrained(tmp_path)
    monkeypatch.setattr(models, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *_, **__: range(tiny.VOCAB)))
    return tmp_path


def started(folder: Path, method: Any, seed: int) -> Backbone:
    """A model as a run of that seed has it before the first step."""
    made = models.load(tiny.spec(tiny.BERT), folder, 2, tiny.recipe(dropout=0.0), 0, generator(seed, "head"))
    method.apply(made, generator(seed, "adapter"))
    return made


def head(made: Backbone) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in made.model.named_parameters() if name.startswith(made.head)}


def test_the_head_of_a_seed_is_the_same_for_every_method(folder: Path) -> None:
    first = head(started(folder, tiny.lora(), 0))
    assert len(first) == 4
    for method in (FT, tiny.lora(r=2, targets=["q", "k", "o"])):
        assert tiny.furthest(first, head(started(folder, method, 0))) == 0
    assert tiny.furthest(first, head(started(folder, FT, 1))) > 0.01


def asked(method: Any, seed: int, batching: str = "shuffle") -> list[list[int]]:
    rows = tiny.splits(40)
    tiny.train(tiny.adapted(method, seed=seed), rows=rows, seed=seed, batching=batching)
    return rows.train.asked   # type: ignore[attr-defined]


@pytest.mark.parametrize("batching", ["shuffle", "grouped"])
def test_the_data_order_of_a_seed_is_the_same_for_every_method(batching: str) -> None:
    order = asked(tiny.lora(), 0, batching)
    assert [len(batch) for batch in order] == [8] * 10
    assert order == asked(FT, 0, batching) == asked(tiny.lora(r=2, dropout=0.3), 0, batching)
    assert order != asked(FT, 1, batching)
    assert order[:5] != order[5:]   # and another one every epoch
    assert sorted(sum(order[:5], [])) == sorted(sum(order[5:], [])) == list(range(40))


@METHODS
def test_a_seed_gives_the_same_run_bit_for_bit_and_another_seed_another(folder: Path, method: Any) -> None:
    def run(seed: int) -> Fitted:
        made = started(folder, method, seed)
        made.model.get_submodule("classifier.dropout").p = 0.3   # dropout is part of the seed too
        return tiny.train(made, seed=seed)

    first = run(0)
    torch.rand(7)   # nothing hangs on the global random state of the caller
    assert same(first, run(0))
    other = run(1)
    assert first.outcome.curve != other.outcome.curve and tiny.furthest(first.last, other.last) > 1e-3


# --- padding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_padding_changes_no_loss(kind: str, outputs: int) -> None:
    made = tiny.adapted(tiny.lora(), kind, outputs=outputs)
    tiny.randomise(made.model)
    rows, task = tiny.Rows(12, outputs=outputs), tiny.task(outputs)
    together = rows.batch(range(12))
    assert 0 < together["attention_mask"].float().mean() < 0.9
    with torch.no_grad():
        alone = torch.cat([task.losses(made.model, rows.batch([i]), 0.1) for i in range(12)])
        logits = tiny.logits(made.model, together)
        each = (F.mse_loss(logits[:, 0], together["labels"], reduction="none") if outputs == 1 else
                F.cross_entropy(logits, together["labels"], label_smoothing=0.1, reduction="none"))
        assert (alone - each).abs().max() < 1e-5
        assert (task.losses(made.model, together, 0.1) - alone).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_what_stands_in_the_padding_does_not_matter(kind: str) -> None:
    made = tiny.backbone(kind)
    one, other = (tiny.Rows(12, pad=pad).batch(range(12)) for pad in (tiny.PAD, 50))
    assert not torch.equal(one["input_ids"], other["input_ids"])
    with torch.no_grad():
        assert (tiny.logits(made.model, one) - tiny.logits(made.model, other)).abs().max() < 1e-6


def test_the_mask_and_the_lengths_count_the_same_tokens() -> None:
    rows = tiny.Rows(12)
    batch = rows.batch([3, 0, 7])
    assert batch["attention_mask"].sum(1).tolist() == [rows.lengths[i] for i in (3, 0, 7)]
    assert batch["input_ids"].shape[1] == max(rows.lengths[i] for i in (3, 0, 7))


# --- batches --------------------------------------------------------------------------------------------------------


def lengths(n: int) -> list[int]:
    return torch.randint(3, 100, (n,), generator=torch.Generator().manual_seed(0)).tolist()


def padding(plan: list[list[int]], sizes: list[int]) -> int:
    return sum(max(sizes[i] for i in batch) * len(batch) - sum(sizes[i] for i in batch) for batch in plan)


@pytest.mark.parametrize("batching", ["shuffle", "grouped"])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 203])
def test_an_epoch_has_each_example_once(batching: str, n: int) -> None:
    plan = batches.order(lengths(n), 8, batching, generator(0, "order"))
    assert sorted(sum(plan, [])) == list(range(n))
    assert len(plan) == math.ceil(n / 8) and sorted(map(len, plan))[1:] == [8] * (len(plan) - 1)
    if n == 203:
        assert sum(plan, []) != list(range(n)) and plan != batches.order(lengths(n), 8, batching, generator(1, "order"))


def test_grouped_batches_have_far_less_padding_and_no_order_of_length() -> None:
    sizes = lengths(1000)
    shuffled, grouped = (batches.order(sizes, 8, kind, generator(0, "order")) for kind in ("shuffle", "grouped"))
    assert padding(grouped, sizes) < 0.4 * padding(shuffled, sizes)
    means = torch.tensor([sum(sizes[i] for i in batch) / len(batch) for batch in grouped])
    assert abs(torch.corrcoef(torch.stack([means, torch.arange(len(means)).float()]))[0, 1]) < 0.3


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("micro", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_shares_split_a_global_batch_over_devices_and_micro_batches(world: int, micro: int | None, n: int) -> None:
    batch = list(range(50, 50 + n))
    ranks = [list(batches.shares(batch, rank, world, micro, len)) for rank in range(world)]
    assert len({len(parts) for parts in ranks}) == 1 and len(ranks[0]) == math.ceil(math.ceil(n / world) / (micro or n))
    counted = [part for parts in ranks for part in parts if part[1] > 0]
    assert sorted(sum((indices for indices, _ in counted), [])) == batch
    assert all(share == 1 / n and len(indices) <= (micro or n) for indices, share in counted)
    assert all(indices for parts in ranks for indices, _ in parts)   # a model cannot take an empty batch


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_evaluation_has_each_example_on_one_device(world: int, n: int) -> None:
    sizes = lengths(n)
    plans = [batches.by_length(sizes, 4, rank, world) for rank in range(world)]
    assert sorted(i for plan in plans for batch in plan for i in batch) == list(range(n))
    assert all(len(batch) <= 4 for plan in plans for batch in plan)
    for plan in plans:
        mine = [sizes[i] for batch in plan for i in batch]
        assert mine == sorted(mine, reverse=True)


# --- the steps ------------------------------------------------------------------------------------------------------


@METHODS
@pytest.mark.parametrize("micro", [1, 3, 5])
def test_micro_batches_change_no_step(method: Any, micro: int) -> None:
    settings = {"rows": tiny.splits(21), "clip": 0.3, "weight_decay": 0.1, "eps": tiny.CALM}   # the last batch has 5
    whole = tiny.train(tiny.adapted(method), **settings)
    cut = tiny.train(tiny.adapted(method), micro=micro, **settings)
    assert tiny.furthest(whole.last, cut.last) < 1e-5
    assert [e["loss"] for e in cut.outcome.curve] == pytest.approx([e["loss"] for e in whole.outcome.curve], abs=1e-5)
    assert cut.outcome.steps == whole.outcome.steps == 6


def plain(made: Backbone, rows: tiny.Rows, order: list[list[int]], recipe: Any) -> list[float]:
    """The training loop as a textbook has it."""
    own = {name: p for name, p in made.model.named_parameters() if p.requires_grad}
    spared = {name for name in own if recipe.decay_on == "matrices" and ("bias" in name or "LayerNorm" in name)}
    assert spared or recipe.decay_on == "all"
    optimiser = torch.optim.AdamW([{"params": [p], "weight_decay": 0.0 if name in spared else recipe.weight_decay}
                                   for name, p in own.items()], lr=0.0, betas=recipe.betas, eps=recipe.eps)
    warm, losses = math.ceil(recipe.warmup * len(order)), []
    for step, indices in enumerate(order):
        batch = rows.batch(indices)
        loss = F.cross_entropy(tiny.logits(made.model, batch), batch["labels"], label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in own.values() if p.grad is not None))
        for p in own.values():
            p.grad *= min(1.0, recipe.clip / norm) if recipe.clip else 1.0
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * (step / warm if step < warm else (len(order) - step) / (len(order) - warm))
        optimiser.step()
        losses.append(loss.item())
    return losses


@METHODS
@pytest.mark.parametrize("decay_on", ["matrices", "all"])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_fit_is_a_plain_loop(method: Any, decay_on: str, clip: float | None) -> None:
    changes = {"lr": 2e-3, "clip": clip, "decay_on": decay_on, "weight_decay": 0.3, "label_smoothing": 0.1,
               "warmup": 0.3, "betas": [0.8, 0.99], "eps": tiny.CALM}
    made, rows = tiny.adapted(method), tiny.splits(24)
    fitted = tiny.train(made, rows=rows, **changes)
    order = list(rows.train.asked)   # type: ignore[attr-defined]
    own = tiny.adapted(method)
    begin = trained(own.model)
    losses = plain(own, rows.train, order, tiny.recipe(**changes))   # type: ignore[arg-type]
    assert len(order) == 6
    assert tiny.furthest(trained(own.model), fitted.last) < 1e-6 and tiny.furthest(begin, fitted.last) > 1e-3
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert [entry["loss"] for entry in fitted.outcome.curve] == pytest.approx(means, abs=1e-6)


class Flat(tiny.Scripted):
    """A loss without a slope: whatever moves, moves by weight decay alone."""

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        return super().losses(model, batch, smoothing) * 0.0


@pytest.mark.parametrize("decay_on", ["matrices", "all"])
def test_decay_on_decides_whether_biases_and_layernorms_shrink(decay_on: str) -> None:
    made = tiny.adapted(FT)
    before = trained(made.model)
    settings = {"epochs": 1, "warmup": 0, "lr": 0.1, "weight_decay": 0.5, "decay_on": decay_on}
    after = tiny.train(made, Flat(), tiny.splits(8), **settings).last
    for name, tensor in before.items():
        small = name.endswith("bias") or "LayerNorm" in name
        factor = 1.0 if small and decay_on == "matrices" else 1 - 0.1 * 0.5
        assert torch.allclose(after[name], factor * tensor, rtol=1e-6, atol=0), name


@pytest.mark.parametrize(("warmup", "expected"), [
    (0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]), (0.3, [0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4]),
    (3, [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])])
def test_the_learning_rate_warms_up_and_decays_in_a_line(
        warmup: float, expected: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    rates, step = [], torch.optim.AdamW.step

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    tiny.train(tiny.adapted(tiny.lora()), rows=tiny.splits(24), lr=0.5e-3, warmup=warmup)
    assert [list(rate) for rate in rates] == [[pytest.approx(0.5e-3 * share)] for share in expected]


# --- best and last --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "higher", "best"), [
    ([1, 3, 2], True, 2), ([3, 1, 2], False, 2), ([2, 2, 1], True, 1), ([1, 2, 2], True, 2), ([2, 1, 1], False, 2),
    ([3, 2, 1], True, 1), ([1, 2, 3], True, 3), ([-5, -3, -4], True, 2),
    ([math.nan, 1, 2], True, 3), ([1, math.nan, 0], True, 1), ([math.nan, math.nan, math.nan], True, 1),
    ([math.nan, 5, 7], False, 2), ([math.nan] * 3, False, 1)], ids=str)
def test_the_best_and_the_last_epoch_are_kept(values: list[float], higher: bool, best: int) -> None:
    made = tiny.adapted(tiny.lora())
    task = tiny.Scripted(values, higher_is_better=higher, look=lambda: trained(made.model))
    fitted = tiny.train(made, task, epochs=3)
    outcome = fitted.outcome
    assert outcome.best_epoch == best and len(outcome.curve) == len(task.seen) == 3
    assert tiny.furthest(fitted.best, task.seen[best - 1]) == tiny.furthest(fitted.last, task.seen[-1]) == 0
    assert [entry["score"] for entry in outcome.curve] == pytest.approx(values, nan_ok=True)
    assert outcome.best == pytest.approx({"score": values[best - 1]}, nan_ok=True)
    assert outcome.last == pytest.approx({"score": values[-1]}, nan_ok=True)
    assert tiny.furthest(task.seen[0], task.seen[1]) > 1e-4


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_real_tasks_learn(outputs: int) -> None:
    made, rows, task = tiny.adapted(FT, outputs=outputs), tiny.Rows(16, outputs=outputs), tiny.task(outputs)
    outcome = tiny.train(made, task, Splits(rows, {"validation": rows}), epochs=12, lr=1e-2).outcome
    assert outcome.best[task.metric] > 70 and outcome.curve[-1]["loss"] < 0.5 * outcome.curve[0]["loss"]


def test_evaluation_sees_no_dropout_and_training_does() -> None:
    modes = []

    class Watching(tiny.Scripted):
        def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
            modes.append(("step", {module.training for module in model.modules()}))
            return super().losses(model, batch, smoothing)

    made = tiny.adapted(tiny.lora(dropout=0.5), dropout=0.5)
    task = Watching(look=lambda: modes.append(("judge", {module.training for module in made.model.modules()})))
    tiny.train(made, task, tiny.splits(16))
    assert modes == [*[("step", {True})] * 2, ("judge", {False})] * 2


# --- collapse -------------------------------------------------------------------------------------------------------


def test_constant_predictions_are_noted() -> None:
    made = tiny.adapted(tiny.lora())
    with torch.no_grad():
        made.model.get_parameter("classifier.out_proj.bias")[0] += 100
    outcome = tiny.train(made, lr=1e-6).outcome
    assert [entry["constant"] for entry in outcome.curve] == [True, True]
    assert "epochs 1, 2 of 2" in outcome.notes[0] and outcome.notes[1].startswith("collapsed")


def test_a_healthy_run_has_no_notes() -> None:
    made, rows = tiny.adapted(FT), tiny.Rows(24)
    tiny.train(made, rows=Splits(rows, {"validation": rows}), epochs=5, lr=1e-2)   # it knows them by now
    outcome = tiny.train(made, rows=Splits(rows, {"validation": rows}), lr=1e-4).outcome
    assert [entry["constant"] for entry in outcome.curve] == [False, False] and list(outcome.notes) == []


@pytest.mark.parametrize("outputs", [1, 3])
def test_constant_means_the_class_for_labels_and_the_value_for_scores(outputs: int) -> None:
    predictor = Predictor(nn.Identity(), ALONE)
    rows, noise, predict = tiny.Rows(6), torch.rand(6, outputs) * 0.1, predictor.of(0)

    def step(model: nn.Module, batch: Batch) -> torch.Tensor:
        return noise if outputs == 1 else noise + torch.tensor([9.0, 0.0, 0.0])

    predict(rows, step)
    assert predict.constant() == (outputs == 3)
    predict = predictor.of(0)   # the next epoch's, which starts anew
    assert not predict.constant()
    predict(rows, lambda model, batch: torch.ones(6, outputs))
    assert predict.constant()


def test_a_prediction_is_in_the_order_of_the_split() -> None:
    predict = Predictor(nn.Identity(), ALONE).of(0)
    rows = tiny.Rows(300)   # more than one evaluation batch
    rows.labels = torch.arange(300)
    assert torch.equal(predict(rows, lambda model, batch: batch["labels"][:, None])[:, 0], torch.arange(300.0))
    assert len(rows.asked) == 3


def test_a_b_without_gradient_stops_the_run_by_its_name() -> None:
    made = tiny.adapted(tiny.lora())
    layers(made.model)[2].B["q"].register_hook(torch.zeros_like)
    with pytest.raises(RuntimeError, match=r"1 trainable .* roberta\.encoder\.layer\.1\.attention\.self\.query\.B\.q:"):
        tiny.train(made)


def test_a_run_that_is_all_warm_up_is_refused() -> None:
    """Its one step would have learning rate 0: nothing would move."""
    with pytest.raises(Refused, match="all 1 steps of this run are warm-up"):
        tiny.train(tiny.adapted(tiny.lora()), rows=tiny.splits(8), epochs=1, warmup=0.1)
    assert tiny.train(tiny.adapted(tiny.lora()), rows=tiny.splits(8), epochs=1, warmup=0).outcome.steps == 1


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match="in epoch 1"):
        tiny.train(tiny.adapted(FT), lr=1e38, warmup=0)
    made = tiny.adapted(tiny.lora())
    with torch.no_grad():
        made.model.get_parameter("roberta.embeddings.word_embeddings.weight")[:, 0] = math.nan
    with pytest.raises(FloatingPointError, match="nan in epoch 1"):
        tiny.train(made)


# --- numbers and state ----------------------------------------------------------------------------------------------


def test_tokens_per_second_counts_real_tokens_by_the_time_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def ticking() -> Iterator[float]:
        yield from (float(second) for second in range(1000))

    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=ticking().__next__))   # each look takes a second
    rows = tiny.splits(21)
    outcome = tiny.train(tiny.adapted(tiny.lora()), rows=rows, epochs=3, micro=3).outcome
    real = rows.train.batch(range(21))["attention_mask"]
    assert real.sum() < real.numel()
    assert outcome.tokens_per_second == real.sum().item()   # an epoch is one second
    assert outcome.seconds == 7 and outcome.steps == 9


def test_the_report_and_the_curve_say_the_same() -> None:
    told: list[dict[str, Any]] = []
    asked = Asked(tiny.adapted(tiny.lora()), tiny.recipe(epochs=3), 0, told.append)
    fitted = tiny.alone(train.fit([asked], tiny.Scripted(), tiny.splits(), tiny.CPU, None))
    assert told == list(fitted.outcome.curve)
    assert [(entry["epoch"], entry["step"], entry["score"]) for entry in told] == [(1, 3, 1), (2, 6, 2), (3, 9, 3)]


@METHODS
def test_a_run_in_bf16_leaves_nothing_behind_for_one_in_fp32(method: Any) -> None:
    alone = tiny.train(tiny.adapted(method))
    half = tiny.adapted(method)
    fitted = tiny.train(half, precision="bf16")
    assert same(tiny.train(tiny.adapted(method)), alone)
    assert not same(fitted, alone)   # autocast was really on
    assert 0 < tiny.furthest(fitted.last, alone.last) < 0.1
    assert {tensor.dtype for tensor in fitted.last.values()} == {torch.float32}
    again, once = tiny.train(half, precision="bf16"), tiny.adapted(method)
    once.model.load_state_dict(tiny.state(half.model) | fitted.last)
    assert same(tiny.train(once, precision="bf16"), again)   # and on again for another run of the same model
    fresh = tiny.adapted(method)
    fresh.model.load_state_dict(half.model.state_dict())
    batch = tiny.Rows(9).batch(range(9))
    assert torch.equal(tiny.logits(half.model.eval(), batch), tiny.logits(fresh.model.eval(), batch))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_model_has_its_own_forward_again_after_training(precision: str) -> None:
    made = tiny.adapted(tiny.lora())
    tiny.train(made, precision=precision)
    assert made.model.forward.__func__ is type(made.model).forward
    assert isinstance(made.model(torch.tensor([[5, 6]]), return_dict=False), tuple)
