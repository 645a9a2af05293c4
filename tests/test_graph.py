"""A sweep orders itself, shares parents, runs what is missing alone, and says what failed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, Cli, ran

from engine import claim, record, sweep, work
from engine.contract import Elsewhere, Refused, Stopped, Unfinished
from engine.files import whole_text
from engine.plan import Planned, told_apart
from engine.sweep import Sweep

CHILDREN = ["-m", "task=rte,cola", "init_from=mnli", "seed=0,1"]


@pytest.fixture
def words(small: list[str], tmp_path: Path) -> list[str]:
    return [*CHILDREN, *small, f"hydra.sweep.dir={tmp_path / 'sweep'}"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def records(out: Path) -> dict[tuple[str, int], record.Record]:
    found, broken = record.read_all(out)
    assert broken == [] and len({(one.task, one.seed) for one in found}) == len(found)
    return {(one.task, one.seed): one for one in found}


def never(*_: object, **__: object) -> None:
    raise AssertionError("trained again")


def test_a_sweep_adds_the_parents_and_every_child_starts_from_that_of_its_seed(
        cli: Cli, words: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ran(cli, *words, "runtime.show=plan")
    assert "4 cells and 2 MNLI runs that others start from; done so far: 0" in plan
    assert plan.count("waits") == 4 and plan.count(", for mnli · encoder · LoRA") == 4 and plan.count("ready") == 2
    assert not out.exists()
    said = ran(cli, *words)
    found = records(out)
    assert found.keys() == {(task, seed) for task in ("mnli", "rte", "cola") for seed in (0, 1)}
    for (task, seed), one in found.items():
        assert one.init_from == (None if task == "mnli" else found["mnli", seed].digest)
        assert one.settings["init_from"] == ("none" if task == "mnli" else "mnli")
    assert "6 of 6 cells done (0 before)" in said and list((out / "work").rglob("*.json")) == []
    monkeypatch.setattr("engine.train.fit", never)
    assert "6 of 6 cells done (6 before)" in ran(cli, *words)
    (plan_file,) = (out / "sweeps" / "sweep").glob("*.json")
    entries = json.loads(plan_file.read_text())["cells"]
    paths = {f"runs/demo/{one.task}/{one.model}-{one.method}-s{one.seed}-{one.digest}.json" for one in found.values()}
    assert {entry["records"][0] for entry in entries} == paths
    assert {entry["after"] for entry in entries} == {None, *(path for path in paths if "/mnli/" in path)}


def test_a_recorded_parent_is_taken_and_none_added(cli: Cli, words: list[str], out: Path) -> None:
    ran(cli, *[word for word in words if word not in CHILDREN and "sweep" not in word], "task=mnli", "seed=1",
        "lr=1e-3")
    said = ran(cli, *words)
    found = records(out)
    assert "5 of 5 cells done" in said and len(found) == 6
    assert found["mnli", 1].settings["lr"] == 1e-3 and found["rte", 1].init_from == found["mnli", 1].digest
    assert found["mnli", 0].settings["lr"] != 1e-3


def test_children_of_a_failed_parent_are_not_run_and_the_others_are(cli: Cli, words: list[str], out: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import train

    fit = train.fit

    def fails(runs: Any, task: Any, *rest: Any, **more: Any) -> Any:
        if (task.name, runs[0].seed) == ("mnli", 1):
            raise RuntimeError("no luck\nat all")
        return fit(runs, task, *rest, **more)

    monkeypatch.setattr(train, "fit", fails)
    status, said, err = cli(*words)
    assert status == 1 and records(out).keys() == {("mnli", 0), ("rte", 0), ("cola", 0)}
    assert "3 of 6 cells done (0 before), 1 failed, 2 not run" in said
    assert "failed: mnli · encoder · LoRA" in err and "seed 1: RuntimeError: no luck" in err
    (failed,) = (out / "work").rglob("failed.json")
    content = json.loads(failed.read_text())
    assert content["error"] == "RuntimeError: no luck" and "in fails" in content["traceback"]
    monkeypatch.setattr(train, "fit", fit)
    assert "6 of 6 cells done (3 before)" in ran(cli, *words)
    assert list((out / "work").rglob("failed.json")) == []


def test_a_parent_that_lost_its_weights_stops_the_sweep_at_the_door(cli: Cli, words: list[str], out: Path) -> None:
    ran(cli, *[word for word in words if word not in CHILDREN and "sweep" not in word], "task=mnli")
    (weights,) = (out / "runs").rglob("best.safetensors")
    weights.unlink()
    status, said, err = cli(*words)
    assert status == 2 and f"{weights} is gone" in err and "runtime.force=true" in err and len(records(out)) == 1


def test_a_wrong_cell_stops_the_sweep_at_the_door(cli: Cli, words: list[str], out: Path) -> None:
    status, _, err = cli(*words, "l_p=3")
    assert status == 2 and "no such setting with this method" in err and not out.exists()
    status, _, err = cli(*[word for word in words if word != "seed=0,1"], "method=lora,prelayer", "seed=0,-1")
    assert status == 2 and "seed=-1" in err and "cells of this sweep cannot be run" in err and not out.exists()


def test_the_same_cell_said_twice_runs_once(cli: Cli, small: list[str], out: Path, tmp_path: Path) -> None:
    said = ran(cli, "-m", *small, "task=rte", "r=8,8", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert "1 of 1 cells done" in said and len(records(out)) == 1


def cell(out: Path, name: str, **fields: Any) -> Planned:
    about = {"task": "rte", "model": "m", "method": "lora", "seed": 0, "label": "LoRA", "variant": "", "scale": "demo"}
    fields = {"records": (out / "runs" / "demo" / "rte" / f"{name}.json",)} | fields
    return Planned((f"name={name}",), name, about, **fields)


class Fake:
    """A launcher that does to each name what it is told: a list of outcomes, one a launch."""

    def __init__(self, out: Path, **does: list[Any]) -> None:
        self.out, self.does, self.launched = out, does, []  # type: ignore[var-annotated]

    def __call__(self, lines: list[list[str]]) -> Sequence[BaseException | None]:
        names = [line[0].removeprefix("name=") for line in lines]
        self.launched.append(lines)
        outcomes = [self.does.get(name, ["done"]).pop(0) if self.does.get(name) else "done" for name in names]
        for name, outcome in zip(names, outcomes, strict=True):
            if outcome == "done":
                path = self.out / "runs" / "demo" / "rte" / f"{name}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
        if "broken" in outcomes:
            raise OSError("a worker is gone")
        return [outcome if isinstance(outcome, BaseException) else None for outcome in outcomes]


def begin(out: Path, name: str) -> None:
    """As a process leaves a cell that was killed in it."""
    folder = out / "work" / "demo" / "rte" / name
    code = ("import os; from pathlib import Path; from engine import claim; "
            f"claim.take(Path({str(folder)!r}), 0, print); os._exit(9)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert work.state(folder).kind == "died"


def test_a_launcher_that_loses_a_worker_is_asked_once_more(out: Path) -> None:
    fake = Fake(out, a=["broken", "done"], b=["quiet", "done"], c=["done"])
    Sweep(fake, [cell(out, name) for name in "abc"], out, False).run("t", "again")
    assert [[line[0] for line in lines] for lines in fake.launched] == [["name=a", "name=b", "name=c"],
                                                                       ["name=a"], ["name=b"]]


def test_one_cell_that_ends_its_process_each_time_costs_no_other(out: Path) -> None:
    """As joblib has it: the cells before it are done, it dies, those behind it never begin."""
    began: list[str] = []

    def launch(lines: list[list[str]]) -> list[None]:
        for name in (line[0].removeprefix("name=") for line in lines):
            began.append(name)
            if name == "3":
                begin(out, name)
                raise OSError("killed")
            Fake(out)([[f"name={name}"]])
        return [None] * len(lines)

    with pytest.raises(Unfinished, match="failed: 3: RuntimeError") as ended:
        Sweep(launch, [cell(out, str(i)) for i in range(8)], out, False).run("t", "again")
    assert str(ended.value).count("failed:") == 1 and sorted(began) == ["0", "1", "2", "3", "3", "4", "5", "6", "7"]


def test_a_process_that_always_dies_is_a_failed_cell(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake(out, a=["broken", "broken"])
    with pytest.raises(Unfinished, match="failed: a: RuntimeError: its process ended without a word, 2 times"):
        Sweep(fake, [cell(out, "a"), cell(out, "b")], out, False).run("t", "again")
    assert work.state(out / "work" / "demo" / "rte" / "a").kind == "failed"
    assert "1 of 2 cells done (0 before), 1 failed" in capsys.readouterr().out


def test_what_another_process_runs_is_waited_for(out: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    looks: list[float] = []

    def rest(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            Fake(out)([["name=a"]])

    real = work.state
    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=rest))
    monkeypatch.setattr(work, "state", lambda folder: real(folder) if folder.name != "a" else SimpleNamespace(
        kind="running", holder="cat, pid 9", failed=None))
    fake = Fake(out, b=[Elsewhere("just taken"), "done"])
    Sweep(fake, [cell(out, "a"), cell(out, "b")], out, False).run("t", "again")
    assert [[line[0] for line in lines] for lines in fake.launched] == [["name=b"], ["name=b"]] and len(looks) == 2
    assert capsys.readouterr().out.count("a is run by cat, pid 9") == 1


def test_a_child_is_told_its_parent_and_waits_for_it(out: Path) -> None:
    parent = cell(out, "m-lora-s0-0123456789")
    child = cell(out, "child", after=parent.key, child=True)
    known = cell(out, "known", begun="12345e6789", child=True)
    fake = Fake(out)
    Sweep(fake, [parent, child, known], out, False).run("t", "again")
    assert fake.launched == [
        [["name=m-lora-s0-0123456789", "runtime.place='1/3'"],
         ["name=known", "runtime.parent='12345e6789'", "runtime.place='2/3'"]],
        [["name=child", "runtime.parent='0123456789'", "runtime.place='3/3'"]]]


def test_what_only_decodes_trains_itself_when_the_one_before_it_failed(out: Path) -> None:
    fake = Fake(out, a=[RuntimeError("no")])
    with pytest.raises(Unfinished, match="failed: a"):
        Sweep(fake, [cell(out, "a"), cell(out, "b", after=cell(out, "a").key)], out, False).run("t", "again")
    assert [lines[0][0] for lines in fake.launched] == ["name=a", "name=b"]


def test_a_launcher_that_cannot_launch_ends_the_sweep(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def nowhere(lines: list[list[str]]) -> list[None]:
        raise Refused("no controller")

    with pytest.raises(Refused, match="no controller"):
        Sweep(nowhere, [cell(out, "a")], out, False).run("t", "again")
    assert not out.exists() and "stopped; the same again runs only what is missing: again" in capsys.readouterr().out


def test_what_was_done_when_it_was_stopped_is_counted(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def cut(lines: list[list[str]]) -> list[None]:
        Fake(out)([["name=a"]])
        raise Stopped("SIGINT")

    with pytest.raises(Stopped):
        Sweep(cut, [cell(out, "a"), cell(out, "b")], out, False).run("t", "again")
    assert "1 of 2 cells done (0 before), 1 not run" in capsys.readouterr().out


def test_cells_of_one_title_are_told_apart_by_what_differs(out: Path) -> None:
    one, two, other = (replace(cell(out, name), title=title, words=("task=rte", f"init_from={name}"))
                       for name, title in (("none", "x"), ("mnli", "x"), ("none", "y")))
    assert [each.title for each in told_apart([one, two, other])] == ["x · init_from=none", "x · init_from=mnli", "y"]


def test_force_runs_what_is_done_and_takes_no_old_record_for_a_new_one(out: Path) -> None:
    Fake(out)([["name=a"]])
    fake = Fake(out, a=["broken", "quiet"])
    with pytest.raises(Unfinished, match="failed: a"):
        Sweep(fake, [cell(out, "a")], out, True).run("t", "again")
    assert len(fake.launched) == 2

    def replaced(lines: list[list[str]]) -> list[None]:
        whole_text(cell(out, "a").key, "{ }")
        return [None]

    Sweep(replaced, [cell(out, "a")], out, True).run("t", "again")
    Sweep(fake, [cell(out, "a")], out, False).run("t", "again")
    assert len(fake.launched) == 2


def test_a_training_that_another_process_has_is_waited_for(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = out / "runs" / "demo" / "rte" / "training"
    naps: list[float] = []
    monkeypatch.setattr(sweep, "time", SimpleNamespace(sleep=lambda seconds: naps.append(seconds) or held.release()))
    held = claim.take(work.folder_of(out, training), 0, print)
    fake = Fake(out)
    Sweep(fake, [cell(out, "a", trainings=(training,))], out, False).run("t", "again")
    assert len(naps) == 1 and len(fake.launched) == 1


def test_a_full_disk_does_not_end_the_sweep(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(work, "fail", full)
    fake = Fake(out, a=[ValueError("no")])
    with pytest.raises(Unfinished, match="failed: a: ValueError: no"):
        Sweep(fake, [cell(out, "a"), cell(out, "b")], out, False).run("t", "again")
    assert (out / "runs" / "demo" / "rte" / "b.json").exists()


def test_a_parent_that_is_named_is_taken(cli: Cli, small: list[str], out: Path, tmp_path: Path) -> None:
    for epochs in (1, 2):
        ran(cli, "task=mnli", *small, f"epochs={epochs}")
    one, _ = sorted(record.read_all(out)[0], key=lambda each: len(each.outcome["curve"]))
    ran(cli, "-m", "task=rte", "init_from=mnli", *small, "epochs=2", f"runtime.parent='{one.digest}'",
        f"hydra.sweep.dir={tmp_path / 'sweep'}")
    (child,) = (each for each in record.read_all(out)[0] if each.task == "rte")
    assert child.init_from == one.digest


def test_an_added_parent_keeps_weights_though_its_child_does_not(cli: Cli, small: list[str], out: Path,
                                                                 tmp_path: Path) -> None:
    words = ["-m", *small, "init_from=mnli", "runtime.save=none", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    ran(cli, *words, "task=rte")
    weights = {each.task: each.weights for each in record.read_all(out)[0]}
    assert weights["rte"] is None and weights["mnli"] is not None


@pytest.mark.parametrize(("words", "says"), [
    (["runtime.out=a,b"], "runtime.out is for the whole sweep"), (["seed=0,01"], "seed=01"),
    (["runtime.show=plans"], "runtime.show must be one of"), (["r=interval(1,8)"], "an interval is for search"),
])
def test_what_a_sweep_cannot_mean_is_refused(cli: Cli, small: list[str], out: Path, words: list[str],
                                             says: str) -> None:
    kept = [word for word in small if not word.startswith(words[0].partition("=")[0] + "=")]
    status, _, err = cli("-m", "task=rte", *kept, *words)
    assert status == 2 and says in err and not out.exists()


def test_a_length_that_the_model_has_no_room_for_is_refused_before_anything_runs(
        cli: Cli, small: list[str], out: Path) -> None:
    status, _, err = cli("-m", "task=rte,cola", *small, "length=64,4096")
    assert status == 2 and "length=4096" in err and "2 cells of this sweep cannot be run" in err and not out.exists()


def test_a_plan_needs_neither_weights_nor_data(cli: Cli, out: Path, no_cache: Path) -> None:
    status, said, err = cli("table=table2-roberta-base", "task=rte,sst2", "seed=0", "method=lora", "runtime.show=plan",
                            f"runtime.out={out}")
    assert status == 2 and "2 cells and 1 MNLI run that others start from" in said and "for mnli · roberta-base" in said
    assert "not to be had" in err and "HF_HOME" in err and not out.exists()


def test_names_may_be_globbed(cli: Cli, small: list[str]) -> None:
    said = ran(cli, "-m", "task=rte", *small, "method=glob([adapter-h*,bit*])", "runtime.show=plan")
    assert "2 cells" in said and "BitFit" in said and "Adapter-H" in said
