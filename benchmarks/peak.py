"""The most memory of a training step, or of runs at once: python -m benchmarks.peak JSON, as rows/memory.py does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from benchmarks import shapes, ways
from benchmarks.bench import Bench, Cells
from engine.device import peak_bytes

STEPS = 2  # the second has the optimiser's state


def of_cuda(case: Cells, bench: Bench) -> int | None:
    """Most bytes allocated on the GPU; None where they do not suffice."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    try:
        _train(case, bench)
    except torch.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated() - before


def _train(case: Cells, bench: Bench) -> None:
    base = shapes.base(case["model"], case["layers"], bench.device, bench.quick)
    if "runs" in case:
        from benchmarks.rows import together

        together.fitted(together.runs_of(base, case["runs"], case["precision"], case["batch"], case["length"]),
                        base, case["batch"], case["length"], STEPS, bench.device)
        return
    made = ways.way(case["way"], case["method"], base, case["precision"])
    batch = shapes.batch(case["model"], base, case["batch"], case["length"], bench.device)
    with made.held():
        for _ in range(STEPS):
            made.step(batch)


def main() -> None:
    """Prints the bytes that the step took on a CPU."""
    told = json.loads(sys.argv[1])
    case = told["case"]
    bench = Bench(torch.device("cpu"), 1, told["quick"], None)
    if case.get("way") not in (None, "ours"):
        __import__(case["way"])
    if "runs" in case:
        __import__("engine.train")
    torch.nn.Linear(8, 8)(torch.ones(8, 8)).sum().backward()  # what a first step loads is no memory of the model's
    before = _resident()
    _train(case, bench)
    print((peak_bytes(bench.device) or 0) - before)


def _resident() -> int:
    """Bytes in memory now; where the system does not say, the most so far."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes(torch.device("cpu")) or 0


if __name__ == "__main__":
    main()
