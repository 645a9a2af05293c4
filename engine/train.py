"""fit(): the one loop. Read it from top to bottom and you know what a run does."""

from __future__ import annotations

import contextlib
import math
import sys
import time
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

from engine import batches
from engine.backbone import Backbone
from engine.contract import Numbers, Refused, Splits, Task, generator
from engine.device import move, peak_bytes
from engine.predict import Predictor
from engine.spec import Recipe
from engine.weights import Tensors, trained

Report = Callable[[dict[str, Any]], None]
HALVES = ("_half1", "_half2")  # how a task's numbers end that are for the curve alone: a half of the validation set


@dataclass(frozen=True)
class Outcome:
    """What training gave. curve: one entry an epoch; notes: what the collapse detector saw."""

    best: Numbers
    last: Numbers
    best_epoch: int
    steps: int
    seconds: float  # training and evaluation, without start-up
    tokens_per_second: float  # real tokens (no padding) by the time of the training steps alone
    peak_bytes: int | None  # most memory: allocated on the GPU, else the process's resident set
    curve: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Fitted:
    """What fit hands back: the numbers, and the trained tensors of the best and of the last epoch."""

    outcome: Outcome
    best: Tensors
    last: Tensors


def fit(backbone: Backbone, task: Task, splits: Splits, recipe: Recipe, seed: int, device: torch.device,
        micro: int | None, report: Report) -> Fitted:
    """Trains what has requires_grad, judges it on the validation sets after every epoch, keeps the best and the last.

    recipe.precision must be resolved (no auto). micro: most examples on a device at once. report gets the numbers as
    they come. Raises FloatingPointError when the loss is not finite, RuntimeError when a weight stays at zero.
    """
    accelerator = _accelerator(device, recipe.precision)
    rank, world = accelerator.process_index, accelerator.num_processes
    torch.manual_seed(generator(seed, "dropout").initial_seed() + rank)  # the one place that sets global random state
    order = generator(seed, "order")
    epoch_steps = math.ceil(len(splits.train) / recipe.batch)
    steps = recipe.epochs * epoch_steps
    warm = math.ceil(steps * recipe.warmup) if recipe.warmup < 1 else int(recipe.warmup)
    if warm >= steps:
        raise Refused(f"warmup={recipe.warmup}: all {steps} steps of this run are warm-up, so it would learn nothing; "
                      "set a smaller batch, more epochs or warmup=0")
    zeros = [name for name, p in backbone.model.named_parameters() if p.requires_grad and p.ndim > 1 and not p.any()]
    model = accelerator.prepare(backbone.model)
    optimiser = accelerator.prepare(_optimiser(backbone.model, recipe))
    scheduler = get_scheduler(recipe.schedule, optimiser.optimizer, warm, steps)
    predict = Predictor(backbone.model, accelerator)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    curve: list[dict[str, Any]] = []
    best, best_epoch, best_weights, step, tokens, training = -math.inf, 0, Tensors(), 0, 0, 0.0
    begin = time.perf_counter()
    with _bar(steps, task.name, accelerator.is_main_process) as bar:
        for epoch in range(1, recipe.epochs + 1):
            model.train()
            clock = time.perf_counter()
            total = torch.zeros((), device=device)  # read at the end of the epoch, so that the device never waits
            for examples in batches.order(splits.train.lengths, recipe.batch, recipe.batching, order):
                parts = list(batches.shares(examples, rank, world, micro, splits.train.weight))
                for number, (indices, share) in enumerate(parts):
                    batch = move(splits.train.batch(indices), device)
                    with contextlib.nullcontext() if number == len(parts) - 1 else accelerator.no_sync(model):
                        loss = task.loss(model, batch, recipe.label_smoothing) * share
                        accelerator.backward(loss * world)  # DDP takes the mean over devices; the shares sum to one
                    total += loss.detach()
                if recipe.clip is not None:
                    accelerator.clip_grad_norm_(_trainable(backbone.model), recipe.clip)
                optimiser.step()
                optimiser.zero_grad()
                if not accelerator.optimizer_step_was_skipped:  # fp16 skips a step whose gradients overflowed
                    scheduler.step()
                step += 1
                tokens += sum(splits.train.lengths[i] for i in examples)
                bar.update()
                if step % 100 == 0:  # rarely, since the device has to finish first
                    bar.set_postfix(loss=f"{_finite(total, epoch) / ((step - 1) % epoch_steps + 1):.3f}")
                if step == min(warm + 10, steps):
                    _check_moved(backbone.model, zeros, step)
            mean = _finite(accelerator.reduce(total), epoch) / epoch_steps
            training += time.perf_counter() - clock

            model.eval()
            numbers = task.evaluate(predict, splits.validation)
            value = numbers[task.criterion]
            curve.append({"epoch": epoch, "step": step, "loss": mean, **numbers, "constant": predict.constant()})
            report(curve[-1])
            bar.write(f"epoch {epoch}/{recipe.epochs}: training loss {mean:.4f}, "
                      f"{task.criterion} {value:.{2 if task.higher_is_better else 4}f}"
                      + (" (every prediction is the same)" if curve[-1]["constant"] else ""), file=sys.stderr)
            score = -math.inf if math.isnan(value) else value if task.higher_is_better else -value
            if score > best or epoch == 1:  # the first of equals
                best, best_epoch, best_weights = score, epoch, trained(backbone.model)
    seconds = time.perf_counter() - begin
    for name in ("forward", "_original_forward"):  # accelerate's, around the model's own
        vars(backbone.model).pop(name, None)
    metrics = [{key: entry[key] for key in numbers if not key.endswith(HALVES)} for entry in curve]
    outcome = Outcome(metrics[best_epoch - 1], metrics[-1], best_epoch, step, seconds, tokens / training,
                      peak_bytes(device), curve, _notes(curve, best_epoch))
    last_weights = best_weights if best_epoch == recipe.epochs else trained(backbone.model)
    return Fitted(outcome, best_weights, last_weights)


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    """A fresh accelerator: accelerate keeps one a process, but runs of one sweep may differ in device and precision."""
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    once = GradientAccumulationPlugin(num_steps=1)  # else an environment variable could divide our losses
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision,
                       gradient_accumulation_plugin=once)


