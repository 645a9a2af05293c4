"""A sweep of several processes that is told to stop: all that runs saves, and launched again it ends as undisturbed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_glue, write_model

NOISE = ("Traceback", "leaked", "terminate called", "Error executing", "resource_tracker", "Warning")
MEASURED = ("seconds", "tokens_per_second", "peak_bytes", "resumed")
CELLS = ["-m", "task=rte", "method=lora,bitfit", "seed=0,1", "model=encoder", "precision=fp32", "length=64",
         "epochs=16", "batch=4", "init_from=none"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher")
                                                   is None, reason="needs the extra [launchers]")]


class Place:
    """Where the sweep is run: its words, its results, its screen."""

    def __init__(self, folder: Path, base: Path, *words: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.screen, self.folder = folder / "results", folder / "screen", folder
        self.words = [*CELLS, f"model.path={base / 'model'}", f"data_root={base / 'data'}", f"runtime.out={self.out}",
                      "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *words]

    def start(self) -> subprocess.Popen[bytes]:
        """The sweep in a process group of its own, as a terminal starts it."""
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with self.screen.open("wb") as screen:
            return subprocess.Popen([sys.executable, str(ROOT / "run.py"), *self.words], env=env, cwd=self.folder,
                                    stdout=screen, stderr=subprocess.STDOUT, start_new_session=True)

    def said(self) -> str:
        return self.screen.read_text(errors="replace")

    def wait(self, pattern: str) -> None:
        """Until this is on the screen."""
        for _ in range(4800):
            if re.search(pattern, self.said()):
                return
            time.sleep(0.05)
        raise TimeoutError(f"no {pattern!r} in\n{self.said()}")

    def records(self) -> dict[str, Any]:
        """What each run came to: numbers, curve, bytes of the weights."""
        found = {}
        for path in self.out.glob("runs/*/rte/*.json"):
            told = json.loads(path.read_text())
            outcome = {key: value for key, value in told["outcome"].items() if key not in MEASURED}
            weights = hashlib.sha256((self.out / told["weights"] / "best.safetensors").read_bytes()).hexdigest()
            found[path.name] = [told["numbers"], json.dumps(outcome), weights]
        return found

    def points(self) -> dict[str, int]:
        """The newest checkpoint of each run that is under way."""
        return {path.parent.name: int(path.stem.partition("-")[2])
                for path in sorted(self.out.glob("work/*/rte/*/step-*.json"), key=lambda path: path.stat().st_mtime)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_model(folder / "model")
    write_glue(folder / "data")
    return folder


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> dict[str, Any]:
    place = Place(base / "whole", base)
    assert place.start().wait(timeout=300) == 0, place.said()
    assert not [word for word in NOISE if word in place.said()], place.said()
    assert len(place.records()) == 4
    return place.records()


def children(pid: int) -> list[int]:
    """The living processes that this one started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


MID = r"lora s0. epoch 2/16(.|\n)*lora s1. epoch 2/|lora s1. epoch 2/16(.|\n)*lora s0. epoch 2/"


@pytest.mark.parametrize("number, whole", [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False),
                                           (signal.SIGTERM, True)])
@pytest.mark.parametrize("moment", ["running", "booting", "importing"])
def test_all_is_saved(moment: str, number: signal.Signals, whole: bool, base: Path, tmp_path: Path,
                      undisturbed: dict[str, Any]) -> None:
    place = Place(tmp_path, base)
    process = place.start()
    if moment == "running":
        place.wait(MID)
    else:
        place.wait("done so far")
        for _ in range(2000):  # joblib's resource tracker is a child too
            if len(children(process.pid)) >= 3:
                break
            time.sleep(0.005)
        time.sleep(0.02 if moment == "booting" else 2.5)
    (os.killpg if whole else os.kill)(process.pid, number)
    status, said = process.wait(timeout=120), place.said()
    assert status == 128 + number, said
    assert not [word for word in NOISE if word in said], said
    assert said.count(f"{number.name}: stops as soon as all is saved") == 1, said
    assert f"run.py: {number.name}: " in said and "not begun" in said, said
    assert not place.records()
    halted = dict(re.findall(r"\[\S+ rte (\S+ s\d)\] SIG\w+: stopped at step (\d+) of", said))
    if moment == "running":
        assert len(halted) == 2 and "2 runs stopped, 2 not begun" in said, said
    assert sorted(place.points().values()) == sorted(map(int, halted.values())), said
    assert place.start().wait(timeout=300) == 0, place.said()
    assert len(re.findall("goes on at step", place.said())) == len(halted)
    assert place.records() == undisturbed
    assert not list(place.out.glob("work/*/rte/*"))


def test_a_second_ctrl_c_ends_it_at_once(base: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, base, "epochs=400")
    process = place.start()
    place.wait(MID.replace("16", "400"))
    workers = children(process.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # they cannot save
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 130
    said = place.said()
    assert "Traceback" not in said and "terminate called" not in said, said
    assert not [one for one in workers if Path(f"/proc/{one}/exe").exists() and "joblib" in
                Path(f"/proc/{one}/cmdline").read_text() and "resource" not in Path(f"/proc/{one}/cmdline").read_text()]
