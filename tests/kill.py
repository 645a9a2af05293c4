"""Kills a run again and again, at random moments, and asks whether anybody could tell from what is left.

    python tests/kill.py --runs 50 [--seed 0] [--folder DIR]

Each run is a small, real cell through `python run.py`, killed (SIGKILL) at a random time and started again until its
record is there. Most kills are aimed at the rare moments: the process is watched, and shot as soon as it writes a
checkpoint, its weights or its record. Compared with an undisturbed run: numbers, curve, every byte of the weights; and
there must be one record, nothing half written beside it, and no work folder left. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))
MEASURED = ("seconds", "tokens_per_second", "peak_bytes", "resumed")
STEPS = 36  # of the cell
AIMS = ("a moment", "a checkpoint", "a checkpoint", "a moment", "the weights", "the record")  # where a shot is aimed


# Forked from a process that has imported everything: the seconds that this takes each time are no matter here.
FORKS = multiprocessing.get_context("forkserver")
LOADED = ["run", "engine.cell", "engine.train", "engine.models", "engine.planner", "tasks.glue", "lora.method",
          "transformers.models.bert.modeling_bert"]


class Process:
    """`python run.py` with these words, as a process of its own."""

    def __init__(self, words: list[str], folder: Path, log: Path) -> None:
        self.log = log
        self._process = FORKS.Process(target=run_py, args=(words, folder, log))
        self._process.start()

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def wait(self) -> str:
        """Waits for its end; what it said."""
        self._process.join()
        return self.log.read_text(errors="replace")


def run_py(words: list[str], folder: Path, log: Path) -> None:
    """What `python run.py` does, in a forked process."""
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [str(ROOT / "run.py"), *words]
    import run

    sys.exit(run.main())


class Place:
    """Where a cell is run: its command line and its results."""

    def __init__(self, folder: Path, model: Path, data: Path) -> None:
        self.out = folder
        self.words = ["task=rte", "method=lora", "model=encoder", f"model.path={model}", f"data_root={data}",
                      "precision=fp32", "length=64", "epochs=6", "batch=4", "init_from=none", f"runtime.out={folder}",
                      "runtime.checkpoint=0"]

    def start(self) -> Process:
        """The cell, once more."""
        return Process(self.words, self.out.parent, self.out.parent / f"{self.out.name}.log")

    def files(self, pattern: str) -> list[Path]:
        """Those that are there now; folders vanish while one looks."""
        try:
            return sorted(self.out.glob(pattern))
        except OSError:
            return []

    def record(self) -> dict[str, Any]:
        """The one record. Raises ValueError when there are more or it is not whole."""
        (path,) = self.files("runs/*/rte/*.json")
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def left(self) -> dict[str, Any]:
        """All that must be the same whenever and however often it was interrupted."""
        record = self.record()
        record["outcome"] = {key: value for key, value in record["outcome"].items() if key not in MEASURED}
        for key in ("started", "commit", "dirty"):
            record.pop(key)
        weights = {path.name: path.read_bytes() for path in self.files("runs/*/rte/*/*")}
        return {"record": record, "weights": weights}


def aimed(place: Place, aim: str, step: int) -> bool:
    """Whether it is time to shoot: in the first two cases only from a random step on."""
    if aim in ("a moment", "a checkpoint"):
        names = [path.stem.removeprefix("step-").rstrip("+") for path in place.files("work/*/rte/*/step-*.json")]
        there = max(map(int, names), default=0) >= step
        return there and (aim == "a moment" or bool(place.files("work/*/rte/*/.part-*")))
    if aim == "the weights":
        return bool(place.files("runs/*/rte/*/.part-*") or place.files("runs/*/rte/*/best.safetensors"))
    return bool(place.files("runs/*/rte/.part-*") or place.files("runs/*/rte/*/last.safetensors"))


def where(place: Place) -> str:
    """Where the shot fell, by what is on the disk."""
    if place.files("runs/*/rte/*.json"):
        return "behind the record"
    if place.files("runs/*/rte/.part-*"):
        return "in the record"
    if place.files("runs/*/rte/*/*"):
        return "in or behind the weights"
    if place.files("work/*/rte/*/.part-*"):
        return "in a checkpoint"
    return "in training" if place.files("work/*/rte/*/step-*.json") else "before the first checkpoint"


def shoot(place: Place, dice: random.Random, falls: Counter[str]) -> tuple[int, str]:
    """Starts the cell and kills it, up to three times; then lets it end. How often it was killed; what it said."""
    shots = 0
    for _ in range(dice.randint(1, 3)):
        process, aim = place.start(), dice.choice(AIMS)
        step = dice.randint(0, STEPS)
        while process.poll() is None and not aimed(place, aim, step):
            time.sleep(0.002)
        time.sleep(dice.choice([0.0, 0.0, dice.uniform(0, 0.02)]))
        if process.poll() is None:
            process.kill()
        said = process.wait()
        shots += process.poll() == -signal.SIGKILL
        falls[where(place) if process.poll() == -signal.SIGKILL else "it was faster"] += 1
        if process.poll() not in (0, -signal.SIGKILL):
            raise AssertionError(f"exit status {process.poll()}: {said[-2000:]}")
    process = place.start()
    said = process.wait()
    assert process.poll() == 0, said[-3000:]
    return shots, said


def main(arguments: list[str] | None = None) -> int:
    """0 when every run ended as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    asked = parser.parse_args(arguments)
    os.environ |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "HF_HUB_OFFLINE": "1",
                   "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
                   "HYDRA_MAIN_MODULE": "__main__"}  # an imported run.py would look for conf as a package
    from conftest import write_glue, write_model

    FORKS.set_forkserver_preload(LOADED)
    folder = Path(asked.folder or tempfile.mkdtemp(prefix="kill-"))
    model, data = write_model(folder / "model"), write_glue(folder / "data")
    begin = time.monotonic()
    whole = Place(folder / "whole", model, data)
    process = whole.start()
    said = process.wait()
    assert process.poll() == 0, said[-3000:]
    seconds, reference = time.monotonic() - begin, whole.left()
    dice, falls, wrong, shots = random.Random(asked.seed), Counter[str](), [], 0
    resumed = damaged = 0
    for number in range(asked.runs):
        place = Place(folder / f"run-{number}", model, data)
        try:
            killed, said = shoot(place, dice, falls)
            shots += killed
            resumed += place.record()["outcome"]["resumed"]
            damaged += said.count("is damaged")
            rest = [str(path) for path in (*place.files("work/*/rte/*"), *place.files("runs/*/rte/**/.part-*"))]
            if place.left() != reference:
                wrong.append(f"run {number}: another result")
            young = [path for path in rest if "/work/" in path]
            if young:
                wrong.append(f"run {number}: left {young}")
        except (AssertionError, ValueError) as error:
            wrong.append(f"run {number}: {error}")
    print(f"{asked.runs} runs, {shots} kills ({', '.join(f'{n} {place}' for place, n in sorted(falls.items()))}); "
          f"taken up {resumed} times, {damaged} damaged checkpoints, {len(wrong)} wrong; {seconds:.0f} s undisturbed")
    print("\n".join(wrong), end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
