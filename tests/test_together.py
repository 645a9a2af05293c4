"""Several runs at once come to what each would have come to alone: weights, best epoch, predictions, checkpoints."""

from __future__ import annotations

import functools
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate import Accelerator
from test_completions import PAIRS, tokenizer  # noqa: F401  (a fixture)
from test_completions import base as decoder
from test_completions import task as texts
from test_resume import At
from torch import nn

from engine import train
from engine.backbone import Backbone
from engine.checkpoint import Checkpoints
from engine.contract import Batch, Elsewhere, Method, Numbers, Predict, Refused, Split, Splits, Stopped, generator
from engine.member import Asked, Member
from engine.stop import Stop
from engine.together import Together, share
from engine.train import Fitted
from tasks.completions import Completions

FOUR = ("lora", "adapter-h", "bitfit", "prelayer")
METHODS: dict[str, Method] = {**tiny.methods(), "lora": tiny.lora(dropout=0.2)}
SEEDS = (0, 1, 2)
# 2 epochs of 5 steps (40 - 1 examples in batches of 8), with all that a run has for itself
HARD: dict[str, Any] = {"epochs": 2, "clip": 0.5, "weight_decay": 0.1, "warmup": 0.2, "label_smoothing": 0.1,
                        "eps": tiny.CALM, "lr": 1e-2}


class Judged(tiny.Scripted):
    """The real loss, the share of right predictions, and all predictions as they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.predicted: list[list[int]] = []

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
        rows: Any = validation["validation"]
        found = predict(rows, tiny.logits).argmax(-1)
        self.predicted.append(found.tolist())
        return {"score": 100 * (found == rows.labels).float().mean().item()}


def made(method: Method, kind: str, seed: int) -> Backbone:
    """A run's model: adapter and head of its seed, dropout on, on the base that all runs have."""
    backbone = tiny.adapted(method, kind, seed=seed, dropout=0.1)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(seed, name)))
    return backbone


def splits(method: Method, kind: str = "roberta") -> Splits:
    special = tiny.backbone(kind).special(method.tokens) if any(method.tokens) else tiny.NONE
    return Splits(tiny.Rows(39, special=special), {"validation": tiny.Rows(31, 1, special=special)})


def asked(method: Method, seeds: Sequence[int] = SEEDS, kind: str = "roberta", folder: Path | None = None,
          stop: Stop | None = None, each: Sequence[Mapping[str, Any]] = (), **changes: Any) -> list[Asked]:
    """The runs of these seeds; each: what the recipe of one has for itself."""
    own = [HARD | changes | dict(one) for one in each or [{}] * len(seeds)]
    points = [None if folder is None else Checkpoints(folder / str(seed), "digest", 1e9, "abc") for seed in seeds]
    return [Asked(made(method, kind, seed), tiny.recipe(**one), seed, lambda _: None, point, stop)
            for seed, one, point in zip(seeds, own, points, strict=True)]


def fitted(results: Sequence[Fitted | Exception]) -> list[Fitted]:
    for result in results:
        if isinstance(result, Exception):
            raise result
    return list(results)  # type: ignore[arg-type]


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """How far two sets of tensors are from each other, relative to their size."""
    assert one.keys() == other.keys()
    mine, theirs = (torch.cat([each[name].flatten().double() for name in one]) for each in (one, other))
    return ((mine - theirs).norm() / theirs.norm()).item()


def alike(ones: Sequence[Fitted], others: Sequence[Fitted], within: float = 1e-6) -> None:
    for one, other in zip(ones, others, strict=True):
        assert one.outcome.best_epoch == other.outcome.best_epoch and one.outcome.steps == other.outcome.steps
        assert apart(one.best, other.best) < within and apart(one.last, other.last) < within
        for mine, theirs in zip(one.outcome.curve, other.outcome.curve, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=10 * within)
            assert {**mine, "loss": 0} == {**theirs, "loss": 0}


@functools.cache
def apiece() -> list[Fitted]:
    """The three runs of LoRA, each alone."""
    return alone(asked(METHODS["lora"]), splits(METHODS["lora"]))[0]