def _bar(steps: int, name: str, shown: bool) -> tqdm:
    """The progress bar: redrawn often on a terminal, now and then in a log file."""
    return tqdm(total=steps, desc=name, unit="step", disable=not shown, mininterval=0.5 if sys.stderr.isatty() else 20)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over what trains. decay_on=matrices leaves biases and LayerNorms undecayed, as the official Trainer."""
    decayed = [p for p in _trainable(model) if recipe.decay_on == "all" or p.ndim > 1]
    others = [p for p in _trainable(model) if recipe.decay_on != "all" and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, betas=betas, eps=recipe.eps, fused=True)


def _finite(total: torch.Tensor, epoch: int) -> float:
    """The sum of the losses so far; raises FloatingPointError when it is none."""
    value = total.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value} in epoch {epoch}: lower lr, or precision=fp32 or bf16")
    return value


def _check_moved(model: nn.Module, zeros: Sequence[str], step: int) -> None:
    """Stops a run whose optimiser never reaches a matrix that began at zero, LoRA's B above all."""
    parameters = dict(model.named_parameters())
    still = [name for name in zeros if not parameters[name].any()]
    if still:
        raise RuntimeError(f"{len(still)} trainable matrices are still zero after {step} steps, e.g. {still[0]}: "
                           "their gradient is zero, or the optimiser does not have them")


def _notes(curve: Sequence[dict[str, Any]], best_epoch: int) -> list[str]:
    """What the collapse detector saw, in words; empty for a healthy run."""
    constant = [entry["epoch"] for entry in curve if entry["constant"]]
    epochs = ", ".join(map(str, constant))
    notes = [f"every prediction was the same in epochs {epochs} of {len(curve)}"] if constant else []
    if best_epoch in constant:
        notes.append("collapsed: the best epoch predicts one value for everything; try a lower lr or a larger batch")
    return notes
