"""Row (i): the most memory that a training step takes, by way and by how many runs train at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from benchmarks import shapes, ways
from benchmarks.bench import Bench, CannotRun, Cells, Table
from benchmarks.rows import step, together
from engine.hub import ROOT

LETTER, TITLE = "i", "Memory"


def run(bench: Bench) -> list[Table]:
    """Peak bytes of steps (as row a has them) and of runs at once (as row d)."""
    rows = [case | {"peak_bytes": peak(bench, case)} for case in cases(bench)]
    runs = [case | {"peak_bytes": peak(bench, case)} for case in at_once(bench)]
    if bench.cuda:
        about = ["most bytes allocated on the GPU, weights included, over two steps (torch.cuda.max_memory_allocated)"]
    else:
        about = ["a fresh process each: most resident memory over two steps less what it had before the model was "
                 "built; weights included; one precision and a shape or two alone, since each takes a process"]
    return [Table("memory", rows, about), Table("memory_together", runs, [])]


def cases(bench: Bench) -> list[Cells]:
    """The steps to look at: all on a GPU, on a CPU one shape of each model."""
    shown = step.TOYS if bench.quick else step.SHAPES if bench.cuda else (step.SHAPES[1],)
    precisions = bench.precisions() if bench.cuda else bench.precisions()[-1:]
    there = [each for each in ways.WAYS if not ways.missing(each[0])]
    return [{"model": name, "layers": shapes.layers(name, bench.cuda, bench.quick), "way": way, "method": method,
             "batch": size, "length": length, "precision": precision}
            for name in step.MODELS[:1 if bench.quick else None] for size, length in shown for precision in precisions
            for way, method in there[:2 if bench.quick else None]]


def at_once(bench: Bench) -> list[Cells]:
    """The runs at once to look at."""
    size, length = step.TOYS[0] if bench.quick else together.SHAPES[-1 if bench.cuda else 0]
    return [{"model": together.MODEL, "layers": shapes.layers(together.MODEL, bench.cuda, bench.quick), "batch": size,
             "length": length, "precision": bench.precisions()[-1], "runs": runs}
            for runs in ((2,) if bench.quick else together.RUNS if bench.cuda else (1, max(together.RUNS)))]


def peak(bench: Bench, case: Cells) -> int | None:
    """Bytes of one case: in this process on a GPU, else in one of its own."""
    if bench.cuda:
        from benchmarks import peak as here

        return here.of_cuda(case, bench)
    told = json.dumps({"case": case, "quick": bench.quick})
    made = subprocess.run([sys.executable, "-m", "benchmarks.peak", told], cwd=ROOT, env=os.environ | {
        "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if made.returncode:
        raise CannotRun(f"{case}: {(made.stderr.strip().splitlines() or ['ended'])[-1][:200]}")
    return int(made.stdout.split()[-1])
