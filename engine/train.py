"""fit(): the one loop, for one run or several at once. Read it from top to bottom and you know what a run does."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from engine import batches, frozen, health
from engine.contract import Batch, Numbers, Split, Splits, Task
from engine.device import accelerated, highest, move, peak_bytes
from engine.member import Asked, Member, begun, each
from engine.predict import Predictor
from engine.stop import Signalled
from engine.together import Part, Together, parts, share
from engine.weights import Tensors, trained

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
    together: int  # most runs that trained at once with it, itself included, in the same seconds and memory; as above


@dataclass(frozen=True)
class Fitted:
    """What fit hands back: the numbers, the trained tensors of the best and of the last epoch, and when it began."""

    outcome: Outcome
    best: Tensors
    last: Tensors
    started: str


def fit(runs: Sequence[Asked], task: Task, splits: Splits, device: torch.device, micro: int | None,
        most: int | None = None) -> list[Fitted | Exception]:
    """Trains of each run what has requires_grad, judges it on the validation sets after every epoch, keeps the best and
    the last. Several runs train at once, and each comes to what it would have come to alone, up to rounding: its own
    data order, dropout, schedule, clipping, best epoch. What goes wrong with one takes it out, and is given for it:
    FloatingPointError for a loss that is not finite, RuntimeError for a weight that stays at zero, Elsewhere when it
    lost the cell, Refused when it would do nothing but warm up.

    micro: most examples of a run on a device at once. most: runs at once; halved when the device lacks the memory.
    Raises Stopped when a signal asked, all being saved.
    """
    host, recipe = runs[0].backbone.model, runs[0].recipe
    accelerator = accelerated(device, recipe.precision)
    steps = math.ceil(len(splits.train) / recipe.batch)
    model = accelerator.prepare(host)
    for run in runs[1:]:
        share(host, run.backbone.model)  # what is frozen is there once, wherever it was moved to
        run.backbone.model.to(device)  # type: ignore[arg-type]
    made = [begun(run, accelerator, steps, several=len(runs) > 1) for run in runs]
    members = [member for member in made if isinstance(member, Member)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with frozen.held(nn.ModuleList([run.backbone.model for run in runs]), recipe.precision):
            while going := [member for member in members if member.going]:
                group = [member for member in going if member.place == going[0].place][:most]
                try:
                    _train(group, len(runs) > 1, host, model, accelerator, task, splits, micro)
                except torch.OutOfMemoryError as error:
                    most, group[0].error = max(1, len(group) // 2), None if group[1:] else error
                    group[0].say(f"note: too little memory for {len(group)} at once")
                    for member in group:
                        member.undo()
                    torch.cuda.empty_cache()
    finally:
        for name in ("forward", "_original_forward", "_is_accelerate_prepared"):  # accelerate's, for another fit()
            vars(host).pop(name, None)
    return [run if isinstance(run, Exception) else run.error or _fitted(run, device) for run in made]


def _train(members: Sequence[Member], several: bool, host: nn.Module, model: nn.Module, accelerator: Accelerator,
           task: Task, splits: Splits, micro: int | None) -> None:
    """Trains these runs at once from where all of them stand, to the end or until one of them is out.

    host: the model that computes, a run's own or (several) for all runs through engine/together.py; model: the same,
    prepared."""
    first, recipe, train, device = members[0], members[0].asked.recipe, splits.train, accelerator.device
    main = accelerator.is_main_process
    together = Together(host, [member.model for member in members], [member.dropout for member in members
                                                                     if member.dropout]) if several else None
    parts_of = partial(_parts, train, accelerator, micro)
    predict = Predictor(host, accelerator, first.signals if several else first.guard.stop, together)
    try:
        with _bar(first, task.name, main) as bar:
            for _ in range(first.at.epoch, recipe.epochs + 1):
                model.train()
                each(members, Member.begin, [len(members)] * len(members))
                orders = [member.batches(train.lengths) for member in members]
                work = zip(*orders, strict=True)  # a global batch of each run
                ready = batches.ahead(work, parts_of) if device.type == "cuda" else map(parts_of, work)
                for examples, made in ready:
                    each(members, Member.mark)
                    for number, (batch, shares, own) in enumerate(made):
                        batch, shares = move(batch, device), shares.to(device, non_blocking=True)
                        with contextlib.nullcontext() if number == len(made) - 1 else accelerator.no_sync(model):
                            with together.batch(batch, own) if together else contextlib.nullcontext():
                                losses = task.losses(model, batch, recipe.label_smoothing)
                            losses = (losses.view(shares.shape) * shares).sum(1)  # a run's, of its own weights alone
                            # DDP takes the mean over devices; the shares sum to one
                            accelerator.backward(losses.sum() * accelerator.num_processes)
                        for member, loss in zip(members, losses.detach(), strict=True):
                            member.at.total += loss  # read at the end of the epoch, so that the device never waits
                    each(members, Member.step, [sum(train.lengths[i] for i in mine) for mine in examples])
                    bar.update()
                    if first.at.step % 100 == 0:  # rarely, since the device has to finish first
                        bar.set_postfix(loss=f"{first.mean():.3f}")
                    each(members, Member.after_step)
                    if any(member.error for member in members):
                        return
                each(members, Member.sum_up)
                if any(member.error for member in members):
                    return

                model.eval()
                predict.forget()
                try:
                    each(members, lambda member, mine: member.judge(task, mine, splits, bar if main else None),
                         [predict.of(place) for place in range(len(members))])
                except Signalled:
                    each(members, Member.asked_to_stop)
                    return
                each(members, Member.after_epoch)
                if any(member.error for member in members):
                    return
    finally:
        for member in members:
            member.at.training.stop()
            member.at.running.stop()


def _parts(train: Split, accelerator: Accelerator, micro: int | None, examples: Sequence[Sequence[int]]) -> tuple[
        Sequence[Sequence[int]], list[tuple[Batch, torch.Tensor, list[Part]]]]:
    """These examples, and this device's part of their step, in micro-batches: the runs' examples one behind the other,
    what each of them counts (runs, examples), and what of the batch is each run's own. Where a run has fewer than the
    others (with batching=grouped), an example that counts nothing fills it up."""
    rank, world = accelerator.process_index, accelerator.num_processes
    made = []
    if micro:  # the shortest together, and so on: an example pads no other micro-batch than its own
        examples = [sorted(mine, key=lambda i: train.lengths[i]) for mine in examples]
    for part in zip_longest(*(batches.shares(mine, rank, world, micro, train.weight) for mine in examples),
                            fillvalue=([], 0.0)):
        counts = [len(indices) for indices, _ in part]
        filled = [[*indices, *[mine[0]] * (max(counts) - len(indices))]
                  for (indices, _), mine in zip(part, examples, strict=True)]
        shares = torch.tensor([[share] * count + [0.0] * (max(counts) - count)
                               for (_, share), count in zip(part, counts, strict=True)])
        batch = train.batch([i for indices in filled for i in indices])
        made.append((batches.pinned(batch, accelerator.device), shares, parts(batch, counts)))
    return examples, made


def _fitted(member: Member, device: torch.device) -> Fitted:
    """What a run that is through hands back."""
    at, model = member.at, member.model
    metrics = [{key: number for key, number in entry.items() if key not in OWN and not key.endswith(HALVES)}
               for entry in at.curve]
    outcome = Outcome(metrics[at.best_epoch - 1], metrics[-1], at.best_epoch, at.step, at.running.total,
                      at.tokens / at.training.total, highest(at.peak, peak_bytes(device)), at.curve,
                      [*health.notes(at.curve, at.best_epoch), *_pieces(at.codes)], at.resumed, at.together)
    last = at.best_weights if at.best_epoch == len(at.curve) else trained(model)
    return Fitted(outcome, at.best_weights, last, at.started)


def _pieces(codes: Sequence[str | None]) -> list[str]:
    """A note where more than one state of the code trained a run."""
    return [f"trained in pieces by commits {', '.join(code or 'unknown' for code in codes)}"] if codes[1:] else []


def _bar(first: Member, name: str, shown: bool) -> tqdm:
    """The progress bar: redrawn often on a terminal, now and then in a log file."""
    return tqdm(total=first.steps, initial=first.at.step, desc=name, unit="step", disable=not shown,
                mininterval=0.5 if sys.stderr.isatty() else 20)
