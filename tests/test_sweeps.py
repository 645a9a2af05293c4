"""Tables hold the paper's rows, each of their cells composes, and a search proposes the same for everybody."""

import csv
import functools
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Cli, ran, tree
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis import sweeps
from engine.contract import Refused
from hydra_plugins.lora_paper.finder import rounded, short
from hydra_plugins.lora_paper.sweeper import cells

CONF = ROOT / "conf"
TABLES = sorted(path.stem for path in (CONF / "table").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
SEARCHES = sorted({path.stem for path in (CONF / "search").glob("*.yaml")} - {"none"})
STAND_INS = ("table4", "table5", "table6", "table15", "table16")   # GPT-3's, whose weights nobody has
Settings = dict[str, Any]


@functools.cache
def header(table: str) -> str:
    lines = (CONF / "table" / f"{table}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def lines(table: str, *words: str) -> list[list[str]]:
    """The command line of every cell of a table, narrowed by words."""
    file = yaml.safe_load((CONF / "table" / f"{table}.yaml").read_text(encoding="utf-8"))
    sweeper = file["hydra"]["sweeper"]
    return cells({key: str(value) for key, value in sweeper["params"].items()}, sweeper.get("sets", []), words)


def seedless(words: list[str]) -> tuple[str, ...]:
    return tuple(word for word in words if not word.startswith("seed="))


def composed(*words: str) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(words), return_hydra_config=True)


@functools.cache
def settings_of(*words: str) -> Settings:
    """The resolved settings; the first word may be a table's name."""
    config = composed(*([words[0] if "=" in words[0] else f"table={words[0]}", *words[1:]]))
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(own, resolve=True, throw_on_missing=True)   # type: ignore[return-value]


def printed(name: str) -> list[dict[str, str]]:
    with (ROOT / "results" / "paper" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("table", TABLES)
def test_the_head_of_a_table_counts_its_cells(table: str) -> None:
    """And every cell is another one; a head says what a table takes and, of a stand-in, not to expect the paper's."""
    text, there = header(table), lines(table)
    assert re.findall(r"^# Cells: (\d+)\.", text, re.M) == [str(len(there))]
    assert len({frozenset(words) for words in there}) == len(there)
    assert re.search(r"^# Estimated: \S", text, re.M) and re.search("[Ee]xpect", text)
    assert ("stand-in for" in text and "Do not expect" in text) == (table in STAND_INS)


@pytest.mark.parametrize("table", TABLES)
def test_the_last_cell_of_a_table_composes(table: str) -> None:
    check_cell(table, seedless(lines(table)[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_cell_composes_and_takes_what_the_head_says(table: str) -> None:
    there = lines(table)
    parents = [["task=mnli", f"method={method}", "init_from=none", f"seed={seed}"] for method in ("lora", "ft")
               for seed in range(5)] if "parents added: 10" in header(table) else []
    hours = 0.0
    for words in [*there, *parents]:
        key = seedless(words)
        check_cell(table, key)
        hours += hours_of(settings_of(table, *key))
        if table == "e2e-decode-ablation":
            hours = hours_of(settings_of(table, *key))   # trained once
    said = re.search(r"^# Estimated: ([\d.]+) hours", header(table), re.M)
    assert (said is None) == (table == "demo")   # that one was measured
    assert said is None or float(said[1]) == pytest.approx(hours, rel=0.1, abs=0.06)


def check_cell(table: str, words: tuple[str, ...]) -> None:
    """What is asked for is what composes, with a recipe of that method and as many seeds as it wants."""
    settings = settings_of(table, *words)
    said = dict(word.split("=", 1) for word in words)
    for key in said.keys() & {"task", "method", "model", "decode"}:
        assert settings[key]["name"] == said[key]
    for key in said.keys() & {"r", "l_p", "l_i", "drop", "length", "targets", "init_from"}:
        assert settings[key] == yaml.safe_load(said[key].replace(",", ", "))
    folder, recipe = settings["recipe"]["name"].split("/")
    assert recipe == said.get("recipe", f"x/{recipe}").split("/")[1] and recipe.startswith(settings["method"]["name"])
    assert folder in ("text", "gpt3-175b", settings["model"]["name"])
    assert all(settings["_sources"][key] for key in ("lr", "epochs", "batch", "length", "init_from"))
    seeds = {word for line in lines(table) for word in line if word.startswith("seed=")}
    assert seeds in ({f"seed={seed}" for seed in range(settings["recipe"]["seeds"])}, set())


def hours_of(settings: Settings) -> float:
    """The rule of conf/table/README.md, with the numbers that stand there."""
    rule = (CONF / "table" / "README.md").read_text(encoding="utf-8")
    data = {name: (int(rows), int(tokens)) for name, rows, tokens in re.findall(
        r"^\| ([\w-]+) \| (\d+) \| (\d+) \|$", rule, re.M)}
    sizes = {name: int(millions) * 1e6 for name, millions in re.findall(r"^\| ([\w-]+) \| (\d+) \|$", rule, re.M)}
    sizes["minilm"] = 11e6
    rows, tokens = data[settings["task"]["name"]]
    config = settings["model"]["config"] or {}
    peak = 67e12 if settings["precision"] == "fp32" else 989e12
    operations = 6 if settings["method"]["name"] == "ft" else 4
    work = settings["batch"] * tokens * sizes[settings["model"]["name"]] * operations
    step = max(work / (0.3 * peak), 0.001 * config.get("num_hidden_layers", config.get("n_layer", 0)))
    steps = -(-(settings["task"]["limit"] or rows) // settings["batch"]) * settings["epochs"]
    return float(steps * step / 3600)


def formula(settings: Settings, d: int, layers: int) -> int | None:
    """What a cell trains in a model of that shape (Section 5.1's formulas); None where there is none."""
    name, r = settings["method"]["name"], settings.get("r")
    lora = 2 * layers * d * (r or 0) * len(settings.get("targets") or ())
    tokens = (settings.get("l_p") or 0) + (settings.get("l_i") or 0)
    adapter = 2 * d * (r or 0) + (r or 0) + d
    return {"lora": lora, "adapter-h": 2 * layers * adapter, "adapter-p": layers * adapter,
            "adapter-l": layers * (adapter + 2 * d), "adapter-d": (layers - settings.get("drop", 0)) * adapter,
            "preembed": d * tokens, "prelayer": layers * d * tokens, "lora-pe": lora + d * tokens,
            "lora-pl": lora + layers * d * tokens}.get(name)


FREE = ("FT", "FT-Top2", "BitFit")   # no formula
SHAPES = {"roberta-base": (768, 12), "roberta-large": (1024, 24), "deberta-v2-xxlarge": (1536, 48),
          "gpt2-medium": (1024, 24), "gpt2-large": (1280, 36), "gpt3-175b": (12288, 96)}


@pytest.mark.parametrize(("table", "number"), [
    ("table2-roberta-base", "2"), ("table2-roberta-large-dagger", "2"), ("table2-deberta-xxl", "2"),
    ("table3-gpt2-large", "3"), *(pytest.param(*one, marks=pytest.mark.slow) for one in (
        ("table3-gpt2-medium", "3"), ("table13-dart", "13"), ("table14-webnlg", "14"), ("table4", "4"), ("table5", "5"),
        ("table15", "15")))])
def test_the_rows_are_those_that_the_paper_prints(table: str, number: str) -> None:
    """By method and the trained parameters of the reading that the audit found; GPT-3's at its own width and depth."""
    rows = {seedless(words) for words in lines(table)}
    task = {word for words in rows for word in words if word.startswith("task=")}
    rows = {words for words in rows if not task or sorted(task)[0] in words}
    made = [settings_of(table, *words) for words in rows]
    names = ["gpt3-175b" if table in STAND_INS else each["model"]["name"] for each in made]
    ours = {(name, each["method"]["label"], formula(each, *SHAPES[name]))
            for name, each in zip(names, made, strict=True)}
    dagger = table.endswith("dagger")
    theirs = {(row["model"], row["method"], None if row["method"] in FREE else int(row["exact_params"]))
              for row in printed("parameter_counts") if row["table"] == number and row["model"] in names
              and (row["model"] != "roberta-large" or ("†" in row["row_label"]) == dagger)}
    apart = {("Adapter-D", 304320): 298176}   # 0.3M: 12 adapters of r=16 or, ours, 4 of r=48
    if table == "table4":   # D.4's r=2 on all four for 37.7M does not give that
        theirs -= {("gpt3-175b", "LoRA", 18874368)}
    assert ours == {(model, method, apart.get((method, count), count)) for model, method, count in theirs}


def test_the_ranks_of_tables_6_and_18_and_the_sizes_of_16() -> None:
    tasks = {"mnli": "mnli-lm"}
    wanted = {(f"[{row['weight_types'].replace('W_', '').replace('+', ',')}]", row["rank"],
               tasks.get(row["task"], row["task"])) for row in printed("table6_rank")}
    said = [dict(word.split("=", 1) for word in words) for words in lines("table6", "seed=0")]
    assert {(one["targets"], one["r"], one["task"]) for one in said} == wanted
    ranks = {word for words in lines("table18") for word in words if word.startswith("r=")}
    assert ranks == {f"r={row['rank']}" for row in printed("rank_gpt2_e2e")}
    limits = {word for words in lines("table16") for word in words if word.startswith("task.limit")}
    assert len(limits) == len({row["split_or_subset"] for row in printed("low_data_mnli")}) == 4


def test_the_control_is_two_by_two_in_every_task_and_seed() -> None:
    said = [dict(word.split("=", 1) for word in words) for words in lines("table2-control")]
    assert len({(one["method"], one["init_from"]) for one in said}) == 4
    assert {one["task"] for one in said} == {"mrpc", "rte", "stsb"}
    own = {task: settings_of("table2-roberta-base", f"task={task}", "method=lora")["init_from"]
           for task in ("mnli", "mrpc", "rte", "stsb", "cola")}
    assert {task for task, start in own.items() if start == "mnli"} == {"mrpc", "rte", "stsb"}


@pytest.mark.parametrize(("table", "words", "count"), [
    ("table2-roberta-base", ["method=lora", "task=rte", "seed=0"], 1),
    ("table2-roberta-base", ["method=lora", "alpha=16"], 40), ("table2-roberta-base", ["drop=0"], 40),
    ("table3-gpt2-medium", ["method=adapter-l"], 6), ("table5", ["targets=[q,v]", "seed=0"], 2),
    ("table5", ["targets=[q],[q,k]"], 12), ("table15", ["method=lora-pe,ft", "seed=0"], 8),
    ("table13-dart", ["model=gpt2-large", "method=lora,ft"], 6), ("table16", ["task.limit=null", "method=lora"], 3),
    ("demo", ["method=lora", "seed=5,6"], 6)])
def test_a_table_is_narrowed(table: str, words: list[str], count: int) -> None:
    left = lines(table, *words)
    assert len(left) == count
    assert all(any(word.split("=")[0] == one.split("=")[0] for one in cell) for cell in left for word in words)


def test_a_row_that_a_table_has_not_is_refused() -> None:
    for word in ("method=prelayer", "method=lorra"):
        with pytest.raises(Refused, match=r"adapter-d, lora|they have"):
            lines("table2-roberta-base", word)


@pytest.mark.parametrize("table", STAND_INS)
def test_a_stand_in_has_room_for_the_text_and_the_special_tokens(table: str) -> None:
    """GPT-2 has 1,024 positions, GPT-3 2,048. All methods see the same text; the longest prompt is PreEmbed's."""
    rows = {seedless(words) for words in lines(table)}
    tokens = {words for words in rows if "method=preembed" in words and not {"l_p=32", "l_p=64", "l_p=128"} & {*words}}
    for words in tokens or sorted(rows)[:2]:
        settings = settings_of(table, *words)
        special = settings.get("l_p", 512) + settings.get("l_i", 8)   # Tables 5 and 6 share table15's runs
        assert settings["length"] + special <= settings["model"]["config"]["n_positions"]
        assert settings["recipe"]["setup"] == "stand-in" and settings["averaging"] == "tokens"
        assert settings["recipe"]["name"].startswith("gpt3-175b/") and settings["model"]["name"] == "gpt2-medium"


def test_tables_5_6_and_15_share_their_runs() -> None:
    """W_q and W_v with r=4 stands in all three: the same settings, so the same record."""
    made = []
    for table in ("table5", "table6", "table15"):
        settings = settings_of(table, "task=mnli-lm", "method=lora", "targets=[q,v]", "r=4")
        made.append({key: value for key, value in settings.items() if not key.startswith("_")})
    assert made[0] == made[1] == made[2]


def test_the_decode_ablation_runs_on_a_small_model() -> None:
    settings = settings_of("e2e-decode-ablation", "model=gpt2-nano", "task.scored=validation", "data_root=x")
    assert (settings["task"]["name"], settings["task"]["scored"]) == ("e2e", "validation")
    assert settings["recipe"]["name"] == "gpt2-nano/lora" and settings["decode"]["name"] == "paper"


def test_the_demo_has_all_methods_on_the_small_encoder() -> None:
    said = [dict(word.split("=", 1) for word in words) for words in lines("demo")]
    assert {one["method"] for one in said} == set(METHODS)
    settings = settings_of("demo", "task=sst2", "method=bitfit")
    assert (settings["scale"]["name"], settings["model"]["name"]) == ("demo", "minilm")
    assert "table=demo" in settings["_sources"]["epochs"] and settings["init_from"] == "none"


def sweeper_of(*words: str) -> Mapping[str, Any]:
    return OmegaConf.to_container(composed(*words).hydra.sweeper, resolve=True)   # type: ignore[return-value]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_gives_every_method_the_same_budget_and_factors(search: str) -> None:
    task, model = ("e2e", ["model=gpt2-medium"]) if search == "texts" else ("rte", ["model=minilm"])
    made = {}
    for method in ("lora", "ft", "preembed"):
        recipe = [f"recipe=text/{method}"] if search == "texts" else []
        made[method] = json.dumps(sweeper_of(f"search={search}", f"task={task}", f"method={method}", *model, *recipe))
    assert len(set(made.values())) == 1
    only = json.loads(made["lora"])
    assert only["_target_"].endswith("Search") and only["trials"] >= 6 and only["between"]["lr"] == [0.25, 4]


def test_without_a_search_every_cell_is_run_once() -> None:
    assert sweeper_of()["_target_"].endswith("Cells")


@pytest.mark.parametrize(("task", "scored"), [("e2e", "validation"), ("mnli-lm", "validation_matched")])
def test_a_search_of_texts_never_looks_at_the_test_set(task: str, scored: str) -> None:
    words = ["search=texts", f"task={task}", "recipe=text/lora"]
    for said, name in ([], "greedy"), (["decode.name=mine"], "mine"):   # the command line is stronger
        settings = settings_of(*words, *said)
        assert settings["task"]["scored"] == scored and settings["decode"]["name"] == name


@pytest.mark.parametrize(("word", "says"), [
    ("task=sst2,cola", "one task"), ("seed=0,1", "one value of seed"), ("method=lora,ft", "one value of method"),
    ("table=demo", "leave one of them out"), ("task=latency", "nothing to search"), ("search=glu", "did you mean glue"),
    ("runtime.show=recipe", "leave search=demo out")])
def test_a_search_of_more_than_one_cell_is_refused(cli: Cli, small: list[str], tmp_path: Path, word: str,
                                                   says: str) -> None:
    words = [one for one in ("search=demo", "task=sst2") if one.split("=")[0] != word.split("=")[0]]
    status, _, err = cli(*words, *small, word)
    assert status == 2 and says in err and "Traceback" not in err
    assert not (tmp_path / "out" / "runs").exists()


def test_the_space_lies_around_the_recipes_own_numbers(cli: Cli, small: list[str]) -> None:
    said = ran(cli, "search=glue", "task=rte", "method=bitfit", *small[:3], *small[5:], "runtime.show=plan")
    low, high = map(float, re.findall(r"lr ([\d.e-]+) to ([\d.e-]+) \(log\)", said)[0])
    own = rate("encoder/bitfit")
    assert (low, high) == (pytest.approx(own / 4, rel=0.005), pytest.approx(own * 4, rel=0.005))
    assert "20 trials (hydra.sweeper.trials=20), the first with the recipe's own numbers; lr" in said
    assert "batch 16 or 32 or 64" in said and "epochs 2 or 3" in said   # of 32 and 3
    words = ["search=glue", "task=rte", "method=bitfit", *small, "lr=1e-3"]
    fixed = ran(cli, *words, "warmup=0,0.1", "runtime.show=plan")
    assert fixed == "search=glue: 20 trials (hydra.sweeper.trials=20); warmup 0 or 0.1\n"   # said, so not searched
    there = 0.06   # encoder/bitfit's warm-up
    for space, inside in (f"0,{there}", True), (f"interval(0.01,{there})", True), ("interval(0.1,1)", False):
        assert ("recipe's own" in ran(cli, *words, f"warmup={space}", "runtime.show=plan")) == inside


def rate(recipe: str) -> float:
    return float(yaml.safe_load((CONF / "recipe" / f"{recipe}.yaml").read_text(encoding="utf-8"))["lr"])


@pytest.mark.slow
def test_a_search_launched_again_finds_its_trials(cli: Cli, small: list[str], tmp_path: Path) -> None:
    """Its resume: the same proposals, whose records are there; only the trial whose record is missing runs again."""
    words = ["search=demo", "task=sst2", *small[:4], *small[5:], "hydra.sweeper.trials=3"]
    first = ran(cli, *words)
    runs = tmp_path / "out" / "runs"
    records = sorted(runs.rglob("*-s0-*.json"))
    made = [json.loads(path.read_text()) for path in records]
    assert len(records) == 3 and len(summary(first)) == 6
    rates, own = {one["settings"]["lr"] for one in made}, rate("encoder/lora")
    assert len(rates) == 3 and all(own / 4 <= lr <= own * 4 for lr in rates)
    check_end(cli, first, made, tmp_path / "out")
    before = tree(runs)
    records[1].unlink()
    again = ran(cli, *words)
    assert summary(again) == summary(first) and again.count("training examples") == 1
    after = tree(runs)
    assert {path for path in before if before[path] != after.get(path)} <= {
        path for path in before if path.startswith(str(records[1].with_suffix("")))} and after.keys() == before.keys()


def check_end(cli: Cli, said: str, made: list[dict[str, Any]], out: Path) -> None:
    """What tuning bought over the recipe's own numbers, which came first; noise; the best record, and how it is run
    alone; its trials as a sweep."""
    best = max(one["value"] for one in made)
    own = next(one for one in made if (one["settings"]["lr"], one["settings"]["batch"]) == (rate("encoder/lora"), 16))
    assert f"trial 1: {own['value']:.2f} with lr={rate('encoder/lora')} batch=16 (the recipe's own)" in said
    assert f"best: {best:.2f} with" in said
    assert ("own numbers: tuning bought nothing\n" if best == own["value"] else
            f"own numbers: {own['value']:.2f}, so tuning bought {best - own['value']:.2f}\n") in said
    noise = 200 * (best / 100 * (1 - best / 100) / 16) ** 0.5
    assert f"a difference of less than {noise:.2f} is noise" in said and "on 16 examples" in said
    path = re.findall(r"^record (.*)$", said.partition("\nsearch=")[2].partition("\nbest")[2], re.M)[0]
    assert json.loads(Path(path).read_text())["value"] == best
    again = shlex.split(re.findall(r"^alone: python run.py (.*)$", said, re.M)[0])
    assert ran(cli, *again).endswith(f"record {path}\n")
    found = sweeps.read(out, "search-demo")
    assert found.counts["done"] == len(found.cells) == 3 and {str(cell.record) for cell in found.cells} >= {path}


def summary(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(("trial", "best", "search="))]


def test_a_search_starts_where_its_cells_do(cli: Cli, small: list[str]) -> None:
    """From the recorded MNLI run; where there is none, it says how to get one."""
    words = ["search=demo", "task=rte", *small[:4], *small[5:], "init_from=mnli", "runtime.show=plan"]
    status, _, err = cli(*words)
    assert status == 2 and "first run task=mnli" in err
    ran(cli, "task=mnli", *small, "init_from=none")
    assert "6 trials" in ran(cli, *words)


def test_numbers_are_rounded_for_reading() -> None:
    assert short(0.002415259568860878) == short("0.002415259568860878") == "0.00242"
    assert [short(value) for value in (1024, "1024", 6e-5, "cosine")] == ["1024", "1024", "6e-05", "cosine"]
    assert rounded(["lr=0.0005", "batch=16"]) == "lr=0.0005 batch=16"


def test_a_failing_trial_is_said_and_the_search_goes_on(cli: Cli, small: list[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    import engine.cell

    real, calls = engine.cell.run, []

    def run(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 or broken:
            raise RuntimeError("the loss is not a number")
        return real(*given)

    monkeypatch.setattr(engine.cell, "run", run)
    broken = False
    words = ["search=demo", "task=sst2", *small[:4], *small[5:], "hydra.sweeper.trials=3"]
    status, out, _ = cli(*words)
    assert status == 0 and "trial 2: failed (the loss is not a number)" in out
    assert "2 of 3 different trials gave a number" in out and "\nfailed: " in out and "\nbest: " in out
    broken = True
    status, _, err = cli(*words, "seed=1")
    assert status == 1 and "all 3 trials failed" in err and "Traceback" not in err
