"""The recipes: each one is whole, says where every number comes from, and gives the committed records their settings.

test_recipe_sources.py compares the numbers with the paper's tables and the official scripts."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from engine.record import plain
from engine.resolve import identity

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
RUN = ("lr", "epochs", "batch", "length", "warmup", "schedule", "weight_decay", "decay_on", "betas", "eps", "clip",
       "label_smoothing", "dropout", "cls_dropout", "precision", "batching", "init_from")
DECODE = ("checkpoint", "search", "beams", "length_penalty", "no_repeat", "ban_sees", "renormalise", "ends", "max_new")
WHAT_IT_IS = {"_target_", "name", "label", "design"}   # of a method: not numbers, so without a source
GLUE = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")   # the columns of Table 9
TEXTS = ("e2e", "webnlg", "dart", "wikisql", "samsum", "mnli-lm")   # their answers are texts
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
RECIPES = sorted(str(p.relative_to(CONF / "recipe").with_suffix("")) for p in (CONF / "recipe").glob("*/*.yaml")
                 if p.parent.name != "common")
FOR_TEXTS = [r for r in RECIPES if r.startswith(("text/", "gpt2-", "smollm2/"))]
RECORDS = sorted(path for path in (ROOT / "results" / "runs" / "paper").glob("*/*.json")
                 if path.parent.name != "latency")   # which has no recipe: test_latency.py


def method_of(recipe: str) -> str:
    """The method: the longest one that the recipe's name begins with."""
    return max((m for m in METHODS if f"{recipe.split('/')[1]}-".startswith(f"{m}-")), key=len)


@cache
def cell(*words: str) -> Any:
    """A cell as Hydra composes it, unresolved."""
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", list(words))


def composed(recipe: str, task: str = "mnli", decode: str = "greedy") -> Any:
    """greedy has all six tasks in its table."""
    model = recipe.split("/")[0].replace("text", "decoder")
    words = (f"task={task}", f"model={model}", f"method={method_of(recipe)}", f"recipe={recipe}")
    return cell(*words, f"decode={decode}") if task in TEXTS else cell(*words)


@cache
def task_of(column: str) -> dict[str, Any]:
    """A column is a task, of the low-data recipes a task and its limit: mnli, mnli-lm, mnli-lm-100, mnli-None."""
    name = max((task for task in (*TEXTS, *GLUE, "wnli") if f"{column}-".startswith(f"{task}-")), key=len)
    limit = column.removeprefix(name).removeprefix("-")
    task = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    task.pop("defaults", None)
    return task | {"limit": int(limit) if limit.isdigit() else None}


@cache
def settings(recipe: str, column: str, decode: str = "greedy") -> dict[str, Any]:
    """The cell resolved, as run.py sees it. Composing takes a fifth of a second, so only the task is exchanged."""
    task = task_of(column)
    config = composed(recipe, "e2e", decode) if task["name"] in TEXTS else composed(recipe)
    config.task = task
    return OmegaConf.to_container(config, resolve=True)   # type: ignore[return-value]


@cache
def columns(recipe: str) -> tuple[str, ...]:
    """What the recipe's table has a column for. In GPT-3's tables mnli speaks for mnli-lm as well."""
    base = composed(recipe, "e2e") if recipe in FOR_TEXTS else composed(recipe)
    table = OmegaConf.to_container(base.recipe, resolve=False)["_table"]
    named = {column for row in table.values() for column, number in row.items() if number != "???"}
    return tuple(sorted(named | {column.replace("mnli", "mnli-lm") for column in named
                                 if recipe.startswith("gpt3") and "mnli" in column}))


