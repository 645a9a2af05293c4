"""Every file of conf/ is used: each task trains a tiny model with each method, each model and table composes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cli
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = ROOT / "conf"
METRICS = {"cola": "matthews_correlation", "stsb": "pearson"}   # the others: accuracy (Table 2's caption)


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(words)), resolve=True)   # type: ignore[return-value]


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "runs").rglob("*-s*.json"))]


@pytest.mark.parametrize("method", ["lora", "ft"])   # the others: test_architectures.py
@pytest.mark.parametrize("task", options("task"))
def test_every_task_trains_with_every_method(cli: Cli, small: list[str], tmp_path: Path, task: str,
                                             method: str) -> None:
    status, out, err = cli(f"task={task}", f"method={method}", *small)
    assert status == 0, err
    (record,) = records(tmp_path / "out")
    assert record["metric"] == METRICS.get(task, "accuracy") and record["metric"] in record["numbers"]
    assert record["value"] is None or -100 <= record["value"] <= 100
    assert (record["task"], record["method"], record["model"]) == (task, method, "encoder")
    assert (record["scale"], record["data"]) == ("demo", "synthetic")
    assert str(tmp_path / "out" / "runs" / "demo" / task) in out.splitlines()[-1]
    if task == "mnli":
        assert {"accuracy_matched", "accuracy_mismatched"} <= record["numbers"].keys()


def test_a_run_of_a_single_step_trains_or_is_refused(cli: Cli, small: list[str]) -> None:
    """32 examples in one batch: the recipe's warm-up is all of it."""
    status, _, err = cli("task=rte", *small, "batch=32")
    assert status in (0, 2) and "Traceback" not in err


@pytest.mark.parametrize("model", [name for name in options("model") if name not in ("encoder", "decoder")])
@pytest.mark.parametrize("method", ["lora", "ft"])
def test_every_model_shows_its_shape_without_weights(cli: Cli, tmp_path: Path, model: str, method: str) -> None:
    words = [f"model={model}", f"method={method}", f"runtime.out={tmp_path / 'out'}"]
    status, out, err = cli(*words, "runtime.show=parameters")
    assert status == 0, err
    assert "trainable (head left out, as the paper counts)" in out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", options("model"))
def test_every_model_composes_with_every_scale_and_method(model: str) -> None:
    for scale, method in (("demo", "lora"), ("paper", "ft")):
        settings = composed(f"model={model}", f"method={method}", f"scale={scale}", "model.path=x")
        assert settings["model"]["name"] == model and settings["scale"]["name"] == scale
        assert settings["method"]["name"] == method
        assert settings["recipe"]["name"] in (f"{model}/{method}", f"decoder/{method}")
        assert {"q", "k", "v", "o", "ff"} <= settings["model"]["roles"].keys()


@pytest.mark.parametrize("task", options("task"))
def test_every_task_composes_as_the_paper_has_it(task: str) -> None:
    settings = composed(f"task={task}")
    assert settings["task"]["name"] == task and settings["recipe"]["name"] == "roberta-base/lora"


def test_every_scale_says_which_data_it_means() -> None:
    kinds = {scale: composed("task=rte", f"scale={scale}")["scale"]["data"] for scale in options("scale")}
    assert kinds == {"demo": "synthetic", "paper": "real"}


@pytest.mark.parametrize("method", options("method"))
def test_every_method_is_shown_on_a_stand_in(cli: Cli, method: str) -> None:
    """What would train and what it takes, item by item; all of it sums up."""
    status, out, err = cli("model=minilm", f"method={method}", "runtime.show=parameters")
    assert status == 0, err
    counts = {line.split("  ")[0]: int(re.findall(r"([\d,]+)  +[\d.]+ %$", line)[0].replace(",", ""))
              for line in out.splitlines() if line.endswith(" %")}
    total, trainable, head = (counts.pop(key) for key in (
        "the whole model", "trainable (head left out, as the paper counts)", "head"))
    assert sum(count for key, count in counts.items() if key.startswith("body ")) == trainable <= total
    assert sum(count for key, count in counts.items() if key.startswith("head ")) == head
    items = {line.split()[0]: float(line.split()[1]) for line in out.split("on one device\n")[1].splitlines()[1:]}
    assert abs(sum(items.values()) - 2 * items["together"]) < 0.003
    assert items["weights"] == pytest.approx(4 * total / 1e9, abs=0.001)
    assert items["optimiser"] == pytest.approx(8 * (trainable + head) / 1e9, abs=0.001)


@pytest.mark.parametrize("show", ["recipe", "diff"])
def test_recipes_are_shown_without_training(cli: Cli, tmp_path: Path, show: str) -> None:
    status, out, err = cli("task=rte", f"runtime.show={show}", f"runtime.out={tmp_path / 'out'}")
    assert status == 0, err
    assert "Table 9" in out and "alpha" in out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("table", options("table"))
def test_every_table_composes(table: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"table={table}"], return_hydra_config=True)
        sweep = OmegaConf.to_container(config.hydra.sweeper.params or {}, resolve=True)
        settings = OmegaConf.to_container(config.copy(), resolve=False)
    assert sweep and settings


def test_the_command_line_is_stronger_than_recipe_and_scale() -> None:
    for words in (["scale=demo"], ["scale=paper"], ["recipe=roberta-base/lora-official", "model=roberta-base"]):
        settings = composed("task=mnli", "lr=0.5", "r=3", "alpha=5", "epochs=7", "length=9", *words)
        assert [settings[key] for key in ("lr", "r", "alpha", "epochs", "length")] == [0.5, 3, 5, 7, 9]
        assert (settings["method"]["r"], settings["method"]["alpha"]) == (3, 5)


@pytest.mark.parametrize("group", ["task", "model", "method", "scale", "table"])
def test_help_names_every_file_of_the_group(group: str) -> None:
    """--help is written by hand, so that it can explain; this keeps it complete."""
    template = (CONF / "config.yaml").read_text(encoding="utf-8").split("template: |")[1]
    words = set(re.findall(r"[\w-]+", template))
    names = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert names and names <= words, names - words
