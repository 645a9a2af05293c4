"""Row (h): from the command line to the first training step, the first time and again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, CannotRun, Table, quartiles
from engine.hub import ROOT

LETTER, TITLE = "h", "From the command line to the first step"
WORDS = ("task=rte", "method=lora", "scale=demo", "runtime.wandb=off")
FIRST = re.compile(rb"rte: +0%\|")  # the progress bar of training, as it is drawn before the first step
LIMIT = 300  # seconds


def run(bench: Bench) -> list[Table]:
    """Seconds to the first step of a demo run, cold and warm, in processes of their own."""
    rounds = min(bench.rounds, 3)
    small = ("scale.train=64", "scale.validation=16") if bench.quick else ()
    words = [*WORDS, *small, f"runtime.device={bench.device.type}"]
    taken: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="start-") as folder:
            place = Path(folder)
            for kind in (("warm",) if bench.quick else ("cold", "warm")):
                taken[kind].append(seconds(words, place, bytecode=kind == "cold"))
    rows = []
    for kind, times in taken.items():
        if times:
            low, middle, high = quartiles(times)
            rows.append({"start": kind, "s": middle, "s_low": low, "s_high": high, "rounds": len(times)})
    return [Table("start", rows, [
        f"`python run.py {' '.join(words)}` until its bar of training steps is drawn: composing, importing, generating "
        "and tokenising 4,096 examples, loading MiniLM",
        "cold: no byte code of any package (PYTHONPYCACHEPREFIX is empty), no cache of ours or the hub's; the system's "
        "own cache of files stays. warm: the same again, the installed byte code used, nothing of it recorded"])]


def seconds(words: list[str], place: Path, bytecode: bool) -> float:
    """Starts a run with caches below `place` and ends it at its first step. Raises CannotRun when it gets there not."""
    out = place / "out"  # caches of ours may lie there too
    out.mkdir(exist_ok=True)
    changed = {"XDG_CACHE_HOME": str(place / "cache"), "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
    changed |= {"PYTHONPYCACHEPREFIX": str(place / "bytecode")} if bytecode else {}
    begin = time.perf_counter()
    with (out / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, str(ROOT / "run.py"), *words, f"runtime.out={out}"], cwd=out,
                                   env=os.environ | changed, stdout=log, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        seen = b""
        for piece in iter(partial(os.read, process.stderr.fileno(), 4096), b""):
            seen += piece
            if FIRST.search(seen):
                return time.perf_counter() - begin
            if time.perf_counter() - begin > LIMIT:
                break
    finally:
        process.kill()
        process.wait()
        process.stderr.close() if process.stderr else None
    lines = seen.decode(errors="replace").strip().splitlines() or ["no word"]
    raise CannotRun(f"run.py did not come to its first step: {lines[-1][:200]}")
