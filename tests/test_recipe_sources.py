"""The recipes' numbers are their sources' own: the paper's tables' and the official scripts', transcribed."""

import math
from functools import cache
from typing import Any

import pytest
import yaml
from test_recipes import DECODE, GLUE, RECIPES, ROOT, columns, keys, settings, task_of, value

SOURCES = ROOT.parent / "shared" / "paper" / "hyperparameters"
needs_sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="the transcribed sources are not beside the checkout")
TARGETS = {"query": "q", "key": "k", "value": "v"}
E2E = 42_061   # texts to train on
INIT = {"best_mnli_lora_checkpoint": "mnli", "pretrained_model_with_standard_lora_init": "none",
        "pretrained_model": "none"}


@cache
def source_file(name: str) -> dict[str, Any]:
    return yaml.safe_load((SOURCES / name).read_text(encoding="utf-8"))


def targets(names: list[str]) -> list[str]:
    return [TARGETS[name] for name in names]


# --- the paper ------------------------------------------------------------------------------------------------------


TABLE_9 = {"roberta-base/lora": "LoRA", "roberta-large/lora": "LoRA", "roberta-large/lora-dagger": "LoRA-dagger",
           "roberta-large/adapter-h": "Adapter-H-6M-dagger", "roberta-large/adapter-h-r8": "Adapter-H-0.8M-dagger",
           "roberta-large/adapter-p": "Adapter-P-3M-dagger", "roberta-large/adapter-p-r16": "Adapter-P-0.8M-dagger"}
TABLE_10 = {"deberta-v2-xxlarge/lora": "LoRA"}
TABLE_11 = {"gpt2-medium/lora": "LoRA", "gpt2-large/lora": "LoRA"}
TABLE_12 = {"gpt3-175b/ft": "FT", "gpt3-175b/bitfit": "BitFit", "gpt3-175b/preembed": "PreEmbed",
            "gpt3-175b/prelayer": "PreLayer", "gpt3-175b/adapter-h": "Adapter-H", "gpt3-175b/lora": "LoRA",
            "gpt3-175b/lora-pe": "LoRA+PE", "gpt3-175b/lora-pl": "LoRA+PL"}
TABLE_17 = {"gpt3-175b/ft-low-data": "FT", "gpt3-175b/preembed-low-data": "PreEmbed",
            "gpt3-175b/prelayer-low-data": "PreLayer", "gpt3-175b/lora-low-data": "LoRA"}
SUBSETS = {"mnli-100": "mnli-100", "mnli-1000": "mnli-1k", "mnli-10000": "mnli-10k", "mnli-None": "mnli-392k"}
SUBSETS |= {column.replace("mnli", "mnli-lm"): subset for column, subset in SUBSETS.items()}   # as texts, as the paper
PAPER = TABLE_9 | TABLE_10 | TABLE_11 | TABLE_12 | TABLE_17
NLG = ("e2e", "webnlg", "dart")   # the columns of Table 11
GPT3 = ("wikisql", "mnli", "mnli-lm", "samsum")   # and of Table 12
CELLS = [(recipe, column) for recipe in PAPER for column in (
    SUBSETS if recipe in TABLE_17 else NLG if recipe in TABLE_11 else GLUE if recipe not in TABLE_12 else
    GPT3[:3] if recipe.endswith(("-pe", "-pl")) else GPT3)]

SAYS: dict[str, tuple[str, Any]] = {   # what a transcribed cell calls it: our key, and how we say the value
    "learning_rate": ("lr", None), "epochs": ("epochs", None), "batch_size": ("batch", None),
    "max_seq_len": ("length", None), "warmup_ratio": ("warmup", None), "lr_schedule": ("schedule", None),
    "weight_decay": ("weight_decay", None), "dropout": ("dropout", None), "cls_dropout": ("cls_dropout", None),
    "lora_alpha": ("alpha", None), "lora_r": ("r", None), "lora_targets": ("targets", targets),
    "lora_r_sweep": ("r", min), "bottleneck_r": ("r", lambda r: max(r) if isinstance(r, list) else r),
    "l_p": ("l_p", None), "l_i": ("l_i", None), "init": ("init_from", INIT.get), "warmup_steps": ("warmup", None),
    "label_smoothing": ("label_smoothing", None), "beam_size": ("decode.beams", None),
    "no_repeat_ngram_size": ("decode.no_repeat", None), "length_penalty": ("decode.length_penalty", None),
    "seeds": ("recipe.seeds", None), "aggregate": ("recipe.aggregate", None), "setup": ("recipe.setup", None)}