def alone(runs: Sequence[Asked], rows: Splits, micro: int | None = None) -> tuple[list[Fitted], list[list[list[int]]]]:
    """Each by itself; with what each predicted, epoch by epoch."""
    results, predictions = [], []
    for run in runs:
        task = Judged()
        results += fitted(train.fit([run], task, rows, tiny.CPU, micro))
        predictions.append(task.predicted)
    return results, predictions


# --- the claim ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [
    *((name, kind) for kind in ("roberta", "gpt2") for name in FOUR), ("lora", "mpnet"), ("lora", "llama"),
    ("ft-top2", "llama"), ("adapter-h", "llama")])   # Llama's RMSNorms train in the top layers
def test_three_runs_at_once_are_three_runs(name: str, kind: str) -> None:
    """30 steps with dropout: weights to 1e-6, the same best epoch, the same predictions at every epoch."""
    method, rows = METHODS[name], splits(METHODS[name], kind)
    by_itself, predictions = alone(asked(method, kind=kind, epochs=6), rows)
    task = Judged()
    at_once = fitted(train.fit(asked(method, kind=kind, epochs=6), task, rows, tiny.CPU, None))
    alike(at_once, by_itself)
    assert [task.predicted[run::3] for run in range(3)] == predictions
    assert at_once[0].outcome.steps == 30 and [one.outcome.together for one in at_once] == [3, 3, 3]
    assert min(apart(at_once[0].last, at_once[run].last) for run in (1, 2)) > 0.1   # and they are three
    assert len({tuple(map(tuple, each)) for each in predictions}) == 3


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {*FOUR, "ft"}))
def test_so_are_those_of_every_other_method(name: str) -> None:
    method, rows = METHODS[name], splits(METHODS[name])
    alike(fitted(train.fit(asked(method, clip=None), Judged(), rows, tiny.CPU, None)),
          alone(asked(method, clip=None), rows)[0])


@pytest.mark.parametrize(("averaging", "kind"), [("tokens", "gpt2"), ("examples", "gpt2"), ("tokens", "llama")])
def test_texts_too(tokenizer: Any, averaging: str, kind: str) -> None:  # noqa: F811
    """A decoder learning completions, padded on the left, the loss over all tokens of a run's batch."""
    rows = Completions(PAIRS * 3, tokenizer, 40, tiny.NONE, averaging)
    both = Splits(rows, {"validation": rows})
    settings = HARD | {"batch": 4, "averaging": averaging}

    def runs() -> list[Asked]:
        backbones = [decoder(tokenizer, kind) for _ in SEEDS]
        for seed, backbone in zip(SEEDS, backbones, strict=True):
            METHODS["lora"].apply(backbone, generator(seed, "adapter"))
        return [Asked(backbone, tiny.recipe(**settings), seed, lambda _: None)
                for seed, backbone in zip(SEEDS, backbones, strict=True)]

    at_once = fitted(train.fit(runs(), texts(), both, tiny.CPU, None))
    for one, run in zip(at_once, runs(), strict=True):
        (other,) = fitted(train.fit([run], texts(), both, tiny.CPU, None))
        assert apart(one.last, other.last) < 1e-6 and one.outcome.best_epoch == other.outcome.best_epoch
        assert one.outcome.best["val_loss"] == pytest.approx(other.outcome.best["val_loss"], rel=1e-6)


@pytest.mark.parametrize("changes", [{"batching": "grouped"}, {"clip": None, "decay_on": "all"},
                                     {"schedule": "cosine", "warmup": 3}], ids=str)
def test_whatever_the_recipe(changes: dict[str, Any]) -> None:
    method, rows = METHODS["lora"], splits(METHODS["lora"])
    alike(fitted(train.fit(asked(method, **changes), Judged(), rows, tiny.CPU, None)),
          alone(asked(method, **changes), rows)[0])


def test_in_micro_batches() -> None:
    method, rows = METHODS["lora"], splits(METHODS["lora"])
    alike(fitted(train.fit(asked(method), Judged(), rows, tiny.CPU, 3)), alone(asked(method), rows, micro=3)[0])