@cache
def method_file(method: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8"))


@cache
def keys(recipe: str) -> tuple[str, ...]:
    """Every number of a cell: those of the run, those that the method has at the root, and the method's others."""
    def others(node: dict[str, Any], prefix: str) -> list[str]:
        return [key for name, value in node.items() if name not in WHAT_IT_IS for key in (
            others(value, f"{prefix}.{name}") if isinstance(value, dict) else
            [] if str(value).startswith("${") or f"{prefix}.{name}" == "method.drop" else [f"{prefix}.{name}"])]

    file = method_file(method_of(recipe))
    root = [key for key in file if key not in ("method", "_sources")]
    averaging = ("averaging",) if recipe in FOR_TEXTS or recipe.startswith("gpt3") else ()
    return (*RUN, *averaging, *root, *others(file["method"], "method"))


def decode_keys(config: dict[str, Any]) -> tuple[str, ...]:
    """A task with labels decodes nothing."""
    return tuple(f"decode.{key}" for key in DECODE) if config["decode"] else ()


def value(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


# --- every recipe is whole ------------------------------------------------------------------------------------------


def number(low: float, high: float, kind: type | tuple[type, ...] = float) -> Any:
    return lambda x: isinstance(x, kind) and not isinstance(x, bool) and low <= x <= high


def one_of(*words: Any) -> Any:
    return lambda x: x in words


SANE = {
    "lr": number(1e-6, 0.03), "epochs": number(1, 100, (int, float)), "batch": number(1, 1024, int),
    "length": number(8, 2048, int), "warmup": number(0, 100_000, (int, float)), "schedule": one_of("linear"),
    "weight_decay": number(0, 0.5), "decay_on": one_of("matrices", "all"),
    "betas": lambda x: len(x) == 2 and all(number(0.8, 0.9999)(b) for b in x),
    "eps": number(1e-9, 1e-5), "clip": lambda x: x is None or number(0.1, 10)(x), "label_smoothing": number(0, 0.5),
    "dropout": lambda x: x is None or number(0, 0.5)(x), "cls_dropout": lambda x: x is None or number(0, 0.5)(x),
    "precision": one_of("fp32", "fp16", "bf16", "auto"), "batching": one_of("shuffle", "grouped"),
    "init_from": one_of("none", "mnli"), "averaging": one_of("tokens", "examples", None),
    "alpha": number(1, 128, (int, float)), "r": number(1, 1024, int), "top": number(1, 100, int),
    "drop": number(0, 100, int), "l_p": number(0, 512, int), "l_i": number(0, 512, int),
    "targets": lambda x: x and isinstance(x, list) and set(x) <= {"q", "k", "v", "o", "ff"},
    "init": one_of("gaussian", "kaiming", "words"), "std": number(1e-4, 1), "method.dropout": number(0, 0.5),
    "activation": one_of("relu", "swish", "gelu"),
    "checkpoint": one_of("best", "last"), "search": one_of("official", "hf"), "beams": number(1, 100, int),
    "length_penalty": number(0, 2), "no_repeat": number(0, 10, int), "ban_sees": one_of("completion", "all"),
    "renormalise": one_of(True, False), "ends": lambda x: isinstance(x, list) and all(x),
    "max_new": number(1, 256, int),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_is_sane_and_sourced(recipe: str) -> None:
    for column in columns(recipe):
        config = settings(recipe, column)
        every = (*keys(recipe), *decode_keys(config))
        for key in every:
            sane = SANE.get(key) or SANE[key.rpartition(".")[2]]
            assert sane(value(config, key)), f"{column}: {key}: {value(config, key)!r}"
            assert config["_sources"].get(key, "???") != "???", f"{column}: no source for {key}"
        assert set(config["_sources"]) == set(every), column   # and none for a key that is not there
        texts = config["task"]["name"] in TEXTS
        assert (config["averaging"] is not None) == (config["decode"] is not None) == texts, column


@pytest.mark.parametrize("recipe", RECIPES)
def test_sources_speak_the_language_of_their_origin(recipe: str) -> None:
    ours = ("our choice:", "not stated; our choice:", "not in the paper; our choice:")
    language = {"paper": (*ours[1:], "Table ", "Section ", "Appendix "), "ours": (ours[0], ours[2]),
                "official": ("examples/", "not in the script:", "not used:")}
    decoding = (*language["paper"], *language["ours"], *language["official"], "transformers")   # has files of its own
    methods = method_file(method_of(recipe)).get("_sources", {})
    for column in columns(recipe):
        config = settings(recipe, column)
        origin = config["recipe"]["origin"]
        for key, source in config["_sources"].items():
            kept = origin != "official" and source == methods.get(key)   # the recipe leaves it to the method's file
            allowed = decoding if key.startswith("decode.") else language[origin]
            assert kept or source.startswith(allowed), f"{column}: {key}: {source}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_choice_that_names_its_number_has_it(recipe: str) -> None:
    for column in columns(recipe):
        config = settings(recipe, column)
        for key, source in config["_sources"].items():
            named = re.search(r"our choice: (\d[\d.]*(?:e-\d+)?)(?=[,;]|$)", source)
            if named and key not in ("epochs", "length"):   # of which a sentence tells several
                assert value(config, key) == float(named[1]), f"{column}: {key}: {source}"


@pytest.mark.parametrize("recipe", ["encoder/ft", "minilm/lora", "roberta-base/lora", "roberta-large/lora-official",
                                    "deberta-v2-xxlarge/lora"])
def test_exchanging_the_task_is_composing_with_it(recipe: str) -> None:
    assert OmegaConf.to_container(composed(recipe, "stsb"), resolve=True) == settings(recipe, "stsb")


@pytest.mark.parametrize("recipe", ["text/lora", "gpt2-nano/ft", "gpt3-175b/preembed"])
def test_exchanging_the_task_is_composing_with_it_for_texts(recipe: str) -> None:
    assert OmegaConf.to_container(composed(recipe, "mnli-lm"), resolve=True) == settings(recipe, "mnli-lm")


@pytest.mark.parametrize("recipe", RECIPES)
def test_header(recipe: str) -> None:
    header, (model, name) = settings(recipe, columns(recipe)[0])["recipe"], recipe.split("/")
    assert header["name"] == recipe and header["aggregate"] == ("mean" if recipe in FOR_TEXTS else "median")
    assert (header["origin"] == "official") == recipe.endswith("-official")
    assert header["setup"] == ("stand-in" if model == "gpt3-175b" else "dagger" if name == "lora-dagger" or (
        model == "roberta-large" and name.startswith("adapter")) else "standard")
    assert header["seeds"] == (3 if recipe in FOR_TEXTS else 5) or header["origin"] == "ours" or (
        header["setup"] == "stand-in")


@pytest.mark.parametrize("model", ["encoder", "decoder", "minilm", "mpnet"])
def test_the_general_models_have_every_method_and_task(model: str) -> None:
    assert {recipe for recipe in RECIPES if recipe.startswith(f"{model}/")} == {f"{model}/{m}" for m in METHODS}
    for method in METHODS:
        assert set(columns(f"{model}/{method}")) == {*GLUE, "wnli"}


@pytest.mark.parametrize("model", ["text", "gpt2-nano", "smollm2"])
def test_the_general_recipes_for_texts_have_every_method_and_task(model: str) -> None:
    assert {recipe for recipe in RECIPES if recipe.startswith(f"{model}/")} == {f"{model}/{m}" for m in METHODS}
    for method in METHODS:
        assert set(columns(f"{model}/{method}")) == set(TEXTS)


@pytest.mark.parametrize("method", METHODS)
def test_gpt2_nano_has_room_for_the_text_the_special_tokens_and_the_answer(method: str) -> None:
    for column in TEXTS:
        config = settings(f"gpt2-nano/{method}", column)
        special = config.get("l_p", 0) + config.get("l_i", 0)
        assert config["length"] + special == config["model"]["config"]["n_positions"]
        assert config["decode"]["max_new"] == (8 if column == "mnli-lm" else 100) <= config["length"] - 2


@pytest.mark.parametrize("decode", sorted(path.stem for path in (CONF / "decode").glob("*.yaml")))
def test_every_way_to_decode_is_whole_and_sourced(decode: str) -> None:
    """Those with Table 11's penalties are for its three tasks."""
    for column in TEXTS if decode == "greedy" else TEXTS[:3]:
        config = settings("text/lora", column, decode)
        assert config["decode"]["name"] == decode
        for key in decode_keys(config):
            assert SANE[key.partition(".")[2]](value(config, key)) and key in config["_sources"], key


@pytest.mark.parametrize("method", METHODS)
def test_a_decoder_classifies_with_the_encoders_recipe(method: str) -> None:
    decoder, encoder = settings(f"decoder/{method}", "cola"), settings(f"encoder/{method}", "cola")
    assert decoder["_sources"] == encoder["_sources"]
    assert all(value(decoder, key) == value(encoder, key) for key in keys(f"decoder/{method}"))


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.startswith(("roberta", "deberta"))])
def test_wnli_has_rtes_numbers_and_says_so_or_no_column(recipe: str) -> None:
    if recipe.endswith("-official"):
        assert "wnli" not in columns(recipe)
        with pytest.raises(InterpolationResolutionError):
            settings(recipe, "wnli")
        return
    assert set(columns(recipe)) == {*GLUE, "wnli"}
    wnli, rte = settings(recipe, "wnli"), settings(recipe, "rte")
    assert wnli["init_from"] == "none"
    assert {k for k in keys(recipe) if value(wnli, k) != value(rte, k)} <= {"init_from"}
    for key in ("lr", "epochs", "batch", "length", "warmup"):
        assert wnli["_sources"][key].startswith("not in the paper; our choice: RTE's numbers")


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.endswith("-low-data")])
def test_a_low_data_recipe_is_for_mnli_and_its_four_sizes(recipe: str) -> None:
    sizes = ("100", "1000", "10000", "None")
    assert set(columns(recipe)) == {f"{task}-{size}" for task in ("mnli", "mnli-lm") for size in sizes}
    assert settings(recipe, "mnli") == settings(recipe, "mnli-None")
    for column in ("mnli-50", "mnli-1001", "mnli-lm-50", "rte", "rte-100", "sst2", "samsum", "wikisql-100"):
        with pytest.raises(InterpolationResolutionError):
            settings(recipe, column)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.startswith("gpt3-175b/")])