WORDS = {   # no settings
    "source", "optimizer", "checkpoint_rule", "tuned", "lora_config_printed", "init_rule", "printed_size", "note",
    "lr_note", "chosen_because", "bottleneck_r_sweep", "layout", "subset_rule", "seed_variance_quoted"}
SAYS_11 = SAYS | {"dropout": ("method.dropout", None)}   # "Dropout Prob": of LoRA's input, as in the official code
ELSEWHERE = {"warmup_tokens", "budgets"}   # compared below


def papers(column: str) -> str:
    """The paper's MNLI is ours twice."""
    return column.replace("mnli-lm", "mnli")


def paper_cell(recipe: str, column: str) -> dict[str, Any]:
    rows = source_file("paper.yaml")[recipe.split("/")[0]]
    if recipe in TABLE_17:
        subset = rows["low-data"][SUBSETS[column]]
        return rows["low-data"]["_common"] | {k: subset[k] for k in ("batch_size", "epochs")} | subset[PAPER[recipe]]
    return rows[PAPER[recipe]]["_common"] | rows[PAPER[recipe]][papers(column)]


@needs_sources
@pytest.mark.parametrize(("recipe", "column"), CELLS)
def test_paper(recipe: str, column: str) -> None:
    """Everything that a cell of the paper says is the recipe's; what it leaves out is our choice, and says so."""
    config = settings(recipe, column, "paper") if recipe in TABLE_11 else settings(recipe, column)
    told = paper_cell(recipe, column)
    assert set(told) <= SAYS.keys() | WORDS | ELSEWHERE
    for name, (key, ours) in (SAYS_11 if recipe in TABLE_11 else SAYS).items():
        if told.get(name) is not None:
            assert value(config, key) == (ours(told[name]) if ours else told[name]), name
            printed = key.startswith("recipe.") or config["_sources"][key].startswith(("Table ", "Appendix "))
            assert printed, f"{key}: {config['_sources'][key]}"
        elif name in told and not key.startswith("recipe."):
            assert config["_sources"][key].startswith("not stated; our choice:"), key


@needs_sources
def test_the_rank_sweep_is_table_11_with_other_ranks() -> None:
    """Table 18 (Appendix H.2) prints no more: r=… on E2E, after 26,000 steps, where five epochs have 26,290."""
    rows, config = source_file("paper.yaml")["gpt2-medium"], settings("gpt2-medium/lora", "e2e")
    assert set(rows) == {"LoRA", "LoRA-rank-sweep"}
    sweep = rows["LoRA-rank-sweep"]["_common"]
    assert config["r"] in sweep["ranks"] and sweep["other_hyperparameters"].startswith("as LoRA/e2e")
    assert 0 <= config["epochs"] * math.ceil(E2E / config["batch"]) - sweep["train_steps"] < 1000


