"""python -m analysis status: what it says of plans, records and work folders in every state."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, tree

from analysis import estimate, status, sweeps
from analysis.__main__ import main
from engine import claim, holder, work

GOLDEN = """\
demo: 12 cells: 3 done, 2 running, 2 failed, 3 interrupted, 1 waiting, 1 not started

      mnli  cola
FT     0/2   0/3
LoRA   2/3   1/4

running
  cola · minilm · LoRA · seed 1: epoch 2 of 3, step 120 of 400; node7, pid 42, Slurm job 17_3, since \
2026-11-22 14:28 UTC
  cola · minilm · LoRA · seed 2: begins; node7, pid 42, since 2026-11-22 14:28 UTC

failed
  mnli · minilm · FT · seed 0: OutOfMemoryError: CUDA out of memory
    2026-11-22 15:01 UTC on node8 in Slurm job 18; traceback: OUT/work/demo/mnli/minilm-ft-s0-0/failed.json
  mnli · minilm · FT · seed 1: OUT/runs/demo/mnli/minilm-ft-s1-0.json: a record of schema None; this version reads 1

interrupted: these go on when launched again
  cola · minilm · FT · seed 0: no checkpoint, so from the start; died: HERE
  cola · minilm · FT · seed 1: no checkpoint, so from the start; no sign of life for 1 h 0 min from node7, pid 42, \
since 2026-11-22 14:28 UTC
  cola · minilm · LoRA · seed 3: goes on at epoch 1, step 80 of 400

1 cell waits for mnli · minilm · FT · seed 0 (failed)

cannot be read: OUT/sweeps/demo/torn.json: not a plan (JSONDecodeError: Expecting value: line 1 column 1 (char 0))
cannot be read: OUT/work/demo/cola/minilm-ft-s0-0/progress.json: Expecting property name enclosed in double quotes: \
line 1 column 2 (char 1)

about 24 min of training left, 2 at a time
running; if that stops, again: python run.py table=demo"""
RECORD = json.loads(next((ROOT / "results" / "runs" / "paper" / "cola").glob("minilm-lora-*.json")).read_text())


def entry(task: str, method: str, seed: int, **changes: Any) -> dict[str, Any]:
    """A plan's cell."""
    label = {"lora": "LoRA", "ft": "FT"}[method]
    return {"title": f"{task} · minilm · {label} · seed {seed}", "words": [], "task": task, "model": "minilm",
            "method": method, "label": label, "variant": "", "seed": seed, "scale": "demo",
            "records": [f"runs/demo/{task}/minilm-{method}-s{seed}-{place}.json" for place in range(2)],
            "after": None} | changes


def plan(out: Path, cells: list[dict[str, Any]], command: str, name: str = "demo", age: float = 0) -> None:
    path = out / "sweeps" / name / f"{len(command)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, "cells": cells}))
    os.utime(path, (time.time() - age,) * 2)


def folder(out: Path, cell: dict[str, Any], place: int = 0) -> Path:
    made = work.folder_of(out, Path(cell["records"][place]))
    made.mkdir(parents=True, exist_ok=True)
    return made


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def held(where: Path, **changes: object) -> Path:
    said = {"host": "node7", "pid": 42, "since": "2026-11-22T14:28:05+00:00", "place": "node7", "born": 1}
    path = where / "claim-3"
    put(path, asdict(holder.here(claim.LEASE)) | said | changes)
    return path


def planted(out: Path) -> str:
    """A sweep with a cell in every state; returns the dead process in words."""
    lora = [entry(task, "lora", seed) for task, count in (("mnli", 3), ("cola", 4)) for seed in range(count)]
    ft = [entry("mnli", "ft", 0), entry("mnli", "ft", 1), *(entry("cola", "ft", seed) for seed in range(3))]
    ft[4]["after"] = ft[0]["records"][0]
    plan(out, [*lora, *ft], "python run.py table=demo", age=60)
    plan(out, [*ft, lora[0]], "python run.py table=demo method=ft")
    (out / "sweeps" / "demo" / "torn.json").write_text("")
    os.utime(out / "sweeps" / "demo" / "torn.json", (1, 1))
    done = [(lora[0], 0, 100), (lora[1], 1, 200), (lora[3], 0, 500)]   # the second at its other record
    for cell, place, seconds in done:
        put(out / cell["records"][place], RECORD | {"outcome": RECORD["outcome"] | {"seconds": seconds}})
    held(folder(out, lora[4], 1), job="17_3")
    put(folder(out, lora[4], 1) / "progress.json", {"epoch": 2, "epochs": 3, "step": 120, "steps": 400, "seconds": 9})
    held(folder(out, lora[5]))
    put(folder(out, ft[0]) / "failed.json", {"error": "OutOfMemoryError: CUDA out of memory", "traceback": "…",
                                             "when": "2026-11-22T15:01:00+00:00", "host": "node8", "job": "18"})
    put(out / ft[1]["records"][0], {})
    for step in (40, 80):
        put(folder(out, lora[6]) / f"step-{step}.json", {"step": step, "steps": 400, "epoch": 1})
        (folder(out, lora[6]) / f"step-{step}.pt").touch()
    process = subprocess.Popen(["true"])
    process.wait()
    dead = {"host": "here", "pid": process.pid, "place": holder.place()}
    held(folder(out, ft[2]), **dead)
    (folder(out, ft[2]) / "progress.json").write_text("{")
    os.utime(held(folder(out, ft[3])), (time.time() - 3600,) * 2)
    return f"here, pid {process.pid}, since 2026-11-22 14:28 UTC"


