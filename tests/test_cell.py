"""One cell from settings to record: once, again, by force, from an MNLI run, and through a crash."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, tree
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine import hub, record, start
from engine.contract import Refused, Stopped
from engine.work import claimed


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def only(out: Path, task: str = "rte") -> tuple[record.Record, Path]:
    """The one record of a task, and where it lies."""
    (path,) = (path for path in out.glob(f"runs/*/{task}/*.json"))
    return record.read(path), path


def ran(cli: Cli, *words: str) -> str:
    status, said, err = cli(*words)
    assert status == 0, err
    return said


def timeless(done: record.Record) -> dict[str, Any]:
    """What must be the same whenever it is run: all but clock and memory."""
    measured = ("seconds", "tokens_per_second", "peak_bytes", "resumed")
    outcome = {key: value for key, value in done.outcome.items() if key not in measured}
    return {**vars(done), "started": None, "commit": None, "dirty": None, "outcome": outcome}


def test_the_same_call_again_names_the_record_and_changes_nothing(cli: Cli, small: list[str], out: Path) -> None:
    first = ran(cli, "task=rte", *small)
    _, path = only(out)
    before = tree(out)
    again = ran(cli, "task=rte", *small)
    assert again.startswith("already there: rte") and "runtime.force=true" in again
    assert str(path) in again and str(path) in first and tree(out) == before


def test_force_runs_again_and_gives_the_same_numbers_and_weights(cli: Cli, small: list[str], out: Path) -> None:
    ran(cli, "task=rte", *small)
    done, path = only(out)
    kept = load_file(path.with_suffix("") / "best.safetensors")
    assert "already there" not in ran(cli, "task=rte", *small, "runtime.force=true")
    again, _ = only(out)
    assert timeless(again) == timeless(done) and again.started >= done.started
    for name, tensor in load_file(path.with_suffix("") / "best.safetensors").items():
        assert torch.equal(tensor, kept[name])


def test_where_and_how_make_no_other_run(cli: Cli, small: list[str]) -> None:
    ran(cli, "task=rte", *small)
    elsewhere = ["runtime.micro_batch=4", "runtime.save=none", "runtime.device=cpu"]
    assert "already there" in ran(cli, "task=rte", *small, *elsewhere)


@pytest.mark.parametrize(("save", "files"), [("none", set()), ("best", {"best.safetensors", "adapter.json"}),
                                             ("both", {"best.safetensors", "last.safetensors", "adapter.json"})])
def test_as_many_weights_are_kept_as_asked_for(cli: Cli, small: list[str], out: Path, save: str,
                                               files: set[str]) -> None:
    ran(cli, "task=rte", *small, f"runtime.save={save}")
    done, path = only(out)
    folder = path.with_suffix("")
    assert {file.name for file in folder.glob("*")} == files
    assert done.weights == (str(folder.relative_to(out)) if files else None)


def test_the_record_says_how_its_number_came_about(cli: Cli, small: list[str], out: Path, tiny: Path) -> None:
    ran(cli, "task=rte", *small, "lr=0.002", "r=4", "targets=[q,k,v,o]")
    done, path = only(out)
    assert path.name == f"encoder-lora-s0-{done.digest}.json"
    assert (done.settings["lr"], done.settings["r"], done.settings["method"]["r"]) == (0.002, 4, 4)
    assert done.sources["lr"] == done.sources["r"] == done.sources["epochs"] == "command line"
    assert done.sources["weight_decay"].startswith("our choice") and done.variant == "r=4 alpha=16 targets=q,k,v,o"
    assert {"torch", "transformers", "numpy"} <= done.versions.keys()
    assert len(done.data_sha256) == 64 and done.data_revision is None
    assert done.model_revision == hub.revision_of(tiny, None) and done.model_revision.startswith("sha256:")
    assert done.footprint["trainable"] == 2 * 4 * 2 * 4 * 32   # layers x matrices x (A and B) x r x width
    assert done.footprint["head"] == 32 * 32 + 32 + 32 * 2 + 2   # BERT's pooler and the classifier
    assert len(done.outcome["curve"]) == 1 and done.outcome["steps"] == 4
    assert str(tiny) not in path.read_text() and "_target_" not in path.read_text()


def test_a_crash_in_training_leaves_no_record(cli: Cli, small: list[str], out: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a crash in training")

    monkeypatch.setattr("engine.train.fit", crash)
    with pytest.raises(RuntimeError, match="a crash in training"):
        cli("task=rte", *small)
    assert not list(out.glob("runs/**/*.*"))
    (failed,) = out.glob("work/demo/rte/*/failed.json")
    assert "a crash in training" in json.loads(failed.read_text())["error"]
    monkeypatch.undo()
    ran(cli, "task=rte", *small)
    assert not list(out.glob("work/demo/rte/*"))


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_leaves_no_half_record(cli: Cli, small: list[str], out: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.replace", full)
    status, said, err = cli("task=rte", *small)
    assert status == 1 and "No space left on device; the run left no record" in err and "accuracy" in said
    assert not [path for path in out.rglob("*") if path.is_file() and "work" not in path.relative_to(out).parts]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space left")])
def test_the_number_is_kept_when_the_weights_cannot_be(cli: Cli, small: list[str], out: Path, error: Exception,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("engine.weights.save_file", fail)
    assert "the weights were not kept" in ran(cli, "task=rte", *small)
    assert only(out)[0].weights is None
    monkeypatch.undo()
    assert "its weights were not kept" in ran(cli, "task=rte", *small)


def stopped(cli: Cli, monkeypatch: pytest.MonkeyPatch, *words: str, step: int = 2) -> None:
    """Runs until a step, at which a signal comes."""
    from engine.progress import Progress

    stepped = Progress.stepped

    def signalled(self: Progress, tokens: int) -> None:
        stepped(self, tokens)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "stepped", signalled)
        status, _, err = cli(*words)
    assert status not in (0, 2) and f"SIGTERM: stopped at step {step} of 4" in err, err


def left(out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Record and weights, without what hangs on the clock."""
    done, path = only(out)
    return timeless(done), {file.name: file.read_bytes() for file in path.with_suffix("").iterdir()}


