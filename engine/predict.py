"""A model's outputs for a whole validation set, over all devices, each example exactly once."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm

from engine import batches
from engine.contract import Split, Step
from engine.device import move
from engine.stop import Asked, Stop

BATCH = 128  # examples; evaluation keeps no activations


class Predictor:
    """predict(split, step, size): step's outputs, one row an example in the split's order, float32 on the CPU. Raises
    FloatingPointError when one of them is not finite, and Asked between two batches when `stop` was asked; several
    processes, which have to leave together, do so where they exchange their rows."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, stop: Stop | None = None) -> None:
        self.model = model
        self.accelerator = accelerator
        self.stop = stop or Stop()
        self._constant: list[bool] = []

    def __call__(self, split: Split, step: Step, size: int = BATCH) -> torch.Tensor:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        plan = batches.by_length(split.lengths, size, rank, world)
        outputs = []
        with torch.inference_mode():
            for indices in tqdm(plan, desc="evaluating", leave=False, disable=None):
                batch = move(split.batch(indices), self.accelerator.device)
                outputs.append(step(self.model, batch).float())
                if world == 1:
                    self.stop.check()
        mine = ([i for indices in plan for i in indices], torch.cat(outputs).cpu() if outputs else None,
                self.stop.wanted)
        everyone = gather_object([mine]) if world > 1 else [mine]
        if any(wanted for _, _, wanted in everyone):
            raise Asked
        first = next(rows for _, rows, _ in everyone if rows is not None)
        result = torch.empty(len(split), *first.shape[1:])
        for indices, rows, _ in everyone:
            if rows is not None:
                result[torch.tensor(indices)] = rows
        if not result.isfinite().all():
            raise FloatingPointError("the model's outputs are not finite: lower lr, or use precision=fp32 or bf16")
        picked = result.argmax(-1) if result.shape[-1] > 1 else result
        self._constant.append(len(result) > 1 and bool((picked == picked[0]).all()))
        return result

    def constant(self) -> bool:
        """Whether every output since the last call was one value for all examples: a sign of collapse."""
        seen, self._constant = self._constant, []
        return bool(seen) and all(seen)