def test_micro_batches_are_of_similar_length_and_so_padded_less() -> None:
    """A step is the same whatever the order of its examples; what is dropped is drawn in this order."""
    def padded(micro: int | None) -> int:
        rows = splits(METHODS["lora"])
        train.fit(asked(METHODS["lora"]), Judged(), rows, tiny.CPU, micro)
        return sum(len(batch) * max(rows.train.lengths[i] for i in batch)
                   for batch in rows.train.asked)   # type: ignore[attr-defined]

    assert padded(2) < 0.85 * padded(None)


def test_in_bf16_up_to_its_rounding() -> None:
    method, rows, changes = METHODS["lora"], splits(METHODS["lora"]), {"precision": "bf16", "epochs": 1}
    one, other = fitted(train.fit(asked(method, **changes), Judged(), rows, tiny.CPU, None)), alone(
        asked(method, **changes), rows)[0]
    assert all(0 < apart(a.last, b.last) < 0.02 < apart(a.last, one[1].last) for a, b in zip(one[::2], other[::2],
                                                                                             strict=True))


def test_each_has_its_own_learning_rate_schedule_decay_and_clipping() -> None:
    method, rows = METHODS["lora"], splits(METHODS["lora"])
    each = [{"lr": 1e-2}, {"lr": 1e-3, "weight_decay": 0.0, "warmup": 0}, {"clip": 0.01, "schedule": "cosine"}]
    alike(fitted(train.fit(asked(method, (0, 0, 0), each=each), Judged(), rows, tiny.CPU, None)),
          alone(asked(method, (0, 0, 0), each=each), rows)[0])


def test_ranks_are_padded_and_alphas_kept() -> None:
    """r = 1, 4, 2 with different alphas; nothing of the padding is in what comes out."""
    rows, settings = splits(METHODS["lora"]), ({"r": 1, "alpha": 8}, {"r": 4, "alpha": 2}, {"r": 2, "alpha": 32})

    def runs() -> list[Asked]:
        return [Asked(made(tiny.lora(dropout=0.2, **one), "roberta", seed), tiny.recipe(**HARD), seed, lambda _: None)
                for seed, one in enumerate(settings)]

    at_once = fitted(train.fit(runs(), Judged(), rows, tiny.CPU, None))
    alike(at_once, alone(runs(), rows)[0])
    assert [one.last["roberta.encoder.layer.0.attention.self.query.A.q"].shape[0] for one in at_once] == [1, 4, 2]


@pytest.mark.parametrize(("kind", "longest"), [("roberta", 12), ("llama", 12), ("llama", 3)])
def test_with_fused_attention_too(kind: str, longest: int) -> None:
    """Without padding there is no mask, and the kernel itself gives several of Llama's queries one key."""
    method = METHODS["lora"]
    rows = Splits(tiny.Rows(39, longest=longest), {"validation": tiny.Rows(31, 1, longest=longest)})

    def runs() -> list[Asked]:
        found = asked(method, kind=kind)
        for run in found:
            run.backbone.model.config._attn_implementation = "sdpa"
        return found

    alike(fitted(train.fit(runs(), Judged(), rows, tiny.CPU, None)), alone(runs(), rows)[0])


# --- one of them ----------------------------------------------------------------------------------------------------


def test_one_that_breaks_is_out_and_the_others_are_what_they_would_be() -> None:
    method, rows = METHODS["lora"], splits(METHODS["lora"])
    runs = asked(method, each=[{"lr": 1e30}, {}, {}])
    broken, *others = train.fit(runs, Judged(), rows, tiny.CPU, None)
    assert isinstance(broken, FloatingPointError) and "epoch 1" in str(broken)
    alike(fitted(others), apiece()[1:])


def test_one_whose_cell_was_taken_over_is_out(tmp_path: Path) -> None:
    method, rows, stops = METHODS["lora"], splits(METHODS["lora"]), [Stop(), Stop(), Stop()]
    runs = [Asked(run.backbone, run.recipe, run.seed, run.report, run.checkpoints, stop)
            for run, stop in zip(asked(method, folder=tmp_path), stops, strict=True)]
    calls: list[int] = []
    stops[1].lost = lambda: "host b has it" if calls.append(1) or len(calls) > 7 else None   # type: ignore[func-returns-value]
    first, lost, last = train.fit(runs, Judged(), rows, tiny.CPU, None)
    assert isinstance(lost, Elsewhere) and str(lost) == "host b has it"
    alike(fitted([first, last]), apiece()[::2])


