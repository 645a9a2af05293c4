"""Row (d): several runs at once on one frozen base against the same runs in turn, through engine/train.py itself."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import shapes, ways
from benchmarks.bench import Bench, Cells, Table, ratio, same, spread
from benchmarks.rows import step
from engine import train
from engine.backbone import Backbone
from engine.contract import Batch, Numbers, Predict, Split, Splits, generator
from engine.member import Asked
from engine.spec import Recipe
from lora.method import LoRA

LETTER, TITLE = "d", "Runs at once, and in turn"
MODEL, RUNS = "roberta-base", (1, 2, 5, 10)
SHAPES = ((4, 24), (16, 32), (16, 64))  # batch of one run x length; the last one on a GPU alone
STEPS = {"cpu": 3, "cuda": 10}
ALIKE = 1e-4  # of a run's mean training loss, float32


class Random(Split):
    """Examples of random ids, all of one length."""

    def __init__(self, made: Backbone, count: int, length: int) -> None:
        self.all = shapes.batch(MODEL, made, count, length, torch.device("cpu"))
        self.lengths = [length] * count

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These examples."""
        picked = torch.tensor(indices)
        return {name: tensor[picked] for name, tensor in self.all.items()}

    def weight(self, indices: Sequence[int]) -> float:
        """Their number."""
        return len(indices)


class Training:
    """A task of training alone: nothing is judged, so that the steps are what is timed."""

    name, metric, criterion, higher_is_better, version, outputs = "steps", "score", "score", True, 1, 2

    def losses(self, model: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        """Cross-entropy of each example (n,)."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return F.cross_entropy(logits, batch["labels"], reduction="none", label_smoothing=smoothing)

    def evaluate(self, predict: Predict, validation: Mapping[str, Split]) -> Numbers:
        """No number that means anything."""
        return {"score": 0.0}


def run(bench: Bench) -> list[Table]:
    """Milliseconds of a step of all runs, at once and in turn."""
    agree(bench)
    count = shapes.layers(MODEL, bench.cuda, bench.quick)
    base = shapes.base(MODEL, count, bench.device, bench.quick)
    rows: list[Cells] = []
    for size, length in step.TOYS if bench.quick else SHAPES if bench.cuda else SHAPES[:2]:
        for precision in bench.precisions():
            rows += [{"model": MODEL, "layers": count, "batch": size, "length": length, "precision": precision} | cells
                     for cells in _cell(bench, base, size, length, precision)]
    return [Table("together", rows, [
        f"a step of every run, LoRA r={ways.R} on q and v, dropout {shapes.DROPOUT}, each run with its own data order, "
        "dropout, optimiser and head; `batch` is one run's; `ratio`: in turn over at once",
        "in turn: as many times one run alone, which is timed in the same rounds; training steps alone, without "
        "loading, evaluation or start-up, which several runs share as well",
        "before the clock starts, two runs at once are shown to have the losses that they have alone (float32)"])]


def agree(bench: Bench) -> None:
    """Raises Unequal unless two runs at once have the losses that each has alone (no dropout: torch's fused attention
    draws other numbers)."""
    base = shapes.base(MODEL, 1, bench.device, True, dropout=0.0)
    asked = [runs_of(base, 2, "fp32", 2, 8) for _ in range(2)]
    joint = [_loss(each) for each in fitted(asked[0], base, 2, 8, 4, bench.device)]
    alone = [_loss(fitted([each], base, 2, 8, 4, bench.device)[0]) for each in asked[1]]
    same("losses of runs at once", torch.tensor(alone), torch.tensor(joint), ALIKE)


def _loss(found: train.Fitted) -> float:
    return float(found.outcome.curve[-1]["loss"])


def runs_of(base: Backbone, count: int, precision: str, size: int, length: int) -> list[Asked]:
    """So many runs that differ in their seed, on one frozen base."""
    recipe = Recipe(lr=5e-4, epochs=1, batch=size, length=length, warmup=0, schedule="linear", weight_decay=0.1,
                    decay_on="matrices", betas=(0.9, 0.999), eps=1e-6, clip=None, label_smoothing=0.0, dropout=None,
                    cls_dropout=None, precision=precision, batching="shuffle", averaging=None)
    made = []
    for seed in range(count):
        own = shapes.copied(base, own=False)
        LoRA("lora", "LoRA", ways.R, ways.ALPHA, ways.TARGETS, 0.0, "gaussian", 0.02).apply(
            own, generator(seed, "adapter"))
        own.model.to(base.model.device)  # type: ignore[arg-type]
        made.append(Asked(own, recipe, seed, lambda numbers: None))
    return made


def fitted(runs: Sequence[Asked], base: Backbone, size: int, length: int, steps: int,
           device: torch.device) -> list[train.Fitted]:
    """Trains these runs at once, in silence."""
    data = Random(base, size * steps, length)
    task: Any = Training()
    with contextlib.redirect_stderr(io.StringIO()):
        found = train.fit(runs, task, Splits(data, {"validation": data}), device, None)
    for each in found:
        if isinstance(each, Exception):
            raise each
    return [each for each in found if isinstance(each, train.Fitted)]


def _cell(bench: Bench, base: Backbone, size: int, length: int, precision: str) -> list[Cells]:
    steps = 2 if bench.quick else STEPS[bench.device.type]
    counts = (1, 2) if bench.quick else RUNS
    took: dict[int, list[float]] = {count: [] for count in counts}

    def call(count: int) -> None:
        runs = runs_of(base, count, precision, size, length)  # anew: each model is trained by one fit() alone
        outcome = fitted(runs, base, size, length, steps, bench.device)[0].outcome
        took[count].append(1000 * size * length / outcome.tokens_per_second)  # of a step: the loop's own clock

    bench.measure(f"together {size}x{length} {precision}", [partial(call, count) for count in counts])
    times = {count: each[-bench.rounds:] for count, each in took.items()}
    lines = []
    for count in counts:
        turn = [count * each for each in times[1]]
        lines.append({"runs": count, **spread(times[count], "ms_together"), "ms_in_turn": spread(turn)["ms"],
                      **ratio(turn, times[count])})
    return lines