def test_mnli_as_texts_has_mnlis_numbers(recipe: str) -> None:
    for column in (column for column in columns(recipe) if "mnli-lm" in column):
        texts, labels = settings(recipe, column), settings(recipe, column.replace("-lm", ""))
        assert {key for key in keys(recipe) if value(texts, key) != value(labels, key)} == {"averaging"}
        assert (texts["averaging"], labels["averaging"]) == ("tokens", None)


@pytest.mark.parametrize(("recipe", "column"), [
    ("gpt3-175b/lora", "rte"), ("gpt3-175b/lora-pe", "samsum"), ("gpt3-175b/lora-pl", "samsum"),
    ("gpt3-175b/lora", "e2e"), ("gpt2-medium/lora", "wikisql"), ("decoder/lora", "e2e"),
    ("roberta-large/adapter-h-official", "rte")])
def test_a_recipe_without_the_column_gives_no_number(recipe: str, column: str) -> None:
    assert column not in columns(recipe)
    with pytest.raises(InterpolationResolutionError):
        settings(recipe, column)


CHOSEN_ANEW = {"mpnet/ft": 5e-5}   # recipes of ours with another lr than when a committed run was made: what it was


# --- the committed records ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_recipe_still_gives_a_committed_record_its_settings(path: Path, tmp_path: Path) -> None:
    """Composed again as the record says it was, with what the command line changed, the cell has the same identity."""
    record = json.loads(path.read_text(encoding="utf-8"))
    told = record["settings"]
    said = [key for key, source in record["sources"].items() if source == "command line"]
    said += ["lr"] if CHOSEN_ANEW.get(told["recipe"]["name"]) == told["lr"] else []
    chosen = [key for key in ("task", "model", "method", "recipe", "scale", "decode") if key in told]
    config = cell(*(f"{key}={told[key]['name']}" for key in chosen)).copy()
    scored = ["task.scored"] if "scored" in told["task"] else []
    for key in ("seed", "task.limit", "model.path", *scored, *said):
        OmegaConf.update(config, key, value(told, key))
    if told["model"]["path"] == "folder":
        config.model.path = str(tmp_path)
    again = OmegaConf.to_container(config, resolve=True)
    if again["precision"] == "auto":   # the record has what the device made of it
        again["precision"] = told["precision"]
    assert identity(again) == plain(told)
