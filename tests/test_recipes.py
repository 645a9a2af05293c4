"""The recipes: each one is whole and says where every number comes from, and the numbers are the sources' own."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
SOURCES = ROOT.parent / "shared" / "paper" / "hyperparameters"   # the transcribed tables and scripts
needs_sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="the transcribed sources are not beside the checkout")

RUN = ("lr", "epochs", "batch", "length", "warmup", "schedule", "weight_decay", "decay_on", "betas", "eps", "clip",
       "label_smoothing", "dropout", "precision", "batching", "init_from")
LORA = ("alpha", "r", "targets", "method.init", "method.std", "method.dropout")
GLUE = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")   # the columns of Table 9
RECIPES = sorted(str(p.relative_to(CONF / "recipe").with_suffix("")) for p in (CONF / "recipe").glob("*/*.yaml")
                 if p.parent.name != "common")


@cache
def composed(recipe: str, task: str = "mnli") -> Any:
    """One cell as Hydra composes it, unresolved; the method is the longest one that the recipe's name begins with."""
    model, name = recipe.split("/")
    methods = [p.stem for p in (CONF / "method").glob("*.yaml") if f"{name}-".startswith(f"{p.stem}-")]
    overrides = [f"task={task}", f"model={model}", f"method={max(methods, key=len)}", f"recipe={recipe}"]
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", overrides)


@cache
def settings(recipe: str, task: str) -> dict[str, Any]:
    """The cell resolved, as run.py sees it. Composing takes a quarter of a second, so only the task is exchanged."""
    config = composed(recipe).copy()
    config.task = OmegaConf.load(CONF / "task" / f"{task}.yaml")
    return OmegaConf.to_container(config, resolve=True)   # type: ignore[return-value]


@cache
def tasks(recipe: str) -> tuple[str, ...]:
    """The tasks that the recipe has a column for; all of GLUE and WNLI for a recipe without a table."""
    table = OmegaConf.to_container(composed(recipe).recipe, resolve=False).get("_table", {"": (*GLUE, "wnli")})
    return tuple(sorted({task for row in table.values() for task in row}))


def keys(config: dict[str, Any]) -> tuple[str, ...]:
    return RUN + LORA if config["method"]["name"] == "lora" else RUN


def value(config: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


CELLS = [(recipe, task) for recipe in RECIPES for task in tasks(recipe)]


# --- every recipe is whole ------------------------------------------------------------------------------------------


def number(low: float, high: float, kind: type | tuple[type, ...] = float) -> Any:
    return lambda x: isinstance(x, kind) and not isinstance(x, bool) and low <= x <= high


def one_of(*words: str) -> Any:
    return lambda x: x in words


SANE = {
    "lr": number(1e-6, 1e-2), "epochs": number(1, 100, (int, float)), "batch": number(1, 1024, int),
    "length": number(8, 1024, int), "warmup": number(0, 100_000, (int, float)), "schedule": one_of("linear"),
    "weight_decay": number(0, 0.5), "decay_on": one_of("matrices", "all"),
    "betas": lambda x: len(x) == 2 and all(number(0.8, 0.9999)(b) for b in x),
    "eps": number(1e-9, 1e-5), "clip": lambda x: x is None or number(0.1, 10)(x), "label_smoothing": number(0, 0.5),
    "dropout": lambda x: x is None or number(0, 0.5)(x), "precision": one_of("fp32", "fp16", "bf16", "auto"),
    "batching": one_of("shuffle", "grouped"), "init_from": one_of("none", "mnli"),
    "alpha": number(1, 128, (int, float)), "r": number(1, 1024, int),
    "targets": lambda x: x and isinstance(x, list) and set(x) <= {"q", "k", "v", "o", "ff"},
    "method.init": one_of("gaussian", "kaiming"), "method.std": number(1e-4, 1), "method.dropout": number(0, 0.5),
}


@pytest.mark.parametrize(("recipe", "task"), CELLS)
def test_composes_with_every_key_sane_and_sourced(recipe: str, task: str) -> None:
    config = settings(recipe, task)
    for key in keys(config):
        assert SANE[key](value(config, key)), f"{key}: {value(config, key)!r}"
        assert config["_sources"].get(key, "???") != "???", f"no source for {key}"
    assert set(config["_sources"]) == set(keys(config))   # and none for a key that is not there


@pytest.mark.parametrize(("recipe", "task"), CELLS)
def test_sources_speak_the_language_of_their_origin(recipe: str, task: str) -> None:
    config = settings(recipe, task)
    ours = ("our choice:", "not stated; our choice:", "not in the paper; our choice:")
    starts = {"paper": (*ours[1:], "Table ", "Section ", "Appendix "), "ours": (ours[0], ours[2]),
              "official": ("examples/", "not in the script:", "not used:")}[config["recipe"]["origin"]]
    for key, source in config["_sources"].items():
        assert source.startswith(starts), f"{key}: {source}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_exchanging_the_task_is_composing_with_it(recipe: str) -> None:
    task = tasks(recipe)[-1]
    assert OmegaConf.to_container(composed(recipe, task), resolve=True) == settings(recipe, task)


@pytest.mark.parametrize("recipe", RECIPES)
def test_header(recipe: str) -> None:
    header = settings(recipe, tasks(recipe)[0])["recipe"]
    assert header["name"] == recipe
    assert (header["origin"] == "official") == recipe.endswith("-official")
    assert (header["origin"] == "paper") == (recipe in PAPER)
    assert header["setup"] == ("dagger" if recipe.endswith("-dagger") else "standard")
    assert header["aggregate"] == "median" and (header["seeds"] == 5 or header["origin"] == "ours")


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.startswith("roberta")])
def test_wnli_has_rtes_numbers_and_says_so_or_no_column(recipe: str) -> None:
    assert set(tasks(recipe)) >= set(GLUE)
    if recipe.endswith("-official"):
        assert "wnli" not in tasks(recipe)
        with pytest.raises(InterpolationKeyError):
            settings(recipe, "wnli")
        return
    wnli, rte = settings(recipe, "wnli"), settings(recipe, "rte")
    assert wnli["init_from"] == "none"
    assert {k for k in keys(wnli) if value(wnli, k) != value(rte, k)} <= {"init_from"}
    for key in ("lr", "epochs", "batch", "length", "warmup"):
        assert wnli["_sources"][key].startswith("not in the paper; our choice: RTE's numbers")