def test_too_little_memory_halves_them(capsys: pytest.CaptureFixture[str]) -> None:
    class Small(Judged):
        def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
            if len(batch["labels"]) > 16:
                raise torch.OutOfMemoryError("no")
            return super().losses(model, batch, smoothing)

    method, rows = METHODS["bitfit"], splits(METHODS["bitfit"])
    at_once = fitted(train.fit(asked(method, (0, 1, 2, 3)), Small(), rows, tiny.CPU, None))
    alike(at_once, alone(asked(method, (0, 1, 2, 3)), rows)[0])
    assert [one.outcome.together for one in at_once] == [2, 2, 2, 2]
    assert "too little memory for 4 at once" in capsys.readouterr().err
    assert isinstance(train.fit(asked(method, (0,), batch=32), Small(), rows, tiny.CPU, None)[0],
                      torch.OutOfMemoryError)


@pytest.mark.parametrize("where", ["backward", "step"])
def test_nothing_stays_of_a_step_that_lacked_memory(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a later micro-batch, all having drawn; or when the first run's optimiser had its turn."""
    method, rows, looks = METHODS["lora"], splits(METHODS["lora"]), [0]
    owner, name = (Accelerator, "backward") if where == "backward" else (Member, "step")
    real = getattr(owner, name)

    def fails(*given: Any, **more: Any) -> Any:
        looks[0] += 1
        if looks[0] == 8:
            raise torch.OutOfMemoryError("no")
        return real(*given, **more)

    monkeypatch.setattr(owner, name, fails)
    at_once = fitted(train.fit(asked(method), Judged(), rows, tiny.CPU, 3))
    monkeypatch.setattr(owner, name, real)
    alike(at_once, alone(asked(method), rows, micro=3)[0])
    assert looks[0] > 8


def test_what_cannot_begin_leaves_the_others() -> None:
    method, rows = METHODS["lora"], splits(METHODS["lora"])
    runs = asked(method, each=[{"warmup": 99}, {}, {}])
    refused, *others = train.fit(runs, Judged(), rows, tiny.CPU, None)
    assert isinstance(refused, Refused) and "warmup=99" in str(refused)
    alike(fitted(others), apiece()[1:])


def test_at_most_so_many_at_once() -> None:
    method, rows = METHODS["bitfit"], splits(METHODS["bitfit"])
    at_once = fitted(train.fit(asked(method), Judged(), rows, tiny.CPU, None, 2))
    alike(at_once, alone(asked(method), rows)[0])
    assert [one.outcome.together for one in at_once] == [2, 2, 1]


# --- stopped and taken up -------------------------------------------------------------------------------------------


class Looking(Judged):
    """A signal comes at the stop's look: before a step, or (evaluation) in the middle of an evaluation."""

    def __init__(self, stop: At, evaluation: bool = False) -> None:
        super().__init__()
        self.stop, self.evaluation = stop, evaluation

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        if not self.evaluation:
            self.stop.look()
        return super().losses(model, batch, smoothing)

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
        if self.evaluation:
            self.stop.look()
        return super().evaluate(predict, validation)


@pytest.mark.parametrize(("look", "evaluation"), [(1, False), (7, False), (10, False), (1, True), (5, True)])
@pytest.mark.parametrize("later", ["at once", "alone"])
def test_stopped_they_go_on_at_once_or_alone(look: int, evaluation: bool, later: str, tmp_path: Path) -> None:
    method, rows = METHODS["lora"], splits(METHODS["lora"])
    stop = At(look)
    with pytest.raises(Stopped):
        train.fit(asked(method, folder=tmp_path, stop=stop), Looking(stop, evaluation), rows, tiny.CPU, None)
    assert all(list((tmp_path / str(seed)).glob("step-*.json")) for seed in SEEDS)
    runs = asked(method, folder=tmp_path)
    results = (fitted(train.fit(runs, Judged(), rows, tiny.CPU, None)) if later == "at once" else
               [one for run in runs for one in fitted(train.fit([run], Judged(), rows, tiny.CPU, None))])
    alike(results, apiece())
    assert [one.outcome.resumed for one in results] == [1, 1, 1]


def test_what_was_left_alone_goes_on_at_once_with_others_from_another_place(tmp_path: Path) -> None:
    """One was stopped in its second epoch, one never began: they train behind each other, and come to the same."""
    method, rows, stop = METHODS["lora"], splits(METHODS["lora"]), At(8)
    with pytest.raises(Stopped):
        train.fit(asked(method, (1,), folder=tmp_path, stop=stop), Looking(stop), rows, tiny.CPU, None)
    results = fitted(train.fit(asked(method, folder=tmp_path), Judged(), rows, tiny.CPU, None))
    alike(results, apiece())
    assert [one.outcome.resumed for one in results] == [0, 1, 0]
    assert [one.outcome.together for one in results] == [2, 1, 2]


def test_a_second_signal_within_the_evaluation_finds_all_saved(tmp_path: Path) -> None:
    method, rows, stop = METHODS["lora"], splits(METHODS["lora"]), At(2)
    with pytest.raises(Stopped) as left:
        train.fit(asked(method, folder=tmp_path, stop=stop), Looking(stop, evaluation=True), rows, tiny.CPU, None)
    assert "all is saved" in str(left.value) and stop.seen == [signal.SIGTERM]


# --- what is shared and what is not ---------------------------------------------------------------------------------


def test_the_frozen_weights_are_there_once_and_stay() -> None:
    runs = asked(METHODS["lora"])
    before = tiny.state(runs[0].backbone.model)
    train.fit(runs, Judged(), splits(METHODS["lora"]), tiny.CPU, None)
    first, other = (dict(run.backbone.model.named_parameters()) for run in runs[:2])
    for name, parameter in first.items():
        assert (parameter.data_ptr() == other[name].data_ptr()) != parameter.requires_grad
        assert parameter.requires_grad or torch.equal(parameter, before[name])


def test_they_are_judged_in_one_pass() -> None:
    passes: list[int] = []

    class Counting(Judged):
        def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
            split = validation["validation"]
            predict(split, step)
            predict(split, step)   # asked for again, it is not computed again
            return super().evaluate(predict, validation)

    def step(model: nn.Module, batch: Batch) -> torch.Tensor:
        passes.append(len(batch["labels"]))
        return tiny.logits(model, batch)

    train.fit(asked(METHODS["lora"]), Counting(), splits(METHODS["lora"]), tiny.CPU, None)
    assert sum(passes) == 2 * 3 * 31 and len(passes) == 2


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    train.fit(asked(METHODS["lora"], epochs=1), Judged(), splits(METHODS["lora"]), tiny.CPU, None)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["lora", "bitfit"])
def test_what_has_no_batch_axis_is_refused_and_not_computed_wrongly(name: str) -> None:
    """DeBERTa's relative positions; an embedding that is looked up once for all examples."""
    runs = asked(METHODS[name], kind="deberta")
    with pytest.raises(NotImplementedError, match="several runs|trained parameter|embedding"):
        train.fit(runs, Judged(), splits(METHODS[name], "deberta"), tiny.CPU, None)


ODD = {"sub": lambda x, weight: x - weight, "mul": lambda x, weight: weight * x[..., :1],
       "cat": lambda x, weight: torch.cat([x[0], weight]),
       "matmul": lambda x, weight: torch.matmul(x, other=weight),
       "__get__": lambda x, weight: x @ weight.T}


@pytest.mark.parametrize("name", ODD)
def test_an_operation_on_a_trained_parameter_that_is_not_known_is_refused(name: str) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    models = [Odd(), Odd()]
    share(models[0], models[1])
    together = Together(models[0], models, [])
    with together.batch({"attention_mask": torch.ones(2, 3)}), pytest.raises(NotImplementedError, match=name):
        ODD[name](torch.ones(2, 4), models[0].weight)


