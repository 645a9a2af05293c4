"""How far a run is: everything that changes while it trains, in one place, so that it can be put down and taken up."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from engine.weights import Tensors, trained

PLAIN = ("epoch", "done", "step", "tokens", "best", "best_epoch", "peak", "started", "resumed", "codes", "together")


class Stopwatch:
    """Seconds that can be stopped, and taken up where another process left them."""

    def __init__(self) -> None:
        self.total = 0.0
        self._since: float | None = None

    def start(self) -> None:
        """Goes on, if it does not yet."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Adds the time since start()."""
        if self._since is not None:
            self.total += time.perf_counter() - self._since
        self._since = None

    @property
    def going(self) -> bool:
        """Whether it runs."""
        return self._since is not None

    def read(self) -> float:
        """The seconds until now."""
        return self.total + (time.perf_counter() - self._since if self._since is not None else 0.0)


@dataclass
class Progress:
    """Position, sums and what is kept of a run. What torch holds besides (weights, optimiser, random state) is written
    and put back with it by engine/resume.py."""

    total: torch.Tensor  # () sum of this epoch's losses, of this process, on its device
    order: torch.Tensor  # state of the order's generator when the epoch began
    epoch: int = 1  # the one that is being trained
    done: int = 0  # its steps that are done; all: its evaluation is next
    step: int = 0  # of the whole run
    tokens: int = 0  # that were trained on, over all processes
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: float = -math.inf  # the criterion of the best epoch, its sign turned where lower is better
    best_epoch: int = 0
    best_weights: Tensors = field(default_factory=dict)
    peak: int | None = None  # most bytes of the earlier pieces
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    resumed: int = 0  # how often
    codes: list[str | None] = field(default_factory=list)  # the commits that trained it, one after the other
    together: int = 1  # most runs that trained at once with it, itself included
    running: Stopwatch = field(default_factory=Stopwatch)  # training and evaluation
    training: Stopwatch = field(default_factory=Stopwatch)  # the steps alone

    def stepped(self, tokens: int) -> None:
        """A step is done."""
        self.step += 1
        self.done += 1
        self.tokens += tokens

    def judged(self, entry: dict[str, Any], score: float, model: nn.Module, order: torch.Generator) -> None:
        """The epoch's evaluation is done: keeps its entry of the curve, and the weights if it is the best so far.
        score: the higher the better, NaN the worst; order: of the examples, as it stands for the next epoch."""
        self.curve.append(entry)
        score = -math.inf if math.isnan(score) else score
        if score > self.best or self.epoch == 1:  # the first of equals
            self.best, self.best_epoch, self.best_weights = score, self.epoch, trained(model)
        self.epoch += 1
        self.done = 0
        self.total.zero_()
        self.order = order.get_state()

    def plain(self) -> dict[str, Any]:
        """All of it but the sum of losses, of which every process has its own: tensors and plain values."""
        return {"plain": {name: getattr(self, name) for name in PLAIN}, "curve": json.dumps(self.curve, default=float),
                "order": self.order, "best_weights": self.best_weights,
                "seconds": [self.running.read(), self.training.read()]}

    def restore(self, said: dict[str, Any]) -> None:
        """Takes up what plain() gave to an earlier process."""
        for name in said["plain"].keys() & set(PLAIN):  # an older version's may lack one
            setattr(self, name, said["plain"][name])
        self.curve, self.order, self.best_weights = json.loads(said["curve"]), said["order"], said["best_weights"]
        self.running.total, self.training.total = said["seconds"]
        self.resumed += 1