def asked(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["analysis", "status", *map(str, words)])
    capfd.readouterr()
    return main(), *capfd.readouterr()


@pytest.mark.skipif(holder.place() is None, reason="only Linux tells that a process is gone")
def test_every_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Seven cells are left; LoRA on MNLI lasts 150 s and on CoLA 500 s, as FT on CoLA will: 150 + 0.7 x 500 + 500 +
    0.8 x 500 + 3 x 500 s, two at a time."""
    dead = planted(tmp_path)
    before = tree(tmp_path)
    monkeypatch.setattr(status.shutil, "get_terminal_size", lambda *_: os.terminal_size((120, 24)))
    code, said, _ = asked(monkeypatch, capfd, "demo", "--results", tmp_path)
    wanted = GOLDEN.replace("OUT", str(tmp_path)).replace("HERE", dead)
    assert said.rstrip("\n").splitlines() == wanted.splitlines()
    assert code == 1 and tree(tmp_path) == before   # it reads only


def test_the_estimate(tmp_path: Path) -> None:
    cells = [entry("cola", "lora", seed) for seed in range(3)] + [entry("rte", "ft", 0)]
    plan(tmp_path, cells, "run")
    assert "no estimate yet" in status.text(sweeps.read(tmp_path, "demo"), 120)
    held(folder(tmp_path, cells[0]))
    progress = folder(tmp_path, cells[0]) / "progress.json"
    put(progress, {"step": 0, "steps": 400, "seconds": 0})
    assert "no estimate yet" in status.text(sweeps.read(tmp_path, "demo"), 120)
    put(progress, {"step": 100, "steps": 400, "seconds": 600})
    assert estimate.remaining(sweeps.read(tmp_path, "demo").cells) == (1800 + 2400 + 2400, 3, 0, 1)
    assert "about 1 h 50 min of training left, 1 at a time, and 1 cell without" in status.text(
        sweeps.read(tmp_path, "demo"), 120)
    put(progress, {"step": "100", "steps": None})   # no numbers
    assert estimate.remaining(sweeps.read(tmp_path, "demo").cells) == (0, 0, 0, 4)


def test_where_nothing_alike_is_done_others_say_how_long(tmp_path: Path) -> None:
    """A cell of another task as long as the mean of its model's, of another model as the mean of all."""
    seconds = {("cola", "minilm"): 100, ("mnli", "minilm"): 300, ("cola", "roberta-base"): 2000}
    cells = [entry(task, "lora", 0, model=model, records=[f"runs/demo/{task}/{model}-lora-s0-0.json"])
             for task, model in (*seconds, ("rte", "minilm"), ("rte", "gpt2-nano"))]
    plan(tmp_path, cells, "run")
    for cell, took in zip(cells, seconds.values(), strict=False):
        put(tmp_path / cell["records"][0], RECORD | {"outcome": RECORD["outcome"] | {"seconds": took}})
    found = sweeps.read(tmp_path, "demo")
    assert estimate.remaining(found.cells) == (200 + 800, 2, 2, 0)
    assert "about 17 min of training left, 1 at a time; for 2 cells a guess from other runs\n" in status.text(found, 99)


def test_no_launch_changes_the_order(tmp_path: Path) -> None:
    """Methods and tasks as in the paper, numbers as numbers, whichever plan was written last."""
    cells = [entry(task, method, seed, variant=variant, title=f"{task} {method} {variant} seed {seed}",
                   records=[f"runs/{task}/{method}-{variant}-s{seed}.json"])
             for task, method, seed, variant in (
                 ("cola", "lora", 0, "r=2"), ("mnli", "ft", 10, ""), ("cola", "lora", 0, "r=16"), ("mnli", "ft", 9, ""),
                 ("mnli", "lora", 0, "r=16"), ("sst2", "ft", 0, ""))]
    plan(tmp_path, cells, "all", age=60)
    wanted = [cells[place]["title"] for place in (3, 1, 5, 0, 4, 2)]
    for age, (count, command) in enumerate(((2, "some of"), (5, "narrowed"), (6, "all, at once"))):
        plan(tmp_path, cells[-count:], command, age=30 - age)
        found = sweeps.read(tmp_path, "demo")
        assert [cell.title for cell in found.cells] == wanted
        assert found.command == ("all, at once" if count == 6 else "all")   # what does most; of equals the latest
        assert "next: all" in status.text(found, 120) and status.text(found, 120).count("next:") == 1


