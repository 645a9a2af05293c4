"""What stands between the loop and a power cut: saves when it is time, stops when asked, goes on where it was left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import nn

from engine.checkpoint import Checkpoints, Loaded, read
from engine.contract import Elsewhere
from engine.device import highest, peak_bytes
from engine.processes import first
from engine.progress import Progress
from engine.stop import Stop
from engine.weights import put, trained

GO, SAVE, STOP, LOST = range(4)  # what a process wants; of several, the most urgent wish is done
SHARE = 20  # saving after an epoch may cost this part of the time since the last
TELL = 5.0  # seconds between two words on how far the run is
EVERY, PATIENCE = 10, 5.0  # several processes agree after so many steps, or so many seconds where that is sooner


@dataclass
class Guard:
    """A run that can be left at any step: what its state consists of, and who wants to know or to stop it."""

    accelerator: Accelerator
    model: nn.Module
    optimiser: AcceleratedOptimizer
    scheduler: Any
    order: torch.Generator
    dropout: torch.Generator | None  # None: torch's global random state
    at: Progress
    steps: int
    epochs: int
    checkpoints: Checkpoints | None
    stop: Stop
    tell: Callable[[dict[str, Any]], None] | None

    def __post_init__(self) -> None:
        self.saved = self.agreed = time.monotonic()
        self.told = -TELL
        self.until = 1  # steps to the next agreement

    def resume(self, say: Callable[[str], None]) -> None:
        """Puts back the last checkpoint that is whole, if there is one, and says where the run goes on."""
        found = _loaded(self.checkpoints, self.accelerator.device) if self.checkpoints else None
        if found is None:
            return
        state, about = found.state, found.about
        own = {name: p.shape for name, p in self.model.named_parameters() if p.requires_grad}
        if {name: tensor.shape for name, tensor in state["weights"].items()} != own:
            return say(f"note: the checkpoint of step {about['step']} is of another model; left aside")
        self._put(state, say)
        code = self.checkpoints.code if self.checkpoints else None
        if self.at.codes[-1:] != [code]:
            say(f"note: commit {self.at.codes[-1] or 'unknown'} trained this so far, and {code or 'unknown'} goes on")
            self.at.codes.append(code)
        at, when = self.at, datetime.fromtimestamp(about["saved"])
        day = "" if when.date() == datetime.now().date() else f"{when:%Y-%m-%d} "
        say(f"goes on at step {at.step} of {self.steps} (epoch {min(at.epoch, self.epochs)} of {self.epochs}), "
            f"saved {day}{when:%H:%M}")

    def after_step(self) -> None:
        """Saves when it is time. Raises Stopped when a signal came, having saved; Elsewhere when the cell is lost."""
        self._act(self._agree(self._wish(), always=False))

    def after_epoch(self) -> None:
        """Saves, unless that would cost too much for so short an epoch; else as after_step."""
        costs = self.checkpoints.cost if self.checkpoints else 0.0
        worth = self._saving() and costs * SHARE <= time.monotonic() - self.saved
        self._act(self._agree(max(self._wish(), SAVE if worth else GO), always=True))

    def asked(self) -> None:
        """Between two batches of an evaluation: the run is left after its last step, and goes on with the evaluation.
        Raises Stopped, having saved, or Elsewhere."""
        self._act(self._agree(self._wish(), always=True))

    def _saving(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.minutes is not None

    def _wish(self) -> int:
        now = time.monotonic()
        if self.tell and now - self.told > TELL:
            self.told = now
            self.tell(self._about())
        if self.stop.lost():
            return LOST
        if self.stop.seen:
            return STOP
        minutes = self.checkpoints.minutes if self.checkpoints else None
        return SAVE if minutes is not None and now - self.saved >= 60 * minutes else GO

    def _agree(self, wish: int, always: bool) -> int:
        """The most urgent wish of all processes: they must save and stop at the same step. Since asking costs, it is
        not done at every step, but always at the ends of epochs."""
        if self.accelerator.num_processes == 1:
            return wish
        self.until -= 1
        if self.until > 0 and not always:
            return GO
        now = time.monotonic()
        taken = torch.tensor([wish, now - self.agreed], device=self.accelerator.device)
        torch.distributed.all_reduce(taken, torch.distributed.ReduceOp.MAX)
        self.until = max(1, min(EVERY, int(EVERY * PATIENCE / max(taken[1].item(), 1e-9))))
        self.agreed = now
        return int(taken[0].item())

    def _act(self, wish: int) -> None:
        at = self.at
        if wish == LOST:
            raise Elsewhere(self.stop.lost() or "another process has taken this cell over")
        saved = self._save() if wish in (SAVE, STOP) and self._saving() else False
        if wish == STOP:
            where = f"step {at.step} of {self.steps} (epoch {min(at.epoch, self.epochs)} of {self.epochs})"
            left = ("all is saved, and the same command goes on there" if saved else
                    "nothing of that is saved: the same command goes on at the last checkpoint, if there is one")
            raise self.stop.stopped(f"stopped at {where}; {left}")

    def _about(self) -> dict[str, Any]:
        return {"epoch": min(self.at.epoch, self.epochs), "epochs": self.epochs, "step": self.at.step,
                "steps": self.steps, "seconds": self.at.running.read()}

    def _save(self) -> bool:
        """Everything that a number hangs on. Every process has its own random state and its own sum of losses."""
        at, device, running = self.at, self.accelerator.device, self.at.training.going
        at.training.stop()
        mine = {"total": at.total.cpu(), **self._random()}
        ranks = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        saved = True
        if self.accelerator.is_main_process:
            assert self.checkpoints is not None
            at.peak = highest(at.peak, peak_bytes(device))
            fresh = bool(at.curve) and at.done == 0 and at.best_epoch == at.epoch - 1
            scaler = self.accelerator.scaler
            schedule = {name: each for name, each in self.scheduler.state_dict().items() if name != "lr_lambdas"}
            state = {**at.plain(), "ranks": ranks, "optimiser": self.optimiser.optimizer.state_dict(),
                     "scheduler": schedule, "scaler": scaler.state_dict() if scaler else None,
                     "weights": at.best_weights if fresh else trained(self.model)}  # the same tensors are written once
            saved = self.checkpoints.save(state, self._about())
        self.saved = time.monotonic()
        if running:
            at.training.start()
        return saved

    def _put(self, state: dict[str, Any], say: Callable[[str], None]) -> None:
        at, rank, device = self.at, self.accelerator.process_index, self.accelerator.device
        at.restore(state)
        put(self.model, state["weights"])
        self.optimiser.optimizer.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"] | {"lr_lambdas": self.scheduler.state_dict()["lr_lambdas"]})
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.order.set_state(at.order)
        ranks = state["ranks"]
        if len(ranks) != self.accelerator.num_processes:
            say(f"note: {len(ranks)} processes saved this and {self.accelerator.num_processes} go on: dropout draws "
                "other numbers than it would have")
            at.total.fill_(sum(each["total"].item() for each in ranks) if rank == 0 else 0.0)
            return
        mine = ranks[rank]
        at.total.copy_(mine["total"])
        drawn = mine["cuda" if device.type == "cuda" else "cpu"]
        if self.dropout is not None and drawn is not None:
            self.dropout.set_state(drawn)
            return
        torch.set_rng_state(mine["cpu"])
        if device.type == "cuda" and drawn is not None:
            torch.cuda.set_rng_state(drawn, device)

    def _random(self) -> dict[str, torch.Tensor | None]:
        """The states from which dropout is drawn; alone or at once with others, a run can go on with either."""
        device = self.accelerator.device
        if self.dropout is None:
            cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
            return {"cpu": torch.get_rng_state(), "cuda": cuda}
        state = self.dropout.get_state()
        return {"cpu": torch.get_rng_state(), "cuda": state} if device.type == "cuda" else {"cpu": state, "cuda": None}


def _loaded(checkpoints: Checkpoints, device: torch.device) -> Loaded | None:
    """The last whole checkpoint: the first process finds it, and the others read the same file."""
    mine: list[Loaded] = []

    def look() -> tuple[Path, dict[str, Any]] | None:
        mine.extend(filter(None, [checkpoints.load()]))
        return (mine[0].path, mine[0].about) if mine else None

    found = first(look, device)
    return None if found is None else mine[0] if mine else Loaded(*found, read(found[0]))