@needs_sources
def test_every_column_of_the_tables_has_its_recipe() -> None:
    paper = source_file("paper.yaml")
    for table, models in ((TABLE_9, ("roberta-base", "roberta-large")), (TABLE_10, ("deberta-v2-xxlarge",))):
        assert {(recipe.split("/")[0], name) for recipe, name in table.items()} == {
            (model, name) for model in models for name in paper[model]}
    assert all(set(paper[model]) - {"LoRA-rank-sweep"} == {"LoRA"} for model in ("gpt2-medium", "gpt2-large"))
    gpt3 = {name for name in paper["gpt3-175b"] if "ablation" not in name} - {"Few-shot", "low-data"}
    assert set(TABLE_12.values()) == gpt3
    low = paper["gpt3-175b"]["low-data"]
    assert set(SUBSETS.values()) == set(low) - {"_common"}
    for recipe, name in PAPER.items():
        told = {c for r, c in CELLS if r == recipe}
        assert told == set(columns(recipe)) - {"wnli"}
        if recipe in TABLE_17:
            assert all(name in low[subset] for subset in SUBSETS.values())
        else:
            assert {papers(c) for c in told} == set(paper[recipe.split("/")[0]][name]) - {"_common"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_what_is_compared_calls_itself_the_papers(recipe: str) -> None:
    origin = settings(recipe, columns(recipe)[0])["recipe"]["origin"]
    official = {*SCRIPTS, "gpt2-medium/lora-official"}
    assert origin == ("paper" if recipe in PAPER else "official" if recipe in official else "ours")


@needs_sources
@pytest.mark.parametrize(("recipe", "column"), [cell for cell in CELLS if cell[0].startswith("gpt3-175b/")])
def test_warm_up_in_tokens_is_taken_in_steps(recipe: str, column: str) -> None:
    config, common = settings(recipe, column), paper_cell("gpt3-175b/lora", "mnli")
    tokens = paper_cell(recipe, column).get("warmup_tokens", common["warmup_tokens"])
    assert config["warmup"] == math.ceil(tokens / (config["batch"] * config["length"])) >= 1
    assert f"{tokens:,} tokens" in config["_sources"]["warmup"]
    told = paper_cell("gpt3-175b/lora", task_of(column)["name"])
    assert config["length"] == told["max_seq_len"] and config["weight_decay"] == told["weight_decay"]
    if recipe.endswith(("-pe", "-pl")):   # no numbers of their own: Table 12's for all, and LoRA's rate
        assert (config["batch"], config["epochs"], config["lr"]) == (
            told["batch_size"], told["epochs"], told["learning_rate"])


@needs_sources
def test_gpt3_lora_is_the_larger_budget_on_q_and_v() -> None:
    for recipe in ("gpt3-175b/lora", "gpt3-175b/lora-low-data"):
        config = settings(recipe, "mnli")
        assert f"r_q = r_v = {config['r']}" in paper_cell("gpt3-175b/lora", "mnli")["budgets"]["37.7M"]
        assert config["targets"] == ["q", "v"]


# --- the official scripts -------------------------------------------------------------------------------------------


LORA = ("roberta-base", "roberta-large", "deberta-v2-xxlarge")
ADAPTERS = {"roberta-large/adapter-h-official": "adapter_houlsby_roberta_large",
            "roberta-large/adapter-p-official": "adapter_pfeiffer_roberta_large"}
SCRIPTS = {f"{model}/lora-official": model.replace("-", "_") for model in LORA} | ADAPTERS
OFFICIAL = [(recipe, task) for recipe in SCRIPTS for task in (GLUE if recipe not in ADAPTERS else ("mnli",))]
SCRIPT_SAYS: dict[str, tuple[str, Any]] = {
    "learning_rate": ("lr", None), "epochs": ("epochs", None), "effective_batch_size": ("batch", None),
    "max_seq_len": ("length", None), "warmup_ratio": ("warmup", None), "warmup_steps": ("warmup", None),
    "weight_decay": ("weight_decay", None), "cls_dropout": ("cls_dropout", None), "lora_alpha": ("alpha", None),
    "lora_r": ("r", None), "bottleneck_r": ("r", None), "lora_targets": ("targets", targets),
    "lora_dropout": ("method.dropout", None), "fp16": ("precision", {True: "fp16", False: "fp32"}.get),
    "path": ("recipe._script", None)}
TRAINER = {"lr_schedule": "schedule", "adam_eps": "eps", "max_grad_norm": "clip", "label_smoothing": "label_smoothing"}
SCRIPT_WORDS = {   # no settings, or compared below
    "model", "hub_id", "method", "task", "num_gpus", "per_device_train_batch_size", "gradient_accumulation_steps",
    "per_device_eval_batch_size", "weight_decay_set_in_script", "init_lora_path", "seed", "eval_strategy", "eval_steps",
    "save_strategy", "save_steps", "deterministic_algorithms", "remarks"}


def script(recipe: str, task: str) -> dict[str, Any]:
    return source_file("official_scripts.yaml")["scripts"][f"{SCRIPTS[recipe]}_{task}"]


@needs_sources
@pytest.mark.parametrize(("recipe", "task"), OFFICIAL)
def test_official(recipe: str, task: str) -> None:
    config, told, sources = settings(recipe, task), script(recipe, task), settings(recipe, task)["_sources"]
    assert set(told) <= SCRIPT_SAYS.keys() | SCRIPT_WORDS
    for name, (key, ours) in SCRIPT_SAYS.items():
        if name in told:
            assert value(config, key) == (ours(told[name]) if ours else told[name]), name
    assert config["init_from"] == ("mnli" if "mnli" in told.get("init_lora_path", "") else "none")
    assert sources["weight_decay"].startswith("examples/") == told["weight_decay_set_in_script"]
    assert config["recipe"]["setup"] == ("dagger" if recipe in ADAPTERS else "standard")
    factors = f"{told['per_device_train_batch_size']} x {told['num_gpus']}"
    assert sources["batch"].startswith(f"{told['path']}: per GPU x GPUs = {factors} ")
    assert told["gradient_accumulation_steps"] == 1


@needs_sources
@pytest.mark.parametrize("recipe", SCRIPTS)
def test_official_code(recipe: str) -> None:
    code, config = source_file("official_scripts.yaml")["_meta"], settings(recipe, "mnli")
    trainer = code["nlu_defaults"]
    assert all(value(config, key) == trainer[name] for name, key in TRAINER.items())
    assert config["betas"] == [trainer["adam_beta1"], trainer["adam_beta2"]]
    if recipe in ADAPTERS:
        design = "houlsby" if "-h-" in recipe else "pfeiffer"
        assert config["method"]["design"] == design
        assert config["method"]["activation"] in code["adapter_code"][design].lower()
        return
    drawn = code["lora_init_in_code"]["deberta" if "deberta" in recipe else "roberta_and_gpt2"]
    assert config["method"]["init"] == ("kaiming" if "Kaiming-uniform" in drawn else "gaussian")
    assert config["method"]["init"] == "kaiming" or f"normal(0, initializer_range = {config['method']['std']})" in drawn


COMMAND_SAYS = {name: said for name, said in SCRIPT_SAYS.items() if name != "path"} | {
    "lr_schedule": ("schedule", None), "adam_eps": ("eps", None), "label_smoothing": ("label_smoothing", None),
    "grad_clip": ("clip", lambda clip: clip or None)}
DECODE_SAYS = {"beam_size": "beams", "length_penalty": "length_penalty", "no_repeat_ngram_size": "no_repeat",
               "eval_len": "max_new"}


@needs_sources
def test_official_e2e_training() -> None:
    told, config = source_file("official_scripts.yaml")["scripts"]["gpt2_medium_e2e_train"], settings(
        "gpt2-medium/lora-official", "e2e", "official")
    for name in told.keys() & COMMAND_SAYS.keys():
        key, ours = COMMAND_SAYS[name]
        assert value(config, key) == (ours(told[name]) if ours else told[name]), name
        assert config["_sources"][key].startswith(("examples/NLG/README.md, E2E, step 1: --", "not in the script:"))
    assert told.keys() - COMMAND_SAYS.keys() - SCRIPT_WORDS == {
        "program", "path", "valid_batch_size", "adam_beta1", "adam_beta2", "correct_bias", "save_interval_steps",
        "eval_interval_steps", "init_checkpoint"}
    assert config["betas"] == [told["adam_beta1"], told["adam_beta2"]]
    assert told["path"].startswith("examples/NLG/README.md") and config["recipe"]["_program"] == told["program"]
    drawn = source_file("official_scripts.yaml")["_meta"]["lora_init_in_code"]["roberta_and_gpt2"]
    assert "Kaiming-uniform" in drawn and config["method"]["init"] == "kaiming"


@needs_sources
def test_official_e2e_decoding() -> None:
    scripts = source_file("official_scripts.yaml")["scripts"]
    told, config = scripts["gpt2_medium_e2e_decode"], settings("gpt2-medium/lora-official", "e2e", "official")
    decode = config["decode"]
    assert {name: decode[key] for name, key in DECODE_SAYS.items()} == {name: told[name] for name in DECODE_SAYS}
    for key in DECODE_SAYS.values():
        assert config["_sources"][f"decode.{key}"].startswith("examples/NLG/README.md: --")
    again = {"length": "max_seq_len", "r": "lora_r", "alpha": "lora_alpha"}   # said by the training command too
    assert all(config[key] == told[name] for key, name in again.items())
    assert told["repetition_penalty"] == 1.0 and told["eos_token_id"] == [50256, 628]   # 628: two line ends
    assert decode["ends"] == ["\n\n"] and decode["checkpoint"] == "last"
    steps = config["epochs"] * math.ceil(E2E / config["batch"])
    assert told["checkpoint"] in (f"model.{steps}.pt", f"model.{steps - 1}.pt")   # it counts from 0
    for task in ("webnlg", "dart"):   # all that their file names say
        other = settings("gpt2-medium/lora-official", task, "official")["decode"]
        assert other["length_penalty"] == scripts[f"gpt2_medium_{task}"]["length_penalty_in_file_name"]
        assert other["beams"] == scripts[f"gpt2_medium_{task}"]["beam_size_in_file_name"]


@needs_sources
def test_no_script_is_left_out() -> None:
    names = {name for name in source_file("official_scripts.yaml")["scripts"]
             if name.startswith(("roberta", "deberta", "adapter")) and not name.endswith("_eval")}
    assert names == {f"{SCRIPTS[recipe]}_{task}" for recipe, task in OFFICIAL}
    others = {name for name in source_file("official_scripts.yaml")["scripts"] if name.startswith("gpt2")}
    assert others == {f"gpt2_medium_{what}" for what in ("e2e_train", "e2e_decode", "e2e_eval", "webnlg", "dart")}


# --- where the paper and the scripts part ---------------------------------------------------------------------------


EVERYWHERE = {"roberta-base": {"alpha", "batch", "method.init"}, "roberta-large": {"batch", "method.init"},
              "deberta-v2-xxlarge": {"alpha", "r", "batch", "precision"}}
ALSO = {("roberta-large", "cola"): {"lr"}, ("roberta-large", "sst2"): {"length"},
        ("roberta-large", "stsb"): {"lr", "epochs", "length"}}
ALSO |= {("deberta-v2-xxlarge", task): {"warmup"} for task in GLUE if task != "mrpc"}
ALSO |= {("deberta-v2-xxlarge", task): {"warmup", "lr"} for task in ("cola", "rte")}


def differ(one: str, other: str, task: str) -> set[str]:
    return {key for key in keys(one) if value(settings(one, task), key) != value(settings(other, task), key)}


@pytest.mark.parametrize("task", GLUE)
@pytest.mark.parametrize("model", EVERYWHERE)
def test_paper_and_official_differ_exactly_where_they_are_known_to(model: str, task: str) -> None:
    assert differ(f"{model}/lora", f"{model}/lora-official", task) == EVERYWHERE[model] | ALSO.get((model, task), set())


@pytest.mark.parametrize(("task", "decoding"), [("e2e", {"checkpoint", "length_penalty"}), ("webnlg", {"checkpoint"}),
                                              ("dart", {"checkpoint"})])
def test_gpt2s_paper_and_official_differ_in_the_start_and_in_decoding(task: str, decoding: set[str]) -> None:
    assert differ("gpt2-medium/lora", "gpt2-medium/lora-official", task) == {"method.init"}
    paper, official = (settings("gpt2-medium/lora", task, decode)["decode"] for decode in ("paper", "official"))
    assert {key for key in DECODE if paper[key] != official[key]} == decoding


def test_table_11_does_not_tell_medium_and_large_apart() -> None:
    assert all(differ("gpt2-medium/lora", "gpt2-large/lora", task) == set() for task in NLG)


def test_the_adapter_scripts_differ_exactly_where_they_are_known_to() -> None:
    h, p = "roberta-large/adapter-h", "roberta-large/adapter-p"
    assert differ(f"{h}-r8", f"{h}-official", "mnli") == {"batch", "warmup", "epochs"}
    assert differ(f"{p}-r16", f"{p}-official", "mnli") == {"batch", "warmup"}


@pytest.mark.parametrize(("cell", "key", "paper", "official"), [
    ("roberta-base rte", "alpha", 8, 16), ("roberta-base rte", "batch", 32, 256),
    ("roberta-base cola", "batch", 32, 64), ("roberta-large rte", "batch", 8, 64),
    ("roberta-large cola", "lr", 2e-4, 3e-4), ("roberta-large sst2", "length", 128, 512),
    ("roberta-large sst2", "batch", 4, 64), ("roberta-large stsb", "lr", 2e-4, 3e-4),
    ("roberta-large stsb", "epochs", 30, 10), ("roberta-large stsb", "length", 512, 128),
    ("roberta-large stsb", "batch", 8, 32), ("deberta-v2-xxlarge rte", "lr", 2e-4, 2.6e-4),
    ("deberta-v2-xxlarge qqp", "warmup", 0.1, 10000), ("deberta-v2-xxlarge cola", "r", 8, 16)])
def test_known_disagreements(cell: str, key: str, paper: float, official: float) -> None:
    model, task = cell.split()
    assert value(settings(f"{model}/lora", task), key) == paper
    assert value(settings(f"{model}/lora-official", task), key) == official


def test_dagger_starts_nothing_from_mnli_and_uses_one_batch_and_length() -> None:
    for recipe, batch in (("lora-dagger", 4), ("adapter-h", 32), ("adapter-p-r16", 32)):
        dagger = [settings(f"roberta-large/{recipe}", task) for task in GLUE]
        assert {(c["init_from"], c["batch"], c["length"]) for c in dagger} == {("none", batch, 128)}


@pytest.mark.parametrize("model", LORA)
def test_fine_tuning_is_ours(model: str) -> None:
    for task in GLUE:
        config = settings(f"{model}/ft", task)
        assert config["init_from"] == "none" and "alpha" not in config
        assert config["lr"] < settings(f"{model}/lora", task)["lr"] / 5