def test_a_shared_training_says_how_far_it_is(tmp_path: Path) -> None:
    """Cells that decode one training in two ways: the work of the first is in the training's folder."""
    shared = {"training": ["runs/demo/e2e/minilm-lora-s0-aa.json"]}
    cells = [entry("e2e", "lora", seed, **shared) for seed in range(2)]
    plan(tmp_path, cells, "run")
    held(folder(tmp_path, cells[0]))
    put(work.folder_of(tmp_path, Path(shared["training"][0])) / "progress.json", {"step": 5})
    first, second = sweeps.read(tmp_path, "demo").cells
    assert first.kind == "running" and first.position == {"step": 5} and second.kind == "not started"


def test_all_sweeps_and_wrong_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capfd: pytest.CaptureFixture[str]) -> None:
    empty = asked(monkeypatch, capfd, "--results", tmp_path)
    assert empty == (0, "no sweep was launched so far: python run.py table=demo\n", "")
    plan(tmp_path, [entry("cola", "lora", 0)], "run one", "table2-roberta-base")
    plan(tmp_path, [entry("rte", "lora", seed) for seed in range(2)], "run two", "demo")
    put(tmp_path / "runs/demo/rte/minilm-lora-s0-0.json", RECORD)
    assert asked(monkeypatch, capfd, "--results", tmp_path)[:2] == (0, (
        "demo                 2 cells: 1 done, 1 not started\ntable2-roberta-base  1 cell: 1 not started\n"))
    assert asked(monkeypatch, capfd, "deom", "--results", tmp_path)[2] == (
        f"analysis: deom: no such sweep under {tmp_path}/sweeps; did you mean demo?\n"
        "launched so far: demo, table2-roberta-base; python run.py table=demo launches one\n")
    code, _, error = asked(monkeypatch, capfd, "table4", "--results", tmp_path / "nowhere")
    assert code == 2 and "no such folder" in error
    code, said, _ = asked(monkeypatch, capfd, "demo", "--results", tmp_path, "--json")
    (found,) = json.loads(said)
    assert found["counts"]["done"] == 1 and found["command"] == "run two" and code == 0
    assert [cell["kind"] for cell in found["cells"]] == ["done", "not started"]
    assert [cell["record"] for cell in found["cells"]] == [f"{tmp_path}/runs/demo/rte/minilm-lora-s0-0.json", None]
    code, _, error = asked(monkeypatch, capfd, "demo", "--results", tmp_path, "--json", "--watch")
    assert code == 2 and "leave one of the two out" in error
    put(tmp_path / "runs/demo/rte/minilm-lora-s1-1.json", RECORD)
    said = asked(monkeypatch, capfd, "demo", "--watch", "--results", tmp_path)[1]   # ends: all is done
    assert said.endswith("nothing is left to run\nnext: python -m analysis\n")


def test_watching_ends_with_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capfd: pytest.CaptureFixture[str]) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt

    plan(tmp_path, [entry("cola", "lora", 0)], "run")
    monkeypatch.setattr(status.time, "sleep", sleep)
    code, said, error = asked(monkeypatch, capfd, "demo", "--watch", "--results", tmp_path)
    assert (code, error, said.count("demo: 1 cell:")) == (0, "", 2)


@pytest.mark.parametrize("content", ["[]", "{}", '{"cells": [{}]}', '{"cells": [{"records": []}]}', '{"cells": [1]}',
                                     '{"cells": 1}', "[" * 100_000, '{"cells": [{"records": "x", "title": "t"}]}'])
def test_what_is_no_plan_is_said(tmp_path: Path, content: str) -> None:
    plan(tmp_path, [entry("cola", "lora", 0)], "run")
    (tmp_path / "sweeps" / "demo" / "odd.json").write_text(content)
    found = sweeps.read(tmp_path, "demo")
    assert len(found.cells) == 1 and len(found.broken) == 1 and "odd.json: not a plan" in found.broken[0]


def test_asking_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'numpy', 'matplotlib', 'hydra', 'tqdm'} & set(sys.modules)"
    code = f"import sys\nfrom analysis import __main__, status, sweeps\nfrom engine import work\nprint({heavy})"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