def test_a_stopped_cell_goes_on_and_leaves_what_an_undisturbed_one_leaves(
        cli: Cli, small: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(cli, "task=rte", *small)
    whole = left(out)
    shutil.rmtree(out)
    stopped(cli, monkeypatch, "task=rte", *small)
    (work,) = out.glob("work/demo/rte/*")
    assert not list(out.glob("runs/**/*.*")) and not (work / "failed.json").exists()
    (work / ".part-dead").touch()
    ran(cli, "task=rte", *small)
    assert left(out) == whole and only(out)[0].outcome["resumed"] == 1 and not work.exists()


def test_a_cell_that_another_process_runs_is_left_to_it(cli: Cli, small: list[str], out: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(cli, monkeypatch, "task=rte", *small)
    (work,) = out.glob("work/demo/rte/*")
    with pytest.raises(Stopped), claimed(work):
        before = {path.name for path in work.iterdir()}
        status, _, err = cli("task=rte", *small)
        assert status == 1 and str(os.getpid()) in err and {path.name for path in work.iterdir()} == before
        raise Stopped
    ran(cli, "task=rte", *small)


def test_a_record_that_another_process_wrote_meanwhile_is_enough(cli: Cli, small: list[str], out: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the door and the claim."""
    ran(cli, "task=rte", *small)
    _, path = only(out)
    text = path.read_text()
    path.unlink()
    from engine import cell

    built = cell._built

    def late(*given: Any) -> Any:
        path.write_text(text)
        return built(*given)

    monkeypatch.setattr(cell, "_built", late)
    monkeypatch.delattr("engine.train.fit")
    assert "already there" in ran(cli, "task=rte", *small) and path.read_text() == text
    assert not list(out.glob("work/demo/rte/*"))


def test_force_begins_anew_but_an_interrupted_force_goes_on(cli: Cli, small: list[str], out: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    words, force = ("task=rte", *small), "runtime.force=true"
    stopped(cli, monkeypatch, *words)
    ran(cli, *words, force)
    whole = left(out)
    assert only(out)[0].outcome["resumed"] == 0
    stopped(cli, monkeypatch, *words, force, step=3)
    assert left(out) == whole  # the old record and its weights until the new ones are there
    assert "already there" in ran(cli, *words) and list(out.glob("work/demo/rte/*/step-3.pt"))
    ran(cli, *words, force)
    assert left(out) == whole and only(out)[0].outcome["resumed"] == 1 and not list(out.glob("work/demo/rte/*"))


def test_a_force_that_dies_between_weights_and_record_leaves_no_record_beside_them(
        cli: Cli, small: list[str], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, force = ("task=rte", *small), "runtime.force=true"
    ran(cli, *words)
    done, path = only(out)
    whole, text = left(out), path.read_text()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("engine.record.write", die)
        assert cli(*words, force)[0] == 130
    assert not path.exists()
    (before,) = out.glob("work/demo/rte/*/before.json")
    assert before.read_text() == text  # no number is lost
    ran(cli, *words, force)
    assert left(out) == whole and only(out)[0].outcome["resumed"] == 1 and not before.parent.exists()


def test_a_work_folder_that_outlived_its_record_is_cleared_away(cli: Cli, small: list[str], out: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(cli, monkeypatch, "task=rte", *small)
    (work,) = out.glob("work/demo/rte/*")
    copy = shutil.copytree(work, out / "copy")
    ran(cli, "task=rte", *small)
    shutil.copytree(copy, work)
    assert "already there" in ran(cli, "task=rte", *small) and not work.exists()


def test_the_environment_does_not_change_the_numbers(cli: Cli, small: list[str], out: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate reads this one when it is made, and would divide every loss by it; a stray RANK is nobody's rank."""
    ran(cli, "task=rte", "clip=0.3", "lr=1e-2", *small)
    first, _ = only(out)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("RANK", "1")
    ran(cli, "task=rte", "clip=0.3", "lr=1e-2", "runtime.force=true", *small)
    assert only(out)[0].outcome["curve"] == first.outcome["curve"]


def test_another_tokenizer_or_configuration_is_another_run(tiny: Path, tmp_path: Path) -> None:
    before = hub.revision_of(tiny, None)
    for name, was, becomes in (("config.json", '"gelu"', '"relu"'), ("tokenizer.json", '"lowercase"', '"uppercase"')):
        copy = tmp_path / name
        shutil.copytree(tiny, copy)
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace(was, becomes) if was in text else text + " ")
        assert hub.revision_of(copy, None) != before


def odd(folder: Path, case: str) -> None:
    """Makes a model folder into one that must not be trained."""
    config = json.loads((folder / "config.json").read_text())
    if case == "remote code":
        config |= {"model_type": "evilx", "auto_map": {"AutoConfig": "evil.C"}}
        (folder / "evil.py").write_text(f"open({str(folder / 'pwned')!r}, 'w')")
    elif case == "fewer layers":
        config["num_hidden_layers"] = 1
    elif case == "no vocabulary":
        for name in ("tokenizer.json", "vocab.txt"):
            (folder / name).unlink(missing_ok=True)
    elif case == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif case == "adapter":
        (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").write_text("{broken" if case == "broken" else json.dumps(config))


@pytest.mark.parametrize("case", ["remote code", "fewer layers", "no vocabulary", "cut weights", "adapter", "broken"])
def test_an_odd_model_folder_is_refused(cli: Cli, small: list[str], tiny: Path, out: Path, tmp_path: Path,
                                        case: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    odd(copy, case)
    status, _, err = cli("task=rte", *small, f"model.path={copy}")
    assert status == 2 and 1 <= len(err.strip().splitlines()) <= 2, err
    assert not out.exists() and not (copy / "pwned").exists()


FROM_MNLI = ["task=rte", "init_from=mnli"]


def test_rte_starts_from_the_mnli_run(cli: Cli, small: list[str], out: Path) -> None:
    ran(cli, "task=mnli", *small)
    parent, path = only(out, "mnli")
    said = ran(cli, *small, *FROM_MNLI, "lr=1e-12", "weight_decay=0")
    child, below = only(out)
    assert child.init_from == parent.digest and "started from" in said
    old, new = (load_file(place.with_suffix("") / "best.safetensors") for place in (path, below))
    assert old.keys() == new.keys() and old["classifier.weight"].shape[0] == 3
    for name, tensor in new.items():
        if name.startswith("classifier."):
            assert tensor.shape[0] == 2   # the output layer is fresh
        else:
            torch.testing.assert_close(tensor, old[name], rtol=0, atol=1e-9)
    assert any(tensor.any() for name, tensor in old.items() if ".B." in name)   # a start that trained


def test_the_mnli_run_of_the_same_seed_is_taken(cli: Cli, small: list[str], out: Path) -> None:
    for seed in (0, 1):
        ran(cli, "task=mnli", *small, f"seed={seed}")
    paths = sorted(out.glob("runs/demo/mnli/*.json"))
    for path, value in zip(paths, (40.0, 60.0), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"value": value}))
    ran(cli, *small, *FROM_MNLI)
    assert only(out)[0].init_from == record.read(paths[0]).digest


def test_a_record_or_its_weights_may_be_named_as_the_start(cli: Cli, small: list[str], out: Path) -> None:
    ran(cli, "task=mnli", *small)
    parent, path = only(out, "mnli")
    ran(cli, "task=rte", *small, f"init_from={path}")
    done, made = only(out)
    assert done.init_from == parent.digest
    made.unlink()
    ran(cli, "task=rte", *small, f"init_from={path.with_suffix('') / 'best.safetensors'}")
    assert only(out)[0].init_from.startswith("sha256:")


def test_a_record_named_from_its_own_folder_is_the_same_start(cli: Cli, small: list[str], out: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    ran(cli, "task=mnli", *small)
    _, path = only(out, "mnli")
    monkeypatch.chdir(path.parent)
    assert start.find({"init_from": path.name}, out, None) == start.find({"init_from": str(path)}, out, None)


def test_the_same_start_by_another_path_is_the_same_run(cli: Cli, small: list[str], out: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    ran(cli, "task=mnli", *small)
    _, path = only(out, "mnli")
    monkeypatch.chdir(out)
    ran(cli, "task=rte", *small, f"init_from={path}")
    assert "already there" in ran(cli, "task=rte", *small, f"init_from={path.relative_to(out)}")


REFUSALS = {
    "none there": ([], [], "first run task=mnli"),
    "another rank": (["r=4"], [], "first run task=mnli"),
    "another method": (["method=ft"], [], "first run task=mnli"),
    "without weights": (["runtime.save=none"], [], "first run task=mnli"),
    "demo for paper": ([], ["scale=paper"], "first run task=mnli"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_without_a_fitting_mnli_run_the_start_is_refused(cli: Cli, small: list[str], out: Path, glue_folder: Path,
                                                         case: str) -> None:
    parent, child, says = REFUSALS[case]
    if case != "none there":
        ran(cli, "task=mnli", *small, *parent)
    before = tree(out)
    words = [word for word in small if not child or not word.startswith("scale")]
    words += [f"data_root={glue_folder}"] if child else []
    status, _, err = cli(*FROM_MNLI, *words, *child)
    assert status == 2 and says in err and "init_from=none" in err and tree(out) == before


def test_an_mnli_run_of_other_weights_is_no_start(cli: Cli, small: list[str], tiny: Path, tmp_path: Path) -> None:
    """model=encoder stands for any folder; LoRA matrices mean nothing on a body they were not trained on."""
    ran(cli, "task=mnli", *small)
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    body = {name: -tensor for name, tensor in load_file(tiny / "model.safetensors").items()}
    save_file(body, other / "model.safetensors", metadata={"format": "pt"})
    assert cli(*small, *FROM_MNLI)[0] == 0   # while the same weights are
    status, _, err = cli(*small, *FROM_MNLI, f"model.path={other}")
    assert status == 2, err


def test_a_start_that_lost_its_weights_is_refused(tmp_path: Path, cli: Cli, small: list[str], out: Path) -> None:
    ran(cli, "task=mnli", *small)
    _, path = only(out, "mnli")
    (path.with_suffix("") / "best.safetensors").unlink()
    with pytest.raises(Refused, match="is gone"):
        start.find({"init_from": str(path)}, out, None)
    (tmp_path / "weights.bin").write_text("")
    with pytest.raises(Refused, match="only records"):
        start.find({"init_from": str(tmp_path / "weights.bin")}, out, None)
    (tmp_path / "bad.safetensors").write_text("hello")
    status, _, err = cli("task=rte", *small, f"init_from={tmp_path / 'bad.safetensors'}")
    assert status == 2 and "bad.safetensors" in err


@pytest.mark.slow
def test_wandb_offline_writes_a_run_each_and_changes_no_number(cli: Cli, small: list[str], out: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    ran(cli, "task=rte", *small)
    plain = timeless(only(out)[0])
    monkeypatch.delenv("WANDB_MODE")
    for seed in (0, 1):
        ran(cli, "task=rte", *small, f"seed={seed}", "runtime.force=true", "runtime.wandb=offline")
    assert len([folder for folder in (out / "wandb").glob("offline-run-*") if folder.is_dir()]) == 2
    (path,) = out.glob("runs/demo/rte/*-s0-*.json")
    assert timeless(record.read(path)) == plain
