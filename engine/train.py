"""fit(): the one loop. Read it from top to bottom and you know what a run does."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from engine import batches, health
from engine.backbone import Backbone
from engine.checkpoint import Checkpoints
from engine.contract import Numbers, Refused, Splits, Task, generator
from engine.device import move, peak_bytes
from engine.predict import Predictor
from engine.progress import Progress
from engine.resume import Guard, highest
from engine.spec import Recipe
from engine.stop import Stop
from engine.weights import Tensors, trained

Report = Callable[[dict[str, Any]], None]
OWN = ("epoch", "step", "loss", "constant")  # what the loop puts into an entry of the curve beside the task's numbers
HALVES = ("_half1", "_half2")  # how a task's numbers end that are for the curve alone: a half of the validation set


@dataclass(frozen=True)
class Outcome:
    """What training gave. curve: one entry an epoch; notes: what the collapse detector saw."""

    best: Numbers
    last: Numbers
    best_epoch: int
    steps: int
    seconds: float  # training and evaluation, without start-up, over all pieces of a run that was interrupted
    tokens_per_second: float  # real tokens (no padding) by the time of the training steps alone
    peak_bytes: int | None  # most memory: allocated on the GPU, else the process's resident set
    curve: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    resumed: int  # how often it was left and taken up; records of before have no such field


@dataclass(frozen=True)
class Fitted:
    """What fit hands back: the numbers, the trained tensors of the best and of the last epoch, and when it began."""

    outcome: Outcome
    best: Tensors
    last: Tensors
    started: str


def fit(backbone: Backbone, task: Task, splits: Splits, recipe: Recipe, seed: int, device: torch.device,
        micro: int | None, report: Report, checkpoints: Checkpoints | None = None, stop: Stop | None = None,
        tell: Report | None = None) -> Fitted:
    """Trains what has requires_grad, judges it on the validation sets after every epoch, keeps the best and the last.

    recipe.precision must be resolved (no auto). micro: most examples on a device at once. report gets the numbers as
    they come. Goes on at the last of checkpoints, to the bit what it would have been, and leaves new ones; tell hears
    now and then how far it is. Raises FloatingPointError when the loss is not finite, RuntimeError when a weight stays
    at zero, Stopped when stop was asked, Elsewhere when it lost the cell.
    """
    accelerator, stop = _accelerator(device, recipe.precision), stop or Stop()
    rank, world, main = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    torch.manual_seed(generator(seed, "dropout").initial_seed() + rank)  # the one place that sets global random state
    order = generator(seed, "order")
    epoch_steps = math.ceil(len(splits.train) / recipe.batch)
    steps = recipe.epochs * epoch_steps
    warm = math.ceil(steps * recipe.warmup) if recipe.warmup < 1 else int(recipe.warmup)
    if warm >= steps:
        raise Refused(f"warmup={recipe.warmup}: all {steps} steps of this run are warm-up, so it would learn nothing; "
                      "set a smaller batch, more epochs or warmup=0")
    zeros = health.zeros(backbone.model)
    model = accelerator.prepare(backbone.model)
    optimiser = accelerator.prepare(_optimiser(backbone.model, recipe))
    scheduler = get_scheduler(recipe.schedule, optimiser.optimizer, warm, steps)
    predict = Predictor(backbone.model, accelerator, stop)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    at = Progress(total=torch.zeros((), device=device), order=order.get_state(),
                  codes=[checkpoints.code if checkpoints else None])
    guard = Guard(accelerator, backbone.model, optimiser, scheduler, order, at, steps, recipe.epochs, checkpoints, stop,
                  tell if main else None)
    guard.resume(_say if main else lambda _: None)
    for entry in at.curve:
        report(entry)
    at.running.start()
    with _bar(steps, at.step, task.name, main) as bar:
        for epoch in range(at.epoch, recipe.epochs + 1):
            model.train()
            at.training.start()
            for examples in batches.order(splits.train.lengths, recipe.batch, recipe.batching, order)[at.done:]:
                parts = list(batches.shares(examples, rank, world, micro, splits.train.weight))
                for number, (indices, share) in enumerate(parts):
                    batch = move(splits.train.batch(indices), device)
                    with contextlib.nullcontext() if number == len(parts) - 1 else accelerator.no_sync(model):
                        loss = task.losses(model, batch, recipe.label_smoothing).sum() * share
                        accelerator.backward(loss * world)  # DDP takes the mean over devices; the shares sum to one
                    at.total += loss.detach()  # read at the end of the epoch, so that the device never waits
                if recipe.clip is not None:
                    accelerator.clip_grad_norm_(_trainable(backbone.model), recipe.clip)
                optimiser.step()
                optimiser.zero_grad()
                if not accelerator.optimizer_step_was_skipped:  # fp16 skips a step whose gradients overflowed
                    scheduler.step()
                at.stepped(sum(splits.train.lengths[i] for i in examples))
                bar.update()
                if at.step % 100 == 0:  # rarely, since the device has to finish first
                    bar.set_postfix(loss=f"{health.finite(at.total, epoch) / at.done:.3f}")
                if at.step == min(warm + 10, steps):
                    health.check_moved(backbone.model, zeros, at.step)
                guard.after_step()
            mean = health.finite(accelerator.reduce(at.total), epoch) / epoch_steps
            at.training.stop()

            model.eval()
            with guard.evaluation():
                numbers = task.evaluate(predict, splits.validation)
            value = numbers[task.criterion]
            entry = {"epoch": epoch, "step": at.step, "loss": mean, **numbers, "constant": predict.constant()}
            report(entry)
            if main:
                bar.write(f"epoch {epoch}/{recipe.epochs}: training loss {mean:.4f}, "
                          f"{task.criterion} {value:.{2 if task.higher_is_better else 4}f}"
                          + (" (every prediction is the same)" if entry["constant"] else ""), file=sys.stderr)
            at.judged(entry, value if task.higher_is_better else -value, backbone.model, order)
            guard.after_epoch()
    at.running.stop()
    for name in ("forward", "_original_forward"):  # accelerate's, around the model's own
        vars(backbone.model).pop(name, None)
    return _fitted(at, backbone.model, device)


def _fitted(at: Progress, model: nn.Module, device: torch.device) -> Fitted:
    """What a run that is through hands back."""
    metrics = [{key: number for key, number in entry.items() if key not in OWN and not key.endswith(HALVES)}
               for entry in at.curve]
    outcome = Outcome(metrics[at.best_epoch - 1], metrics[-1], at.best_epoch, at.step, at.running.total,
                      at.tokens / at.training.total, highest(at.peak, peak_bytes(device)), at.curve,
                      [*health.notes(at.curve, at.best_epoch), *_pieces(at.codes)], at.resumed)
    last = at.best_weights if at.best_epoch == len(at.curve) else trained(model)
    return Fitted(outcome, at.best_weights, last, at.started)


def _pieces(codes: Sequence[str | None]) -> list[str]:
    """A note where more than one state of the code trained a run."""
    return [f"trained in pieces by commits {', '.join(code or 'unknown' for code in codes)}"] if codes[1:] else []


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """A fresh accelerator: accelerate keeps one a process, but runs of one sweep may differ in device and precision."""
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    once = GradientAccumulationPlugin(num_steps=1)  # else an environment variable could divide our losses
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision,
                       gradient_accumulation_plugin=once)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _bar(steps: int, done: int, name: str, shown: bool) -> tqdm:
    """The progress bar: redrawn often on a terminal, now and then in a log file."""
    return tqdm(total=steps, initial=done, desc=name, unit="step", disable=not shown,
                mininterval=0.5 if sys.stderr.isatty() else 20)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over what trains. decay_on=matrices leaves biases and LayerNorms undecayed, as the official Trainer."""
    decayed = [p for p in _trainable(model) if recipe.decay_on == "all" or p.ndim > 1]
    others = [p for p in _trainable(model) if recipe.decay_on != "all" and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, betas=betas, eps=recipe.eps, fused=True)
