"""Every file of conf/ is used: each task trains a tiny model with each method, each model composes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cli
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = ROOT / "conf"
TEXTS = ("e2e", "webnlg", "dart", "wikisql", "samsum", "mnli-lm")   # their answers are texts
METRICS = {"cola": "matthews_correlation", "stsb": "pearson",   # the others: accuracy (Table 2's caption)
           "e2e": "bleu", "webnlg": "bleu", "dart": "bleu", "wikisql": "logical_form_accuracy", "samsum": "rouge1"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


FOR_TEXTS = ("gpt2-", "smollm2")   # models whose own recipes are for texts
TRAINED = [task for task in options("task") if task != "latency"]   # which trains nothing: test_latency.py


def composed(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(words)), resolve=True)   # type: ignore[return-value]


def recipe_of(model: str, method: str) -> list[str]:
    """A model's own recipe, or for GPT-2's sizes, which have LoRA's alone, ours for any decoder."""
    own = (CONF / "recipe" / model / f"{method}.yaml").exists() or not model.startswith("gpt2-")
    return [] if own else [f"recipe=text/{method}"]


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "runs").rglob("*-s*.json"))]


@pytest.mark.parametrize("method", ["lora", "ft"])   # the others: test_architectures.py
@pytest.mark.parametrize("task", TRAINED)
def test_every_task_trains_with_every_method(cli: Cli, small: list[str], small_texts: list[str], no_java: None,
                                             tmp_path: Path, task: str, method: str) -> None:
    texts = task in TEXTS
    words = [*small_texts, f"recipe=text/{method}"] if texts else small
    status, out, err = cli(f"task={task}", f"method={method}", *words)
    assert status == 0, err
    (record,) = records(tmp_path / "out")
    assert record["metric"] == METRICS.get(task, "accuracy") and record["metric"] in record["numbers"]
    assert record["value"] is None or -100 <= record["value"] <= 100
    model, scale, data = ("decoder", "paper", "folder") if texts else ("encoder", "demo", "synthetic")
    assert (record["task"], record["method"], record["model"]) == (task, method, model)
    assert (record["scale"], record["data"]) == (scale, data)
    assert str(tmp_path / "out" / "runs" / scale / task) in out.splitlines()[-1]
    if texts:
        assert record["numbers"]["val_loss"] > 0 and record["outcome"]["decoded"]["inputs"] == (
            2 if record["settings"]["task"]["scored"].startswith("validation") else 4)
    if task == "mnli":
        assert {"accuracy_matched", "accuracy_mismatched"} <= record["numbers"].keys()
    if task == "webnlg":
        assert {"bleu", "bleu_seen", "bleu_unseen", "ter", "ter_seen", "ter_unseen"} <= record["numbers"].keys()


def test_a_run_of_a_single_step_trains_or_is_refused(cli: Cli, small: list[str]) -> None:
    """32 examples in one batch: the recipe's warm-up is all of it."""
    status, _, err = cli("task=rte", *small, "batch=32")
    assert status in (0, 2) and "Traceback" not in err


@pytest.mark.parametrize("model", [name for name in options("model") if name not in ("encoder", "decoder")])
@pytest.mark.parametrize("method", ["lora", "ft"])
def test_every_model_shows_its_shape_without_weights(cli: Cli, tmp_path: Path, model: str, method: str) -> None:
    words = [f"model={model}", f"method={method}", f"runtime.out={tmp_path / 'out'}"]
    words += [f"recipe=decoder/{method}"] if model.startswith(FOR_TEXTS) else []   # with a head: theirs are for texts
    status, out, err = cli(*words, "runtime.show=parameters")
    assert status == 0, err
    assert "trainable (head left out, as the paper counts)" in out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", options("model"))
def test_every_model_composes_with_every_scale_and_method(model: str) -> None:
    for scale, method in (("demo", "lora"), ("paper", "ft")):
        words = [f"model={model}", f"method={method}", f"scale={scale}", "model.path=x", *recipe_of(model, method)]
        settings = composed(*words, *(["task=e2e"] if model.startswith(FOR_TEXTS) else []))
        assert settings["model"]["name"] == model and settings["scale"]["name"] == scale
        assert settings["method"]["name"] == method
        assert settings["recipe"]["name"] in (f"{model}/{method}", f"decoder/{method}", f"text/{method}")
        assert {"q", "k", "v", "o", "ff"} <= settings["model"]["roles"].keys()


@pytest.mark.parametrize("task", TRAINED)
def test_every_task_composes_as_the_paper_has_it(task: str) -> None:
    gpt3 = task in TEXTS[3:]
    settings = composed(f"task={task}", *(["recipe=gpt3-175b/lora"] if gpt3 else []))
    model = "gpt2-medium" if task in TEXTS else "roberta-base"
    assert (settings["task"]["name"], settings["model"]["name"]) == (task, model)
    assert settings["recipe"]["name"] == ("gpt3-175b/lora" if gpt3 else f"{model}/lora")
    decode = settings["decode"] and settings["decode"]["name"]
    assert decode == (None if task not in TEXTS else "greedy" if gpt3 else "paper")


@pytest.mark.parametrize("decode", options("decode"))
def test_every_way_to_decode_composes_and_the_command_line_is_stronger(decode: str) -> None:
    settings = composed("task=e2e", f"decode={decode}", "model=gpt2-nano", "decode.beams=3", "decode.max_new=7")
    assert settings["decode"]["name"] == decode
    assert (settings["decode"]["beams"], settings["decode"]["max_new"]) == (3, 7)


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


def test_the_command_line_is_stronger_than_recipe_and_scale() -> None:
    for words in (["scale=demo"], ["scale=paper"], ["recipe=roberta-base/lora-official", "model=roberta-base"]):
        settings = composed("task=mnli", "lr=0.5", "r=3", "alpha=5", "epochs=7", "length=9", *words)
        assert [settings[key] for key in ("lr", "r", "alpha", "epochs", "length")] == [0.5, 3, 5, 7, 9]
        assert (settings["method"]["r"], settings["method"]["alpha"]) == (3, 5)


@pytest.mark.parametrize("group", ["task", "model", "method", "scale", "table", "decode", "search"])
def test_help_names_every_file_of_the_group(group: str) -> None:
    """--help is written by hand, so that it can explain; this keeps it complete."""
    template = (CONF / "config.yaml").read_text(encoding="utf-8").split("template: |")[1]
    words = set(re.findall(r"[\w-]+", template))
    names = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    assert names and names <= words, names - words
