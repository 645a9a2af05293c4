"""A run among those that train at once: what is its own, however many share the frozen base with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import get_scheduler

from engine import batches, health
from engine.backbone import Backbone
from engine.checkpoint import Checkpoints
from engine.contract import Splits, Stopped, Task, generator
from engine.optimiser import adamw, warm_up
from engine.predict import Of
from engine.progress import Progress
from engine.resume import Guard
from engine.spec import Recipe
from engine.stop import Signalled, Stop

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Asked:
    """A run as fit() is asked for it. Those that train at once share the frozen part of their backbones, and agree in
    epochs, batch, batching, smoothing and precision.

    recipe.precision must be resolved (no auto). report gets the numbers as they come. The run goes on at the last of
    its checkpoints and leaves new ones; tell hears now and then how far it is. name: what its lines begin with.
    """

    backbone: Backbone
    recipe: Recipe
    seed: int
    report: Report
    checkpoints: Checkpoints | None = None
    stop: Stop | None = None
    tell: Report | None = None
    name: str = ""


class Member:
    """Its trained parameters, optimiser, schedule, data order, dropout stream, progress and checkpoints.

    several: whether it trains beside others, and so draws dropout from a generator of its own instead of torch's global
    one. error: why it is out, while the others go on.
    """

    def __init__(self, asked: Asked, accelerator: Accelerator, epoch_steps: int, several: bool) -> None:
        recipe, main = asked.recipe, accelerator.is_main_process
        self.asked, self.accelerator, self.model = asked, accelerator, asked.backbone.model
        self.epoch_steps, self.steps = epoch_steps, recipe.epochs * epoch_steps
        self.error: Exception | None = None
        seed = generator(asked.seed, "dropout").initial_seed() + accelerator.process_index
        self.dropout = torch.Generator(accelerator.device).manual_seed(seed) if several else None
        if not several:
            torch.manual_seed(seed)  # the one place that sets global random state
        self.order = generator(asked.seed, "order")
        self.zeros = health.zeros(self.model)
        self.optimiser = accelerator.prepare(adamw(self.model, recipe))
        warm = warm_up(recipe, self.steps)
        self.moves = min(warm + 10, self.steps)  # the step by which every trained weight must have moved
        self.scheduler = get_scheduler(recipe.schedule, self.optimiser.optimizer, warm, self.steps)
        code = asked.checkpoints.code if asked.checkpoints else None
        self.at = Progress(total=torch.zeros((), device=accelerator.device), order=self.order.get_state(), codes=[code])
        self.guard = Guard(accelerator, self.model, self.optimiser, self.scheduler, self.order, self.dropout, self.at,
                           self.steps, recipe.epochs, asked.checkpoints, asked.stop or Stop(),
                           asked.tell if main else None)
        self.say = (lambda line: print(f"{asked.name}{line}", file=sys.stderr)) if main else lambda _: None
        self.guard.resume(self.say)
        for entry in self.at.curve:
            asked.report(entry)

    @property
    def going(self) -> bool:
        """Whether there is something left to train."""
        return self.error is None and self.at.epoch <= self.asked.recipe.epochs

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and step in it: runs that stand at the same place can go on together."""
        return self.at.epoch, self.at.done

    @property
    def signals(self) -> Stop:
        """The signals that stop all runs, without what stops this one alone."""
        return Stop(over=self.guard.stop)

    def begin(self, together: int) -> None:
        """An epoch begins, or goes on, with so many runs at once."""
        self.at.running.start()
        self.at.training.start()
        self.beside = together

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """The global batches that are left of this epoch."""
        self.order.set_state(self.at.order)
        recipe = self.asked.recipe
        return batches.order(lengths, recipe.batch, recipe.batching, self.order)[self.at.done:]

    def mark(self) -> None:
        """A step begins: what undo() puts back."""
        if self.dropout is not None:
            self._mark = self.at.step, self.dropout.get_state(), self.at.total.clone()

    def undo(self) -> None:
        """The step that was begun did not come to its end, for lack of memory: nothing of it stays."""
        self.optimiser.zero_grad()
        if self.dropout is not None and self._mark[0] == self.at.step:
            self.dropout.set_state(self._mark[1])
            self.at.total.copy_(self._mark[2])

    def step(self, tokens: int) -> None:
        """Goes down its gradient, with its own clipping and learning rate. Raises as health does."""
        at, clip = self.at, self.asked.recipe.clip
        if clip is not None:
            self.accelerator.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:  # fp16 skips a step whose gradients overflowed
            self.scheduler.step()
        at.stepped(tokens)
        at.together = max(at.together, self.beside)
        if at.step % 100 == 0:
            health.finite(at.total, at.epoch)
        if at.step == self.moves:
            health.check_moved(self.model, self.zeros, at.step)

    def mean(self) -> float:
        """The epoch's mean loss so far, of this process."""
        return self.at.total.item() / self.at.done

    def sum_up(self) -> None:
        """The epoch's steps are done: its mean loss, over all processes. Raises FloatingPointError."""
        self.loss = health.finite(self.accelerator.reduce(self.at.total), self.at.epoch) / self.epoch_steps
        self.at.training.stop()

    def judge(self, task: Task, predict: Of, splits: Splits, bar: tqdm | None) -> None:
        """Evaluates, keeps the numbers and, of the best epoch so far, the weights; says so in a line."""
        numbers, epochs = task.evaluate(predict, splits.validation), self.asked.recipe.epochs
        epoch, value, constant = self.at.epoch, numbers[task.criterion], predict.constant()
        entry = {"epoch": epoch, "step": self.at.step, "loss": self.loss, **numbers, "constant": constant}
        self.asked.report(entry)
        if bar is not None:
            bar.write(f"{self.asked.name}epoch {epoch}/{epochs}: training loss {self.loss:.4f}, "
                      f"{task.criterion} {value:.{2 if task.higher_is_better else 4}f}"
                      + (" (every prediction is the same)" if constant else ""), file=sys.stderr)
        self.at.judged(entry, value if task.higher_is_better else -value, self.model, self.order)

    def after_step(self) -> None:
        """Saves when it is time; raises Stopped, having saved, or Elsewhere."""
        self.guard.after_step()

    def asked_to_stop(self) -> None:
        """Within an evaluation: saves, and raises Stopped or Elsewhere."""
        self.guard.asked()

    def after_epoch(self) -> None:
        """Saves, where that is worth it; else as after_step."""
        self.guard.after_epoch()


def each(members: Sequence[Member], act: Callable[..., None], given: Sequence[Any] | None = None) -> None:
    """Does it for every member (with what is given for it). What goes wrong with one takes it out, and the others stay.
    Raises Stopped when all have had their turn; a signal within an evaluation and a lack of memory concern all."""
    stopped = None
    for place, member in enumerate(members):
        if member.error:
            continue
        try:
            act(member, given[place]) if given is not None else act(member)
        except Stopped as stop:
            stopped = stop
        except (Signalled, torch.OutOfMemoryError):
            raise
        except Exception as error:
            member.error = error
            if members[1:]:
                member.say(f"{type(error).__name__}: {error}; the other runs go on")
    if stopped is not None:
        raise stopped


def begun(asked: Asked, accelerator: Accelerator, epoch_steps: int, several: bool) -> Member | Exception:
    """The run where it goes on, or why it cannot: the others can all the same."""
    try:
        return Member(asked, accelerator, epoch_steps, several)
    except Exception as error:
        return error
