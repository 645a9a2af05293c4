"""A model's outputs for a whole validation set: over all devices, each example exactly once, of all runs at once."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from engine import batches
from engine.contract import Split, Step
from engine.device import move
from engine.frozen import merged
from engine.stop import Signalled, Stop
from engine.together import Together
from engine.words import progress

BATCH, TOKENS = 128, 2**13  # at once, at most, padding included; evaluation keeps no activations


class Predictor:
    """What `of(run)` takes its rows from. Raises Signalled between two batches when `stop` was asked; several
    processes, which have to leave together, do so where they exchange their rows."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, stop: Stop | None = None,
                 together: Together | None = None) -> None:
        """together: of the runs whose parameters take the place of the model's own."""
        self.model = model
        self.accelerator = accelerator
        self.stop = stop or Stop()
        self.together, self.runs = together, together.runs if together else 1
        self._kept: dict[tuple[int, Step], torch.Tensor] = {}

    def of(self, run: int) -> Of:
        """predict(split, step, size) of one of the runs."""
        return Of(self, run)

    def forget(self) -> None:
        """The weights have changed."""
        self._kept = {}

    def rows(self, split: Split, step: Step, size: int) -> torch.Tensor:
        """step's outputs (runs, examples, …) in the split's order, float32 on the CPU. All runs go through the model at
        once, whichever of them asks first."""
        key = id(split), step
        if key not in self._kept:
            self._kept[key] = self._computed(split, step, size)
        return self._kept[key]

    def _computed(self, split: Split, step: Step, size: int) -> torch.Tensor:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        plan = batches.by_length(split.lengths, max(1, size // self.runs), rank, world, TOKENS // self.runs)
        outputs = []
        fp32 = self.accelerator.mixed_precision == "no"  # in 16 bits, a merged weight would be rounded
        with torch.inference_mode(), merged(self.model) if fp32 and not self.together else nullcontext():
            for indices in progress(plan, f"evaluating {len(split):,} examples"):
                batch = {name: tensor.repeat(self.runs, *[1] * (tensor.ndim - 1))
                         for name, tensor in move(split.batch(indices), self.accelerator.device).items()}
                with self.together.batch(batch) if self.together else nullcontext():
                    outputs.append(step(self.model, batch).float().unflatten(0, (self.runs, -1)))
                if world == 1:
                    self.stop.check()
        mine = ([i for indices in plan for i in indices], torch.cat(outputs, 1).cpu() if outputs else None,
                self.stop.wanted)
        everyone = gather_object([mine]) if world > 1 else [mine]
        if any(wanted for _, _, wanted in everyone):
            raise Signalled
        found = next(rows for _, rows, _ in everyone if rows is not None)
        result = torch.empty(self.runs, len(split), *found.shape[2:])
        for indices, rows, _ in everyone:
            if rows is not None:
                result[:, torch.tensor(indices)] = rows
        return result


class Of:
    """predict(split, step, size): one run's outputs, one row an example. Raises FloatingPointError when one of them is
    not finite, and Signalled."""

    def __init__(self, predictor: Predictor, run: int) -> None:
        self.predictor, self.run = predictor, run
        self._constant: list[bool] = []

    def __call__(self, split: Split, step: Step, size: int = BATCH) -> torch.Tensor:
        result = self.predictor.rows(split, step, size)[self.run]
        if not result.isfinite().all():
            raise FloatingPointError("the model's outputs are not finite: lower lr, or use precision=fp32 or bf16")
        picked = result.argmax(-1) if result.shape[-1] > 1 else result
        self._constant.append(len(result) > 1 and bool((picked == picked[0]).all()))
        return result

    def constant(self) -> bool:
        """Whether every output was one value for all examples: a sign of collapse."""
        return bool(self._constant) and all(self._constant)