# --- every number is the source's own -------------------------------------------------------------------------------


TARGETS = {"query": "q", "key": "k", "value": "v"}
PAPER = {"roberta-base/lora": ("roberta-base", "LoRA"), "roberta-large/lora": ("roberta-large", "LoRA"),
         "roberta-large/lora-dagger": ("roberta-large", "LoRA-dagger")}
FROM_PAPER = {   # our key: what the transcribed cell says it is
    "lr": lambda cell: cell["learning_rate"],
    "epochs": lambda cell: cell["epochs"],
    "batch": lambda cell: cell["batch_size"],
    "length": lambda cell: cell["max_seq_len"],
    "warmup": lambda cell: cell["warmup_ratio"],
    "schedule": lambda cell: cell["lr_schedule"],
    "alpha": lambda cell: cell["lora_alpha"],
    "r": lambda cell: cell["lora_r"],
    "targets": lambda cell: [TARGETS[t] for t in cell["lora_targets"]],
    "init_from": lambda cell: {"best_mnli_lora_checkpoint": "mnli",
                               "pretrained_model_with_standard_lora_init": "none"}[cell["init"]],
    "dropout": lambda cell: cell["dropout"],
    "recipe.seeds": lambda cell: cell["seeds"],
    "recipe.aggregate": lambda cell: cell["aggregate"],
    "recipe.setup": lambda cell: cell["setup"],
}
PAPER_KEYS = {   # everything that a transcribed cell may say; weight_decay is null there
    "learning_rate", "epochs", "batch_size", "max_seq_len", "warmup_ratio", "lr_schedule", "lora_alpha", "lora_r",
    "lora_targets", "init", "dropout", "seeds", "aggregate", "setup", "weight_decay"}
PAPER_WORDS = {"source", "optimizer", "checkpoint_rule", "tuned", "lora_config_printed", "init_rule"}   # no settings

OFFICIAL = [(f"{model}/lora-official", task) for model in ("roberta-base", "roberta-large") for task in GLUE]
FROM_SCRIPT = {
    "lr": lambda cell, _: cell["learning_rate"],
    "epochs": lambda cell, _: cell["epochs"],
    "batch": lambda cell, _: cell["effective_batch_size"],
    "length": lambda cell, _: cell["max_seq_len"],
    "warmup": lambda cell, _: cell["warmup_ratio"],
    "weight_decay": lambda cell, _: cell["weight_decay"],
    "alpha": lambda cell, _: cell["lora_alpha"],
    "r": lambda cell, _: cell["lora_r"],
    "targets": lambda cell, _: [TARGETS[t] for t in cell["lora_targets"]],
    "init_from": lambda cell, _: "mnli" if "mnli" in cell.get("init_lora_path", "") else "none",
    "method.dropout": lambda cell, _: cell["lora_dropout"],
    "precision": lambda cell, _: "fp16" if cell["fp16"] else "fp32",
    "recipe._script": lambda cell, _: cell["path"],
    "schedule": lambda _, trainer: trainer["lr_schedule"],
    "betas": lambda _, trainer: [trainer["adam_beta1"], trainer["adam_beta2"]],
    "eps": lambda _, trainer: trainer["adam_eps"],
    "clip": lambda _, trainer: trainer["max_grad_norm"],
    "label_smoothing": lambda _, trainer: trainer["label_smoothing"],
}


@cache
def source_file(name: str) -> dict[str, Any]:
    return yaml.safe_load((SOURCES / name).read_text())


