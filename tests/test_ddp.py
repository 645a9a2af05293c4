"""Two processes are one: the same curve, the same weights, and every validation example predicted exactly once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from baselines.full import FullFineTuning
from engine.contract import Batch, Numbers, Predict, Split
from engine.train import Fitted

ROOT = Path(__file__).parents[1]
METHODS = {"lora": tiny.lora(), "ft": FullFineTuning("ft", "FT")}


class Counting(tiny.Scripted):
    """Predicts every example's number, and keeps the numbers that this process was asked for."""

    def evaluate(self, predict: Predict, validation: Any) -> Numbers:
        asked: list[int] = []

        def step(model: nn.Module, batch: Batch) -> torch.Tensor:
            asked.extend(batch["labels"].tolist())
            return torch.cat([tiny.logits(model, batch), batch["labels"][:, None]], dim=1)

        split: Split = validation["validation"]
        rows = predict(split, step)
        self.seen.append({"asked": asked, "numbers": rows[:, -1].tolist(), "logits": rows[:, :-1].tolist()})
        return {"score": next(self.values)}


def trained(method: str, micro: int | None, validation: int) -> tuple[Fitted, Counting]:
    rows, task = tiny.splits(21), Counting()   # the last global batch has five: not divisible by two
    judged = tiny.Rows(validation, seed=1)
    judged.labels = torch.arange(validation)
    rows = type(rows)(rows.train, {"validation": judged})
    fitted = tiny.train(tiny.adapted(METHODS[method]), task, rows, micro=micro, clip=0.3, weight_decay=0.1,
                        eps=tiny.CALM)
    return fitted, task


def told(method: str, micro: int | None, validation: int) -> dict[str, Any]:
    fitted, task = trained(method, micro, validation)
    return {"curve": fitted.outcome.curve, "seen": task.seen, "steps": fitted.outcome.steps,
            "last": {name: tensor.tolist() for name, tensor in fitted.last.items()}}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("micro", "validation"), [(None, 11), (3, 1)])
def test_two_processes_are_one(method: str, micro: int | None, validation: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__,
               method, str(micro or 0), str(validation), str(tmp_path)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = told(method, micro, validation)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for found in ranks:
        losses = [entry["loss"] for entry in found["curve"]]
        assert losses == pytest.approx([entry["loss"] for entry in alone["curve"]], abs=1e-5)
        assert found["steps"] == alone["steps"] == 6
        for name, values in alone["last"].items():
            assert (torch.tensor(found["last"][name]) - torch.tensor(values)).abs().max() < 1e-5, name
        for mine, reference in zip(found["seen"], alone["seen"], strict=True):
            assert mine["numbers"] == list(range(validation))   # all, in the split's order, on every process
            assert (torch.tensor(mine["logits"]) - torch.tensor(reference["logits"])).abs().max() < 1e-4
    for one, other in zip(ranks[0]["seen"], ranks[1]["seen"], strict=True):
        assert sorted(one["asked"] + other["asked"]) == list(range(validation))   # each exactly once, over both


if __name__ == "__main__":
    method, micro, validation, folder = sys.argv[1:]
    result = told(method, int(micro) or None, int(validation))
    Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(result))