def paper_cell(recipe: str, task: str) -> dict[str, Any]:
    model, method = PAPER[recipe]
    rows = source_file("paper.yaml")[model][method]
    return rows["_common"] | rows[task]


def script(recipe: str, task: str) -> dict[str, Any]:
    return source_file("official_scripts.yaml")["scripts"][f"{recipe.split('/')[0].replace('-', '_')}_{task}"]


@needs_sources
@pytest.mark.parametrize("key", FROM_PAPER)
@pytest.mark.parametrize("task", GLUE)
@pytest.mark.parametrize("recipe", PAPER)
def test_paper(recipe: str, task: str, key: str) -> None:
    assert value(settings(recipe, task), key) == FROM_PAPER[key](paper_cell(recipe, task))


@needs_sources
@pytest.mark.parametrize("key", FROM_SCRIPT)
@pytest.mark.parametrize(("recipe", "task"), OFFICIAL)
def test_official(recipe: str, task: str, key: str) -> None:
    trainer = source_file("official_scripts.yaml")["_meta"]["nlu_defaults"]
    assert value(settings(recipe, task), key) == FROM_SCRIPT[key](script(recipe, task), trainer)


@needs_sources
@pytest.mark.parametrize(("recipe", "task"), OFFICIAL)
def test_official_batch_is_told_in_its_factors(recipe: str, task: str) -> None:
    cell, config = script(recipe, task), settings(recipe, task)
    factors = f"{cell['per_device_train_batch_size']} x {cell['num_gpus']}"
    assert config["_sources"]["batch"].startswith(f"{cell['path']}: per GPU x GPUs = {factors} ")
    assert cell["gradient_accumulation_steps"] == 1


@needs_sources
def test_no_cell_no_script_and_nothing_the_paper_says_is_left_uncompared() -> None:
    for recipe, (model, method) in PAPER.items():
        assert set(source_file("paper.yaml")[model][method]) == {"_common", *GLUE}
        for task in GLUE:
            cell = paper_cell(recipe, task)
            assert set(cell) <= PAPER_KEYS | PAPER_WORDS
            assert cell["weight_decay"] is None   # so the recipe's is our choice, and says so
            assert settings(recipe, task)["_sources"]["weight_decay"].startswith("not stated; our choice:")
    names = {name for name in source_file("official_scripts.yaml")["scripts"] if name.startswith("roberta")}
    assert names == {f"{recipe.split('/')[0].replace('-', '_')}_{task}" for recipe, task in OFFICIAL}


# --- where the paper and the scripts part ---------------------------------------------------------------------------


EVERYWHERE = {"roberta-base": {"alpha", "batch", "method.init"}, "roberta-large": {"batch", "method.init"}}
ALSO = {("roberta-large", "cola"): {"lr"}, ("roberta-large", "sst2"): {"length"},
        ("roberta-large", "stsb"): {"lr", "epochs", "length"}}


@pytest.mark.parametrize("task", GLUE)
@pytest.mark.parametrize("model", EVERYWHERE)
def test_paper_and_official_differ_exactly_where_they_are_known_to(model: str, task: str) -> None:
    paper, official = settings(f"{model}/lora", task), settings(f"{model}/lora-official", task)
    differ = {key for key in RUN + LORA if value(paper, key) != value(official, key)}
    assert differ == EVERYWHERE[model] | ALSO.get((model, task), set())


@pytest.mark.parametrize(("cell", "key", "paper", "official"), [
    ("roberta-base rte", "alpha", 8, 16), ("roberta-base rte", "batch", 32, 256),
    ("roberta-base cola", "batch", 32, 64), ("roberta-large rte", "batch", 8, 64),
    ("roberta-large cola", "lr", 2e-4, 3e-4), ("roberta-large sst2", "length", 128, 512),
    ("roberta-large sst2", "batch", 4, 64), ("roberta-large stsb", "lr", 2e-4, 3e-4),
    ("roberta-large stsb", "epochs", 30, 10), ("roberta-large stsb", "length", 512, 128),
    ("roberta-large stsb", "batch", 8, 32)])
def test_known_disagreements(cell: str, key: str, paper: float, official: float) -> None:
    model, task = cell.split()
    assert value(settings(f"{model}/lora", task), key) == paper
    assert value(settings(f"{model}/lora-official", task), key) == official


def test_dagger_starts_nothing_from_mnli_and_uses_one_batch_and_length() -> None:
    dagger = [settings("roberta-large/lora-dagger", task) for task in GLUE]
    assert {(c["init_from"], c["batch"], c["length"]) for c in dagger} == {("none", 4, 128)}


@pytest.mark.parametrize("model", ["roberta-base", "roberta-large"])
def test_fine_tuning_is_ours(model: str) -> None:
    for task in GLUE:
        config = settings(f"{model}/ft", task)
        assert config["init_from"] == "none" and "alpha" not in config
        assert config["lr"] < settings(f"{model}/lora", task)["lr"] / 5
